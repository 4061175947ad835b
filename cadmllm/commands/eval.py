"""`cadmllm eval`: answers measured against the truth; of a checkpoint on held-out ids, or in anyone's files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cadmllm.commands._eval_mesh import mesh

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cadmllm.commands._options import Shared
    from cadmllm.console import Console
    from cadmllm.settings import Settings

SECTION = "Use"


def register(app: typer.Typer) -> None:
    """Add the group; by itself it evaluates."""
    group = typer.Typer(invoke_without_command=True)
    group.callback()(evaluate)
    group.command("mesh")(mesh)
    group.command("robustness")(robustness)
    app.add_typer(group, name="eval")


def evaluate(
    ctx: typer.Context,
    predictions: Annotated[
        Path | None, typer.Option("--predictions", help="measure these files, not a checkpoint (.step .stl .json .h5 ...)")
    ] = None,
    truth: Annotated[Path | None, typer.Option("--truth", help="what they should be: files of the same names")] = None,
) -> None:
    """Answer held-out prompts, build the answers, measure them; or measure files: --predictions DIR --truth DIR.

    Writes report.json, report.md, rows.csv, rows.jsonl and sheet.png into OUT. A run that was stopped goes on with the same
    command.

    Further options: --checkpoint D (default: the newest finished stage of run.dir, else the bundled tiny base), --split
    test|val|train, --modalities text,text+point_cloud,...|all, --samples N (ids a combination; 0: all), --candidates N,
    --temperature T, --no-grammar, --repair, --batch-size N, --seed S, --out DIR.
    """
    if ctx.invoked_subcommand is not None:
        return
    shared: Shared = ctx.obj
    settings, console = shared.settings(), shared.console
    from cadmllm.errors import CadmllmError, Exit
    from cadmllm.places import local_path

    if (predictions is None) != (truth is None):
        given, lacking = ("--predictions", "--truth") if truth is None else ("--truth", "--predictions")
        raise CadmllmError(
            "E105", f"{given} without {lacking}", "cadmllm eval --predictions DIR --truth DIR", exit_code=Exit.USAGE
        )
    _check_out(settings)
    from cadmllm.evaluate import run

    try:
        if predictions is not None and truth is not None:
            report = run.evaluate_files(local_path(str(predictions)), local_path(str(truth)), settings, console)
        else:
            report = run.evaluate_checkpoint(settings, console)
    except KeyboardInterrupt:
        console.note(f"the rows so far are kept in {settings.eval.out}: the same command goes on with them")
        raise
    console.json(report)
    _say(report, settings.eval.out, console)


def robustness(ctx: typer.Context) -> None:
    """Measure how answers get worse with noise, missing parts, fewer points, fewer views and fewer modalities.

    Writes robustness.json, .csv, .md and .png into OUT. Options as for eval.
    """
    shared: Shared = ctx.obj
    settings, console = shared.settings(), shared.console
    _check_out(settings)
    from cadmllm.evaluate import ladder, robustness

    try:
        report = robustness.evaluate(settings, console)
    except KeyboardInterrupt:
        console.note(f"the rows so far are kept in {settings.eval.out}: the same command goes on with them")
        raise
    console.json(report)
    for title, lines in ladder.tables(report):
        console.print(f"\n{title}")
        console.table(lines[1:], lines[0])
    _say_files(report["files"], settings.eval.out, console)


def _check_out(settings: Settings) -> None:
    """A folder that cannot be written is refused before anything is loaded."""
    from cadmllm.infer.answer import check_out

    check_out(settings.eval.out)


def _say(report: Mapping[str, Any], out: Path, console: Console) -> None:
    from cadmllm.evaluate.report import facts, groups_of, invalid, overview

    for line in facts(report):
        console.print(line)
    groups = groups_of(report["summary"])
    for lines in (overview(groups), invalid(groups)):
        console.print()
        console.table(lines[1:], lines[0])
    _say_files(report["files"], out, console)


def _say_files(files: list[str], out: Path, console: Console) -> None:
    console.print(f"\nfiles: {out}: {', '.join(files)}")
