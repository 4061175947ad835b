"""Commands that work in the environment that is there."""

from __future__ import annotations

import sys

import pytest

from cadmllm.doctor import pip as room
from cadmllm.doctor.pip import pip


@pytest.mark.parametrize(
    ("there", "uv", "install", "remove"),
    [
        (True, True, "{python} -m pip install a", "{python} -m pip uninstall -y a"),
        (False, True, "uv pip install --python {python} a", "uv pip uninstall --python {python} a"),
        (False, False, "{python} -m ensurepip && {python} -m pip install a", None),
    ],
)
def test_the_maker_of_the_environment_is_asked(monkeypatch, there, uv, install, remove):
    monkeypatch.setattr(room.PathFinder, "find_spec", lambda name: object() if there else None)
    monkeypatch.setattr(room.shutil, "which", lambda name: f"/usr/bin/{name}" if uv else None)
    monkeypatch.setattr(sys, "executable", "/my env/bin/python")
    room._maker.cache_clear()
    try:
        assert pip("install", "a") == install.format(python="'/my env/bin/python'")
        assert remove is None or pip("uninstall", "a") == remove.format(python="'/my env/bin/python'")
    finally:
        room._maker.cache_clear()
