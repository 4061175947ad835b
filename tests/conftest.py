"""Fixtures that every room uses."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CACHE = tempfile.TemporaryDirectory(prefix="cadmllm-tests-")  # indices of the tests' data sets; processes they start use it, too
os.environ["XDG_CACHE_HOME"] = CACHE.name


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data, or a skip that says how to give one."""
    folder = Path(os.environ.get("CADMLLM_SHARED", ROOT.parent / "shared"))
    if not (folder / "data" / "deepcad").is_dir():
        pytest.skip(f"real data not at {folder}: set CADMLLM_SHARED to the folder that holds data/deepcad")
    return folder
