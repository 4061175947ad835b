"""What cannot be used moves aside or is listed, nothing is ever lost, overwritten or taken from outside."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path

import pytest

from cadmllm.corpus import quarantine
from cadmllm.corpus.facts import Flaw, Kind
from cadmllm.corpus.folders import locate
from cadmllm.corpus.quarantine import put_aside
from cadmllm.errors import CadmllmError
from cadmllm.settings import DataSettings


def flaw(kind: Kind, path: Path | str, owner: str = "0000/a", level: str = "fail", code: str = "E404"):
    return kind, owner, Flaw(code, level, str(path), f"{path}: broken")


def aside(root: Path, folder: Path, flaws, **more):
    return put_aside(lambda: flaws, folder, locate(DataSettings(root=root)), **more)


def record(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "quarantine.jsonl").read_text().splitlines()]


def ids(folder: Path, name: str = "ids.txt") -> list[str]:
    return [line for line in (folder / name).read_text().splitlines() if not line.startswith("#")]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_file_keeps_its_path_and_what_moved_is_written_down(root, tmp_path):
    cloud = root / "pcd" / "0000" / "a.npz"
    content = cloud.read_bytes()
    outcome = aside(root, tmp_path / "bad", [flaw(Kind.CLOUD, cloud)])
    assert (outcome.moved, outcome.listed, outcome.ids) == (1, 0, 1)
    assert not cloud.exists()
    assert (tmp_path / "bad" / "pcd" / "0000" / "a.npz").read_bytes() == content
    assert record(tmp_path / "bad") == [
        {
            "from": str(cloud),
            "to": str(tmp_path / "bad" / "pcd" / "0000" / "a.npz"),
            "id": "0000/a",
            "code": "E404",
            "message": f"{cloud}: broken",
        }
    ]
    assert ids(tmp_path / "bad") == ["0000/a"]
    before = contents(tmp_path / "bad")
    assert aside(root, tmp_path / "bad", []).moved == 0
    assert contents(tmp_path / "bad") == before


def test_listing_moves_nothing_and_can_be_followed_by_moving(root, tmp_path):
    before = contents(root)
    flaws = [flaw(Kind.CLOUD, root / "pcd" / "0000" / "a.npz"), flaw(Kind.PROGRAM, root / "json" / "0000" / "b.json", "0000/b")]
    for _ in range(2):
        outcome = aside(root, tmp_path / "bad", flaws, list_only=True)
        assert (outcome.moved, outcome.listed) == (0, 2)
        assert contents(root) == before
        assert [line["to"] for line in record(tmp_path / "bad")] == [None, None]
        assert ids(tmp_path / "bad") == ["0000/a", "0000/b"]
    assert aside(root, tmp_path / "bad", flaws).moved == 2
    assert all(line["to"] for line in record(tmp_path / "bad"))
    assert len(record(tmp_path / "bad")) == 2
    assert aside(root, tmp_path / "bad", [], list_only=True).listed == 0
    assert len(record(tmp_path / "bad")) == 2  # what moved stays written down


def test_what_cannot_move_is_listed(root, tmp_path):
    captions = root / "txt" / "0000.json"
    flaws = [
        (Kind.CAPTIONS, str(captions), Flaw("E408", "warn", "0000/a", "an entry is blank")),
        (Kind.CAPTIONS, str(captions), Flaw("E403", "warn", str(captions), "entry 3: '..' in the id")),
        (Kind.PROGRAM, "@0000", Flaw("E401", "fail", str(root / "json" / "0000"), "it cannot be read")),
        (Kind.DEEP, "0000/c", Flaw("E461", "warn", str(root / "json" / "0000" / "c.json"), "another size")),
    ]
    before = contents(root)
    outcome = aside(root, tmp_path / "bad", flaws)
    assert (outcome.moved, outcome.listed, outcome.ids) == (0, 3, 0)
    assert contents(root) == before
    assert [line["code"] for line in record(tmp_path / "bad")] == ["E408", "E403", "E401"]
    assert ids(tmp_path / "bad", "suspect.txt") == ["0000/c"]


def test_a_whole_caption_file_moves(root, tmp_path):
    captions = root / "txt" / "0000.json"
    assert aside(root, tmp_path / "bad", [flaw(Kind.CAPTIONS, captions, str(captions), code="E402")]).moved == 1
    assert (tmp_path / "bad" / "txt" / "0000.json").is_file()
    assert ids(tmp_path / "bad") == []


@pytest.mark.parametrize("place", [".", "json", "json/0000/bad", "pcd/bad", "txt", "img/x/y", "pointcloud", "step/bad"])
def test_a_quarantine_inside_the_data_is_refused(root, place):
    before = contents(root)
    with pytest.raises(CadmllmError, match="E105"):
        aside(root, root / place, [flaw(Kind.CLOUD, root / "pcd" / "0000" / "a.npz")])
    assert contents(root) == before


def test_a_quarantine_beside_the_data_folders_is_allowed(root):
    assert aside(root, root / "bad", [flaw(Kind.CLOUD, root / "pcd" / "0000" / "a.npz")]).moved == 1


def test_nothing_is_overwritten(root, tmp_path):
    cloud = root / "pcd" / "0000" / "a.npz"
    taken = tmp_path / "bad" / "pcd" / "0000" / "a.npz"
    taken.parent.mkdir(parents=True)
    taken.write_bytes(b"somebody else's")
    content = cloud.read_bytes()
    assert aside(root, tmp_path / "bad", [flaw(Kind.CLOUD, cloud)]).moved == 1
    assert taken.read_bytes() == b"somebody else's"
    assert (taken.parent / "a.npz.1").read_bytes() == content


def test_a_move_onto_another_file_is_refused(root, tmp_path):
    (tmp_path / "there").write_bytes(b"somebody else's")
    with pytest.raises(FileExistsError):
        quarantine.move(root / "pcd" / "0000" / "a.npz", tmp_path / "there")
    assert (root / "pcd" / "0000" / "a.npz").is_file()
    assert (tmp_path / "there").read_bytes() == b"somebody else's"


def test_a_folder_of_the_quarantine_that_leads_back_loses_nothing(root, tmp_path):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "pcd").symlink_to(root / "pcd")
    before = contents(root)
    outcome = aside(root, tmp_path / "bad", [flaw(Kind.CLOUD, root / "pcd" / "0000" / "a.npz")])
    assert (outcome.moved, outcome.listed) == (0, 1)
    assert contents(root) == before


def test_files_outside_are_never_touched(root, tmp_path):
    secret = tmp_path / "secret.npz"
    secret.write_bytes(b"mine")
    (root / "pcd" / "0000" / "link.npz").symlink_to(secret)
    (root / "pcd" / "0001").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "x.npz").write_bytes(b"mine")
    flaws = [
        flaw(Kind.CLOUD, root / "pcd" / "0000" / "link.npz", "@0000", code="E419"),
        flaw(Kind.CLOUD, root / "pcd" / "0001" / "x.npz", "0001/x"),
        flaw(Kind.CLOUD, root / "pcd" / ".." / ".." / "secret.npz", "@0000"),
        flaw(Kind.CLOUD, secret, "@0000"),
    ]
    outcome = aside(root, tmp_path / "bad", flaws)
    assert (outcome.moved, outcome.listed) == (1, 3)
    assert secret.read_bytes() == b"mine"
    assert (tmp_path / "elsewhere" / "x.npz").read_bytes() == b"mine"
    moved = tmp_path / "bad" / "pcd" / "0000" / "link.npz"  # the link itself, not what it names
    assert moved.is_symlink()
    assert os.readlink(moved) == str(secret)


@pytest.mark.parametrize("code", [errno.EXDEV, errno.EPERM])
def test_other_file_systems(root, tmp_path, monkeypatch, code):
    def refused(*arguments, **more):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", refused)
    (root / "pcd" / "0000" / "l.npz").symlink_to("a.npz")
    cloud = root / "pcd" / "0000" / "b.npz"
    content, when = cloud.read_bytes(), cloud.stat().st_mtime_ns
    flaws = [flaw(Kind.CLOUD, cloud, "0000/b"), flaw(Kind.CLOUD, root / "pcd" / "0000" / "l.npz", "0000/l")]
    assert aside(root, tmp_path / "bad", flaws).moved == 2
    moved = tmp_path / "bad" / "pcd" / "0000" / "b.npz"
    assert (moved.read_bytes(), moved.stat().st_mtime_ns) == (content, when)
    assert (tmp_path / "bad" / "pcd" / "0000" / "l.npz").is_symlink()
    assert not cloud.exists()
    assert sorted(path.name for path in (tmp_path / "bad" / "pcd" / "0000").iterdir()) == ["b.npz", "l.npz"]


@pytest.mark.parametrize("moment", ["link", "unlink", "copy", "rename"])
def test_killed_at_any_moment_it_is_completed_by_the_next_run(root, tmp_path, monkeypatch, moment):
    """The machine stops before or after each call that changes something; the second run ends as an undisturbed one."""

    class Stop(BaseException):
        pass

    def stop(*arguments, **more):
        raise Stop

    whole = tmp_path / "whole"
    shutil.copytree(root, whole)
    flaws = [flaw(Kind.CLOUD, root / "pcd" / "0000" / f"{name}.npz", f"0000/{name}") for name in "ab"]
    with monkeypatch.context() as patch:
        if moment in ("copy", "rename"):
            patch.setattr(os, "link", lambda *a, **k: (_ for _ in ()).throw(OSError(errno.EXDEV, "other disk")))
        patch.setattr(
            *{
                "link": (os, "link", stop),
                "unlink": (Path, "unlink", stop),
                "copy": (quarantine.shutil, "copyfileobj", stop),
                "rename": (os, "rename", stop),
            }[moment]
        )
        with pytest.raises(Stop):
            aside(root, tmp_path / "bad", flaws)
    assert all(Path(flaw.path).exists() or list((tmp_path / "bad").rglob(Path(flaw.path).name)) for _, _, flaw in flaws)
    left = [entry for entry in flaws if Path(entry[2].path).exists()]
    aside(root, tmp_path / "bad", left)
    assert not list((root / "pcd" / "0000").iterdir())
    for name in ("a.npz", "b.npz"):
        moved = tmp_path / "bad" / "pcd" / "0000" / name
        assert moved.read_bytes() == (whole / "pcd" / "0000" / name).read_bytes()
    assert ids(tmp_path / "bad") == ["0000/a", "0000/b"]
    assert len(record(tmp_path / "bad")) == 2


def test_paths_from_here_lead_back_from_anywhere(root, tmp_path, monkeypatch):
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    here = Path("../set")
    aside(here, Path("bad"), [flaw(Kind.CLOUD, here / "pcd" / "0000" / "a.npz")])
    (line,) = record(tmp_path / "work" / "bad")
    assert (line["from"], line["to"]) == (str(root / "pcd/0000/a.npz"), str(tmp_path / "work/bad/pcd/0000/a.npz"))
    assert Path(line["to"]).is_file()


def test_what_was_put_back_is_forgotten(root, tmp_path):
    cloud = root / "pcd" / "0000" / "a.npz"
    aside(root, tmp_path / "bad", [flaw(Kind.CLOUD, cloud)])
    for line in record(tmp_path / "bad"):
        os.rename(line["to"], line["from"])
    aside(root, tmp_path / "bad", [])
    assert record(tmp_path / "bad") == []
    assert ids(tmp_path / "bad") == []


def test_a_folder_that_cannot_be_made(root, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(CadmllmError, match="E303"):
        aside(root, tmp_path / "file" / "bad", [])
