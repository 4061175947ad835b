"""Proof 6: samples come faster than they are trained on."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cadmllm.corpus.facts import Kind
from cadmllm.doctor.check import Finding, Level, Outcome
from cadmllm.doctor.proving import pace
from cadmllm.train.windows import iterate

if TYPE_CHECKING:
    from pathlib import Path

    from cadmllm.doctor.proving.bench import Bench

NAME = "loader"
TRIED = (0, 2, 4, 8)  # loader processes that are tried when those of the settings do not keep up
LONGEST = 6.0  # seconds a measurement takes, about
FEWEST = 3  # windows of one, at least
SPARE = 1.1  # times the needed rate that a number of workers has to reach to be recommended
WAITS = 0.2  # share of the time that may be spent waiting; files are colder here than in later epochs


@dataclass(frozen=True, slots=True)
class Rate:
    """What so many loader processes give: samples a second, measured over so many."""

    workers: int
    samples_per_s: float
    samples: int

    def share(self, needed: float) -> float:
        """Share of the time that training waits: read in the same process, or as far as it falls short of the rate."""
        if self.workers == 0:
            return needed / (needed + self.samples_per_s)
        return max(0.0, 1.0 - self.samples_per_s / needed)


def prove(bench: Bench) -> Outcome:
    """What the settings' workers give against what a measured step takes."""
    needed = pace.pace_of(bench).samples_per_s
    own = bench.settings.train.workers
    bench.say(f"reading with {own} workers")
    found = [measure(bench, own)]
    share = found[0].share(needed)
    findings: tuple[Finding, ...] = ()
    if share > WAITS:
        for workers in TRIED:
            if workers != own and workers <= _cores() - (bench.device.type == "cpu"):  # a CPU computes, too
                bench.say(f"reading with {workers} workers")
                found.append(measure(bench, workers))
                if workers and found[-1].samples_per_s >= SPARE * needed:
                    break
        findings = tuple(_finding(bench, found, needed))
    bench.measured["loader"] = {"needed": needed, "rates": {rate.workers: rate.samples_per_s for rate in found}}
    summary = (
        f"{own} workers give {found[0].samples_per_s:,.0f} samples/s, training takes {needed:,.1f}: {share:.0%} of its time waits"
    )
    details = tuple(f"{rate.workers} workers: {rate.samples_per_s:,.1f} samples/s ({rate.samples} samples)" for rate in found)
    return Outcome(summary, findings, details=details)


def _finding(bench: Bench, found: list[Rate], needed: float) -> list[Finding]:
    own = found[0]
    enough = [rate for rate in found if rate.share(needed) <= WAITS]
    best = min(enough, key=lambda rate: rate.workers) if enough else min(found, key=lambda rate: rate.share(needed))
    message = (
        f"{own.workers} workers give {own.samples_per_s:,.1f} samples/s and a step takes {needed:,.1f}:"
        f" training would wait {own.share(needed):.0%} of its time for data"
    )
    others = "run the frozen encoders once (cadmllm data encode), or move the data to this system's own disk"
    if best.workers == own.workers:
        # nothing that was tried is better, so there is nothing to set: a warning is worth it only where something can be done
        return [Finding("E866", Level.WARN, NAME, message + f" on {_cores()} cores", others)] if own.share(needed) > 0.5 else []
    gives = f" (measured: {best.samples_per_s:,.1f} samples/s, waits {best.share(needed):.0%})"
    remedy = f"--set train.workers={best.workers}{gives}" + ("" if enough else f"; and {others}")
    return [Finding("E866", Level.WARN, NAME, message, remedy)]


def measure(bench: Bench, workers: int) -> Rate:
    """Samples a second of `windows.iterate`, read from the disk; with workers from the second window on, as they start once."""
    session = bench.session
    windows = session.windows
    first = _fresh_start(bench, workers)
    forget(bench, range(first, min(first + 64, len(windows))))
    ahead = workers * session.settings.train.prefetch  # windows that were read while the first was waited for
    source = iter(iterate(windows, first, workers, session.settings.train.prefetch))
    samples, began = 0, time.perf_counter()
    for count, window in enumerate(source, 1):
        loaded = sum(len(batch.ids) for batch in window.batches)
        if count == 1 and workers and first + ahead + FEWEST < len(windows):
            began, loaded = time.perf_counter(), 0
        samples += loaded
        if count > ahead + FEWEST and time.perf_counter() - began >= LONGEST:
            break
    del source  # its processes end
    return Rate(workers, samples / max(1e-9, time.perf_counter() - began), samples)


def _fresh_start(bench: Bench, workers: int) -> int:
    """A window that no other measurement has begun with, and many after it."""
    total = len(bench.session.windows)
    return (total // 3 + 97 * workers) % max(1, total - total // 3) if total > 64 else 0


def forget(bench: Bench, steps: range) -> int:
    """Ask the system to drop what it holds of the files that these steps read, so that they come from the disk; how many."""
    dataset, windows = bench.dataset, bench.session.windows
    files: list[Path] = []
    for step in steps:
        for item in windows.items(step)[1]:
            files.append(dataset.program_path(item.id))
            place = dataset.index.place(Kind.CLOUD, item.id)
            if place and "point_cloud" in item.draw.shown:
                files.append(dataset.cloud_path(item.id) or files[-1])
            if "image" in item.draw.shown:
                files += dataset.view_paths(item.id)
    for path in files:
        try:
            handle = os.open(path, os.O_RDONLY)
        except OSError:  # what cannot be read is said when it is read
            continue
        try:
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(handle)
    return len(files)


def _cores() -> int:
    return len(os.sched_getaffinity(0))
