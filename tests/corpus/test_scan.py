"""The index follows the folders: what changed is seen, what did not is not looked at again, what is hostile is left out."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import sqlite3
import time
from pathlib import Path

import killer
import pytest

from cadmllm.corpus import examining, scan
from cadmllm.corpus.facts import Facts, Flaw, Kind
from cadmllm.corpus.folders import locate
from cadmllm.corpus.index import Index, open_store
from cadmllm.corpus.layout import open_dataset
from cadmllm.errors import CadmllmError
from cadmllm.settings import DataSettings

PAST = time.time_ns() - 3600 * 10**9


@pytest.fixture
def settled(root: Path) -> Path:
    """A data set that was written an hour ago."""
    age(root)
    return root


def age(root: Path, when: int = PAST) -> None:
    for path in [*root.rglob("*"), root]:
        os.utime(path, ns=(when, when))


def opened(root: Path, contents: bool = False, **more) -> Index:
    return scan.open_index(DataSettings(root=root, **more), contents=contents)


@pytest.fixture
def looked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is examined from now on."""
    seen: list[str] = []
    real = examining.look

    def look(kind, img, id_, place):
        seen.append(f"{kind.name} {id_}")
        return real(kind, img, id_, place)

    monkeypatch.setattr(examining, "look", look)
    return seen


def codes(index: Index) -> set[str]:
    return {flaw.code for _, _, flaw in index.flaws()}


def test_training_examines_programs_and_a_check_everything(settled, looked):
    index = opened(settled)
    assert looked == ["PROGRAM 0000/a", "PROGRAM 0000/b", "PROGRAM 0000/c"]
    assert index.count(Kind.CLOUD) == 2
    assert next(index.rows(Kind.CLOUD)).values == {}
    looked.clear()
    index = opened(settled, contents=True)
    assert looked == ["CLOUD 0000/a", "CLOUD 0000/b", "VIEWS 0000/a"]
    assert next(index.rows(Kind.CLOUD)).values["points"] == 200
    looked.clear()
    opened(settled, contents=True)
    opened(settled)
    assert looked == []


def test_an_unchanged_folder_is_not_listed_again(settled, monkeypatch):
    opened(settled)
    listed: list[Path] = []
    real = scan.list_folder
    monkeypatch.setattr(scan, "list_folder", lambda folder, fence: listed.append(folder) or real(folder, fence))
    opened(settled)
    assert listed == [settled / "txt"]
    shutil.copy(settled / "json/0000/a.json", settled / "json/0000/new.json")
    listed.clear()
    index = opened(settled)
    assert listed == [settled / "txt", settled / "json/0000"]
    assert index.row(Kind.PROGRAM, "0000/new").values["length"] > 0


def test_new_gone_and_changed_files(settled, looked):
    opened(settled, contents=True)
    looked.clear()
    (settled / "json/0000/c.json").unlink()
    shutil.copy(settled / "json/0000/a.json", settled / "json/0000/d.json")
    shutil.copy(settled / "pcd/0000/b.npz", settled / "pcd/0000/a.npz")
    (settled / "img/0000/a_003.png").unlink()
    index = opened(settled, contents=True)
    assert looked == ["PROGRAM 0000/d", "CLOUD 0000/a", "VIEWS 0000/a"]
    assert [row.id for row in index.rows(Kind.PROGRAM)] == ["0000/a", "0000/b", "0000/d"]
    assert index.row(Kind.VIEWS, "0000/a").place.count("|") == 6


def test_a_file_rewritten_in_place_is_seen_by_the_check(settled, looked):
    opened(settled)
    looked.clear()
    text = (settled / "json/0000/b.json").read_text()
    with (settled / "json/0000/a.json").open("w") as file:
        file.write(text)
    opened(settled, contents=True)
    assert "PROGRAM 0000/a" in looked


