"""Data, run folder and models do not lie on a drive of Windows, which WSL reads slowly: measured. Standard library only."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from cadmllm.doctor import filesystems, wsl
from cadmllm.doctor.check import Check, Finding, Fix, Level, Outcome, Situation
from cadmllm.doctor.filesystems import Mount
from cadmllm.doctor.windowspaths import Place, places, windows_name

if TYPE_CHECKING:
    from cadmllm.corpus.drive import Speed

GIB = 2**30
BUDGET = 0.2  # s for all measurements
FILES = 8  # that are read of each kind
LARGEST = 2**24  # bytes of a file that is read
LOOKS = 64  # entries of a folder that are looked at: over 9P a folder of 450,000 takes seconds
VIEWS_AN_ID = 8
LONG = 30.0  # s that loading a model may take longer from a slow drive
IMPORTED = 4000  # files that a start of training opens of its packages: 3,730 were counted, and libraries
PATIENCE = 10.0  # s that they may take longer at each start


def check_drives(situation: Situation) -> Outcome:
    """What lies on drives of Windows is read fast enough, and saves are not written there."""
    if not wsl.version(situation.machine):
        return Outcome(skipped="not WSL")
    table = filesystems.mounts(situation.machine)
    where = [*places(situation.needed, situation.machine.environ), Place("sys.prefix", Path(sys.prefix), "packages")]
    slow = [(place, mount) for place in where if (mount := filesystems.mount_of(place.path, table)) and mount.kind == "windows"]
    if not slow:
        return Outcome("data, models, packages and the run folder are on the Linux file system")
    chosen = {(place.use, mount.point): place for place, mount in reversed(slow)}  # others of a use on that drive are as slow
    findings: list[Finding] = []
    fixes: list[Fix] = []
    details = []
    for place, mount in slow:
        if place.use == "run":
            findings.append(_run_folder(place, mount))
            fixes.append(Fix("setting", place.key, str(_beside_home(place)), "saves are written on the Linux file system"))
        elif chosen[place.use, mount.point] is place:
            finding, line = judge_speed(situation, place, mount, BUDGET / len(chosen))
            details.append(line)
            findings += [finding] if finding is not None else []
    keys = ", ".join(place.key for place, _ in slow)
    text = f"{keys} on a drive of Windows, read fast enough"
    return Outcome(text, tuple(findings), details=tuple(details), fixes=tuple(fixes))


def _beside_home(place: Place) -> Path:
    return Path.home() / "cadmllm-runs" / (place.path.name or "run")


def _run_folder(place: Place, mount: Mount) -> Finding:
    drive = windows_name(Path(mount.point), mount)
    message = (
        f"{place.key} = {place.path} lies on {drive}: saves are slow there, and virus scanners and OneDrive hold new files open,"
        " so that a rename may be refused in the middle of a save"
    )
    return Finding("E832", Level.WARN, "drives", message, f"--output_dir {shlex.quote(str(_beside_home(place)))}")


def judge_speed(situation: Situation, place: Place, mount: Mount, budget: float) -> tuple[Finding | None, str]:
    """E832 where a copy on the Linux file system is read much faster, and what was measured, in words."""
    from cadmllm.corpus import drive

    speed = measured(situation, place, mount, budget)
    if speed is None:
        return None, f"{place.path}: no file to measure with"
    line = f"{place.path}: {speed.rates(speed.here)}; copies on the Linux file system: {speed.rates(speed.linux)}"
    if speed.times < drive.SLOW:
        return None, line
    slower = {"data": _slow_data, "packages": _slow_packages}.get(place.use, _slow_loading)
    return slower(situation, place, speed), line


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


def _slow_loading(situation: Situation, place: Place, speed: Speed) -> Finding | None:
    """A model or cached features: by their bytes, as their files are large."""
    del situation
    size = folder_bytes(place.path)
    extra = size * (speed.here - speed.linux) / max(1, speed.bytes)
    if extra < LONG:
        return None
    message = (
        f"{place.key} = {place.path} lies on a drive of Windows and is read at {speed.rates(speed.here)}: {size / GIB:.1f} GiB"
    )
    message += f" take about {extra / 60:.1f} minutes longer than from the Linux file system at each start"
    name = place.path.parent.name if place.path.name == "blobs" else place.path.name
    target = f"~/{shlex.quote(name)}"
    copied = f"cp -r {shlex.quote(str(place.path))} {target} ({size / GIB:.1f} GiB), then --set {place.key}={target}"
    if place.path.name == "blobs":
        copied = "export HF_HOME=~/.cache/huggingface (and `hf download` once more)"
    return Finding("E832", Level.WARN, "drives", message, copied)


def _slow_packages(situation: Situation, place: Place, speed: Speed) -> Finding | None:
    """torch, transformers and the rest: thousands of small files at each start and in each process."""
    del situation
    extra = IMPORTED * (speed.here - speed.linux) / speed.files
    if extra < PATIENCE:
        return None
    message = f"the packages lie on a drive of Windows ({place.path}) and are read at {speed.rates(speed.here)}:"
    message += f" each start takes about {extra:.0f} s longer than from the Linux file system"
    remedy = "python3 -m venv ~/cadmllm-venv, install cadmllm there (README.md), and start it from there"
    return Finding("E832", Level.WARN, "drives", message, remedy)


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
        yield from [folder] if folder.stat().st_size <= LARGEST else []
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
        "what lies on drives of Windows is read fast enough (measured), and no saves are written there",
        ("E832",),
        check_drives,
        needs=("numpy",),
        cached_by="the folder, its mount point and type of file system (read rates)",
    ),
)
