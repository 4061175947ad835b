"""Shared memory, open files, inotify."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from cadmllm.doctor import limits
from cadmllm.doctor.check import Level, Situation
from cadmllm.doctor.machine import Machine
from cadmllm.doctor.transfer import open_files, waiting, window_of
from cadmllm.settings import Settings

MIB = 2**20


def situation(root: Path, **train: object) -> Situation:
    return Situation(Settings(train=train), machine=Machine(root, {}))


def test_a_window_of_every_sample_with_everything():
    settings = Settings(train={"batch_size": 2, "accumulation": 32, "packing": False})
    text, third = window_of(settings, 1), window_of(settings, 3)
    assert text.tensors == 32 * 4
    assert third.tensors == 32 * 7
    assert third.most - third.bytes == pytest.approx(64 * (0.4 * 4096 * 24 + 0.5 * 602112), abs=8)
    assert text.most == text.bytes < third.bytes


def test_packed_rows_are_few_tensors():
    settings = Settings(train={"batch_size": 2, "accumulation": 32})
    assert window_of(settings, 1).tensors == 4 * 3  # 64 samples of 128 tokens in rows of 4096: two full ones and a rest
    assert window_of(settings, 1).tensors < window_of(Settings(train={"accumulation": 32, "packing": False}), 1).tensors


def test_cached_features_replace_clouds_and_views(tmp_path):
    (tmp_path / "images").mkdir()
    plain, cached = Settings(), Settings(data={"features": tmp_path})
    assert window_of(cached, 3).bytes < window_of(plain, 3).bytes
    assert window_of(cached, 1) == window_of(plain, 1)


def test_what_waits():
    settings = Settings(train={"workers": 4, "prefetch": 4})
    window = window_of(settings, 3)
    assert waiting(settings, window) == (17 * window.bytes, 17 * window.most)
    assert open_files(settings, window) == 5 * window.tensors
    assert waiting(Settings(), window) == (0, 0)
    assert open_files(Settings(), window) == 0


@pytest.mark.parametrize(("free", "level"), [(4096 * MIB, Level.OK), (500 * MIB, Level.WARN), (64 * MIB, Level.FAIL)])
def test_shared_memory(tmp_path, monkeypatch, free, level):
    asked = situation(tmp_path, workers=4, batch_size=32, accumulation=2)
    monkeypatch.setattr(limits, "space", lambda path: (free, free))
    outcome = limits.check_shared_memory(asked)
    assert outcome.level is level
    if level is not Level.OK:
        (finding,) = outcome.findings
        assert finding.code == "E816"
        assert "remount,size=1G /dev/shm" in finding.remedy
        assert outcome.fixes[0].kind == "setting"
    if level is Level.FAIL:
        assert "--set train.workers=0" in finding.remedy
        (tmp_path / ".dockerenv").touch()
        assert "docker run --shm-size=1g" in limits.check_shared_memory(asked).findings[0].remedy
    if level is Level.WARN:
        assert "--set train.prefetch=2" in finding.remedy  # 3 x 4 + 1 steps of up to 41 MiB would be too many


def test_shared_memory_without_loader_processes_or_without_itself(tmp_path):
    assert "train.workers=0" in limits.check_shared_memory(situation(tmp_path)).skipped
    assert "No such file" in limits.check_shared_memory(situation(tmp_path, workers=2)).skipped


def allow(root: Path, soft: object, hard: object) -> None:
    path = root / "proc/self/limits"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"Limit   Soft Limit  Hard Limit  Units\nMax open files            {soft}    {hard}   files     \n")


def test_open_files(tmp_path):
    asked = situation(tmp_path, workers=2, prefetch=16, packing=False, accumulation=32)
    assert limits.check_open_files(asked).skipped
    allow(tmp_path, 1024, 1048576)
    outcome = limits.check_open_files(asked)
    (finding,) = outcome.findings
    assert (finding.code, finding.level) == ("E817", Level.FAIL)
    assert "3,712 needed" in finding.message  # 128, and 16 steps of 32 x 7 tensors
    assert finding.remedy.startswith("ulimit -n 65536 ")
    assert outcome.fixes[0].name == "train.workers"
    allow(tmp_path, 1024, 2048)
    assert "limits.d/90-cadmllm.conf" in limits.check_open_files(asked).findings[0].remedy
    allow(tmp_path, 1024, 8192)
    assert limits.check_open_files(asked).findings[0].remedy.startswith("ulimit -n 8192 ")
    assert limits.check_open_files(situation(tmp_path)).level is Level.OK
    allow(tmp_path, 100, 100)
    assert limits.check_open_files(situation(tmp_path)).level is Level.WARN  # 19 were counted; CUDA and wandb take more
    allow(tmp_path, "unlimited", "unlimited")
    assert limits.check_open_files(asked).level is Level.OK


def test_inotify(tmp_path, monkeypatch):
    asked = situation(tmp_path)
    assert limits.check_inotify(asked).skipped == "no inotify here"
    folder = tmp_path / "proc/sys/fs/inotify"
    folder.mkdir(parents=True)
    (folder / "max_user_instances").write_text("128\n")
    (folder / "max_user_watches").write_text("65536\n")
    monkeypatch.setattr(limits, "try_instance", lambda: 0)
    assert limits.check_inotify(asked).level is Level.OK
    monkeypatch.setattr(limits, "try_instance", lambda: errno.EMFILE)
    (finding,) = limits.check_inotify(asked).findings
    assert (finding.code, finding.level) == ("E819", Level.WARN)
    assert "all 128 inotify instances" in finding.message
    monkeypatch.setattr(limits, "try_instance", lambda: errno.ENOSYS)
    assert limits.check_inotify(asked).skipped
    (folder / "max_user_watches").write_text("512\n")
    assert "512 watches" in limits.check_inotify(asked).findings[0].message


def test_an_instance_can_be_opened_for_real():
    assert limits.try_instance() in (0, errno.EMFILE, errno.ENOSYS)
