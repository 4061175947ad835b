"""`cadmllm data synth`: generated parts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cadmllm.commands.data._derived import Compact, Pace, PointCount, Points, Size, Views, Workers, say

if TYPE_CHECKING:
    from cadmllm.commands._options import Shared


def synth(
    ctx: typer.Context,
    out: Annotated[Path, typer.Option("--out", help="folder to make, in the Omni-CAD layout")],
    count: Annotated[int, typer.Option("--count", min=1, help="number of parts")] = 500,
    seed: Annotated[int, typer.Option("--seed", min=0, help="the same seed makes the same bytes")] = 0,
    points: Points = False,
    views: Views = False,
    workers: Workers = None,
    point_count: PointCount = None,
    view_size: Size = 224,
    compact: Compact = False,
) -> None:
    """Generate varied, valid, different parts with captions in three styles; every tenth is listed in val.txt as held out.

    A folder made with the same count and seed is completed; any other folder that is not empty is left alone.
    """
    shared: Shared = ctx.obj
    settings, console = shared.settings(), shared.console
    from cadmllm.corpus.derive import POINT_COUNT
    from cadmllm.corpus.synth import write_dataset

    total = count * (2 if points or views else 1)
    with console.progress(total, "parts") as bar:
        report = write_dataset(
            out,
            count,
            seed,
            points,
            views,
            workers or settings.kernel.workers,
            point_count=point_count or POINT_COUNT,
            size=view_size,
            compact=compact,
            timeout=settings.kernel.timeout,
            advance=bar.advance,
            told=Pace(bar, with_time=not console.err.isatty()),
        )
    say(console, report, out, f"train on them: cadmllm train all --preset tiny --set data.root={out}")
