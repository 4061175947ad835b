"""Room for the saves, and a folder that takes them. Faults are injected: tests may run as root, whom no permission stops."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from cadmllm.doctor import disk
from cadmllm.doctor.check import Fix, Intent, Level, Situation
from cadmllm.doctor.disk import blocked, check_beside, check_disk, existing_parent, needed_bytes, needed_files, write_probe
from cadmllm.doctor.machine import Machine
from cadmllm.plan.disk import run_bytes
from cadmllm.plan.sizes import GIB, KNOWN
from cadmllm.settings import Settings

TIB = 2**40


@pytest.fixture
def situation(tmp_path) -> Situation:
    (tmp_path / "system").mkdir()
    (tmp_path / "disk").mkdir()
    settings = Settings(run={"dir": tmp_path / "disk" / "runs" / "a"}, data={"index": tmp_path / "index"})
    return Situation(settings, machine=Machine(tmp_path / "system", {}))


@pytest.fixture
def plenty(monkeypatch) -> None:
    monkeypatch.setattr(disk, "room", lambda folder: (TIB, 10**6))


def test_it_works_and_leaves_nothing_behind(situation, tmp_path, plenty):
    outcome = check_disk(situation)
    assert outcome.level is Level.OK
    assert "1024.0 GiB free" in outcome.summary
    assert outcome.details[0].startswith("stage 1: ")
    assert check_beside(situation).level is Level.OK
    assert list((tmp_path / "disk").iterdir()) == []
    assert existing_parent(tmp_path / "disk" / "runs" / "a") == tmp_path / "disk"


@pytest.mark.parametrize(
    ("number", "code", "words"),
    [
        (errno.EROFS, "E822", "remount,rw"),
        (errno.EACCES, "E822", "sudo chown -R $USER"),
        (errno.EPERM, "E822", "sudo chown -R $USER"),
        (errno.EIO, "E822", "dmesg"),
        (errno.ENOSPC, "E821", "quota -s"),  # there is room, and still it is refused
        (errno.EDQUOT, "E821", "quota -s"),
    ],
)
def test_a_folder_that_takes_no_files(situation, tmp_path, monkeypatch, plenty, number, code, words):
    def refuse(source, target):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(disk.os, "replace", refuse)
    (finding,) = check_disk(situation).findings
    assert (finding.code, finding.level) == (code, Level.FAIL)
    assert str(tmp_path / "disk") in finding.message
    assert os.strerror(number) in finding.message
    assert words in finding.remedy
    assert "--output_dir" in finding.remedy
    assert list((tmp_path / "disk").iterdir()) == []


def test_a_full_disk_while_writing_is_told_from_a_quota(situation, monkeypatch):
    def refuse(source, target):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(disk.os, "replace", refuse)
    monkeypatch.setattr(disk, "room", lambda folder: (0, 10))
    assert "free some space: df -h" in check_disk(situation).findings[0].remedy
    monkeypatch.setattr(disk, "room", lambda folder: (TIB, 0))
    assert check_disk(situation).findings[0].code == "E823"


def test_a_file_system_that_does_not_keep_what_is_written(tmp_path, monkeypatch):
    real = os.replace

    def corrupt(source, target):
        real(source, target)
        target.write_bytes(b"")

    monkeypatch.setattr(disk.os, "replace", corrupt)
    with pytest.raises(OSError, match="reads back differently"):
        write_probe(tmp_path)


def test_a_mount_that_is_read_only_is_named(situation, tmp_path, monkeypatch, plenty):
    (tmp_path / "system/proc").mkdir()
    (tmp_path / "system/proc/mounts").write_text(f"/dev/sdb1 {tmp_path / 'disk'} ext4 ro 0 0\n")

    def refuse(source, target):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(disk.os, "replace", refuse)
    assert f"sudo mount -o remount,rw {tmp_path / 'disk'} " in check_disk(situation).findings[0].remedy


def test_what_is_in_the_way_of_a_folder(tmp_path):
    assert blocked(tmp_path / "a" / "b") is None
    (tmp_path / "a").write_text("")
    found = blocked(tmp_path / "a" / "b")
    assert found is not None
    assert (found.path, found.text) == (tmp_path / "a", "is a file, not a folder")
    (tmp_path / "c").symlink_to("unplugged")
    found = blocked(tmp_path / "c")
    assert found is not None
    assert found.text == "is a link to unplugged, which is not there"


def test_a_file_in_the_way_is_moved(situation, tmp_path, plenty):
    (tmp_path / "disk/runs").write_text("")
    (finding,) = check_disk(situation).findings
    assert (finding.code, finding.level) == ("E822", Level.FAIL)
    assert f"mv {tmp_path}/disk/runs {tmp_path}/disk/runs.old" in finding.remedy


def test_too_little_room_is_said_with_numbers(situation, monkeypatch):
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda path: SimpleNamespace(free=2 * GIB))
    (finding,) = check_disk(situation).findings
    assert (finding.code, finding.level) == ("E821", Level.FAIL)
    assert "2.0 GiB free" in finding.message
    missing = run_bytes(situation.needed, situation.stages) / GIB - 2
    assert f"free {missing:.1f} GiB" in finding.remedy
    assert "train.save_total_limit=1 (saves " in finding.remedy
    assert "not enough alone" in finding.remedy
    spared = disk.spared_bytes(situation.needed, situation.stages)
    free = run_bytes(situation.needed, situation.stages) - spared + GIB // 10
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    outcome = check_disk(situation)
    assert "not enough" not in outcome.findings[0].remedy
    assert [(fix.name, fix.value) for fix in outcome.fixes] == [("train.save_total_limit", 1)]


def test_what_a_resumed_run_has_written_need_not_be_free(situation, monkeypatch):
    need, _ = needed_bytes(situation.needed, situation.stages)
    monkeypatch.setattr(disk, "room", lambda folder: (need - 100, None))
    assert check_disk(situation).level is Level.FAIL
    folder = situation.needed.run.dir / "stage1_text_model"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(bytes(100))
    assert check_disk(situation).level is Level.FAIL
    situation.intent = Intent(resume=True)
    assert check_disk(situation).level is Level.OK
    situation.intent = Intent(overwrite=True)
    assert check_disk(situation).level is Level.OK


def test_files_are_counted_like_bytes(situation, monkeypatch):
    need = needed_files(situation.needed, (1, 2, 3))
    assert need == 3 * 4 * disk.FILES_A_SAVE + disk.FILES_BESIDE
    monkeypatch.setattr(disk, "room", lambda folder: (TIB, need - 1))
    (finding,) = check_disk(situation).findings
    assert (finding.code, finding.level) == ("E823", Level.FAIL)
    monkeypatch.setattr(disk, "room", lambda folder: (TIB, None))
    assert check_disk(situation).level is Level.OK


@pytest.mark.parametrize(
    ("kind", "code", "words"),
    [("nfs4", "E824", "MB/s measured: a save of"), ("fuse.sshfs", "E824", "another machine"), ("cifs", "E824", "another machine")]
    + [("lustre", "", "lies on lustre"), ("tmpfs", "", "gone after a restart"), ("xfs", "", "lies on xfs")],
)
def test_network_file_systems(situation, tmp_path, plenty, kind, code, words):
    (tmp_path / "system/proc").mkdir()
    (tmp_path / "system/proc/mounts").write_text(f"server:/x {tmp_path / 'disk'} {kind} rw 0 0\n")
    outcome = check_disk(situation)
    assert [finding.code for finding in outcome.findings] == ([code] if code else [])
    text = outcome.findings[0].message if code else outcome.details[-1]
    assert words in text
    assert outcome.level is (Level.WARN if code else Level.OK)
    assert list((tmp_path / "disk").iterdir()) == []


def test_a_network_file_system_that_fails_is_said(situation, tmp_path, monkeypatch, plenty):
    def fail(folder: Path) -> float:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    (tmp_path / "system/proc").mkdir()
    (tmp_path / "system/proc/mounts").write_text(f"server:/x {tmp_path / 'disk'} nfs rw 0 0\n")
    monkeypatch.setattr(disk, "write_rate", fail)
    assert "writing 4 MiB there failed: Stale" in check_disk(situation).findings[0].message


def test_the_temporary_folder(situation, tmp_path, monkeypatch, plenty):
    situation.machine = Machine(tmp_path / "system", {"TMPDIR": str(tmp_path / "scratch")})
    outcome = check_beside(situation)
    (finding,) = outcome.findings
    assert (finding.code, finding.level) == ("E822", Level.WARN)
    assert "without a word" in finding.message
    assert outcome.fixes == (Fix("folder", str(tmp_path / "scratch"), why="TMPDIR names it"),)
    (tmp_path / "scratch").mkdir()
    assert check_beside(situation).level is Level.OK
    monkeypatch.setattr(disk, "room", lambda folder: (2**25, None))
    temporary, index = check_beside(situation).findings
    assert (temporary.code, temporary.level, index.code) == ("E821", Level.WARN, "E821")
    situation.needed.data.synthetic = 1000
    assert check_beside(situation).findings[0].level is Level.FAIL

    def refuse(source, target):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(disk.os, "replace", refuse)
    assert "takes no files" in check_beside(situation).findings[0].message


def test_the_index_lies_where_training_looks_for_it(situation, tmp_path):
    from cadmllm.corpus.index import cache_folder

    assert disk.index_folder(situation) == cache_folder(situation.needed.data)
    plain = Situation(Settings(), machine=Machine(tmp_path, dict(os.environ)))
    assert disk.index_folder(plain) == cache_folder(Settings().data)


def test_a_rate_is_measured(tmp_path):
    assert disk.write_rate(tmp_path, 2**20) > 0
    assert list(tmp_path.iterdir()) == []


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