def test_what_was_broken_is_looked_at_again(settled, looked):
    good = (settled / "json/0000/a.json").read_bytes()
    (settled / "json/0000/a.json").write_bytes(b"[1, 2")
    age(settled)
    assert opened(settled).row(Kind.PROGRAM, "0000/a").code
    with (settled / "json/0000/a.json").open("wb") as file:  # in place: the folder does not tell
        file.write(good)
    os.utime(settled / "json/0000", ns=(PAST, PAST))
    looked.clear()
    assert opened(settled).row(Kind.PROGRAM, "0000/a").code is None
    assert looked == ["PROGRAM 0000/a"]


def test_a_file_written_this_moment_is_looked_at_again(root, looked):
    opened(root)
    looked.clear()
    age(root)
    opened(root)
    assert looked == ["PROGRAM 0000/a", "PROGRAM 0000/b", "PROGRAM 0000/c"]


def test_a_shard_that_is_gone(settled):
    opened(settled, contents=True)
    shutil.rmtree(settled / "pcd/0000")
    shutil.rmtree(settled / "img")
    index = opened(settled)
    assert (index.count(Kind.CLOUD), index.count(Kind.VIEWS), index.count(Kind.PROGRAM)) == (0, 0, 3)


def test_files_beside_the_shards(settled):
    shutil.copy(settled / "json/0000/a.json", settled / "json/a.json")
    (settled / "txt/more.json").write_text(json.dumps([{"id": "a", "text caption": "flat"}]))
    assert open_dataset(DataSettings(root=settled)).ids == ["0000/a", "0000/b", "0000/c", "a"]
    (settled / "json/a.json").unlink()
    assert open_dataset(DataSettings(root=settled)).ids == ["0000/a", "0000/b", "0000/c"]


def test_captions_come_and_go_with_their_file(settled):
    more = settled / "txt/0001.json"
    more.write_text(json.dumps([{"id": "0000/a", "text caption": "another"}, {"id": "0000/x", "text caption": "x"}]))
    index = opened(settled)
    assert index.captions("0000/a") == ("part a", "short a", "another")
    assert list(index.lacking(Kind.CAPTIONS, [Kind.PROGRAM])) == ["0000/x"]
    assert [id_ for id_, _ in index.all_captions()] == ["0000/a", "0000/b", "0000/c", "0000/x"]
    more.unlink()
    index = opened(settled)
    assert index.captions("0000/a") == ("part a", "short a")
    assert list(index.lacking(Kind.CAPTIONS, [Kind.PROGRAM])) == []


@pytest.mark.parametrize("page", [1, 2, 3, 100])
def test_captions_a_page_at_a_time(settled, monkeypatch, page):
    monkeypatch.setattr("cadmllm.corpus.index.PAGE", page)
    for number in range(1, 4):
        entries = [{"id": f"0000/{name}", "text caption": f"{name} {number}"} for name in "bcx"]
        (settled / f"txt/{number:04d}.json").write_text(json.dumps(entries))
    found = dict(opened(settled).all_captions())
    assert list(found) == ["0000/a", "0000/b", "0000/c", "0000/x"]
    assert found["0000/b"] == ("part b", "short b", "b 1", "b 2", "b 3")
    assert found["0000/x"] == ("x 1", "x 2", "x 3")


def test_what_lacks_what(settled):
    index = opened(settled)
    assert list(index.lacking(Kind.PROGRAM, [Kind.CLOUD])) == ["0000/c"]
    assert list(index.lacking(Kind.PROGRAM, [Kind.CLOUD, Kind.VIEWS])) == ["0000/c"]
    assert list(index.lacking(Kind.PROGRAM, [Kind.VIEWS])) == ["0000/b", "0000/c"]
    assert list(index.lacking(Kind.CLOUD, [Kind.CAPTIONS])) == []


def test_two_processes_examine_as_one(settled, monkeypatch):
    monkeypatch.setattr(examining, "FEW", 0)
    data = DataSettings(root=settled, index=settled.parent / "i2")
    two = scan.open_index(data, contents=True, workers=2)
    one = opened(settled, contents=True)
    assert two.path != one.path
    for kind in examining.KINDS:
        assert list(two.rows(kind)) == list(one.rows(kind))
    assert list(two.flaws()) == list(one.flaws())


