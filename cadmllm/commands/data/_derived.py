"""What `data synth` and `data prepare` share: options, the progress, and how the outcome is said."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from cadmllm.console import Console, Progress
    from cadmllm.corpus.prepare import Report

Points = Annotated[bool, typer.Option("--points", help="make point clouds with normals: OUT/pcd")]
Views = Annotated[bool, typer.Option("--views", help="draw the 8 views: OUT/img")]
Workers = Annotated[int | None, typer.Option("--workers", min=1, help="processes; default kernel.workers")]
PointCount = Annotated[int | None, typer.Option("--point-count", min=16, help="points a cloud; default 8192")]
Size = Annotated[int, typer.Option("--view-size", min=32, max=2048, help="pixels of a view's side")]
Compact = Annotated[bool, typer.Option("--compact", help="16-bit points and pictures of few colours: a fifth of the space")]


class Pace:
    """Tells the progress bar how fast it goes, how long it will take, and what failed so far.

    Args:
        bar: from `Console.progress`.
        with_time: whether the time left is said, too (a bar on a terminal shows it itself).
    """

    def __init__(self, bar: Progress, with_time: bool) -> None:
        self.bar, self.with_time = bar, with_time
        self.report: Report | None = None
        self._began = time.monotonic()
        self._over = 0

    def __call__(self, count: int, report: Report) -> None:
        """`count` more programs are dealt with."""
        self.report = report
        self._over += count
        self.bar.advance(count, self._note(report))

    def _note(self, report: Report) -> str:
        tried = report.made + report.failed - report.skipped
        spent = time.monotonic() - self._began
        if not tried or spent <= 0.0:
            return ""
        rate = tried / spent
        words = [f"{rate:.3g}/s"]
        if self.with_time:
            words.append(f"{_clock((report.total - self._over) / rate)} left")
        failed = ", ".join(f"{verdict} {number}" for verdict, number in sorted(report.verdicts.items()) if verdict != "OK")
        return ", ".join(words) + (f"; failed: {failed}" if failed else "")


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"


def say(console: Console, report: Report, out: Path, follow: str) -> None:
    """The result: figures, the failures by verdict with the first of each, and what to do next."""
    parts = [f"{report.made:,} made", f"{report.kept:,} there already", f"{report.failed:,} failed of {report.total:,}"]
    console.print(f"{out}: {', '.join(parts)}")
    for product, number in sorted(report.foreign.items()):
        console.print(f"  {product}: {number:,} programs have some that this command did not make: kept as they are")
    if report.stale:
        console.print(f"  {report.stale:,} files of programs that have changed since were removed")
    shown: set[str] = set()
    for failure in report.failures:
        if failure["verdict"] not in shown:
            shown.add(failure["verdict"])
            number = report.verdicts[failure["verdict"]]
            console.print(f"  {failure['verdict']} {number:,}, the first: {failure['id']}: {failure['code']} {failure['reason']}")
    if report.skipped:
        console.print(f"  {report.skipped:,} of them failed before and were not tried again: --retry tries them")
    if report.made and report.wall > 0.0:
        spent = sum(report.seconds.values()) or 1.0
        shares = ", ".join(f"{stage} {100.0 * seconds / spent:.0f} %" for stage, seconds in report.seconds.items())
        console.print(f"  {report.made / report.wall:.3g} programs/s; of the workers' time: {shares}")
    console.print(f"next:    {follow}")
    console.json({"out": out} | report.as_dict())
