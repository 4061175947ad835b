"""There is room for the checkpoints, and the run's folder takes them safely. Standard library only."""

from __future__ import annotations

import errno
import os
import shlex
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cadmllm.doctor import filesystems
from cadmllm.doctor.check import Check, Finding, Fix, Level, Outcome, Situation
from cadmllm.doctor.headers import amount
from cadmllm.plan.disk import run_bytes, stage_disk

if TYPE_CHECKING:
    from cadmllm.settings import Settings

PROBE = b"cadmllm " * 8192  # 64 KiB: more than a file system keeps inside its directory entry
FILES_A_SAVE = 24  # files and folders of a save: 16 were counted, and room for encoders
FILES_BESIDE = 256  # of a run: metrics, wandb, pictures of samples
TEMPORARY = 2**28  # bytes in the temporary folder: compiled kernels, exchange between processes
SYNTHETIC = 300_000  # bytes of a generated part with its cloud and views: 40 took 10.4 MB
INDEX = 2**26  # bytes that an index which is there may grow by: 453,000 ids take 673 MB, 1.5 KB each
MEASURED = 2**22  # bytes that are written to learn how fast a folder is
FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a folder takes no files: an `errno` number, and the path that is in the way."""

    number: int
    path: Path
    text: str


def check_disk(situation: Situation) -> Outcome:
    """The run's folder can be written, files can be renamed there, and there is room for all saves."""
    settings = situation.needed
    target = settings.run.dir
    place = existing_parent(target)
    refusal = blocked(target) or refused(place)
    if refusal is not None:
        return Outcome(findings=(_refusal(situation, refusal),))
    free, inodes = room(place)
    need, known = needed_bytes(settings, situation.stages)
    there = reusable_bytes(situation)
    missing = need - there - free
    text = f"{amount(free)} free for {target}, about {amount(need)} needed"
    text += f" ({amount(there)} of them are there)" if there > 2**26 else ""
    findings, fixes = [], []
    if missing > 0:
        fewer = spared_bytes(settings, situation.stages)
        findings.append(_too_full(text, missing, fewer))
        fixes += [Fix("setting", "train.save_total_limit", 1, "fewer saves are kept")] if fewer >= missing else []
    files = needed_files(settings, situation.stages)
    if inodes is not None and inodes < files:
        message = f"{inodes:,} more files can be made where {target} lies, about {files:,} are needed (df -i)"
        remedy = "remove folders of many small files (du --inodes -d 2 ~ | sort -n | tail), or --output_dir on another disk"
        findings.append(Finding("E823", Level.FAIL, "run-folder", message, remedy))
    details = [*_saves(settings, situation.stages)]
    network, line = judge_network(situation, place)
    findings += [network] if network is not None else []
    details += [line] if line else []
    guess = "" if known else f" (a guess: the size of {settings.model.llm} is unknown)"
    return Outcome(text + guess, tuple(findings), details=tuple(details), fixes=tuple(fixes))


def check_beside(situation: Situation) -> Outcome:
    """The temporary folder takes files, and there is room in it and for the index."""
    settings, machine = situation.needed, situation.machine
    named = machine.environ.get("TMPDIR", "")
    temporary = Path(named) if named and os.path.isdir(named) else Path(tempfile.gettempdir())
    findings, fixes = [], []
    if named and not os.path.isdir(named):
        message = f"TMPDIR = {named} is not a folder, so temporary files go to {temporary} without a word"
        findings.append(Finding("E822", Level.WARN, "temporary", message, f"mkdir -p {shlex.quote(named)}; or: unset TMPDIR"))
        fixes += [] if os.path.lexists(named) else [Fix("folder", named, why="TMPDIR names it")]
    need = TEMPORARY + settings.data.synthetic * SYNTHETIC
    free, inodes = room(temporary)
    elsewhere = "export TMPDIR=FOLDER on another disk"
    refusal = refused(temporary)
    if refusal is not None:
        code = "E821" if refusal.number in FULL else "E822"
        message = f"the temporary folder {temporary} takes no files: {refusal.text}"
        findings.append(Finding(code, Level.FAIL, "temporary", message, f"df -h {temporary}; {elsewhere}"))
    elif free < need:
        message = f"{amount(free)} are free in the temporary folder {temporary}, {amount(need)} are wanted"
        level = Level.FAIL if settings.data.synthetic and free < settings.data.synthetic * SYNTHETIC else Level.WARN
        findings.append(Finding("E821", level, "temporary", message, f"remove what is old there, or {elsewhere}"))
    elif inodes is not None and inodes < FILES_BESIDE:
        message = f"only {inodes:,} more files can be made in the temporary folder {temporary}"
        findings.append(Finding("E823", Level.WARN, "temporary", message, elsewhere))
    index = index_folder(situation)
    index_free, _ = room(existing_parent(index))
    wanted = INDEX
    if index_free < wanted:
        message = f"{amount(index_free)} are free for the index in {index}, about {amount(wanted)} are wanted"
        findings.append(Finding("E821", Level.WARN, "temporary", message, "--set data.index=FOLDER on another disk"))
    text = f"{amount(free)} free in {temporary}, {amount(index_free)} for the index in {index}"
    return Outcome(text, tuple(findings), details=tuple(_slow_index(situation, index)), fixes=tuple(fixes))


