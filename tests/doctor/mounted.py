"""A system under WSL, or with the file systems that a test names."""

from __future__ import annotations

from pathlib import Path

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
