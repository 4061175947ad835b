"""What --fix does is local, and can be taken back by the command that it says."""

from __future__ import annotations

import shlex
import subprocess
import tomllib
from pathlib import Path

import pytest

from cadmllm.doctor.check import Fix
from cadmllm.doctor.fix import apply, describe
from cadmllm.errors import CadmllmError


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def undone(commands: list[str]) -> None:
    for command in commands:
        subprocess.run(shlex.split(command.split(";")[0]), check=True)


def test_folders(tmp_path):
    fix = Fix("folder", "a/b c/d", why="why not")
    assert describe(fix, Path("x.toml")) == "make the folder a/b c/d (why not)"
    (done,) = apply([fix], Path("x.toml"))
    assert (tmp_path / "a/b c/d").is_dir()
    assert apply([fix], Path("x.toml")) == []
    undone([done.undo])
    assert list(tmp_path.iterdir()) == []


def test_settings(tmp_path):
    config = tmp_path / "cadmllm.toml"
    config.write_text("# mine\n[train]\nseed = 3\n")
    before = config.read_text()
    done = apply([Fix("setting", "train.workers", 4), Fix("setting", "model.points_encoder", "fourier")], config)
    assert tomllib.loads(config.read_text()) == {"train": {"seed": 3, "workers": 4}, "model": {"points_encoder": "fourier"}}
    assert "# mine" in config.read_text()
    undone([done[0].undo])
    assert config.read_text() == before
    fresh = tmp_path / "new.toml"
    done = apply([Fix("setting", "train.workers", 4)], fresh)
    undone([done[0].undo])
    assert not fresh.exists()


def test_environment_hints(tmp_path):
    apply([Fix("environment", "A", "x y"), Fix("environment", "B", "1")], Path("x.toml"))
    apply([Fix("environment", "A", "z")], Path("x.toml"))
    assert (tmp_path / "cadmllm.env").read_text() == "export B=1\nexport A=z\n"
    shell = "source ./cadmllm.env && echo $A$B"
    assert subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=True).stdout == "z1\n"


def test_what_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CadmllmError) as caught:
        apply([Fix("folder", "file/sub")], Path("x.toml"))
    assert caught.value.code == "E822"
