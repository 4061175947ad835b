"""`cadmllm data check`: what each stage can train on, what is missing, what is broken and what mends it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cadmllm.errors import CadmllmError, Exit

if TYPE_CHECKING:
    from cadmllm.commands._options import Shared
    from cadmllm.console import Console
    from cadmllm.corpus.audit import Audit
    from cadmllm.corpus.findings import Finding
    from cadmllm.corpus.quarantine import Outcome

_COLOURS = {"fail": "red", "warn": "yellow", "info": "cyan"}


def check(
    ctx: typer.Context,
    root: Annotated[str | None, typer.Argument(help="a data set in the Omni-CAD layout; default data.root")] = None,
    stage: Annotated[int, typer.Option("--stage", min=1, max=3, help="exit 1 when this stage has nothing to train on")] = 1,
    deep: Annotated[bool, typer.Option("--deep", help="also build every program, compare cloud and size with it")] = False,
    workers: Annotated[int | None, typer.Option("--workers", min=1, help="processes; default kernel.workers")] = None,
    quarantine: Annotated[Path | None, typer.Option("--quarantine", help="move what cannot be used into this folder")] = None,
    list_only: Annotated[bool, typer.Option("--list-only", help="with --quarantine: move nothing, write the lists")] = False,
) -> None:
    """What each stage can train on, what is missing, what is broken and what mends it.

    Files are examined once and again when they change; what was found is kept in an index outside of the data set.
    """
    shared: Shared = ctx.obj
    settings, console = shared.settings(), shared.console
    from cadmllm.corpus.audit import audit
    from cadmllm.corpus.folders import locate
    from cadmllm.corpus.quarantine import check_place, put_aside, write_missing

    if list_only and quarantine is None:
        raise CadmllmError("E105", "--list-only needs a folder", "add --quarantine DIR", exit_code=Exit.USAGE)
    if root is not None:
        settings.data.root = _path(root)
    if quarantine is not None:
        check_place(quarantine, locate(settings.data))  # before minutes of work
    try:
        found = audit(settings, stage=stage, deep=deep, workers=workers or settings.kernel.workers, console=console)
    except KeyboardInterrupt:
        console.note("interrupted: what was examined is kept, the same command goes on")
        raise
    outcome = None
    if quarantine is not None and not list_only:
        _at_rest(found)
    if quarantine is not None:
        outcome = put_aside(found.unusable, quarantine, found.dataset.folders, list_only=list_only)
        write_missing(quarantine, found.incomplete())
    _say(console, found, stage)
    if outcome is not None:
        _say_aside(console, outcome, list_only)
    said = found.as_dict(stage)
    if outcome is not None:
        said["quarantine"] = {"folder": outcome.folder, "moved": outcome.moved, "listed": outcome.listed, "ids": outcome.ids}
    console.json(said)
    if not found.stages[stage].ready:
        console.print(f"not ready: stage {stage} has nothing to train on")
        raise typer.Exit(Exit.USER)
    console.print(f"next:    {_next(shared, found, stage, outcome, list_only)}")


def _at_rest(found: Audit) -> None:
    """Files of a download that is going on must stay where it looks for them."""
    growing = next((finding for finding in found.findings if finding.code == "E423"), None)
    if growing is not None:
        remedy = "wait for the end of the download, or add --list-only, which moves nothing"
        raise CadmllmError("E423", f"{growing.message}; nothing was moved", remedy)


def _path(text: str) -> Path:
    """The folder as this system knows it; E831 for a Windows path where no drive of Windows is mounted."""
    from cadmllm.places import local_path

    return local_path(text).expanduser()


def _say(console: Console, found: Audit, stage: int) -> None:
    counts = found.counts
    parts = ", ".join(f"{counts[name]:,} {name}" for name in ("captions", "programs", "clouds", "views"))
    console.print(f"{found.root}: {parts}")
    shared = found.folders["points"]
    if len(shared) > 1:
        console.print(f"  points lie in {' and '.join(shared)}: the first wins")
    console.print()
    rows = []
    for number, report in found.stages.items():
        held = f", {report.ids - report.train:,} of them held out" if report.train < report.ids else ""
        rows.append((f"stage {number}", report.sentence() + held, "ready" if report.ready else "not ready"))
    console.table(rows)
    for need, lack in found.stages[3].lacks.items():
        if lack.count:
            console.print(f"  {lack.count:,} wait for {_waiting(need)}: {_first(lack.ids, lack.count)}")
    _say_deep(console, found)
    if found.speed is not None:
        slower = f"{found.speed.times:.1f} times slower than the Linux file system"
        console.print(f"  read speed: {found.speed.rates(found.speed.here)}, {slower}")
    for finding in found.findings:
        _say_finding(console, finding)
    if not found.findings:
        console.print("no finding")


def _first(names: list[str], count: int) -> str:
    return ", ".join(names) + (", ..." if count > len(names) else "")


def _waiting(need: str) -> str:
    return {"text": "a caption and a program", "point_cloud": "points", "image": "views"}[need]


def _say_deep(console: Console, found: Audit) -> None:
    if found.deep is None:
        return
    verdicts = ", ".join(f"{verdict} {count:,}" for verdict, count in found.deep.verdicts.items())
    console.print(
        f"  kernel: {found.deep.built:,} programs built now, {found.deep.known:,} known from before; {verdicts or 'none'}"
    )
    console.print(f"  clouds compared with their programs: {found.deep.compared:,}")


def _say_finding(console: Console, finding: Finding) -> None:
    level = console.colour(finding.level, _COLOURS[finding.level])
    console.print(f"[{level}] {finding.code} x {finding.count:,}: {finding.message}")
    others = finding.paths[1:]
    if others:
        console.print(f"       also {_first(others, finding.count - 1)}")
    console.print(f"       hint: {finding.remedy}")


def _say_aside(console: Console, outcome: Outcome, list_only: bool) -> None:
    done = "nothing was moved" if list_only else f"{outcome.moved:,} files were moved"
    listed = f"{outcome.listed:,} are listed, {outcome.ids:,} ids stand in {outcome.folder / 'ids.txt'}"
    console.print(f"{outcome.folder}: {done}, {listed}")


def _next(shared: Shared, found: Audit, stage: int, outcome: Outcome | None, list_only: bool) -> str:
    """What to type now: the settings that this check was given, and the list of what to leave out."""
    from cadmllm.corpus.remedies import quoted

    words = [f"cadmllm train stage{stage}", *([f"--preset {quoted(shared.preset)}"] if shared.preset else [])]
    words.append(f"--set data.root={quoted(found.root)}")
    words += [f"--set {key}={quoted(text)}" for key, text, _ in shared.given if key not in ("data.root", "data.exclude")]
    if outcome is not None and list_only and outcome.ids:
        words.append(f"--set data.exclude={quoted(outcome.folder / 'ids.txt')}")
    else:
        words += [f"--set {key}={quoted(text)}" for key, text, _ in shared.given if key == "data.exclude"]
    return " ".join(words)
