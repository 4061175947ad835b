"""Batch files: what is read, and what is refused before anything is answered."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cadmllm.errors import CadmllmError
from cadmllm.infer import batchfile
from cadmllm.infer.batchfile import BatchFile, check_batch


@pytest.fixture
def write(tmp_path: Path):
    """A batch file of lines, each an object or text as it stands, beside a.png and scan.ply."""
    (tmp_path / "a.png").write_bytes(b"")
    (tmp_path / "scan.ply").write_bytes(b"")

    def make(*lines: object, end: str = "\n") -> Path:
        path = tmp_path / "parts.jsonl"
        path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + end for line in lines), encoding="utf-8")
        return path

    return make


def refused(path: Path) -> CadmllmError:
    with pytest.raises(CadmllmError) as caught:
        check_batch(path)
    assert caught.value.code == "E706"
    assert caught.value.remedy
    return caught.value


def test_a_line_becomes_a_request(write, tmp_path: Path) -> None:
    path = write(
        {"id": "b-1", "prompt": "a plate", "images": ["a.png"], "points": "scan.ply", "size": "40x20x10mm", "seed": 3},
        {"prompt": "a ring", "seed": None, "images": []},
    )
    first, second = check_batch(path)
    assert first.id == first.request.name == "b-1"
    assert first.request.text == "a plate"
    assert first.request.images == (tmp_path / "a.png",)
    assert first.request.points == (tmp_path / "scan.ply",)
    assert (first.request.size, first.request.seed) == ("40x20x10mm", 3)
    assert first.files == [tmp_path / "a.png", tmp_path / "scan.ply"]
    assert first.given["points"] == ["scan.ply"]
    assert second.id == "000002"  # the number of its line
    assert second.request.seed is None
    assert second.given == {"prompt": "a ring"}


def test_blank_lines_comments_marks_and_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "parts.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"prompt": "a"}\r\n\r\n# later\r\n{"prompt": "b"}')
    batch = check_batch(path)
    assert (batch.count, batch.commented) == (2, 1)
    assert [line.id for line in batch] == ["000001", "000004"]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ({"text": "a"}, "unknown key 'text': did you mean 'prompt'?"),
        ({"Promt": "a"}, "did you mean 'prompt'?"),
        ({"pc": "scan.ply"}, "did you mean 'points'?"),
        ({"prompt": "a", "zzzzz": 1}, "known: id, prompt"),
        ({}, "nothing to generate from"),
        ({"prompt": "  "}, "nothing to generate from"),
        ({"prompt": 7}, "prompt is a number, not text"),
        ({"prompt": "x" * 30_000}, "30000 characters"),
        ({"prompt": "a", "size": 40}, "size is a number"),
        ({"images": ["b.png"]}, "images: b.png is not there"),
        ({"points": "."}, "points: . is a folder"),
        ({"points": "a\0b"}, "points: "),
        ({"points": [1.0, 2.0]}, "neither a file name nor a list"),
        ({"images": ["a.png"] * 17}, "images names 17 files, more than 16"),
        ({"prompt": "a", "seed": -1}, "seed '-1'"),
        ({"prompt": "a", "seed": 1.5}, "seed '1.5'"),
        ({"prompt": "a", "seed": True}, "seed 'True'"),
        ({"prompt": "a", "id": ["x"]}, "the id is a list"),
        ("[1]x", "not valid JSON at column 4"),
        ("7", "a number, not an object"),
        ('{"prompt": "a", "prompt": "b"}', "'prompt' stands there twice"),
        ('{"prompt": "a", "seed": NaN}', "NaN is no JSON number"),
        ('{"prompt": "a", "seed": ' + "9" * 5000 + "}", "a number that is too long"),
        ('{"prompt": ' + "[" * 100_000, "nested too deeply"),
    ],
)
def test_what_is_wrong_with_a_line_is_said_with_its_number(write, line: object, says: str) -> None:
    error = refused(write({"prompt": "fine"}, line))
    assert "line 2: " in error.message
    assert says in error.message
    assert "line 1" not in error.message


@pytest.mark.parametrize(
    "id_", ["", "..", "../x", "/x", "a/b/c", "a//b", "a/", ".x", "a.", "a b", "ä", "a\\b", "C:x", "-x", "x" * 101]
)
def test_ids_that_cannot_name_a_folder(write, id_: str) -> None:
    assert "cannot name a folder" in refused(write({"id": id_, "prompt": "a"})).message


@given(st.text(max_size=12))
def test_an_accepted_id_stays_below_its_folder(text: str) -> None:
    try:
        name = batchfile.safe_id(text)
    except batchfile._Bad:
        return
    assert name == text
    assert not os.path.isabs(name)
    assert os.path.normpath(name) == name
    assert ".." not in name.split("/")


def test_ids_of_omni_cad_and_numbers(write) -> None:
    batch = check_batch(write({"id": "0000/00000071_00005", "prompt": "a"}, {"id": 7, "prompt": "b"}))
    assert [line.id for line in batch] == ["0000/00000071_00005", "7"]


@pytest.mark.parametrize(
    ("ids", "says"),
    [
        (("a", "A"), "stands in line 1 already"),
        (("000002", None), "stands in line 1 already"),
        (("a", "a/b"), "would lie in the folder of 'a'"),
        (("a/b", "a"), "would hold the folder of the id in line 1"),
        (("b", "results.jsonl"), "the results' own file"),
    ],
)
def test_ids_that_meet(write, ids: tuple[str | None, ...], says: str) -> None:
    lines = [{"prompt": "a"} | ({} if id_ is None else {"id": id_}) for id_ in ids]
    message = refused(write(*lines)).message
    assert "line 2" in message
    assert says in message


def test_every_bad_line_is_named_up_to_a_number(write) -> None:
    message = refused(write(*[{"images": [f"{k}.png"]} for k in range(30)], {"prompt": "fine"})).message
    assert "30 lines cannot be answered" in message
    assert message.count("is not there") == batchfile.LISTED
    assert "and 10 more" in message


def test_a_line_over_the_limit(write, monkeypatch) -> None:
    monkeypatch.setattr(batchfile, "LONGEST_LINE", 100)
    error = refused(write({"prompt": "x" * 1000}, {"prompt": "fine"}, {"prompts": "y"}))
    assert "line 1: longer than 100 bytes" in error.message
    assert "line 3: unknown key" in error.message
    assert "line 2" not in error.message


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"", "holds no request"),
        (b"# nothing\n\n", "holds no request"),
        (b'[\n {"prompt": "a"}\n]', "a JSON list"),
        (b'{\n "prompt": "a"\n}', "an object over several lines"),
        ('{"prompt": "a"}'.encode("utf-16"), "UTF-16"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "a binary file"),
        (b'{"prompt": "\xff"}\n', "not UTF-8 at byte 13"),
    ],
)
def test_files_that_are_no_json_lines(tmp_path: Path, raw: bytes, says: str) -> None:
    path = tmp_path / "parts.jsonl"
    path.write_bytes(raw)
    assert says in refused(path).message


def test_what_is_no_regular_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "no regular file" in refused(tmp_path / "pipe").message
    assert "no regular file" in refused(tmp_path).message
    assert "cannot be read" in refused(tmp_path / "none.jsonl").message


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(tmp_path_factory, raw: bytes) -> None:
    path = tmp_path_factory.mktemp("any") / "parts.jsonl"
    path.write_bytes(raw)
    try:
        assert check_batch(path).count > 0
    except CadmllmError as error:
        assert error.code == "E706"


def test_a_file_that_changed_since_it_was_checked(write) -> None:
    path = write({"prompt": "a"})
    batch = check_batch(path)
    path.write_text("{}")
    with pytest.raises(CadmllmError, match="line 1: nothing to generate from"):
        list(batch)
    assert isinstance(batch, BatchFile)
