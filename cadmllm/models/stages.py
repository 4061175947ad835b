"""Stage folders of a run, and the manifest that says a checkpoint folder is whole.

A checkpoint folder is complete when `manifest.json` stands in it: it is written last, lists every file of the checkpoint
with its size and SHA-256, and a folder without it is a torn one. Nothing here needs torch, so `doctor` may look as well.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from pathlib import Path, PurePosixPath

from cadmllm.errors import CadmllmError

STAGE_NAMES = {1: "stage1_text", 2: "stage2_text_pc", 3: "stage3_all"}
STAGE_FOLDERS = {number: f"{name}_model" for number, name in STAGE_NAMES.items()}
STEPS = "steps"  # step saves of a stage, inside its folder; never part of its manifest
MANIFEST = "manifest.json"


def stage_folder(run_dir: Path, stage: int) -> Path:
    """`<run_dir>/stage2_text_pc_model` for stage 2."""
    return Path(run_dir) / STAGE_FOLDERS[stage]


def is_complete(folder: Path) -> bool:
    """Whether every file of the checkpoint is there in its recorded size (cheap: nothing is hashed)."""
    return not why_incomplete(folder)


def why_incomplete(folder: Path) -> str:
    """Which file of the checkpoint is missing or of another size than recorded, in words; '' when it is complete."""
    folder = Path(folder)
    try:
        files = _read_manifest(folder)
    except CadmllmError as error:
        return error.message.partition(" is missing or incomplete: ")[2]
    for name, entry in files.items():
        size = _size(folder / name)
        if size is None:
            return f"{folder / name} is missing"
        if size != entry["bytes"]:
            return f"{folder / name} has {size} bytes, and {entry['bytes']} were saved"
    return ""


def newest_complete_stage(run_dir: Path) -> Path | None:
    """The folder of the latest stage of the curriculum that is complete under `run_dir`, if any."""
    for number in sorted(STAGE_FOLDERS, reverse=True):
        folder = stage_folder(run_dir, number)
        if is_complete(folder):
            return folder
    return None


def write_manifest(folder: Path) -> str:
    """Hash every file of the checkpoint in `folder` and write the manifest, after files and folders are on the disk.

    Returns:
        The manifest's own SHA-256, 64 hexadecimal digits: with it every byte of the checkpoint is pinned.
    """
    files = {}
    for path in sorted(_members(folder)):
        files[path.relative_to(folder).as_posix()] = {"bytes": path.stat().st_size, "sha256": sha256(path)}
        _sync(path)
    for inner in {folder / name for name in files}:
        sync_folder(inner.parent)
    aside = folder / f".{MANIFEST}"
    text = json.dumps({"format": 1, "files": files}, indent=1) + "\n"
    write_durably(aside, text)
    os.replace(aside, folder / MANIFEST)
    sync_folder(folder)
    return hashlib.sha256(text.encode()).hexdigest()


def verify(folder: Path, *, manifest: str | None = None, exact: bool = False) -> None:
    """Compare every file with the manifest.

    Args:
        folder: of the checkpoint.
        manifest: the SHA-256 that the manifest itself should have, where somebody noted it.
        exact: files that the manifest does not name are refused as well (a stage folder may hold pictures, notes and the like).

    Raises:
        CadmllmError: E503 naming the file that is missing, truncated, changed or too many.
    """
    folder = Path(folder)
    files = _read_manifest(folder)
    if manifest is not None and sha256(folder / MANIFEST) != manifest:
        raise _torn(folder, f"{folder / MANIFEST} is not the one that was written (its SHA-256 differs)")
    for name, entry in files.items():
        path = folder / name
        size = _size(path)
        if size is None:
            raise _torn(folder, f"{path} is missing")
        if size != entry["bytes"]:
            raise _torn(folder, f"{path} has {size} bytes, and {entry['bytes']} were saved")
        try:
            digest = sha256(path)
        except OSError as error:
            raise _torn(folder, f"{path} cannot be read ({error.strerror})") from error
        if digest != entry["sha256"]:
            raise _torn(folder, f"{path} is not the file that was saved (its SHA-256 differs)")
    surplus = [path for path in _members(folder) if path.relative_to(folder).as_posix() not in files] if exact else []
    if surplus:
        raise _torn(folder, f"{min(surplus)} does not belong to it (the manifest does not name it)")


def sha256(path: Path) -> str:
    """SHA-256 of a file, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_bytes(folder: Path) -> int:
    """Bytes of all files below a folder; what vanishes meanwhile counts nothing."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(place, name)).st_size
            except OSError:
                continue
    return total


def write_durably(path: Path, text: str) -> None:
    """Write a small file and have it on the disk when this returns."""
    with path.open("wb") as file:
        file.write(text.encode("utf-8"))
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Have on the disk which names stand in a folder: without it a rename may be gone after a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:  # Windows drives under WSL and some network drives know no such thing
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


def _read_manifest(folder: Path) -> dict[str, dict]:
    path = folder / MANIFEST
    if not folder.is_dir():
        raise _torn(folder, f"there is no checkpoint folder {folder}")
    try:
        files = json.loads(path.read_text(encoding="utf-8"))["files"]
        names = {name: {"bytes": int(entry["bytes"]), "sha256": str(entry["sha256"])} for name, entry in files.items()}
    except FileNotFoundError:
        raise _torn(folder, f"{path} is missing: the checkpoint was never finished") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise _torn(folder, f"{path} is unreadable") from None
    for name in names:
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise _torn(folder, f"{path} names {name!r}, which is outside the folder")
    return names


def _members(folder: Path) -> list[Path]:
    """Files of the checkpoint itself: no step saves, no manifest, nothing hidden (half-written)."""
    found = []
    for path in folder.rglob("*"):
        parts = path.relative_to(folder).parts
        if path.is_file() and parts[0] != STEPS and parts != (MANIFEST,) and not any(p.startswith(".") for p in parts):
            found.append(path)
    return found


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _torn(folder: Path, found: str) -> CadmllmError:
    return CadmllmError(
        "E503",
        f"checkpoint {folder} is missing or incomplete: {found}",
        f"name another checkpoint, or train the stage again: cadmllm train <stage> --resume --set run.dir={folder.parent}",
    )
