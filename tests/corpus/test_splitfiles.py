"""Official split files of every kind, and lists that are ours or somebody else's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cadmllm.corpus.captionfiles import read_ids
from cadmllm.corpus.splitfiles import check_place, read_official, write_lists
from cadmllm.errors import CadmllmError

A, B, C = "0000/00000001", "0000/00000002", "0001/00000003_00001"


def put(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_deepcads_file(tmp_path: Path):
    path = put(tmp_path / "train_val_test_split.json", {"train": [A], "validation": [B], "test": [C], "note": 1})
    assert read_official(path).lists == {"train": {A}, "val": {B}, "test": {C}}
    assert read_official(tmp_path).lists == read_official(path).lists


@pytest.mark.parametrize("name", ["test.txt", "test_ids.txt", "omnicad-Testing.txt", "TEST.lst"])
def test_a_list_is_called_after_its_side(tmp_path: Path, name: str):
    path = put(tmp_path / name, f"# held out\n{A}\n\n{B}.json  # a comment\r\n{C},1\n")
    assert read_official(path).lists == {"test": {A, B, C}}


def test_lists_of_ids_and_caption_files(tmp_path: Path):
    put(tmp_path / "training.json", [{"id": A, "text caption": "x"}, {"id": B}])
    put(tmp_path / "dev.json", [C])
    put(tmp_path / "readme.txt", "not a list")
    put(tmp_path / "notes.json", "{")
    found = read_official(tmp_path)
    assert found.lists == {"train": {A, B}, "val": {C}}
    assert found.files == ["dev.json", "training.json"]


def test_ids_that_are_none_are_counted(tmp_path: Path):
    path = put(tmp_path / "test.json", [A, "../../etc/passwd", "/etc/passwd", 7, {"name": 1}, None])
    found = read_official(path)
    assert found.lists == {"test": {A}}
    assert found.refused == 5


def test_other_encodings(tmp_path: Path):
    (tmp_path / "val.txt").write_bytes(A.encode("utf-16"))
    (tmp_path / "test.txt").write_bytes(b"\xef\xbb\xbf" + B.encode())
    assert read_official(tmp_path).lists == {"val": {A}, "test": {B}}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("split.json", "{"),
        ("split.json", "[" * 100_000),
        ("split.json", {"a": [A]}),
        ("split.json", {"test": A}),
        ("split.json", {"test": []}),
        ("split.json", [A]),
        ("test.json", '"0000/1"'),
        ("test.txt", "# nothing\n"),
        ("ids.txt", A),
        ("train_test.txt", A),
        ("split.json", {"train": [A, B], "test": [B]}),
        ("split.json", {"validation": [A], "test": [A]}),
    ],
)
def test_what_is_no_split_is_refused_by_name(tmp_path: Path, name: str, content: object):
    path = put(tmp_path / name, content)
    with pytest.raises(CadmllmError) as caught:
        read_official(path)
    assert caught.value.code == "E490"
    assert str(path) in caught.value.message


def test_what_is_not_there_or_leads_away(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    binary = tmp_path / "test.txt"
    binary.write_bytes(b"\xff\xfe\xd8")
    outside = put(tmp_path / "outside" / "test.txt", A)
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "test.txt").symlink_to(outside)
    for path in (tmp_path / "none.json", tmp_path / "empty", binary, tmp_path / "linked"):
        with pytest.raises(CadmllmError) as caught:
            read_official(path)
        assert caught.value.code == "E490"


def test_lists_are_written_read_and_written_anew(tmp_path: Path):
    lists = {"train": [A, B], "val": [], "test": [C]}
    write_lists(tmp_path / "a" / "b", lists, [], "near x", {"made_by": "cadmllm data split"})
    out = tmp_path / "a" / "b"
    assert sorted(path.name for path in out.iterdir()) == ["split.json", "test.txt", "train.txt"]
    assert read_ids(out / "train.txt").ids == {A, B}
    assert read_official(out).lists == {"train": {A, B}, "test": {C}}
    check_place(out, overwrite=False)
    write_lists(out, {"train": [A], "val": [B], "test": []}, [f"{C}  # train, {A}"], "near y", {"made_by": "cadmllm data split"})
    assert sorted(path.name for path in out.iterdir()) == ["left_out.txt", "split.json", "train.txt", "val.txt"]
    assert read_ids(out / "left_out.txt").ids == {C}
    check_place(out, overwrite=False)


@pytest.mark.parametrize("name", ["train.txt", "val.txt", "test.txt", "left_out.txt", "split.json"])
def test_lists_of_others_are_not_replaced(tmp_path: Path, name: str):
    put(tmp_path / name, "0000/1\n")
    with pytest.raises(CadmllmError, match=name) as caught:
        check_place(tmp_path, overwrite=False)
    assert caught.value.code == "E409"
    check_place(tmp_path, overwrite=True)


def test_a_link_is_not_written_through(tmp_path: Path):
    target = put(tmp_path / "elsewhere.txt", "# cadmllm data split: test\n")
    out = tmp_path / "out"
    out.mkdir()
    (out / "test.txt").symlink_to(target)
    with pytest.raises(CadmllmError):
        check_place(out, overwrite=False)
    write_lists(out, {"train": [], "val": [], "test": [A]}, [], "x", {})
    assert target.read_text() == "# cadmllm data split: test\n"
    assert not (out / "test.txt").is_symlink()


def test_a_place_that_is_no_folder(tmp_path: Path):
    file = put(tmp_path / "file", "x")
    for act in (
        lambda: check_place(file, False),
        lambda: write_lists(file / "x", {"train": [], "val": [], "test": []}, [], "", {}),
    ):
        with pytest.raises(CadmllmError) as caught:
            act()
        assert caught.value.code == "E303"
