"""A data set that grows is named, one that rests is not, however young it is."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from cadmllm.corpus import growth
from cadmllm.corpus.folders import Folders, locate
from cadmllm.settings import DataSettings


@pytest.fixture
def folders(root: Path, monkeypatch: pytest.MonkeyPatch) -> Folders:
    monkeypatch.setattr(growth, "APART", 1.0)
    return locate(DataSettings(root=root))


def grown(folders: Folders, meanwhile=lambda: None) -> tuple[list[tuple[str, str]], list[float]]:
    """((code, path) of the flaws, how long was waited); `meanwhile` happens during the wait."""
    waits: list[float] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        meanwhile()

    return [(flaw.code, flaw.path) for flaw in growth.grown(growth.look(folders), folders, wait)], waits


def age(root: Path, seconds: float) -> None:
    when = time.time() - seconds
    for path in [*root.rglob("*"), root]:
        os.utime(path, (when, when))


def test_a_young_set_at_rest_is_looked_at_twice_and_has_no_finding(root, folders):
    found, waits = grown(folders)
    assert found == []
    assert len(waits) == 1
    assert 0.0 < waits[0] <= 1.0


def test_an_old_set_costs_no_wait(root, folders):
    age(root, 3600)
    assert grown(folders) == ([], [])


@pytest.mark.parametrize("place", ["json/0000", "pcd/0000", "img/0000", "txt", "json/0007"])
def test_a_file_that_appears_meanwhile(root, folders, place):
    folder = root / place

    def download() -> None:
        folder.mkdir(exist_ok=True)
        (folder / "new.json").write_text("{}")

    found, _ = grown(folders, download)
    assert ("E423", str(folder)) in found


@pytest.mark.parametrize("place", ["txt/0000.json", "json/0000/a.json", "Omni-CAD.zip"])
def test_a_file_that_is_being_written(root, folders, place):
    path = root / place
    if not path.exists():
        path.write_bytes(b"PK")

    def download() -> None:
        with path.open("ab") as file:
            file.write(b" " * 1000)

    found, _ = grown(folders, download)
    assert found == [("E423", str(path))]


def test_what_changed_during_the_check_needs_no_wait(root, folders):
    age(root, 3600)
    before = growth.look(folders)
    (root / "pcd" / "0000" / "new.npz").write_bytes(b"x")
    flaws = growth.grown(before, folders, lambda seconds: pytest.fail("nothing to wait for"))
    assert [(flaw.code, flaw.path, flaw.level) for flaw in flaws] == [("E423", str(root / "pcd" / "0000"), "warn")]


def test_folders_that_vanish_or_were_never_there(tmp_path):
    nothing = locate(DataSettings(root=tmp_path / "none"))
    assert growth.grown(growth.look(nothing), nothing, lambda seconds: None) == []


def test_links_are_not_followed(root, folders, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (root / "json" / "0009").symlink_to(tmp_path / "elsewhere")
    found, _ = grown(folders, lambda: (tmp_path / "elsewhere" / "x").write_text("x"))
    assert found == []
