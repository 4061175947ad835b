"""Windows drives are recognised, measured and judged; nothing is written but copies that are removed again."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cadmllm.corpus import drive
from cadmllm.corpus.drive import Mount, Speed

TABLE = """\
/dev/sdc / ext4 rw,relatime 0 0
C:\\134 /mnt/c 9p rw,noatime,aname=drvfs;path=C:\\134 0 0
drvfs /mnt/w/CMU\\040Academics drvfs rw 0 0
none /mnt/wsl tmpfs rw 0 0
/dev/sdd /mnt/e ext4 rw 0 0
tmpfs /mnt tmpfs rw 0 0
"""


@pytest.fixture
def table(tmp_path: Path) -> list[Mount]:
    (tmp_path / "mounts").write_text(TABLE)
    return drive.mounts(tmp_path / "mounts")


@pytest.mark.parametrize(
    ("path", "point"),
    [
        ("/mnt/c/data", "/mnt/c"),
        ("/mnt/c", "/mnt/c"),
        ("/mnt/w/CMU Academics/Omni-CAD", "/mnt/w/CMU Academics"),
        ("/mnt/w/other", None),
        ("/mnt/wsl/x", None),
        ("/mnt/e/x", "/mnt/e"),
        ("/mnt/cd", None),
        ("/home/me/mnt/c", None),
    ],
)
def test_the_mount_that_a_path_lies_on(table, path, point):
    found = drive.drive_of(Path(path), table)
    assert (found.point if found else None) == point


def test_without_a_mount_table():
    assert drive.mounts(Path("/no/such/table")) == []
    assert drive.drive_of(Path("/mnt/c"), []) is None


class Clock:
    """Seconds that pass by being asked for, more of them on the drive."""

    def __init__(self, steps: list[float]) -> None:
        self.now, self.steps = 0.0, steps

    def __call__(self) -> float:
        self.now += self.steps.pop(0) if self.steps else 0.0
        return self.now


def test_a_measurement_compares_the_same_files_and_leaves_nothing(tmp_path):
    files = []
    for number in range(3):
        files.append(tmp_path / f"{number}.bin")
        files[-1].write_bytes(b"x" * 1000)
    os.mkfifo(tmp_path / "pipe")
    files.append(tmp_path / "pipe")  # no writer: opening it must not hang
    files.append(tmp_path / "missing")
    (tmp_path / "link").symlink_to("/etc/hostname")
    files.append(tmp_path / "link")
    home = tmp_path / "home"
    home.mkdir()
    steps = [0.0, 0.1] * 3 + [0.0] * 6 + [0.0, 0.03]
    speed = drive.measure(files, clock=Clock(steps), home=home)
    assert speed is not None
    assert (speed.bytes, round(speed.here, 6), round(speed.linux, 6)) == (3000, 0.3, 0.03)
    assert round(speed.times, 6) == 10.0
    assert list(home.iterdir()) == []


def test_a_slow_drive_ends_the_measurement(tmp_path):
    files = []
    for number in range(50):
        files.append(tmp_path / f"{number}.bin")
        files[-1].write_bytes(b"x")
    speed = drive.measure(files, clock=Clock([0.0, 0.3] * 200), home=tmp_path)
    assert speed is not None
    assert speed.files == 4  # 1.2 s of the second that half the budget is


def test_a_real_measurement(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"x" * 100_000)
    speed = drive.measure([tmp_path / "a.bin"], home=tmp_path)
    assert speed is not None
    assert (speed.files, speed.bytes) == (1, 100_000)
    assert speed.here > 0.0
    assert speed.linux > 0.0


def test_nothing_to_measure(tmp_path):
    assert drive.measure([], home=tmp_path) is None
    assert drive.measure([tmp_path / "none"], home=tmp_path) is None
    assert drive.measure([tmp_path / "none"], home=tmp_path / "no home") is None


def test_the_verdict_names_the_saving_and_the_copy():
    assert drive.verdict(Path("/mnt/w/x"), Speed(100, 10**6, 0.2, 0.1), 1000) is None
    found = drive.verdict(Path("/mnt/w/CMU Academics/Omni CAD"), Speed(100, 10**6, 2.0, 0.1), 30_000)
    assert found is not None
    flaw, remedy = found
    assert flaw.code == "E832"
    assert "50 files/s, 0.5 MB/s" in flaw.message
    assert "saves 10 minutes an epoch (30,000 files)" in flaw.message  # 1.9 s / 100 x 30,000 = 570 s
    assert "'/mnt/w/CMU Academics/Omni CAD'" in remedy


def test_the_copy_command():
    root = Path("/mnt/w/Omni CAD")
    assert drive.copy_command(root, lambda name: "/usr/bin/rsync") == (
        "rsync -a --info=progress2 '/mnt/w/Omni CAD'/ ~/'Omni CAD'/ && cadmllm data check ~/'Omni CAD'"
    )
    assert drive.copy_command(root, lambda name: None) == (
        "mkdir -p ~/'Omni CAD' && cp -r '/mnt/w/Omni CAD'/. ~/'Omni CAD'/ && cadmllm data check ~/'Omni CAD'"
    )
