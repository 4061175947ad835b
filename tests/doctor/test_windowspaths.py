"""Paths that only Windows understands, and drives that are not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from cadmllm.doctor import windowspaths
from cadmllm.doctor.check import Fix, Level, Situation
from cadmllm.doctor.filesystems import Mount
from cadmllm.doctor.machine import Machine
from cadmllm.settings import Settings

TABLE = "/dev/sdc / ext4 rw 0 0\nC:\\134 /mnt/c 9p rw,aname=drvfs;path=C:\\ 0 0\n"


def situation(root: Path, data: str, version: str = "5.15-microsoft-standard-WSL2") -> Situation:
    (root / "proc").mkdir(parents=True, exist_ok=True)
    (root / "proc/version").write_text(version)
    (root / "proc/mounts").write_text(TABLE)
    model = {"llm": "tiny", "points_encoder": "fourier", "image_encoder": "tiny"}
    return Situation(Settings(data={"root": data}, run={"dir": "/home/me/run"}, model=model), machine=Machine(root, {}))


@pytest.mark.parametrize(
    ("root", "words", "mended"),
    [
        ("/mnt/w/CMU Academics/Omni-CAD", "sudo mkdir -p /mnt/w && sudo mount -t drvfs W: /mnt/w", ""),
        ("/mnt/C/data set", "--set data.root='/mnt/c/data set'", "/mnt/c/data set"),
        ("W:CMUAcademics", "single quotes: --set 'data.root=W:", ""),
        (r"W:\CMU\data", "--set data.root=/mnt/w/CMU/data", "/mnt/w/CMU/data"),
        (r"\\wsl$\Ubuntu\home\me\data", "--set data.root=/home/me/data", "/home/me/data"),
    ],
)
def test_paths_that_do_not_exist_here(tmp_path, root, words, mended):
    outcome = windowspaths.check_paths(situation(tmp_path, root))
    (finding,) = outcome.findings
    assert (finding.code, finding.level) == ("E831", Level.FAIL)
    assert finding.message.startswith(f"data.root = {root}")
    assert words in finding.remedy
    assert outcome.fixes == ((Fix("setting", "data.root", mended, "the same path as Linux names it"),) if mended else ())


def test_what_was_translated_is_said_in_both_languages(tmp_path):
    outcome = windowspaths.check_paths(situation(tmp_path, "/mnt/c/CMU Academics/set"))
    assert outcome.level is Level.OK
    assert outcome.details == (r"data.root = /mnt/c/CMU Academics/set is C:\CMU Academics\set in Windows",)


def test_a_folder_that_looks_like_a_drive_is_one_on_linux(tmp_path):
    assert windowspaths.check_paths(situation(tmp_path, "/mnt/w/data", "Linux version 6.1")).level is Level.OK
    assert windowspaths.check_paths(situation(tmp_path, "/mnt/data")).level is Level.OK


def test_names_in_windows():
    assert (
        windowspaths.windows_name(Path("/mnt/w/CMU Academics/set"), Mount("/mnt/w", "9p", "windows")) == r"W:\CMU Academics\set"
    )
    assert windowspaths.windows_name(Path("/mnt/w"), Mount("/mnt/w", "9p", "windows")) == "W:\\"


def test_places_of_a_run(tmp_path):
    blobs = tmp_path / "hub/models--Qwen--Qwen3-8B/blobs"
    snapshot = tmp_path / "hub/models--Qwen--Qwen3-8B/snapshots/abc"
    for folder in (blobs, snapshot):
        folder.mkdir(parents=True)
    settings = Settings(data={"features": "/f", "img": "/i"}, model={"image_encoder": "/models/dinov2"})
    found = {place.key: (place.path, place.use) for place in windowspaths.places(settings, {"HF_HOME": str(tmp_path)})}
    assert found["model.llm"] == (blobs, "model")
    assert found["model.image_encoder"] == (Path("/models/dinov2"), "model")
    assert found["data.features"] == (Path("/f"), "features")
    assert found["data.img"] == (Path("/i"), "data")
    assert found["run.dir"] == (Path("checkpoints"), "run")
    assert found["model.points_checkpoint"][1] == "model"
    bare = Settings(data={"synthetic": 3}, model={"llm": "tiny", "points_encoder": "fourier", "image_encoder": "tiny"})
    assert [place.key for place in windowspaths.places(bare, {})] == ["run.dir"]
