"""`cadmllm data`: is a data set whole; generated parts; points and views for programs that lack them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cadmllm.errors import CadmllmError, Exit

if TYPE_CHECKING:
    from cadmllm.commands._options import Shared
    from cadmllm.console import Console
    from cadmllm.corpus.prepare import Report

Points = Annotated[bool, typer.Option("--points", help="make point clouds with normals: OUT/pcd")]
Views = Annotated[bool, typer.Option("--views", help="draw the 8 views: OUT/img")]
Workers = Annotated[int | None, typer.Option("--workers", min=1, help="processes; default kernel.workers")]
PointCount = Annotated[int | None, typer.Option("--point-count", min=16, help="points a cloud; default 8192")]
Size = Annotated[int, typer.Option("--view-size", min=32, max=2048, help="pixels of a view's side")]
Compact = Annotated[bool, typer.Option("--compact", help="16-bit points and pictures of few colours: a fifth of the space")]


def register(app: typer.Typer) -> None:
    """Add the group."""
    group = typer.Typer(help="Check data, generate parts, make points and views of existing programs.", no_args_is_help=True)
    group.command("check")(check)
    group.command("synth")(synth)
    group.command("prepare")(prepare)
    app.add_typer(group, name="data")


def check(
    ctx: typer.Context,
    root: Annotated[Path | None, typer.Argument(help="a data set in the Omni-CAD layout; default data.root")] = None,
    stage: Annotated[int, typer.Option("--stage", min=1, max=3, help="exit 1 when this stage has nothing to train on")] = 1,
) -> None:
    """Read every caption, program, cloud and view once: what each stage can train on, and what is broken."""
    shared: Shared = ctx.obj
    settings, console = shared.settings(), shared.console
    from cadmllm.corpus.audit import audit
    from cadmllm.corpus.layout import open_dataset

    if root is not None:
        settings.data.root = root
    dataset = open_dataset(settings.data)
    with console.progress(len(dataset), "samples") as bar:
        report = audit(dataset, settings.train.max_seq_length, bar.advance)
    counts = ", ".join(f"{number:,} {name}" for name, number in report.counts.items())
    console.print(f"{settings.data.root}: {counts}")
    for number, row in report.stages.items():
        console.print(f"  stage {number}: {row['ids']:,} of {row['of']:,} ids can show all of it")
    for finding in report.findings:
        console.print(f"  [{finding.level}] {finding.code} x {finding.count}: {finding.message}")
        console.print(f"         hint: {finding.remedy}")
    console.json(report.as_dict(stage))
    if not report.stages[stage]["ready"]:
        console.print(f"not ready: stage {stage} has nothing to train on")
        raise typer.Exit(Exit.USER)


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
    from cadmllm.corpus.prepare import POINT_COUNT
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
        )
    _say(console, report, out, f"train on them: cadmllm train all --preset tiny --set data.root={out}")


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
    _say(console, report, out, f"use them: cadmllm train all --preset tiny --set data.root={root} {' '.join(sets)}")
    if report.total and len(report.failures) == report.total:
        raise typer.Exit(Exit.USER)


def _say(console: Console, report: Report, out: Path, follow: str) -> None:
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
