"""Data, run folder and models do not lie on a drive of Windows, which WSL reads slowly: measured. Standard library only."""

from __future__ import annotations

import os
import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from cadmllm.doctor import filesystems, wsl
from cadmllm.doctor.check import Check, Finding, Level, Outcome, Situation
from cadmllm.doctor.filesystems import Mount
from cadmllm.places import is_windows_path, local_path

if TYPE_CHECKING:
    from cadmllm.corpus.drive import Speed
    from cadmllm.settings import Settings

GIB = 2**30
BUDGET = 0.2  # s for all measurements
FILES = 8  # that are read of each kind
LARGEST = 2**24  # bytes of a file that is read
LOOKS = 64  # entries of a folder that are looked at: over 9P a folder of 450,000 takes seconds
VIEWS_AN_ID = 8
LONG = 30.0  # s that loading a model may take longer from a slow drive
_SLIP = re.compile(r"[A-Za-z]:[^\\/]")


@dataclass(frozen=True, slots=True)
class Place:
    """A path of the run: the setting that names it, and what it is to the run: 'data', 'features', 'model' or 'run'."""

    key: str
    path: Path
    use: str


def places(settings: Settings) -> list[Place]:
    """Where the run reads and writes."""
    data, model = settings.data, settings.model
    found = [Place("run.dir", settings.run.dir, "run")]
    if not data.synthetic:
        named = {"data.txt": data.txt, "data.json": data.json_, "data.img": data.img, "data.points": data.points}
        found += [Place("data.root", data.root, "data")]
        found += [Place(key, path, "data") for key, path in named.items() if path is not None]
        found += [Place("data.features", data.features, "features")] if data.features is not None else []
    names = {"model.llm": model.llm, "model.image_encoder": model.image_encoder}
    found += [
        Place(key, Path(name).expanduser(), "model") for key, name in names.items() if os.path.isabs(os.path.expanduser(name))
    ]
    if model.points_encoder == "michelangelo":
        found.append(Place("model.points_checkpoint", model.points_checkpoint, "model"))
    return found


def check_drives(situation: Situation) -> Outcome:
    """No path is one that only Windows understands; what lies on its drives is read fast enough."""
    where = places(situation.needed)
    findings = [finding for place in where if (finding := judge_path(place, situation)) is not None]
    if findings:
        return Outcome(findings=tuple(findings))
    if not wsl.version(situation.machine):
        return Outcome(skipped="not WSL")
    table = filesystems.mounts(situation.machine)
    slow = [(place, mount) for place in where if (mount := filesystems.mount_of(place.path, table)) and mount.kind == "windows"]
    if not slow:
        return Outcome("data, models and the run folder are on the Linux file system")
    details, budget = [], BUDGET / len({mount.point for _, mount in slow})
    measured: set[tuple[str, str]] = set()
    for place, mount in slow:
        details.append(f"{place.key} = {place.path} ({windows_name(place.path, mount)} in Windows)")
        if place.use == "run":
            findings.append(_run_folder(place, mount))
        elif (place.use, mount.point) not in measured:  # one place a drive and use: others on it are as slow
            measured.add((place.use, mount.point))
            finding, line = judge_speed(situation, place, mount, budget)
            details.append(line)
            findings += [finding] if finding is not None else []
    keys = ", ".join(place.key for place, _ in slow)
    return Outcome(f"{keys} on a drive of Windows, read fast enough", tuple(findings), details=tuple(details))


def judge_path(place: Place, situation: Situation) -> Finding | None:
    """E831 for a path that can only be meant for Windows, or that names one of its drives which is not there."""
    machine, text = situation.machine, str(place.path)
    named = f"{place.key} = {text}"
    if _SLIP.match(text) and not place.path.exists():
        remedy = rf"put it in single quotes: --set '{place.key}={text[:2]}\...'"
        return _misplaced(f"{named}: the shell has taken the backslashes of a Windows path away", remedy)
    if is_windows_path(text):
        here = shlex.quote(str(local_path(text, wsl=True)))
        return _misplaced(f"{named} is a path of Windows", f"name it as Linux does: --set {place.key}={here}")
    if not wsl.version(machine):
        return None
    root = wsl.mount_root(machine).rstrip("/")
    match = re.match(rf"{re.escape(root)}/([A-Za-z])(?=/|$)", os.path.abspath(text))
    if match is None:
        return None
    letter = match[1]
    points = {mount.point for mount in filesystems.mounts(machine)}
    if not points or f"{root}/{letter}" in points:
        return None
    if f"{root}/{letter.lower()}" in points:
        small = f"{root}/{letter.lower()}{os.path.abspath(text)[match.end() :]}"
        return _misplaced(f"{named}: drives have small letters here", f"--set {place.key}={shlex.quote(small)}")
    mount = f"sudo mkdir -p {root}/{letter.lower()} && sudo mount -t drvfs {letter.upper()}: {root}/{letter.lower()}"
    return _misplaced(f"{named}: drive {letter.upper()}: of Windows is not mounted in WSL", mount)


def _misplaced(message: str, remedy: str) -> Finding:
    return Finding("E831", Level.FAIL, "drives", message, remedy)


def windows_name(path: Path, mount: Mount) -> str:
    r"""`W:\data` of /mnt/w/data."""
    inside = os.path.realpath(path)[len(mount.point.rstrip("/")) :].replace("/", "\\")
    return f"{Path(mount.point).name.upper()}:{inside or chr(92)}"


