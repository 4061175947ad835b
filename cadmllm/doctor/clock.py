"""The clock: files made later than now, or a hardware clock that says otherwise. Standard library only.

A wrong one breaks certificates (downloads, wandb), makes changed files look old, and mixes up which save is the newest.
WSL 2 stops its clock while the host sleeps.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from cadmllm.doctor import wsl
from cadmllm.doctor.check import Check, Finding, Level, Outcome, Situation
from cadmllm.doctor.machine import Machine

PACKAGE = Path(__file__).resolve().parents[1]
TOLERANCE = 120.0  # s
QUARTER = 900.0  # s: time zones differ by multiples


def now() -> float:
    """Seconds since 1970, as this system believes."""
    return time.time()


def check_clock(situation: Situation) -> Outcome:
    """The clock is not behind cadmllm's own files or the data, and agrees with the hardware clock."""
    machine, present = situation.machine, now()
    said = time.strftime("%Y-%m-%d %H:%M", time.gmtime(present)) + " UTC"
    mend = _mend(machine)
    newest = max(_files(situation), default=(0.0, PACKAGE))
    ahead = newest[0] - present
    if ahead > TOLERANCE:
        message = f"it is {said}, and {newest[1]} was changed {_span(ahead)} later: the clock is behind (or was ahead then)"
        return _wrong(message, f"{mend}; if the clock is right: touch {newest[1]}")
    off = hardware_offset(machine, present)
    if off is None:
        return Outcome(said)
    if abs(off) > TOLERANCE:
        message = f"it is {said}, {_span(abs(off))} {'behind' if off > 0 else 'ahead of'} the hardware clock"
        return _wrong(message + (": WSL's clock stops while Windows sleeps" if wsl.version(machine) and off > 0 else ""), mend)
    return Outcome(f"{said}, as the hardware clock", details=(f"hardware clock: {off:+.0f} s",))


def hardware_offset(machine: Machine, present: float) -> float | None:
    """Seconds that the hardware clock is ahead; None where there is none, or it keeps local time.

    Many machines that also start Windows keep it in local time: a difference of whole quarters of an hour is a time zone there.
    Under WSL it is always UTC.
    """
    text = machine.text("sys/class/rtc/rtc0/since_epoch").strip()
    if not text.isdigit() or "LOCAL" in machine.text("etc/adjtime"):
        return None
    off = float(text) - present
    quarters = round(off / QUARTER)
    if not wsl.version(machine) and quarters and abs(quarters) <= 56 and abs(off - quarters * QUARTER) < 60.0:
        return None
    return off


def _wrong(message: str, remedy: str) -> Outcome:
    return Outcome(findings=(Finding("E818", Level.WARN, "clock", message, remedy),))


def _mend(machine: Machine) -> str:
    if wsl.version(machine):
        return "sudo hwclock -s (or in PowerShell: wsl --shutdown)"
    if wsl.in_container(machine):
        return "set the clock of the machine that runs this container: sudo timedatectl set-ntp true"
    return "sudo timedatectl set-ntp true"


def _files(situation: Situation) -> Iterator[tuple[float, Path]]:
    """(time of change, path) of cadmllm's own files, and of the folders of the data: they were there before this moment."""
    paths = [*PACKAGE.glob("*.py"), *PACKAGE.glob("doctor/*.py"), *PACKAGE.glob("train/*.py")]
    settings = situation.settings
    if settings is not None and not settings.data.synthetic:
        root = settings.data.root
        paths += [root, *(root / name for name in ("txt", "json", "img", "pcd", "pointcloud", "train.txt", "val.txt"))]
    for path in paths:
        try:
            yield path.stat().st_mtime, path
        except OSError:
            continue


def _span(seconds: float) -> str:
    """'7 minutes', '3.0 hours', '12 days'."""
    if seconds < 5400:
        return f"{seconds / 60:.0f} minutes"
    return f"{seconds / 3600:.1f} hours" if seconds < 172800 else f"{seconds / 86400:.0f} days"


CHECKS = (Check("clock", "the clock is right as far as files and hardware tell", ("E818",), check_clock, needs_settings=False),)
