"""Which file system a path lies on, and what that means for it. Standard library only."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from cadmllm.doctor import wsl
from cadmllm.doctor.machine import Machine

NETWORK = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "9p", "davfs", "ncpfs", "coda", "fuse.sshfs", "fuse.s3fs"}
NETWORK |= {"fuse.rclone", "fuse.gcsfuse", "fuse.goofys", "fuse.mount-s3", "fuse.davfs", "fuse.blobfuse", "fuse.blobfuse2"}
# file systems of clusters: over the network, too, but made for large files and renames that all machines see at once
PARALLEL = {"lustre", "gpfs", "beegfs", "fhgfs", "ceph", "fuse.ceph", "fuse.ceph-fuse", "glusterfs", "fuse.glusterfs"}
PARALLEL |= {"fuse.juicefs", "pvfs2", "orangefs", "panfs", "wekafs"}
MEMORY = {"tmpfs", "ramfs", "devtmpfs"}


@dataclass(frozen=True, slots=True)
class Mount:
    """A line of the mount table.

    Attributes:
        point: folder.
        type: of its file system.
        kind: 'windows' (a drive of Windows under WSL), 'network', 'parallel', 'memory' or 'local'.
        readonly: mounted so.
    """

    point: str
    type: str
    kind: str
    readonly: bool = False


def mounts(machine: Machine) -> list[Mount]:
    """The mount table; empty where it cannot be read."""
    lines = [line.split() for line in machine.text("proc/mounts").splitlines()]
    drive = re.compile(re.escape(wsl.mount_root(machine).rstrip("/")) + r"/[a-z]") if wsl.version(machine) else None
    found = []
    for words in lines:
        if len(words) >= 4:
            source, point = _unescaped(words[0]), _unescaped(words[1])
            windows = drive is not None and (
                words[2] == "drvfs"
                or "aname=drvfs" in words[3]
                or (words[2] in ("9p", "virtiofs") and (drive.fullmatch(point) is not None or source.startswith("drvfs")))
            )
            found.append(Mount(point, words[2], "windows" if windows else _kind(words[2]), "ro" in words[3].split(",")))
    return found


def mount_of(path: Path, table: list[Mount]) -> Mount | None:
    """The mount that a path lies on, or would lie on; None where the table says nothing."""
    text = os.path.realpath(path)
    over = [mount for mount in table if text == mount.point or text.startswith(mount.point.rstrip("/") + "/")]
    return max(reversed(over), key=lambda mount: len(mount.point)) if over else None  # of equal ones, the last lies on top


def _kind(type_: str) -> str:
    groups = {"network": NETWORK, "parallel": PARALLEL, "memory": MEMORY}
    return next((kind for kind, types in groups.items() if type_ in types), "local")


def _unescaped(text: str) -> str:
    """Blanks and such stand as \\040 in the mount table."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)