def _run_folder(place: Place, mount: Mount) -> Finding:
    drive = windows_name(Path(mount.point), mount)
    message = (
        f"{place.key} = {place.path} lies on {drive}: saves are slow there, and virus scanners and OneDrive hold new files open,"
        " so that a rename may be refused in the middle of a save"
    )
    remedy = f"--output_dir ~/cadmllm-runs/{shlex.quote(place.path.name or 'run')}"
    return Finding("E832", Level.WARN, "drives", message, remedy)


def judge_speed(situation: Situation, place: Place, mount: Mount, budget: float) -> tuple[Finding | None, str]:
    """E832 where a copy on the Linux file system is read much faster, and what was measured, in words."""
    from cadmllm.corpus import drive

    speed = measured(situation, place, mount, budget)
    if speed is None:
        return None, f"{place.path}: no file to measure with"
    line = f"{place.path}: {speed.rates(speed.here)}; copies on the Linux file system: {speed.rates(speed.linux)}"
    if speed.times < drive.SLOW:
        return None, line
    if place.use == "data":
        return _slow_data(situation, place, speed), line
    size = folder_bytes(place.path)
    extra = size * (speed.here - speed.linux) / max(1, speed.bytes)
    if extra < LONG:
        return None, line
    message = f"{place.key} = {line}: loading {size / GIB:.1f} GiB takes about {extra / 60:.1f} minutes longer at each start"
    target = f"~/{shlex.quote(place.path.name)}"
    remedy = f"cp -r {shlex.quote(str(place.path))} {target} ({size / GIB:.1f} GiB), then --set {place.key}={target}"
    return Finding("E832", Level.WARN, "drives", message, remedy), line


def measured(situation: Situation, place: Place, mount: Mount, budget: float) -> Speed | None:
    """How fast files are read there and here; a good answer is remembered by folder and mount."""
    from cadmllm.corpus import drive

    key = (place.path, mount.point, mount.type)
    known = situation.cache.get("drive", *key)
    if known is not None:
        return drive.Speed(**known)
    speed = drive.measure(sample(place.path), budget=budget)
    if speed is not None and speed.times < drive.SLOW:
        facts = {"files": speed.files, "bytes": speed.bytes, "here": speed.here, "linux": speed.linux}
        situation.cache.put("drive", *key, answer=facts)
    return speed


def _slow_data(situation: Situation, place: Place, speed: Speed) -> Finding | None:
    """With what a copy saves and how large it is, as far as the index knows."""
    from cadmllm.corpus import drive
    from cadmllm.corpus.audit import files_an_epoch

    ids = len(situation.dataset.ids)
    files = max(files_an_epoch(situation.needed, stage, ids) for stage in situation.stages)
    judged = drive.verdict(place.path, speed, files)
    if judged is None:
        return None
    flaw, command = judged
    size = _data_bytes(situation, place.path)
    note = f" ({size / GIB:.1f} GiB or so; {_free_at_home() / GIB:.0f} GiB are free there)" if size else ""
    target = f"~/{shlex.quote(place.path.name or 'data')}"
    return Finding("E832", Level.WARN, "drives", flaw.message, f"copy it once{note}: {command}, then --set {place.key}={target}")


def _data_bytes(situation: Situation, root: Path) -> int:
    """Bytes of the files that training reads, from their number and the mean size of a few."""
    from cadmllm.corpus.audit import sample_files

    counts, sizes = situation.dataset.counts, {"programs": [], "clouds": [], "views": []}
    for path in islice(sample_files(situation.dataset, FILES), 3 * FILES):
        kind = (
            "programs" if path.suffix == ".json" else "views" if path.suffix in (".png", ".jpg", ".jpeg", ".webp") else "clouds"
        )
        sizes[kind].append(path.stat().st_size if path.is_relative_to(root) else 0)
    views = VIEWS_AN_ID if sizes["views"] else 0
    many = {"programs": counts["programs"], "clouds": counts["clouds"], "views": counts["views"] * views}
    return sum(many[kind] * sum(found) // len(found) for kind, found in sizes.items() if found)


def _free_at_home() -> int:
    return shutil.disk_usage(Path.home()).free


def sample(folder: Path) -> Iterator[Path]:
    """A few files of each kind, from a folder (or the file itself), the first ones that are met: nothing is listed whole."""
    if folder.is_file():
        yield folder
        return
    inner = [entry for entry in _entries(folder) if entry.is_dir()]
    yield from islice(_files(folder, 1), FILES)
    for entry in inner:
        yield from islice(_files(Path(entry.path), 4), FILES)


def _files(folder: Path, depth: int) -> Iterator[Path]:
    inner = []
    for entry in _entries(folder):
        if entry.is_file(follow_symlinks=False) and entry.stat().st_size <= LARGEST:
            yield Path(entry.path)
        elif entry.is_dir(follow_symlinks=False):
            inner.append(entry.path)
    if depth > 1:
        for path in inner:
            yield from islice(_files(Path(path), depth - 1), 2)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            return list(islice(found, LOOKS))
    except OSError:
        return []


def folder_bytes(path: Path) -> int:
    """Bytes of a file, or of the files in a folder and its folders."""
    if path.is_file():
        return path.stat().st_size
    total = 0
    for place, _, names in os.walk(path):
        for name in names:
            try:
                total += os.stat(os.path.join(place, name)).st_size
            except OSError:  # gone since, or a link to nowhere
                continue
    return total


CHECKS = (
    Check(
        "drives",
        "no path is one of Windows alone; what lies on its drives is read fast enough (measured)",
        ("E831", "E832"),
        check_drives,
        needs=("numpy",),
        cached_by="the folder, its mount point and type of file system (read rates)",
    ),
)
