"""`steps/newest.json`: which save a stage resumes from, and which were before it, each with the SHA-256 of its manifest.

A save counts once it is pointed to. The manifest pins every byte of the save, the pointer pins the manifest, and a checksum
pins the pointer: a byte that changed anywhere is found, and it is known whose it is.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from cadmllm.errors import CadmllmError
from cadmllm.models.stages import sync_folder, write_durably
from cadmllm.train.guards import SAVE_PREFIX

if TYPE_CHECKING:
    from cadmllm.console import Console

POINTER = "newest.json"
FORMAT = 1
_NAME = re.compile(rf"{SAVE_PREFIX}(\d{{6,}})(?:\.(\d+))?")


class Entry(NamedTuple):
    """A save: the folder's name and its manifest's SHA-256 (None where nobody noted it)."""

    name: str
    manifest: str | None


def free_name(steps: Path, step: int) -> Path:
    """`steps/step_000100`, or `step_000100.2` when that is taken: what may be the only good save is never written over."""
    name, copy = f"{SAVE_PREFIX}{step:06d}", 1
    while (steps / (name if copy == 1 else f"{name}.{copy}")).exists():
        copy += 1
    return steps / (name if copy == 1 else f"{name}.{copy}")


def step_folders(steps: Path) -> list[Path]:
    """The saves in a folder, oldest first. Folders of other names are somebody else's."""
    if not steps.is_dir():
        return []
    found = [(_number(path.name), path) for path in steps.iterdir() if path.is_dir() and _NAME.fullmatch(path.name)]
    return [path for _, path in sorted(found)]


def point(steps: Path, entries: Sequence[Entry]) -> None:
    """Point to `entries[0]`, those before it behind; the change is one rename. Without entries the pointer goes."""
    if not entries:
        (steps / POINTER).unlink(missing_ok=True)
        sync_folder(steps)
        return
    saves = [{"name": entry.name, "manifest_sha256": entry.manifest} for entry in entries]
    aside = steps / f".{POINTER}"
    write_durably(aside, json.dumps({"format": FORMAT, "saves": saves, "sha256": _checksum(saves)}, indent=1) + "\n")
    os.replace(aside, steps / POINTER)
    sync_folder(steps)


def read(steps: Path) -> list[Entry] | None:
    """What the pointer names, newest first; None when there is no pointer.

    Raises:
        CadmllmError: E503 when it cannot be read, or is not what was written.
    """
    path = steps / POINTER
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        saves = content["saves"]
        entries = [Entry(str(save["name"]), save["manifest_sha256"]) for save in saves]
        good = content["sha256"] == _checksum(saves) and all(_NAME.fullmatch(entry.name) for entry in entries)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):
        good, entries = False, []
    if not good:
        raise CadmllmError(
            "E503", f"{path} is unreadable or was changed", f"remove it, the saves speak for themselves: rm {path}"
        )
    return entries


def candidates(steps: Path, console: Console) -> list[Entry]:
    """What may be resumed from, in the order to try: what the pointer names, then saves that it does not name, newest first."""
    there = [path.name for path in reversed(step_folders(steps))]
    try:
        named = read(steps)
    except CadmllmError as error:
        console.warn(f"{error.code} {error.message}; going by the saves' own manifests")
        named = []
    named = named or []
    known = {entry.name for entry in named}
    return [*named, *(Entry(name, None) for name in there if name not in known)]


def remove_others(steps: Path, kept: Sequence[Entry], console: Console) -> list[Path]:
    """Delete the saves that are not `kept`; trouble is said, it costs the run nothing. Returns those that went."""
    names, removed = {entry.name for entry in kept}, []
    for folder in step_folders(steps):
        if folder.name in names:
            continue
        try:
            shutil.rmtree(folder)
            removed.append(folder)
        except OSError as error:
            console.warn(f"the old save {folder} could not be removed: {error.strerror} (rm -r {folder})")
    return removed


def sweep(steps: Path) -> None:
    """Remove what a crash left: half-written saves and pointers."""
    if not steps.is_dir():
        return
    for path in steps.iterdir():
        if path.name == f".{POINTER}":
            path.unlink()
        elif path.is_dir() and path.name.startswith(".") and _NAME.fullmatch(path.name[1:]):
            shutil.rmtree(path)


def _number(name: str) -> tuple[int, int]:
    found = _NAME.fullmatch(name)
    assert found
    return int(found[1]), int(found[2] or 1)


def _checksum(saves: object) -> str:
    return hashlib.sha256(json.dumps(saves, sort_keys=True).encode()).hexdigest()
