"""Which file system a path lies on, from the mount table."""

from __future__ import annotations

from pathlib import Path

from mounted import system

from cadmllm.doctor import filesystems
from cadmllm.doctor.filesystems import Mount, mount_of, mounts
from cadmllm.doctor.machine import Machine


def test_the_mount_table(tmp_path):
    found = mounts(system(tmp_path))
    assert [(mount.point, mount.kind) for mount in found] == [
        ("/", "local"),
        ("/mnt/c", "windows"),
        ("/mnt/d", "windows"),
        ("/home", "network"),
        ("/tmp x", "memory"),
        ("/work", "parallel"),
    ]
    assert [mount.point for mount in found if mount.readonly] == ["/mnt/d"]
    elsewhere = mounts(system(tmp_path, "share /mnt/c 9p rw 0 0\n", "Linux version 6.1"))
    assert elsewhere == [Mount("/mnt/c", "9p", "network")]  # a shared folder of a virtual machine
    assert mounts(Machine(tmp_path / "absent", {})) == []


def test_the_nearest_mount_counts_and_of_equal_ones_the_last():
    table = [Mount("/", "ext4", "local"), Mount("/data", "nfs", "network"), Mount("/data", "xfs", "local")]
    assert mount_of(Path("/data/a/b"), table) == table[2]
    assert mount_of(Path("/database"), table) == table[0]
    assert mount_of(Path("/data"), table[1:2]) == table[1]
    assert mount_of(Path("/else"), table[1:]) is None


def test_kinds_do_not_overlap():
    assert not filesystems.NETWORK & filesystems.PARALLEL
    assert not filesystems.MEMORY & (filesystems.NETWORK | filesystems.PARALLEL)
