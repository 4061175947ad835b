"""`cadmllm data prepare`: what a data set lacks, made from its programs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cadmllm.commands.data._derived import Compact, PointCount, Points, Size, Views, Workers, say
from cadmllm.errors import CadmllmError, Exit

if TYPE_CHECKING:
    from cadmllm.commands._options import Shared


def prepare(
    ctx: typer.Context,
    root: Annotated[Path, typer.Argument(help="a data set in the Omni-CAD layout; it is only read")],
    out: Annotated[Path, typer.Option("--out", help="folder that gets pcd/ and img/")],
    points: Points = False,
    views: Views = False,
    every: Annotated[bool, typer.Option("--all", help="programs without a caption, too (they cannot be trained on)")] = False,
    workers: Workers = None,
    point_count: PointCount = None,
    view_size: Size = 224,
    compact: Compact = False,
) -> None:
    """Make point clouds and views of existing programs with our kernel and renderer; what exists is kept.

    Programs that give no solid are listed by verdict and left out. Without --points and --views both are made.
    """
    shared: Shared = ctx.obj
    settings, console = shared.settings(), shared.console
    from cadmllm.corpus.layout import programs_of
    from cadmllm.corpus.prepare import POINT_COUNT, Derive
    from cadmllm.corpus.prepare import prepare as run

    if out.resolve() == root.resolve():
        raise CadmllmError(
            "E105", "--out is the data set itself, which is only read", "give another folder", exit_code=Exit.USAGE
        )
    both = not points and not views
    what = Derive((point_count or POINT_COUNT) if points or both else 0, views or both, view_size, compact)
    programs, problems = programs_of(root, every)
    for problem in problems:
        console.warn(problem.message)
    with console.progress(len(programs), "programs") as bar:
        report = run(
            programs,
            out,
            what,
            workers=workers or settings.kernel.workers,
            timeout=settings.kernel.timeout,
            advance=bar.advance,
        )
    sets = [f"--set data.points={out / 'pcd'}"] * bool(what.points) + [f"--set data.img={out / 'img'}"] * what.views
    say(console, report, out, f"use them: cadmllm train all --preset tiny --set data.root={root} {' '.join(sets)}")
    if report.total and len(report.failures) == report.total:
        raise typer.Exit(Exit.USER)
