"""What `data synth` and `data prepare` share: options, and how the outcome is said."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from cadmllm.console import Console
    from cadmllm.corpus.prepare import Report

Points = Annotated[bool, typer.Option("--points", help="make point clouds with normals: OUT/pcd")]
Views = Annotated[bool, typer.Option("--views", help="draw the 8 views: OUT/img")]
Workers = Annotated[int | None, typer.Option("--workers", min=1, help="processes; default kernel.workers")]
PointCount = Annotated[int | None, typer.Option("--point-count", min=16, help="points a cloud; default 8192")]
Size = Annotated[int, typer.Option("--view-size", min=32, max=2048, help="pixels of a view's side")]
Compact = Annotated[bool, typer.Option("--compact", help="16-bit points and pictures of few colours: a fifth of the space")]


def say(console: Console, report: Report, out: Path, follow: str) -> None:
    """The result: figures, the failures by verdict with the first of each, and what to do next."""
    console.print(f"{out}: {report.made} made, {report.kept} there already, {len(report.failures)} failed of {report.total}")
    shown: set[str] = set()
    for failure in report.failures:
        if failure["verdict"] not in shown:
            shown.add(failure["verdict"])
            number = report.verdicts[failure["verdict"]]
            console.print(f"  {failure['verdict']} {number}, the first: {failure['id']}: {failure['reason']}")
    console.print(f"next:    {follow}")
    console.json({"out": out} | report.as_dict())
