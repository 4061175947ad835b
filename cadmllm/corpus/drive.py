"""How fast a data set is read where it lies, and what a copy on the Linux file system would save (WSL: /mnt/c, /mnt/d, ...).

Windows drives reach WSL over 9P, which costs milliseconds a file. Measured, never guessed: the same files are read where they are
and as copies in the user's home, both with the cache of the system dropped.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cadmllm.corpus.facts import Flaw
from cadmllm.corpus.remedies import quoted

MOUNTS = Path("/proc/mounts")
FOREIGN = {"9p", "drvfs", "virtiofs", "cifs", "smb3", "fuseblk"}  # types of file systems that pass every call on to another one
BUDGET = 2.0  # s a measurement may take, about
LARGEST = 64 * 2**20  # bytes that are read of one file
MOST = 300  # files: their copies are forced to the disk one by one
SLOW = 3.0  # times slower than the Linux file system: worth a copy
_DRIVE = re.compile(r"/mnt/[a-z](?=/|$)")


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of the mount table."""

    point: str
    type: str


@dataclass(frozen=True, slots=True)
class Speed:
    """What a measurement found.

    Attributes:
        files: read in both places.
        bytes: in them.
        here, linux: s that reading them took, where they lie and on the Linux file system.
    """

    files: int
    bytes: int
    here: float
    linux: float

    @property
    def times(self) -> float:
        """How many times slower it is here."""
        return self.here / self.linux if self.linux > 0 else float("inf")

    def rates(self, seconds: float) -> str:
        """'120 files/s, 1.3 MB/s'."""
        return f"{self.files / seconds:,.0f} files/s, {self.bytes / seconds / 1e6:,.1f} MB/s" if seconds > 0 else "at once"


def mounts(table: Path = MOUNTS) -> list[Mount]:
    """The mount table; empty where the system has none."""
    try:
        lines = table.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return []
    fields = [line.split() for line in lines]
    return [Mount(_unescaped(words[1]), words[2]) for words in fields if len(words) >= 3]


def drive_of(path: Path, table: Sequence[Mount]) -> Mount | None:
    """The mount that `path` lies on if it belongs to Windows or another machine, else None.

    A mount of such a type counts, and, in whatever way it is mounted, /mnt/<letter> that is a mount of its own.
    """
    text = str(path.resolve())
    over = [mount for mount in table if text == mount.point or text.startswith(mount.point.rstrip("/") + "/")]
    if not over:
        return None
    nearest = max(reversed(over), key=lambda mount: len(mount.point))  # of equal ones, the last was mounted over the others
    return nearest if nearest.type in FOREIGN or _DRIVE.fullmatch(nearest.point) else None


def measure(
    files: Iterable[Path], *, budget: float = BUDGET, clock: Callable[[], float] = time.perf_counter, home: Path | None = None
) -> Speed | None:
    """Read files where they lie, then their copies on the Linux file system.

    Args:
        files: a sample; as many are read as half the budget allows.
        budget: s for all of it, about.
        clock: seconds.
        home: folder for the copies; the user's home by default. They are removed again.

    Returns:
        What was found; None when no file could be read or there is no place for the copies.
    """
    read: list[tuple[Path, int]] = []
    here = 0.0
    try:
        with tempfile.TemporaryDirectory(prefix=".cadmllm-speed-", dir=home or Path.home()) as aside:
            for number, path in enumerate(files):
                if here > budget / 2.0 or len(read) == MOST:
                    break
                begin = clock()
                content = _read(path)
                here += clock() - begin
                if content is not None:
                    copy = Path(aside) / str(number)
                    _put(copy, content)
                    read.append((copy, len(content)))
            begin = clock()
            for copy, _ in read:
                _read(copy)
            linux = clock() - begin
    except OSError:
        return None
    return Speed(len(read), sum(size for _, size in read), here, linux) if read else None


def verdict(root: Path, speed: Speed, per_epoch: int) -> tuple[Flaw, str] | None:
    """E832 and the command that mends it where a copy is worth it, else None.

    Args:
        root: of the data set.
        speed: from `measure`.
        per_epoch: files that an epoch of training reads.
    """
    if speed.times < SLOW:
        return None
    saved = (speed.here - speed.linux) / speed.files * per_epoch
    message = (
        f"{root} lies on a drive of Windows and is read at {speed.rates(speed.here)}; the same {speed.files} files on the Linux"
        f" file system: {speed.rates(speed.linux)}. A copy saves {_duration(saved)} an epoch ({per_epoch:,} files)"
    )
    return Flaw("E832", "warn", str(root), message), copy_command(root)


def copy_command(root: Path, which: Callable[[str], str | None] = shutil.which) -> str:
    """The command that copies a data set into the home; what it is called there is what to check and train next."""
    target = quoted(root.name or "data")
    if which("rsync"):
        return f"rsync -a --info=progress2 {quoted(root)}/ ~/{target}/ && cadmllm data check ~/{target}"
    return f"mkdir -p ~/{target} && cp -r {quoted(root)}/. ~/{target}/ && cadmllm data check ~/{target}"


def _read(path: Path) -> bytes | None:
    """A file's first bytes, from the disk where the system lets us ask for that; None if it cannot be read."""
    try:
        # not blocking: a pipe in place of a file would wait for a writer
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        parts = []
        left = LARGEST
        while left > 0 and (part := os.read(handle, min(left, 2**20))):
            parts.append(part)
            left -= len(part)
        return b"".join(parts)
    except OSError:
        return None
    finally:
        os.close(handle)


def _put(path: Path, content: bytes) -> None:
    """Write a copy to the disk, so that it can leave the cache."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"


def _unescaped(text: str) -> str:
    """Blanks and such stand as \\040 in the mount table."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)
