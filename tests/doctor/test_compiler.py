"""torch.compile needs a compiler, and on a GPU Python's headers."""

from __future__ import annotations

import sys

import pytest

from cadmllm.doctor import compiler
from cadmllm.doctor.check import Situation
from cadmllm.doctor.compiler import check_compiler
from cadmllm.doctor.machine import Machine
from cadmllm.settings import Settings


def look(path: str, device: str = "cpu", compile: bool = True, **environ: str):
    settings = Settings(train={"compile": compile}, device=device)
    return check_compiler(Situation(settings, machine=Machine(environ={"PATH": path, **environ})))


@pytest.fixture
def tools(tmp_path):
    def make(*names: str) -> str:
        for name in names:
            (tmp_path / name).write_text("#!/bin/sh\n")
            (tmp_path / name).chmod(0o755)
        return str(tmp_path)

    return make


def test_it_is_not_asked_for_without_compile(tools):
    assert look(tools(), compile=False).skipped == "train.compile is off"


@pytest.mark.parametrize(("names", "environ"), [(["g++"], {}), (["clang++"], {}), (["mine"], {"CXX": "mine"})])
def test_any_compiler_will_do(tools, names, environ):
    outcome = look(tools(*names), **environ)
    assert outcome.findings == ()
    assert outcome.summary.endswith(names[0])


def test_none_is_said_with_apt_and_with_the_setting(tools):
    (finding,) = look(tools("gcc")).findings
    assert finding.code == "E804"
    assert finding.remedy == "sudo apt-get install --no-install-recommends g++; or --set train.compile=false"
    messages = [f.remedy for f in look("/nowhere", device="cuda").findings]
    assert any("recommends gcc;" in remedy for remedy in messages)


def test_on_a_gpu_pythons_headers_are_needed(tools, monkeypatch, tmp_path):
    paths = {**compiler.sysconfig.get_paths(), "include": str(tmp_path)}
    monkeypatch.setattr(compiler.sysconfig, "get_paths", lambda: paths)
    (finding,) = look(tools("gcc"), device="auto").findings
    assert f"python{sys.version_info[0]}.{sys.version_info[1]}-dev" in finding.remedy
    (tmp_path / "Python.h").write_text("")
    assert look(tools("gcc"), device="auto").findings == ()
    assert look(tools("g++"), device="cpu").findings == ()
