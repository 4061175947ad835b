"""The operating system, Python, the environment of the packages."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pytest

from cadmllm.doctor import system
from cadmllm.doctor.check import Level, Situation
from cadmllm.doctor.machine import Machine
from cadmllm.doctor.system import check_environment, check_os, check_python, installers
from cadmllm.settings import Settings


@pytest.fixture
def empty(tmp_path) -> Situation:
    return Situation(None, machine=Machine(tmp_path / "root", {}))


def test_checks_without_settings_import_no_package():
    code = (
        "import sys\nfrom cadmllm.doctor.system import CHECKS\nfrom cadmllm.doctor.check import Situation\n"
        "[check.run(Situation(None)) for check in CHECKS if not check.needs_settings]\n"
        "own = set(sys.stdlib_module_names) | {'cadmllm'}\n"
        "print([name for name in sys.modules if name.partition('.')[0] not in own and not name.startswith(('_', 'sitecustom'))])"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"


def test_stage_0_comes_before_what_needs_settings_of_its_own_kind():
    names = [check.name for check in system.CHECKS]
    assert names[:5] == ["os", "python", "environment", "wsl", "memory"]
    assert all(check.group == "system" for check in (*system.CHECKS, *system.LATER))


@pytest.mark.parametrize(("version", "level"), [((3, 10, 14), Level.FAIL), ((3, 11, 0), Level.OK), ((4, 0, 0), Level.OK)])
def test_an_old_python_is_a_failure(empty, monkeypatch, version, level):
    monkeypatch.setattr(system, "running", lambda: version)
    outcome = check_python(empty)
    assert outcome.level is level
    if level is Level.FAIL:
        (finding,) = outcome.findings
        assert finding.code == "E801"
        assert "3.10.14 is older than 3.11" in finding.message
        assert "make setup PYTHON=python3.11" in finding.remedy


def test_a_python_without_sqlite_names_the_headers(empty, monkeypatch):
    monkeypatch.setattr(system, "_has", lambda name: name not in ("_sqlite3", "_lzma"))
    (finding,) = check_python(empty).findings
    assert "without sqlite3, lzma" in finding.message
    assert "libsqlite3-dev liblzma-dev" in finding.remedy
    monkeypatch.setattr(system, "_has", lambda name: name != "_lzma")
    assert check_python(empty).level is Level.OK


def test_a_python_of_32_bits_or_without_its_lock_has_no_packages(empty, monkeypatch):
    monkeypatch.setattr(system.sys, "maxsize", 2**31 - 1)
    assert "32-bit" in check_python(empty).findings[0].message
    monkeypatch.undo()
    monkeypatch.setattr(system.sysconfig, "get_config_var", lambda name: 1)
    assert "free-threaded" in check_python(empty).findings[0].message


def test_linux_alone_is_supported(empty, monkeypatch):
    assert check_os(empty).level is Level.OK
    monkeypatch.setattr(system, "platform", SimpleNamespace(system=lambda: "Windows", machine=lambda: "AMD64"))
    (finding,) = check_os(empty).findings
    assert (finding.code, finding.level) == ("E834", Level.FAIL)
    assert "wsl --install" in finding.remedy
    monkeypatch.setattr(system, "platform", SimpleNamespace(system=lambda: "Darwin", machine=lambda: "arm64"))
    assert check_os(empty).findings[0].level is Level.WARN
    asked = Situation(Settings(device="cuda"), machine=empty.machine)
    assert check_os(asked).findings[0].level is Level.FAIL


def test_the_distribution_and_a_container_are_named(tmp_path):
    machine = Machine(tmp_path, {})
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/os-release").write_text('NAME="x"\nPRETTY_NAME="Ubuntu 24.04.1 LTS"\n')
    (tmp_path / ".dockerenv").touch()
    assert check_os(Situation(None, machine=machine)).summary.startswith("Ubuntu 24.04.1 LTS, in a container, kernel ")


def test_the_environment_is_named(tmp_path, monkeypatch):
    empty = Situation(None, machine=Machine(tmp_path, {"CONDA_DEFAULT_ENV": "p3d_5070ti"}))
    monkeypatch.setattr(system.sys, "prefix", "/opt/venv")
    assert check_environment(empty).summary == "virtual environment /opt/venv"
    monkeypatch.setattr(system.sys, "prefix", str(tmp_path))
    monkeypatch.setattr(system.sys, "base_prefix", str(tmp_path))
    assert check_environment(empty).summary.startswith("no virtual environment")
    (tmp_path / "conda-meta").mkdir()
    assert check_environment(empty).summary.startswith("conda environment p3d_5070ti")


def test_what_mixes_in_is_said(tmp_path, monkeypatch):
    site = tmp_path / "site"
    for name, owner in (("torch-2.13.0", "pip"), ("numpy-2.1.0", "conda"), ("numpy-2.2.0", "pip"), ("other-1.0", "pip")):
        folder = site / f"{name}.dist-info"
        folder.mkdir(parents=True)
        (folder / "INSTALLER").write_text(f"{owner}\n")
    assert installers(site) == ({"numpy": "pip", "torch": "pip"}, ["numpy"])
    assert installers(tmp_path / "absent") == ({}, [])
    (tmp_path / "conda-meta").mkdir()
    monkeypatch.setattr(system.sysconfig, "get_path", lambda name: str(site))
    monkeypatch.setattr(system.sys, "prefix", str(tmp_path))
    monkeypatch.setattr(system.sys, "base_prefix", str(tmp_path))
    monkeypatch.setattr(system.sys, "path", ["/home/me/.local/lib/python3.11/site-packages"])
    environ = {"VIRTUAL_ENV": "/elsewhere", "PYTHONPATH": "/opt/old"}
    outcome = check_environment(Situation(None, machine=Machine(tmp_path, environ)))
    assert outcome.level is Level.OK
    text = "\n".join(outcome.details)
    assert "conda environment with packages by pip: numpy, torch" in text
    assert "numpy is installed twice" in text
    assert "activated /elsewhere" in text
    assert "PYTHONPATH=/opt/old" in text
    assert "PYTHONNOUSERSITE=1" in text
