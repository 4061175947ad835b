"""Room for the saves, and a folder that takes them. Faults are injected: tests may run as root, whom no permission stops."""

from __future__ import annotations

import errno
import os
from types import SimpleNamespace

import pytest

from cadmllm.doctor import disk
from cadmllm.doctor.check import Level, Situation
from cadmllm.doctor.disk import check_disk, existing_parent, needed_bytes, write_probe
from cadmllm.plan.sizes import GIB, KNOWN
from cadmllm.settings import Settings


@pytest.fixture
def situation(tmp_path) -> Situation:
    return Situation(Settings(run={"dir": tmp_path / "runs" / "a"}))


def test_it_works_and_leaves_nothing_behind(situation, tmp_path):
    assert check_disk(situation).level in (Level.OK, Level.FAIL)  # FAIL where the test machine's disk is full
    assert list(tmp_path.iterdir()) == []
    assert existing_parent(tmp_path / "runs" / "a") == tmp_path


@pytest.mark.parametrize(
    ("number", "code"), [(errno.EROFS, "E822"), (errno.EACCES, "E822"), (errno.ENOSPC, "E821"), (errno.EDQUOT, "E821")]
)
def test_a_folder_that_takes_no_files(situation, tmp_path, monkeypatch, number, code):
    def refuse(source, target):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(disk.os, "replace", refuse)
    (finding,) = check_disk(situation).findings
    assert (finding.code, finding.level) == (code, Level.FAIL)
    assert str(tmp_path) in finding.message
    assert "--output_dir" in finding.remedy
    assert list(tmp_path.iterdir()) == []


def test_a_file_system_that_does_not_keep_what_is_written(tmp_path, monkeypatch):
    real = os.replace

    def corrupt(source, target):
        real(source, target)
        target.write_bytes(b"")

    monkeypatch.setattr(disk.os, "replace", corrupt)
    with pytest.raises(OSError, match="reads back differently"):
        write_probe(tmp_path)


def test_too_little_room_is_said_with_numbers(situation, monkeypatch):
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda path: SimpleNamespace(free=2 * GIB))
    (finding,) = check_disk(situation).findings
    assert (finding.code, finding.level) == ("E821", Level.FAIL)
    assert "2.0 GiB free" in finding.message
    assert "train.save_total_limit=1" in finding.remedy


def test_the_estimate():
    trained = KNOWN["Qwen/Qwen3-8B"].lora_parameters(16)
    need, known = needed_bytes(Settings(), (1,))
    assert known
    assert (
        4 * trained + 3 * 12 * trained < need < 1.5 * (4 * trained + 3 * 12 * trained)
    )  # two step saves and the one being written
    whole, _ = needed_bytes(Settings(lora={"enabled": False}), (1,))
    assert whole > 4 * KNOWN["Qwen/Qwen3-8B"].parameters
    assert needed_bytes(Settings(model={"llm": "some/model"}), (1,))[1] is False