def blocked(path: Path) -> Refusal | None:
    """What is in the way of a folder: a file, or a link to nowhere, at it or above it."""
    path = Path(os.path.abspath(path))
    for part in (path, *path.parents):
        if part.is_dir():
            return None
        if os.path.lexists(part):
            text = "is a file, not a folder" if part.exists() else f"is a link to {os.readlink(part)}, which is not there"
            return Refusal(errno.ENOTDIR, part, text)
    return None


def existing_parent(path: Path) -> Path:
    """The folder itself, or the nearest one above it that exists."""
    path = Path(os.path.abspath(path))
    while not path.is_dir() and path != path.parent:
        path = path.parent
    return path


def refused(folder: Path) -> Refusal | None:
    """Why a file cannot be written, made durable and renamed in a folder; None where it can."""
    try:
        write_probe(folder)
    except OSError as error:
        return Refusal(error.errno or errno.EIO, folder, str(error.strerror or error))
    return None


def write_probe(folder: Path) -> None:
    """Writes a file aside, renames it over another and reads it back, as every save does; leaves nothing behind.

    Raises:
        OSError: as the system says it.
    """
    with tempfile.TemporaryDirectory(prefix=".cadmllm-doctor-", dir=folder, ignore_cleanup_errors=True) as aside:
        source, target = Path(aside) / "written", Path(aside) / "renamed"
        target.touch()
        with source.open("wb") as file:
            file.write(PROBE)
            file.flush()
            os.fsync(file.fileno())
        os.replace(source, target)
        if target.read_bytes() != PROBE:
            raise OSError(errno.EIO, "what was written reads back differently")


def room(folder: Path) -> tuple[int, int | None]:
    """Bytes and files that this user may still write in a folder; None files where the file system has no such limit."""
    facts = os.statvfs(folder)
    return shutil.disk_usage(folder).free, facts.f_favail if facts.f_files else None


def needed_bytes(settings: Settings, stages: tuple[int, ...]) -> tuple[int, bool]:
    """Bytes that all saves of a run take at most (`plan/disk.py`), and whether the model's size is known."""
    return run_bytes(settings, stages), all(stage_disk(settings, stage).known for stage in stages)


def needed_files(settings: Settings, stages: tuple[int, ...]) -> int:
    """Files that all saves of a run have at most."""
    return len(stages) * (settings.train.save_total_limit + 2) * FILES_A_SAVE + FILES_BESIDE


def reusable_bytes(situation: Situation) -> int:
    """Bytes of the stages' folders that the run goes on with, or throws away before it writes."""
    from cadmllm.models.stages import folder_bytes, stage_folder

    if not (situation.intent.resume or situation.intent.overwrite):
        return 0
    folders = [stage_folder(situation.needed.run.dir, stage) for stage in situation.stages]
    return sum(folder_bytes(folder) for folder in folders)


def judge_network(situation: Situation, place: Path) -> tuple[Finding | None, str]:
    """E824 where the folder lies on another machine's disk, with the time that a save takes; and a line for `-v`."""
    mount = filesystems.mount_of(place, filesystems.mounts(situation.machine))
    if mount is None or mount.kind in ("local", "windows"):  # the check of the drives speaks of those of Windows
        return None, f"{place} lies on {mount.type} ({mount.point})" if mount else ""
    if mount.kind == "memory":
        return None, f"{place} lies in main memory ({mount.type}): what is saved there takes RAM and is gone after a restart"
    settings = situation.needed
    largest = max(stage_disk(settings, stage).step for stage in situation.stages)
    try:
        rate = write_rate(place)
    except OSError as error:
        rate, said = 0.0, f"writing 4 MiB there failed: {error.strerror}"
    else:
        said = f"{rate / 1e6:.0f} MB/s measured: a save of {amount(largest)} takes about {largest / rate:.0f} s"
    where = f"{settings.run.dir} lies on {mount.type} ({mount.point}), on another machine"
    if mount.kind == "parallel":
        return None, f"{where}; {said}"
    message = f"{where}. {said}. A rename there may be seen late by others, and a write may be lost when the connection is"
    remedy = "--output_dir on a local disk, and copy finished stages; or fewer saves: --set train.save_steps=500"
    return Finding("E824", Level.WARN, "run-folder", message, remedy), ""


