"""A full disk pauses a run instead of killing it: room is asked for before a save, and waited for.

The disk is looked at before anything is written. Where it fills up all the same (other processes write, too; quotas do not
show in the free space), the half-written copy is removed, so that what is said to be missing is what is missing.
"""

from __future__ import annotations

import errno
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError

from cadmllm.errors import CadmllmError
from cadmllm.models.stages import STEPS, folder_bytes, is_complete

if TYPE_CHECKING:
    from cadmllm.console import Console

MARGIN = 1.05  # files are a little larger than their tensors, folders take blocks
LEAST = 1 << 20  # bytes for the small files
POLL = 5.0  # seconds between two looks at the disk
REMIND = 600.0  # seconds until it is said again
RETRY = 60.0  # seconds until a write is tried again although nothing seems to have changed: quotas do not show
NAP = 0.25  # seconds that a wait is deaf to `stopped`
FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True, slots=True)
class Writing:
    """One thing to be written, and who is asked and told when the disk is full.

    Attributes:
        what: 'the save after step 100', for messages.
        target: the folder it is written into (or will be: a parent that exists is looked at).
        needed: bytes, margin not included.
        undo: removes what a failed attempt left.
        spare: deletes something that would go anyway once this is written; False when there is nothing of the kind.
        console: told once, then every `REMIND` seconds.
        stopped: whether the run was asked to end, which ends the waiting.
    """

    what: str
    target: Path
    needed: int
    undo: Callable[[], None]
    spare: Callable[[], bool]
    console: Console
    stopped: Callable[[], bool]

    def run(self, action: Callable[[], None]) -> None:
        """Do `action` when there is room for it, as often as it takes.

        Raises:
            CadmllmError: E607 when the disk refuses for another reason than being full, or when asked to stop while waiting.
        """
        waited = False
        while True:
            free = free_bytes(self.target)
            if free < self.room:
                if not self.spare():
                    self._wait(free, lambda now: now >= self.room)
                    waited = True
                continue
            try:
                action()
                break
            except (OSError, SafetensorError) as error:
                self.undo()
                if not is_full(error):
                    raise self._refused(str(error)) from error
            if not self.spare():
                free, begun = free_bytes(self.target), time.monotonic()
                self._wait(free, lambda now, was=free, since=begun: now > was or time.monotonic() - since >= RETRY)
                waited = True
        if waited:
            self.console.note(f"there is room again in {self.target}: {self.what} is written, training goes on")

    @property
    def room(self) -> int:
        """Bytes that must be free."""
        return int(self.needed * MARGIN) + LEAST

    def _wait(self, free: int, enough: Callable[[int], bool]) -> None:
        begun = said = looked = time.monotonic()
        self._say(free, 0.0)
        while True:
            if self.stopped():
                raise self._refused(
                    f"the disk is full ({gib(self.room)} needed, {gib(free)} free), and the run was asked to stop"
                )
            time.sleep(NAP)
            now = time.monotonic()
            if now - looked < POLL:
                continue
            free, looked = free_bytes(self.target), now
            if enough(free):
                return
            if now - said >= REMIND:
                said = now
                self._say(free, now - begun)

    def _say(self, free: int, waited: float) -> None:
        since = f" (for {waited / 60:.0f} minutes)" if waited else ""
        seems = "" if free < self.room else "; a quota, or another process that writes there, may be in the way"
        self.console.warn(
            f"the disk is full: {self.what} needs {gib(self.room)} and {gib(free)} are free in {self.target}{seems}. "
            f"Training waits{since} and goes on by itself once there is room; Ctrl-C leaves, the save before it stays"
        )
        for path, size in deletable(self.target)[:4]:
            self.console.warn(f"  can be deleted: {path} ({gib(size)})")

    def _refused(self, reason: str) -> CadmllmError:
        return CadmllmError(
            "E607",
            f"{self.what} cannot be written to {self.target}: {reason}",
            "make room (or keep fewer saves: --set train.save_total_limit=1), then continue from the save before: --resume",
        )


def free_bytes(folder: Path) -> int:
    """Bytes that this user may still write where `folder` lies (or will lie)."""
    there = folder.absolute()
    while not there.exists():
        there = there.parent
    return shutil.disk_usage(there).free


def is_full(error: BaseException) -> bool:
    """Whether a write failed for want of room. safetensors reports it as an error of its own, with the number in its text."""
    if isinstance(error, OSError):
        return error.errno in FULL
    found = re.search(r"\(os error (\d+)\)", str(error))
    return found is not None and int(found[1]) in FULL


def deletable(target: Path) -> list[tuple[Path, int]]:
    """What the run of a stage folder could do without, largest first: step saves of finished stages, and wandb's copies."""
    stage_dir = target.parent if target.name == STEPS else target
    if not stage_dir.parent.is_dir():
        return []
    found = [other / STEPS for other in stage_dir.parent.iterdir() if (other / STEPS).is_dir() and is_complete(other)]
    found += [stage_dir.parent / "wandb"] if (stage_dir.parent / "wandb").is_dir() else []
    sizes = [(path, folder_bytes(path)) for path in found]
    return sorted((entry for entry in sizes if entry[1]), key=lambda entry: -entry[1])


def gib(size: int) -> str:
    """'1.3 GiB', '12 MiB'."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"
