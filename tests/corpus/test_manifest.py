"""The manifest and its journal: nothing finished is lost, nothing unfinished stays, and nothing foreign is believed."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cadmllm.corpus import manifest
from cadmllm.corpus.manifest import FOLDER, MANIFEST, Workplace, decode, encode
from cadmllm.errors import CadmllmError


def line(id_: str, text: str = "x") -> dict:
    return {"id": id_, "program": text, "verdict": "OK", "points": {"count": 1, "files": [[1, "0"]]}}


def ids(out: Path) -> list[str]:
    return [json.loads(raw)["id"] for raw in (out / MANIFEST).read_bytes().splitlines()] if (out / MANIFEST).exists() else []


def touch(out: Path, id_: str) -> Path:
    path = out / "pcd" / f"{id_}.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(id_)
    return path


def test_lines_are_sorted_and_the_last_word_counts(tmp_path: Path):
    with Workplace(tmp_path) as place:
        for id_ in ("0001/b", "0000/z", "0000/a"):
            place.claim(id_, ("points",))
            place.finish(line(id_))
    assert ids(tmp_path) == ["0000/a", "0000/z", "0001/b"]
    with Workplace(tmp_path) as place:
        place.finish(line("0000/z", "new"))
        place.finish(line("0000/b"))
        place.finish(line("0002/a"))
    assert ids(tmp_path) == ["0000/a", "0000/b", "0000/z", "0001/b", "0002/a"]
    with Workplace(tmp_path) as place:
        assert [found["program"] for found in place.lines()] == ["x", "x", "new", "x", "x"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [MANIFEST]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2000), st.binary(max_size=20))
def test_a_journal_that_was_cut_anywhere_loses_its_torn_line_alone(tmp_path_factory, cut: int, junk: bytes):
    out = tmp_path_factory.mktemp("out")
    journal, names = b"", [f"0000/{k}" for k in range(9)]
    for name in names:
        touch(out, name)
        journal += encode({"id": name, "claim": ["points"]}) + encode(line(name))
    kept = journal[:cut]
    (out / FOLDER).mkdir()
    (out / FOLDER / "journal.jsonl").write_bytes(kept + junk.replace(b"\n", b""))
    (out / FOLDER / "host-77").write_text("half a file")
    with Workplace(out):
        pass
    done = [name for name in names if encode(line(name)) in kept]
    claimed = [name for name in names if encode({"id": name, "claim": ["points"]}) in kept]
    assert ids(out) == done
    assert [name for name in names if not (out / "pcd" / f"{name}.npz").exists()] == [n for n in claimed if n not in done]
    assert not (out / FOLDER).exists()


@pytest.mark.parametrize("moment", ["rename", "after"])
def test_a_run_that_dies_while_it_sorts_is_sorted_by_the_next(tmp_path: Path, monkeypatch, moment: str):
    touch(tmp_path, "0000/c")
    real = os.replace

    def dies(source, target):
        if moment == "after":
            real(source, target)
        raise KeyboardInterrupt

    place = Workplace(tmp_path)
    with place:
        place.finish(line("0000/a"))
    place.__enter__()
    place.finish(line("0000/b"))
    place.claim("0000/c", ("points",))
    monkeypatch.setattr(manifest.os, "replace", dies)
    with pytest.raises(KeyboardInterrupt):
        place.__exit__(None, None, None)
    monkeypatch.undo()
    with Workplace(tmp_path):
        pass
    assert ids(tmp_path) == ["0000/a", "0000/b"]
    assert not (tmp_path / "pcd/0000/c.npz").exists()


def test_one_run_at_a_time(tmp_path: Path):
    with Workplace(tmp_path):
        with pytest.raises(CadmllmError) as caught, Workplace(tmp_path):
            pass
        assert caught.value.code == "E409"
    with Workplace(tmp_path):
        pass


@pytest.mark.parametrize(
    "content",
    [
        b"hello\n",
        b'{"id": "../../etc/passwd"}\n',
        b'{"id": "/etc/passwd"}\n',
        b'{"id": 7}\n',
        b'{"id": "a", "points": 3}\n',
        b'{"id": "b"}\n{"id": "a"}\n',
        b'{"id": "a"}\n{"id": "a"}\n',
        b'{"id": "a"}',
        b'{"id": "a", "limit": "30"}\n',
        b'{"id": "a", "scale": NaN}\n',
        b"\xff\xfe\n",
        b"[" * 5000 + b"\n",
    ],
)
def test_a_manifest_that_is_none_is_refused_and_left_alone(tmp_path: Path, content: bytes):
    (tmp_path / MANIFEST).write_bytes(content)
    with pytest.raises(CadmllmError) as caught, Workplace(tmp_path) as place:
        list(place.lines())
    assert caught.value.code == "E480"
    assert str(tmp_path / MANIFEST) in caught.value.remedy
    assert (tmp_path / MANIFEST).read_bytes() == content


def test_a_journal_that_came_along_with_the_data_harms_nobody_else(tmp_path: Path):
    out, other = tmp_path / "out", tmp_path / "other"
    victim = touch(other, "0000/a")
    (out / FOLDER).mkdir(parents=True)
    lines = [{"id": id_, "claim": ["points"]} for id_ in ("../../other/pcd/0000/a", str(victim)[:-4], "0000/a")]
    (out / FOLDER / "journal.jsonl").write_bytes(b"".join(map(encode, lines)))
    (out / "pcd").symlink_to(other / "pcd")
    with Workplace(out):
        pass
    assert victim.exists()


@pytest.mark.parametrize("name", [FOLDER, MANIFEST])
def test_links_in_their_place_are_refused(tmp_path: Path, name: str):
    (tmp_path / "elsewhere").mkdir()
    out = tmp_path / "out"
    out.mkdir()
    (out / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CadmllmError) as caught, Workplace(out):
        pass
    assert caught.value.code == "E419"
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_pipes_in_their_place_hold_nobody_up(tmp_path: Path):
    (tmp_path / FOLDER).mkdir()
    os.mkfifo(tmp_path / FOLDER / "journal.jsonl")
    with Workplace(tmp_path) as place:
        place.finish(line("0000/a"))
    assert ids(tmp_path) == ["0000/a"]
    (tmp_path / MANIFEST).unlink()
    os.mkfifo(tmp_path / MANIFEST)
    with pytest.raises(CadmllmError) as caught, Workplace(tmp_path):
        pass
    assert caught.value.code == "E480"


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CadmllmError) as caught, Workplace(tmp_path / "file" / "out"):
        pass
    assert caught.value.code == "E303"


PLAIN = st.none() | st.text() | st.floats(allow_nan=False, allow_infinity=False) | st.integers()


@settings(max_examples=30, deadline=None)
@given(st.dictionaries(st.text().map(lambda key: f"x{key}"), PLAIN))
def test_a_line_comes_back_as_it_was(values: dict):
    found = {"id": "0000/a"} | values
    assert decode(encode(found)) == found
    assert encode(found).count(b"\n") == 1