def test_a_file_that_takes_the_process_down_is_named(monkeypatch):
    monkeypatch.setattr(examining, "_look_at_all", killer.look_at_all)
    work = [(f"{k:03d}", "bomb" if k == 20 else "file", "1:1") for k in range(40)]
    crew = examining._Crew(2)
    try:
        found = list(crew.examine(Kind.CLOUD, None, work))
        again = list(crew.examine(Kind.CLOUD, None, work[:3]))
    finally:
        crew.close()
    assert [id_ for id_, _, _ in found] == [id_ for id_, _, _ in work]
    assert {id_: facts.code for id_, _, facts in found if facts.code} == {"020": "E404"}
    assert len(again) == 3, "there is a new pool"


def test_an_interruption_keeps_what_was_examined(settled, monkeypatch):
    real = examining.look

    def interrupted(kind, img, id_, place):
        if id_.endswith("c"):
            raise KeyboardInterrupt
        return real(kind, img, id_, place)

    monkeypatch.setattr(examining, "look", interrupted)
    with pytest.raises(KeyboardInterrupt):
        opened(settled)
    seen: list[str] = []
    monkeypatch.setattr(examining, "look", lambda kind, img, id_, place: seen.append(id_) or real(kind, img, id_, place))
    assert len(open_dataset(DataSettings(root=settled))) == 3
    assert seen == ["0000/c"]


@pytest.mark.parametrize("damage", [b"not a database at all, not even a little " * 200, b""])
def test_a_damaged_index_is_made_anew(settled, damage):
    index = opened(settled)
    index.close()
    for path in index.path.parent.glob(index.path.name + "*"):
        path.unlink()
    index.path.write_bytes(damage)
    again = opened(settled)
    assert again.count(Kind.PROGRAM) == 3
    assert bool(again.notes) == bool(damage)


def test_an_index_of_another_version_is_made_anew(settled):
    index = opened(settled)
    index.close()
    with sqlite3.connect(index.path) as db:
        db.execute("PRAGMA user_version = 999")
    again = opened(settled)
    assert "another version" in again.notes[0]
    assert again.count(Kind.PROGRAM) == 3


def test_another_examiner_examines_anew(settled, monkeypatch, looked):
    opened(settled)
    looked.clear()
    monkeypatch.setattr(scan, "VERSION", "newer")
    opened(settled)
    assert len(looked) == 3


def test_no_place_for_the_index(settled, monkeypatch):
    (settled / "file").write_text("x")
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(settled / "file"))
    with pytest.raises(CadmllmError) as caught:
        opened(settled, index=settled / "file")
    assert caught.value.code == "E482"
    monkeypatch.undo()
    index = opened(settled, index=settled / "file")
    assert "cannot lie in" in index.notes[0]
    index.path.unlink()


