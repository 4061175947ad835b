"""Python, memory, Windows drives, wandb's login."""

from __future__ import annotations

from pathlib import Path

import pytest

from cadmllm.doctor import system as environment
from cadmllm.doctor.check import Level, Situation
from cadmllm.doctor.logging import check_wandb
from cadmllm.doctor.system import check_drives, check_environment, check_memory, check_python, main_memory
from cadmllm.settings import Settings


def test_an_old_python_is_a_failure():
    (finding,) = check_python(Situation(None), (3, 10, 14)).findings
    assert (finding.code, finding.level) == ("E801", Level.FAIL)
    assert "3.10.14 is older than 3.11" in finding.message
    assert check_python(Situation(None), (3, 11, 0)).level is Level.OK
    assert check_python(Situation(None), (4, 0, 0)).level is Level.OK


def test_the_environment_is_named(monkeypatch):
    monkeypatch.setattr(environment.sys, "prefix", "/opt/venv")
    assert check_environment(Situation(None)).summary.startswith("virtual environment /opt/venv")
    monkeypatch.setattr(environment.sys, "prefix", environment.sys.base_prefix)
    monkeypatch.setenv("CONDA_DEFAULT_ENV", "p3d_5070ti")
    assert check_environment(Situation(None)).summary.startswith("conda environment p3d_5070ti")
    monkeypatch.delenv("CONDA_DEFAULT_ENV")
    assert check_environment(Situation(None)).summary.startswith("no virtual environment")


def test_memory_is_read_from_meminfo(tmp_path, monkeypatch):
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:        2097152 kB\nMemFree:  1 kB\nMemAvailable:    1048576 kB\nHugePages_Total:       0\n")
    assert main_memory(meminfo) == (2 * 2**30, 2**30)
    assert main_memory(tmp_path / "absent") == (0, 0)
    monkeypatch.setattr(environment, "main_memory", lambda: main_memory(meminfo))
    (finding,) = check_memory(Situation(None)).findings
    assert (finding.code, finding.level) == ("E814", Level.WARN)
    assert finding.message.startswith("2.0 GiB, 1.0 GiB free")
    monkeypatch.setattr(environment, "main_memory", lambda: (0, 0))
    assert check_memory(Situation(None)).skipped


@pytest.mark.parametrize(
    ("root", "slow"), [("/mnt/w/data", True), ("/mnt/data", False), ("/home/me/data", False), ("/mnt", False)]
)
def test_data_on_a_windows_drive_is_slow(monkeypatch, root, slow):
    situation = Situation(Settings(data={"root": root}, run={"dir": "/home/me/run"}))
    assert check_drives(situation).skipped == "not WSL"
    monkeypatch.setattr(environment, "under_wsl", lambda: True)
    outcome = check_drives(situation)
    assert outcome.level is (Level.WARN if slow else Level.OK)
    assert not slow or outcome.findings[0].code == "E832"


def test_wandb_online_needs_a_login(monkeypatch, tmp_path):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_BASE_URL", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert check_wandb(Situation(Settings())).skipped == "wandb is off"
    online = Situation(Settings(wandb={"mode": "online"}))
    (finding,) = check_wandb(online).findings
    assert (finding.code, finding.level) == ("E841", Level.FAIL)
    assert "wandb.mode=offline" in finding.remedy
    Path(tmp_path / "netrc").write_text("machine api.wandb.ai login user password secret\n")
    outcome = check_wandb(online)
    assert outcome.level is Level.OK
    assert "secret" not in outcome.summary
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    assert check_wandb(online).level is Level.FAIL
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    assert check_wandb(online).summary == "WANDB_API_KEY is set"
