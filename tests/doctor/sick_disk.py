"""Sick disks by fault injection (tests run as root, whom no permission stops), and wandb without a way to be watched."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

from scene import Case, Scene

from cadmllm.doctor import disk

TIB = 2**40


def refusing(number: int) -> Callable[[Scene], None]:
    """Renaming fails with this error."""

    def spoil(scene: Scene) -> None:
        def refuse(source: object, target: object) -> None:
            raise OSError(number, os.strerror(number))

        scene.monkeypatch.setattr(disk.os, "replace", refuse)

    return spoil


def room(scene: Scene, free: int, inodes: int | None) -> None:
    scene.monkeypatch.setattr(disk, "room", lambda folder: (free, inodes))


def full(scene: Scene) -> None:
    room(scene, 2**20, 10**6)


def no_inodes(scene: Scene) -> None:
    room(scene, TIB, 12)


def nothing_but_inodes_lacks(scene: Scene) -> None:
    refusing(errno.ENOSPC)(scene)
    room(scene, TIB, 0)


def lost_writes(scene: Scene) -> None:
    real = os.replace

    def corrupt(source: Path, target: Path) -> None:
        real(source, target)
        Path(target).write_bytes(b"")

    scene.monkeypatch.setattr(disk.os, "replace", corrupt)


def file_in_the_way(scene: Scene) -> None:
    scene.run.write_text("")
    scene.values["run.dir"] = str(scene.run / "a")


def link_to_nowhere(scene: Scene) -> None:
    scene.run.symlink_to(scene.folder / "unplugged")


def mounted(type_: str, options: str = "rw") -> Callable[[Scene], None]:
    """The run folder lies on such a file system."""

    def spoil(scene: Scene) -> None:
        scene.system("proc/mounts", f"/dev/sda1 / ext4 rw 0 0\nserver:/home {scene.folder} {type_} {options} 0 0\n")

    return spoil


def no_temporary_folder(scene: Scene) -> None:
    scene.environ["TMPDIR"] = str(scene.folder / "scratch")


def full_temporary_folder(scene: Scene) -> None:
    room(scene, 2**24, None)


def no_login(scene: Scene) -> None:
    scene.values["wandb.mode"] = "online"
    scene.environ |= {"NETRC": str(scene.folder / "netrc"), "WANDB_BASE_URL": "http://127.0.0.1:9", "HOME": str(scene.folder)}


def cut_key(scene: Scene) -> None:
    no_login(scene)
    scene.environ["WANDB_API_KEY"] = "0123456789abcdef"


def no_service(scene: Scene) -> None:
    no_login(scene)
    scene.environ["WANDB_API_KEY"] = "k" * 40


CASES = (
    Case("full-disk", "E821", full, ("run-folder",), sample=True),
    Case("full-while-writing", "E821", refusing(errno.ENOSPC), ("run-folder",)),
    Case("quota", "E821", refusing(errno.EDQUOT), ("run-folder",)),
    Case("read-only-folder", "E822", refusing(errno.EROFS), ("run-folder",), sample=True),
    Case("no-permission", "E822", refusing(errno.EACCES), ("run-folder",)),
    Case("faulty-disk", "E822", refusing(errno.EIO), ("run-folder",)),
    Case("writes-that-are-lost", "E822", lost_writes, ("run-folder",)),
    Case("run-folder-is-a-file", "E822", file_in_the_way, ("run-folder",)),
    Case("run-folder-is-a-link-to-nowhere", "E822", link_to_nowhere, ("run-folder",)),
    Case("few-inodes", "E823", no_inodes, ("run-folder",)),
    Case("no-inodes", "E823", nothing_but_inodes_lacks, ("run-folder",)),
    Case("run-over-nfs", "E824", mounted("nfs4"), ("run-folder",), "warn"),
    Case("run-over-sshfs", "E824", mounted("fuse.sshfs"), ("run-folder",), "warn"),
    Case("run-on-a-share-of-windows", "E824", mounted("cifs"), ("run-folder",), "warn"),
    Case("no-temporary-folder", "E822", no_temporary_folder, ("temporary",), "warn"),
    Case("full-temporary-folder", "E821", full_temporary_folder, ("temporary",), "warn"),
    Case("wandb-without-login", "E841", no_login, ("wandb",), "warn"),
    Case("wandb-with-half-a-key", "E841", cut_key, ("wandb",), "warn"),
    Case("wandb-unreachable", "E842", no_service, ("wandb",), "warn"),
)
