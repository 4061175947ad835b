"""Is the data set still being downloaded or unpacked? Looked at last, against what the first check of the data has seen."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from cadmllm.doctor.check import Check, Finding, Level, Outcome, Situation
from cadmllm.doctor.data import needed_kinds, opened
from cadmllm.errors import CadmllmError

if TYPE_CHECKING:
    from cadmllm.corpus.folders import Folders
    from cadmllm.corpus.growth import Look

NAME = "growth"
FRESH = 3.0  # s; what was written within them may be written right now: worth a moment's wait
WAIT = 0.5  # s between two looks, then


def check_growth(situation: Situation) -> Outcome:
    """No folder that the stages to be trained read changes while the doctor looks on."""
    settings = situation.needed
    if settings.data.synthetic:
        return Outcome(skipped=f"{settings.data.synthetic} parts will be generated")
    from cadmllm.corpus import completeness, growth
    from cadmllm.corpus.remedies import Place, remedy

    try:
        opened(situation)
    except CadmllmError:
        return Outcome(skipped="the data set cannot be opened")
    before: Look = situation.once("look at the data", lambda: growth.look(completeness.places(settings.data)))
    left = WAIT - (time.monotonic() - before.when)
    if left > 0 and time.time() - _newest(before) < FRESH:
        time.sleep(left)
    folders = completeness.places(settings.data)
    found = growth.grown(before, folders, lambda seconds: None)
    waiting = _not_needed(situation, folders)
    place = Place(settings.data.root, max(situation.stages, default=1))
    flaws = [flaw for flaw in found if not any(Path(flaw.path).is_relative_to(folder) for folder in waiting)]
    details = tuple(f"{flaw.message} (no stage to be trained reads it)" for flaw in found if flaw not in flaws)
    findings = ()
    if flaws:
        more = f", and {len(flaws) - 1} more folders or files" if len(flaws) > 1 else ""
        first = flaws[0]
        message = f"{first.message}{more}: what comes after the start is not trained on"
        findings = (Finding("E423", Level.WARN, NAME, message, remedy("E423", "warn", place, first.path)),)
    said = f"nothing changed within {time.monotonic() - before.when:.1f} s"
    return Outcome(f"{len(details)} folders that no stage needs yet are growing" if details else said, findings, details=details)


def _newest(look: Look) -> float:
    """When something that was seen was last written, s since 1970."""
    times = [*look.folders.values(), *(written for _, written in look.files.values())]
    return max(times, default=0) / 1e9


def _not_needed(situation: Situation, folders: Folders) -> list[Path]:
    """Folders of clouds or views that no stage to be trained shows: they may well be on their way."""
    from cadmllm.corpus.facts import Kind

    needed = needed_kinds(situation)
    return [path for kind in (Kind.CLOUD, Kind.VIEWS) if kind not in needed for path in folders.of(kind)]


CHECKS = (
    Check(
        NAME,
        "no folder of the data set that is needed is still growing",
        ("E423",),
        check_growth,
        needs=("numpy",),
        group="data",
    ),
)