def write_rate(folder: Path, size: int = MEASURED) -> float:
    """Bytes/s at which a file is written and made durable in a folder.

    Raises:
        OSError: as the system says it.
    """
    with tempfile.TemporaryFile(dir=folder, prefix=".cadmllm-doctor-") as file:
        block = os.urandom(2**20)  # no file system can make it smaller
        begun = time.perf_counter()
        for _ in range(size // len(block)):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
        return size / max(1e-6, time.perf_counter() - begun)


def index_folder(situation: Situation) -> Path:
    """Where the index of the data set lies (`corpus/index.py`)."""
    data, environ = situation.needed.data, situation.machine.environ
    base = environ.get("XDG_CACHE_HOME", "")
    return data.index or (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "cadmllm"


def _slow_index(situation: Situation, index: Path) -> list[str]:
    mount = filesystems.mount_of(existing_parent(index), filesystems.mounts(situation.machine))
    if mount is None or mount.kind not in ("network", "parallel", "windows"):
        return []
    return [f"the index lies on {mount.type} ({index}), where SQLite is slow; on a local disk: --set data.index=/tmp/cadmllm"]


def _saves(settings: Settings, stages: tuple[int, ...]) -> list[str]:
    """What the bytes are made of, a line a stage."""
    keep = settings.train.save_total_limit if settings.train.save_steps else 0
    lines = []
    for stage in stages:
        sizes = stage_disk(settings, stage)
        lines.append(f"stage {stage}: {amount(sizes.stage)}, and {keep} saves of {amount(sizes.step)} while it runs")
    return [*lines, "and one save more while it is written"] if lines else []


def spared_bytes(settings: Settings, stages: tuple[int, ...]) -> int:
    """Bytes that keeping one save a stage spares."""
    if not settings.train.save_steps:
        return 0
    return (settings.train.save_total_limit - 1) * sum(stage_disk(settings, stage).step for stage in stages)


def _too_full(text: str, missing: int, fewer: int) -> Finding:
    """E821 with what is enough, or helps."""
    remedy = f"free {amount(missing)} (df -h; du -sh ~/* | sort -h), or --output_dir on another disk"
    if fewer:
        enough = "" if fewer >= missing else ", not enough alone"
        remedy += f", or --set train.save_total_limit=1 (saves {amount(fewer)}{enough})"
    return Finding("E821", Level.FAIL, "run-folder", text, remedy)


def _refusal(situation: Situation, refusal: Refusal) -> Finding:
    """What kind of refusal it is, and what mends it."""
    target = situation.needed.run.dir
    elsewhere = "or --output_dir ANOTHER"
    path = shlex.quote(str(refusal.path))
    message = f"{refusal.path}{'' if refusal.path == target else f' (for run.dir = {target})'}: {refusal.text}"
    if refusal.number == errno.ENOTDIR:
        return Finding("E822", Level.FAIL, "run-folder", message, f"mv {path} {path}.old; {elsewhere}")
    if refusal.number in FULL:
        free, inodes = room(refusal.path)
        if refusal.number == errno.ENOSPC and inodes == 0:
            remedy = f"remove folders of many small files (df -i {path}); {elsewhere}"
            return Finding("E823", Level.FAIL, "run-folder", f"{message}: no more files can be made there", remedy)
        quota = refusal.number == errno.EDQUOT or free > MEASURED
        remedy = "free some of your quota: quota -s" if quota else f"free some space: df -h {path}"
        return Finding("E821", Level.FAIL, "run-folder", message, f"{remedy}; {elsewhere}")
    if refusal.number == errno.EROFS:
        mount = filesystems.mount_of(refusal.path, filesystems.mounts(situation.machine))
        point = shlex.quote(mount.point) if mount is not None else f"$(df --output=target {path} | tail -1)"
        remedy = f"sudo mount -o remount,rw {point} (read-only after an error: sudo dmesg | tail)"
    elif refusal.number == errno.EIO:
        remedy = "the disk or its connection is faulty (sudo dmesg | tail)"
    else:
        remedy = f"sudo chown -R $USER {path}"
    return Finding("E822", Level.FAIL, "run-folder", message, f"{remedy}; {elsewhere}")


CHECKS = (
    Check(
        "run-folder",
        "there is room for all checkpoints, and the run's folder takes them safely",
        ("E821", "E822", "E823", "E824"),
        check_disk,
        group="disk",
    ),
    Check(
        "temporary",
        "the temporary folder and that of the index take files",
        ("E821", "E822", "E823"),
        check_beside,
        group="disk",
    ),
)
