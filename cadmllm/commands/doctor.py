"""`cadmllm doctor`: is everything there that the stages need?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cadmllm.errors import CODES, CadmllmError, Exit

if TYPE_CHECKING:
    from cadmllm.commands._options import Shared
    from cadmllm.console import Console
    from cadmllm.doctor.check import Check, Outcome, Report
    from cadmllm.settings import Settings


def register(app: typer.Typer) -> None:
    """Adds `doctor`."""
    app.command("doctor")(doctor)


def doctor(
    ctx: typer.Context,
    stage: Annotated[int | None, typer.Option("--stage", min=1, max=3, help="Look at what this stage alone needs.")] = None,
    explain: Annotated[str | None, typer.Option("--explain", metavar="CODE", help="Say what a code means.")] = None,
    list_checks: Annotated[bool, typer.Option("--list", help="List the checks and their codes.")] = False,
) -> None:
    """Check this machine, the data and the checkpoints before a run; exit code 0 means ready, 1 not ready."""
    shared: Shared = ctx.obj
    console = shared.console
    if explain is not None:
        _explain(console, explain.upper())
        return
    if list_checks:
        from cadmllm.doctor.runner import CHECKS

        console.table([(c.name, c.what, " ".join(c.codes)) for c in CHECKS], ("check", "makes sure that", "codes"))
        console.json({"checks": [{"name": c.name, "what": c.what, "codes": c.codes} for c in CHECKS]})
        return
    raise typer.Exit(examine(shared, _settings(shared), stage))


def examine(shared: Shared, settings: Settings | None, stage: int | None = None) -> Exit:
    """Runs all checks and prints what they say. `settings` is None where they cannot be read."""
    from cadmllm.doctor.check import Situation
    from cadmllm.doctor.runner import run_checks

    situation = Situation(settings, _stages(settings, stage or shared.start_from_stage, stage is not None))
    report = run_checks(situation, lambda check, outcome: _say(shared.console, check, outcome))
    _conclude(shared.console, report)
    return Exit.DONE if report.ready else Exit.USER


def _settings(shared: Shared) -> Settings | None:
    """The settings, or None where pydantic is missing or broken: the check of the packages will say so."""
    try:
        return shared.settings()
    except ImportError as error:
        shared.console.warn(f"the settings cannot be read: {error}")
        return None


def _stages(settings: Settings | None, first: int | None, alone: bool) -> tuple[int, ...]:
    if first is not None and alone:
        return (first,)
    chosen = tuple(n for n in (1, 2, 3) if n >= (first or 1))
    if settings is None:
        return chosen
    return tuple(n for n in chosen if settings.stages[n].epochs) or chosen


def _say(console: Console, check: Check, outcome: Outcome) -> None:
    """One line a check; hints and further findings stand below it."""
    colour = {"ok": "green", "warn": "yellow", "fail": "red", "skip": "dim"}[outcome.level]
    if outcome.skipped:
        console.print(f"{console.colour(f'[skip: {outcome.skipped}]', colour)} {check.name}")
        return
    mark = console.colour(f"[{outcome.level}]", colour) + " " * (4 - len(outcome.level))
    if not outcome.findings:
        console.print(f"{mark} {check.name}: {outcome.summary}")
    for number, finding in enumerate(outcome.findings):
        head = f"{mark} {check.name}:" if number == 0 else f"       {finding.level}:"
        console.print(f"{head} {finding.code} {finding.message}")
        console.print(f"       {console.colour('hint:', 'cyan')} {finding.remedy}")


def _conclude(console: Console, report: Report) -> None:
    console.json(report.as_dict())
    failed = [finding.code for finding in report.findings if finding.level == "fail"]
    warned = len(report.findings) - len(failed)
    notes = f" ({warned} warning{'s' if warned > 1 else ''})" if warned else ""
    if report.ready:
        console.print(console.colour("ready", "green") + notes)
    else:
        console.print(console.colour("not ready", "red") + f": {', '.join(dict.fromkeys(failed))}{notes}")


def _explain(console: Console, code: str) -> None:
    if code not in CODES:
        remedy = "the codes are listed in docs/doctor.md"
        raise CadmllmError("E106", f"there is no code {code}", remedy, exit_code=Exit.USAGE)
    from cadmllm.doctor.docs import explanation

    console.print(explanation(code))
    console.json({"code": code, "meaning": CODES[code]})
