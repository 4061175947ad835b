"""Fixtures that every room uses."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).resolve().parent.parent
CACHE = tempfile.TemporaryDirectory(prefix="cadmllm-tests-")  # indices of the tests' data sets; processes they start use it, too
os.environ["XDG_CACHE_HOME"] = CACHE.name
settings.register_profile("no clocks", deadline=None, suppress_health_check=[HealthCheck.too_slow])  # machines of tests are busy
settings.load_profile("no clocks")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data, or a skip that says how to give one."""
    folder = Path(os.environ.get("CADMLLM_SHARED", ROOT.parent / "shared"))
    if not (folder / "data" / "deepcad").is_dir():
        pytest.skip(f"real data not at {folder}: set CADMLLM_SHARED to the folder that holds data/deepcad")
    return folder


@pytest.fixture(autouse=True)
def _no_second_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """A set that was just made is looked at twice, a second apart: tests need not wait for that."""
    monkeypatch.setattr("cadmllm.corpus.growth.APART", 0.0)


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six generated parts with clouds and views; to be copied, not changed."""
    from cadmllm.cli import main

    out = tmp_path_factory.mktemp("made") / "set"
    assert main(["data", "synth", "--count", "6", "--seed", "5", "--out", str(out), "--points", "--views", "--quiet"]) == 0
    return out


@pytest.fixture
def healthy(made: Path, tmp_path: Path) -> Path:
    """A copy of `made` at a path with a blank."""
    return Path(shutil.copytree(made, tmp_path / "my set"))
