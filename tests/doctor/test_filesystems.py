"""Which file system a path lies on, from the mount table."""

from __future__ import annotations

from pathlib import Path

from cadmllm.doctor import filesystems
from cadmllm.doctor.filesystems import Mount, mount_of, mounts
from cadmllm.doctor.machine import Machine

WSL2 = "Linux version 5.15.153.1-microsoft-standard-WSL2"
TABLE = (
    "/dev/sdc / ext4 rw,relatime 0 0\n"
    "C:\\134 /mnt/c 9p rw,noatime,dirsync,aname=drvfs;path=C:\\;uid=1000;symlinkroot=/mnt/,trans=fd 0 0\n"
    "drvfs /mnt/d 9p ro,aname=drvfs;path=D:\\ 0 0\n"
    "server:/home /home nfs4 rw,vers=4.2 0 0\n"
    "tmpfs /tmp\\040x tmpfs rw 0 0\n"
    "store /work lustre rw 0 0\n"
)


def system(root: Path, mounted: str = TABLE, version: str = WSL2) -> Machine:
    (root / "proc").mkdir(parents=True, exist_ok=True)
    (root / "proc/version").write_text(version)
    (root / "proc/mounts").write_text(mounted)
    return Machine(root, {})


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
