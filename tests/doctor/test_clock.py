"""A clock that is behind files or beside the hardware's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cadmllm.doctor import clock
from cadmllm.doctor.check import Level, Situation
from cadmllm.doctor.machine import Machine
from cadmllm.settings import Settings

NOW = 2e9  # later than any file of a checkout


@pytest.fixture
def present(monkeypatch) -> float:
    monkeypatch.setattr(clock, "now", lambda: NOW)
    return NOW


def hardware(root: Path, seconds: float, version: str = "") -> Situation:
    for name, text in (("sys/class/rtc/rtc0/since_epoch", f"{NOW + seconds:.0f}\n"), ("proc/version", version)):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Situation(None, machine=Machine(root, {}))


def test_a_clock_that_agrees(tmp_path, present):
    assert clock.check_clock(Situation(None, machine=Machine(tmp_path, {}))).summary == "2033-05-18 03:33 UTC"
    outcome = clock.check_clock(hardware(tmp_path, 3))
    assert outcome.level is Level.OK
    assert outcome.details == ("hardware clock: +3 s",)


def test_wsl_that_slept(tmp_path, present):
    (finding,) = clock.check_clock(hardware(tmp_path, 7200, "5.15-microsoft-standard-WSL2")).findings
    assert (finding.code, finding.level) == ("E818", Level.WARN)
    assert "2.0 hours behind the hardware clock: WSL's clock stops" in finding.message
    assert finding.remedy.startswith("sudo hwclock -s")


@pytest.mark.parametrize(("seconds", "level"), [(7200, Level.OK), (-19800, Level.OK), (7500, Level.WARN), (-400, Level.WARN)])
def test_a_hardware_clock_in_local_time_is_a_time_zone_ahead(tmp_path, present, seconds, level):
    asked = hardware(tmp_path, seconds)
    assert clock.check_clock(asked).level is level
    (tmp_path / "etc").mkdir(exist_ok=True)
    (tmp_path / "etc/adjtime").write_text("0.0 0 0.0\n0\nLOCAL\n")
    assert clock.check_clock(asked).level is Level.OK


def test_files_from_the_future(tmp_path, present):
    data = tmp_path / "set"
    (data / "json").mkdir(parents=True)
    asked = Situation(Settings(data={"root": data}), machine=Machine(tmp_path, {}))
    assert clock.check_clock(asked).level is Level.OK
    os.utime(data / "json", (NOW + 600, NOW + 600))
    (finding,) = clock.check_clock(asked).findings
    assert f"{data / 'json'} was changed 10 minutes later" in finding.message
    assert f"touch {data / 'json'}" in finding.remedy


def test_a_clock_behind_cadmllm_itself(tmp_path, monkeypatch):
    monkeypatch.setattr(clock, "now", lambda: 1e9)
    (finding,) = clock.check_clock(Situation(None, machine=Machine(tmp_path, {}))).findings
    assert "it is 2001-09-09 01:46 UTC" in finding.message
    assert finding.remedy.startswith("sudo timedatectl set-ntp true")
