"""Is a data set still being downloaded, copied or unpacked? Certain evidence only: what was seen to change."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from cadmllm.corpus.facts import Flaw
from cadmllm.corpus.folders import Folders

YOUNG = 60.0  # s; a folder or file that is older than this is at rest, unless it is seen to change
APART = 1.0  # s between two looks
FEW = 2000  # files whose sizes are compared, one by one


@dataclass(slots=True)
class Look:
    """What stood where at one moment.

    Attributes:
        when: s, of a clock that only runs forward.
        folders: folder -> when its entries last changed, ns.
        files: file -> (bytes, when it was last written, ns); of the folders that hold few large ones, and of young folders.
        young: whether something was written within the last minute.
    """

    when: float
    folders: dict[str, int] = field(default_factory=dict)
    files: dict[str, tuple[int, int]] = field(default_factory=dict)
    young: bool = False


def look(folders: Folders, clock: Callable[[], float] = time.monotonic, now: Callable[[], float] = time.time) -> Look:
    """Look at the folders of a data set; a tree of a million files costs the listing of what changed within a minute.

    Args:
        folders: from `folders.locate`.
        clock, now: seconds: since some moment, and since 1970.
    """
    out = Look(clock())
    since = int((now() - YOUNG) * 1e9)
    tops = [folders.json, folders.img, *folders.points]
    _note(out, folders.root, since, few=True)
    if folders.txt is not None:
        _note(out, folders.txt, since, few=True)
    for top in filter(None, tops):
        for shard in (top, *_shards(top)):
            _note(out, shard, since, few=False)
    return out


def grown(before: Look, folders: Folders, wait: Callable[[float], None] = time.sleep) -> list[Flaw]:
    """What has changed since `before`, as E423; waits up to a second where something is so young that it may be growing.

    Args:
        before: the look before the data set was examined.
        folders: as for `look`.
        wait: how to let time pass.
    """
    after = look(folders)
    if before.young and after.when - before.when < APART and _changes(before, after) == ([], []):
        wait(APART - (after.when - before.when))
        after = look(folders)
    seconds = after.when - before.when
    flaws = []
    changed, written = _changes(before, after)
    for path in changed:
        flaws.append(Flaw("E423", "warn", path, f"{path} is still growing: its entries changed within {seconds:.1f} s"))
    for path in written:
        more = after.files[path][0] - before.files[path][0]
        flaws.append(Flaw("E423", "warn", path, f"{path} is still being written: {more:+,} bytes in {seconds:.1f} s"))
    return flaws


def _changes(before: Look, after: Look) -> tuple[list[str], list[str]]:
    """(folders whose entries changed or that are new, files that were written to), sorted."""
    folders = [path for path, mtime in after.folders.items() if before.folders.get(path) != mtime]
    files = [path for path, status in after.files.items() if path in before.files and before.files[path] != status]
    return sorted(folders), sorted(files)


def _note(out: Look, path: Path, since: int, *, few: bool) -> None:
    """Note a folder, and the files in it where they are few or it is young. What cannot be looked at is left out."""
    try:
        status = path.stat()
        if not stat.S_ISDIR(status.st_mode):
            out.files[str(path)] = (status.st_size, status.st_mtime_ns)
            out.young |= status.st_mtime_ns > since
            return
        out.folders[str(path)] = status.st_mtime_ns
        is_young = status.st_mtime_ns > since
        out.young |= is_young
        if few or is_young:
            for name, file in _files(path):
                out.files[name] = (file.st_size, file.st_mtime_ns)
                out.young |= file.st_mtime_ns > since
    except OSError:
        return


def _files(folder: Path) -> Iterable[tuple[str, os.stat_result]]:
    """The first regular files of a folder; links are not followed."""
    found = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_file(follow_symlinks=False):
                found.append((entry.path, entry.stat(follow_symlinks=False)))
                if len(found) == FEW:
                    break
    return found


def _shards(top: Path) -> list[Path]:
    """The folders in a folder; links are not followed."""
    try:
        with os.scandir(top) as entries:
            return sorted(Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False))
    except OSError:
        return []
