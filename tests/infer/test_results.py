"""results.jsonl: whole records, whatever happens."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from cadmllm.errors import CadmllmError
from cadmllm.infer.results import Results


def ids(path: Path) -> list[str]:
    return [json.loads(line)["id"] for line in path.read_text().splitlines()]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "out" / "results.jsonl"


def fill(path: Path, *names: str) -> None:
    with Results(path) as results:
        for name in names:
            results.append({"id": name, "n": 0})


def test_records_come_back(path: Path) -> None:
    fill(path, "a", "b")
    with Results(path) as results:
        results.append({"id": "a", "n": 1, "text": "Ø\ud800"})
        assert results.get("a") == {"id": "a", "n": 1, "text": "Ø\ud800"}
        assert results.get("b") == {"id": "b", "n": 0}
        assert results.get("c") is None
        assert len(results) == 2
    with Results(path) as results:
        assert results.get("a") == {"id": "a", "n": 1, "text": "Ø\ud800"}  # the later one


def test_whatever_a_kill_leaves_is_mended(path: Path) -> None:
    fill(path, "a", "b", "c")
    whole = path.read_bytes()
    ends = [place + 1 for place, byte in enumerate(whole) if byte == 10]
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        with Results(path) as results:
            kept = sum(end <= cut for end in ends)
            assert len(results) == kept
            assert bool(results.torn) == (cut not in (0, *ends))
            for name in "abc"[kept:]:
                results.append({"id": name, "n": 0})
        assert path.read_bytes() == whole


def test_the_order_of_the_file_and_then_the_others(path: Path) -> None:
    fill(path, "d", "b", "x", "a", "b")
    with Results(path) as results:
        results.put_in_order(["a", "b", "c", "d"])
        assert ids(path) == ["a", "b", "d", "x"]
        results.append({"id": "c", "n": 2})
        assert results.get("c") == {"id": "c", "n": 2}
        results.put_in_order(["a", "b", "c", "d"])
        assert ids(path) == ["a", "b", "c", "d", "x"]
        assert results.get("x") == {"id": "x", "n": 0}


def test_what_is_in_order_is_not_written_again(path: Path) -> None:
    fill(path, "a", "b")
    before = os.stat(path)
    with Results(path) as results:
        results.put_in_order(["a", "b"])
    after = os.stat(path)
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_lines_that_are_no_records_go_and_are_counted(path: Path) -> None:
    fill(path, "a")
    with path.open("a") as file:
        file.write('nonsense\n[1]\n{"id": 7}\n')
    fill(path, "b")
    with Results(path) as results:
        assert results.unread == 3
        results.put_in_order(["a", "b"])
    assert ids(path) == ["a", "b"]


def test_one_process_at_a_time(path: Path) -> None:
    with Results(path) as results:
        results.append({"id": "b"})
        results.append({"id": "a"})
        results.put_in_order(["a"])  # the new file is held, too
        with pytest.raises(CadmllmError, match="another process") as caught:
            Results(path)
    assert caught.value.code == "E303"
    Results(path).__exit__()


def test_a_full_disk_leaves_whole_records(path: Path, monkeypatch) -> None:
    write = os.write
    with Results(path) as results:
        results.append({"id": "a"})
        monkeypatch.setattr(os, "write", lambda handle, data: write(handle, data[:3]))
        with pytest.raises(CadmllmError, match="no space") as caught:
            results.append({"id": "b"})
    assert caught.value.code == "E303"
    assert ids(path) == ["a"]


def test_a_folder_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CadmllmError) as caught:
        Results(tmp_path / "file" / "results.jsonl")
    assert caught.value.code == "E303"
