"""`cadmllm data prepare`: what a data set lacks, made from its programs."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cadmllm.commands.data._derived import Compact, Pace, PointCount, Points, Size, Views, Workers, say
from cadmllm.errors import Exit

if TYPE_CHECKING:
    from cadmllm.commands._options import Shared


class EngineName(StrEnum):
    """Where the work is done."""

    local = "local"
    ray = "ray"


def prepare(
    ctx: typer.Context,
    root: Annotated[Path, typer.Argument(help="a data set in the Omni-CAD layout")],
    out: Annotated[Path | None, typer.Option("--out", help="folder that gets pcd/, img/, step/; default: the data set")] = None,
    points: Points = False,
    views: Views = False,
    step: Annotated[bool, typer.Option("--step", help="write STEP files: OUT/step")] = False,
    every: Annotated[bool, typer.Option("--all", help="programs without a caption, too (they cannot be trained on)")] = False,
    workers: Workers = None,
    engine: Annotated[EngineName, typer.Option("--engine", help="ray: a cluster with a shared file system")] = EngineName.local,
    point_count: PointCount = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="of the points")] = 0,
    view_size: Size = 224,
    compact: Compact = False,
    retry: Annotated[bool, typer.Option("--retry", help="try programs again that failed before")] = False,
) -> None:
    """Make point clouds, views and STEP files of programs; what is there and up to date is kept.

    Without --points, --views and --step: points and views. OUT/prepared.jsonl says what was made of what, so the same command
    goes on where it was stopped and makes anew what has changed. Files that it did not make are never touched.
    """
    shared: Shared = ctx.obj
    settings, console = shared.settings(), shared.console
    from cadmllm.corpus.derive import POINT_COUNT, Recipe
    from cadmllm.corpus.layout import program_ids
    from cadmllm.corpus.prepare import prepare as run

    default = not (points or views or step)
    recipe = Recipe((point_count or POINT_COUNT) if points or default else 0, views or default, step, view_size, compact, seed)
    hands = None
    if engine is EngineName.ray:
        from cadmllm.corpus.ray_engine import cluster

        hands = cluster(workers, settings.kernel.timeout, console.note, settings.kernel.memory)
    ids, problems = program_ids(root, every)
    for problem in problems:
        console.warn(problem.message)
    place = out or root
    with console.progress(len(ids), "programs") as bar:
        pace = Pace(bar, with_time=not console.err.isatty())
        try:
            report = run(
                ids,
                root.resolve() / "json",
                place.resolve(),
                recipe,
                workers=workers or settings.kernel.workers,
                timeout=settings.kernel.timeout,
                memory=settings.kernel.memory,
                retry=retry,
                engine=hands,
                told=pace,
                warn=console.warn,
            )
        except KeyboardInterrupt:
            made = pace.report.made if pace.report else 0
            console.warn(f"stopped: {made:,} programs were done in this run and are kept; the same command goes on from here")
            raise
    say(console, report, place, f"look at them: cadmllm data check {root}" if place == root else _use(root, place, recipe))
    if report.total and report.failed == report.total:
        raise typer.Exit(Exit.USER)


def _use(root: Path, out: Path, recipe) -> str:
    sets = [f"--set data.points={out / 'pcd'}"] * bool(recipe.points) + [f"--set data.img={out / 'img'}"] * recipe.views
    return f"use them: cadmllm train all --preset tiny --set data.root={root} {' '.join(sets)}"