def test_a_connection_a_process(settled):
    index = opened(settled)
    child = os.fork()
    if child == 0:
        try:
            ok = index.captions("0000/a") == ("part a", "short a")
        finally:
            os._exit(0 if ok else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert pickle.loads(pickle.dumps(index)).captions("0000/b") == ("part b", "short b")


def test_a_failed_write_leaves_nothing(settled):
    index = opened(settled)
    before = list(index.rows(Kind.PROGRAM))
    row = before[0]

    def results():
        yield row.id, row.stamp, Facts({"length": 1}, (Flaw("E205", "fail", "x", "y"),))
        raise RuntimeError

    with pytest.raises(RuntimeError):
        index.store(Kind.PROGRAM, results())
    assert list(index.rows(Kind.PROGRAM)) == before


def test_a_row_that_changed_meanwhile_keeps_its_own_facts(settled):
    index = opened(settled)
    index.store(Kind.PROGRAM, [("0000/a", "another stamp", Facts({"length": 1}, (Flaw("E205", "fail", "x", "y"),)))])
    assert index.row(Kind.PROGRAM, "0000/a").code is None
    assert "E205" not in codes(index)


def test_links_that_leave_are_not_followed(settled, tmp_path):
    outside = tmp_path / "outside"
    shutil.copytree(settled, outside)
    (settled / "json/0000/out.json").symlink_to(outside / "json/0000/a.json")
    (settled / "json/0001").symlink_to(outside / "json/0000")
    (settled / "json/0000/in.json").symlink_to(settled / "json/0000/a.json")
    (settled / "txt/0009.json").symlink_to(outside / "txt/0000.json")
    (settled / "json/0000/loop.json").symlink_to("loop.json")
    index = opened(settled)
    assert [row.id for row in index.rows(Kind.PROGRAM)] == ["0000/a", "0000/b", "0000/c", "0000/in"]
    assert index.captions("0000/a") == ("part a", "short a")
    flaws = [flaw for _, _, flaw in index.flaws() if flaw.code == "E419"]
    assert len(flaws) == 4


def test_a_default_folder_that_is_a_link_out(settled, tmp_path):
    outside = tmp_path / "outside"
    (settled / "pcd").rename(outside)
    (settled / "pcd").symlink_to(outside)
    index = opened(settled)
    assert index.count(Kind.CLOUD) == 0
    assert any(flaw.code == "E419" and "--set data.points=" in flaw.message for _, _, flaw in index.flaws())
    assert opened(settled, points=outside).count(Kind.CLOUD) == 2
    (settled / "pcd").unlink()
    outside.rename(settled / "elsewhere")
    (settled / "pcd").symlink_to("elsewhere")
    assert opened(settled).count(Kind.CLOUD) == 2


def test_a_link_put_in_place_after_the_scan(settled, tmp_path):
    dataset = open_dataset(DataSettings(root=settled))
    secret = tmp_path / "secret.json"
    shutil.copy(settled / "json/0000/b.json", secret)
    (settled / "json/0000/a.json").unlink()
    (settled / "json/0000/a.json").symlink_to(secret)
    with pytest.raises(CadmllmError) as caught:
        dataset.program("0000/a")
    assert caught.value.code == "E419"
    with pytest.raises(CadmllmError) as caught:
        dataset.program("../../secret")
    assert caught.value.code == "E403"


def test_odd_files_are_named_and_not_opened(settled):
    os.mkfifo(settled / "json/0000/pipe.json")
    (settled / "json/0000/d.json.part").write_text("{")
    (settled / "json/0000/.e.json.Ab3xYz").write_text("{")
    (settled / "json/0000/.DS_Store").write_text("x")
    (settled / "json/0000/notes.txt").write_text("x")
    (settled / "pcd/0000/a.ply").write_text("ply")
    (settled / "img/0000/sub").mkdir()
    shutil.copy(settled / "json/0000/a.json", settled / "json/0000/A.json")
    (settled / "json/0001").mkdir()
    shutil.copy(settled / "json/0000/b.json", settled / "json/0001/b.json")
    index = opened(settled)
    found = {(flaw.code, Path(flaw.path).name) for _, _, flaw in index.flaws()}
    assert found == {
        ("E420", "pipe.json"),
        ("E422", "d.json.part"),
        ("E422", ".e.json.Ab3xYz"),
        ("E415", "notes.txt"),
        ("E417", "a.ply"),
        ("E415", "sub"),
        ("E418", "A"),
        ("E418", "b"),
    }
    assert len(open_dataset(DataSettings(root=settled))) == 3


def test_nothing_of_the_data_set_is_written(settled):
    before = {path: path.stat().st_mtime_ns for path in settled.rglob("*")}
    opened(settled, contents=True)
    assert {path: path.stat().st_mtime_ns for path in settled.rglob("*")} == before


def test_one_index_a_set_of_folders(settled, tmp_path):
    data = DataSettings(root=settled)
    other = DataSettings(root=settled, points=settled / "img")
    assert open_store(data, locate(data)).path != open_store(other, locate(other)).path
    link = tmp_path / "link"
    link.symlink_to(settled)
    same = DataSettings(root=link)
    assert open_store(data, locate(data)).path == open_store(same, locate(same)).path
