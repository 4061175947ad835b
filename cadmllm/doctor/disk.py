"""There is room for the checkpoints, and the run's folder takes them. Standard library only."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from cadmllm.doctor.check import Check, Finding, Level, Outcome, Situation
from cadmllm.plan.disk import run_bytes, stage_disk
from cadmllm.plan.sizes import GIB

if TYPE_CHECKING:
    from cadmllm.settings import Settings

PROBE = b"cadmllm " * 8192  # 64 KiB: more than a file system keeps inside its directory entry


def check_disk(situation: Situation) -> Outcome:
    """The run's folder can be written, a file can be renamed there, and there is room for all saves."""
    settings = situation.needed
    place = existing_parent(settings.run.dir)
    try:
        write_probe(place)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        message = f"{place} (for run.dir = {settings.run.dir}): {error.strerror or error}"
        remedy = "free some space: df -h" if full else f"sudo chown -R $USER {place}"
        code = "E821" if full else "E822"
        return Outcome(findings=(Finding(code, Level.FAIL, "disk", message, f"{remedy}; or --output_dir ANOTHER"),))
    free = shutil.disk_usage(place).free
    need, known = needed_bytes(settings, situation.stages)
    text = f"{free / GIB:.1f} GiB free for {settings.run.dir}, about {need / GIB:.1f} needed"
    if free < need:
        remedy = f"free {(need - free) / GIB:.1f} GiB (df -h), --output_dir on another disk, or --set train.save_total_limit=1"
        return Outcome(findings=(Finding("E821", Level.FAIL, "disk", text, remedy),))
    return Outcome(text if known else f"{text} (a guess: the size of {settings.model.llm} is unknown)")


def existing_parent(path: Path) -> Path:
    """The folder itself, or the nearest one above it that exists."""
    path = Path(os.path.abspath(path))
    while not path.is_dir() and path != path.parent:
        path = path.parent
    return path


def write_probe(folder: Path) -> None:
    """Writes a file aside, renames it and reads it back, as every save does; leaves nothing behind.

    Raises:
        OSError: as the system says it.
    """
    with tempfile.TemporaryDirectory(prefix=".cadmllm-doctor-", dir=folder) as aside:
        source, target = Path(aside) / "written", Path(aside) / "renamed"
        with source.open("wb") as file:
            file.write(PROBE)
            file.flush()
            os.fsync(file.fileno())
        os.replace(source, target)
        if target.read_bytes() != PROBE:
            raise OSError(errno.EIO, "what was written reads back differently")


def needed_bytes(settings: Settings, stages: tuple[int, ...]) -> tuple[int, bool]:
    """Bytes that all saves of a run take at most (`plan/disk.py`), and whether the model's size is known."""
    return run_bytes(settings, stages), all(stage_disk(settings, stage).known for stage in stages)


CHECKS = (
    Check("disk", "there is room for the checkpoints, and the folder takes them", ("E821", "E822"), check_disk, group="disk"),
)
