"""`cadmllm doctor`: will this run run?"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cadmllm.errors import CODES, CadmllmError, Exit

if TYPE_CHECKING:
    from cadmllm.commands._options import Shared
    from cadmllm.console import Console
    from cadmllm.doctor.check import Check, Fix, Intent, Outcome, Report, Situation
    from cadmllm.settings import Settings

CONFIG = Path("cadmllm.toml")


@dataclass(frozen=True, slots=True)
class Asked:
    """What the command line asks of the checks."""

    stage: int | None = None
    only: list[str] = field(default_factory=list)
    skip: list[str] = field(default_factory=list)
    deep: bool = False
    strict: bool = False
    fresh: bool = False
    verbose: bool = False
    resume: bool = False
    overwrite: bool = False
    from_scratch: bool = False


def register(app: typer.Typer) -> None:
    """Adds `doctor`."""
    app.command("doctor")(doctor)


def doctor(
    ctx: typer.Context,
    stage: Annotated[int | None, typer.Option("--stage", min=1, max=3, help="Look at what this stage alone needs.")] = None,
    deep: Annotated[bool, typer.Option("--deep", help="Make the proofs, too: real steps, a save, a reload.")] = False,
    only: Annotated[list[str] | None, typer.Option("--only", metavar="NAME", help="These checks or groups alone.")] = None,
    skip: Annotated[list[str] | None, typer.Option("--skip", metavar="NAME", help="Not these checks or groups.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Not ready with a warning, either.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Look at everything anew, whatever was found well before.")] = False,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Print details and the time that each check took.")] = False,
    report: Annotated[Path | None, typer.Option("--report", metavar="FILE", help="Write a page to paste into an issue.")] = None,
    fix: Annotated[bool, typer.Option("--fix", help="Show what can be mended here and now, and do it if you agree.")] = False,
    apply: Annotated[bool, typer.Option("--apply", help="Write what makes the run fit into cadmllm.toml.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Agree to --fix without being asked.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="The run will be started with --resume.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="The run will be started with --overwrite.")] = False,
    from_scratch: Annotated[bool, typer.Option("--from-scratch", help="The run will be started with --from-scratch.")] = False,
    explain: Annotated[str | None, typer.Option("--explain", metavar="CODE", help="Say what a code means.")] = None,
    list_checks: Annotated[bool, typer.Option("--list", help="List the checks and their codes.")] = False,
) -> None:
    """Check this machine, the data and the checkpoints before a run; exit code 0 means ready, 1 not ready.

    The settings are those that train would have: cadmllm doctor --preset 16gb --stage 3 looks at what
    cadmllm train stage3 --preset 16gb would do.
    """
    shared: Shared = ctx.obj
    console = shared.console
    if explain is not None:
        _explain(console, explain.upper())
        return
    if list_checks:
        _list(console)
        return
    if yes and not fix:
        raise CadmllmError("E105", "--yes agrees to what --fix would do", "cadmllm doctor --fix --yes", exit_code=Exit.USAGE)
    asked = Asked(stage, _names(only), _names(skip), deep, strict, fresh, verbose, resume, overwrite, from_scratch)
    found, situation = _look(shared, _settings(shared), asked)
    if report is not None:
        _write(report, found, situation, shared)
    if (fix and _mend(console, found.fixes, shared, yes)) or (apply and _apply(found, shared)):
        console.note("looking again")
        shared.forget()
        found, situation = _look(shared, _settings(shared), asked)
    _conclude(console, found)
    raise typer.Exit(Exit.DONE if found.ready else Exit.USER)


def examine(shared: Shared, settings: Settings | None) -> Exit:
    """Runs the quick checks and prints what they say. `settings` is None where they cannot be read."""
    report, _ = _look(shared, settings, Asked())
    _conclude(shared.console, report)
    return Exit.DONE if report.ready else Exit.USER


def before_training(settings: Settings, stages: Sequence[int], intent: Intent, console: Console) -> Situation:
    """The quick part, as `train` runs it before it starts: warnings are said, a failure is raised.

    Returns:
        What the checks looked at; it holds the data set, opened.

    Raises:
        CadmllmError: the first failure, under its own code.
    """
    from cadmllm.doctor.check import Level, Situation
    from cadmllm.doctor.lines import spent
    from cadmllm.doctor.runner import run_checks

    situation = Situation(settings, tuple(n for n in stages if settings.stages[n].epochs), intent=intent, console=console)
    report = run_checks(situation)
    failed = [finding for finding in report.findings if finding.level is Level.FAIL]
    for finding in report.findings:
        if finding not in failed[:1]:
            console.warn(f"{finding.check}: {finding.code} {finding.message} -> {finding.remedy}")
    if failed:
        first, more = failed[0], len(failed) - 1
        others = f" (and {more} more failure{'s' if more > 1 else ''} above)" if more else ""
        raise CadmllmError(first.code, f"the doctor's check {first.check}: {first.message}{others}", first.remedy)
    console.note(f"doctor: {_verdict(report)} ({len(report.outcomes)} checks, {spent(sum(report.seconds.values()))})")
    return situation


def _names(given: list[str] | None) -> list[str]:
    """`--only gpu,disk --only data` as a list."""
    return [name.strip() for text in given or [] for name in text.split(",") if name.strip()]


def _settings(shared: Shared) -> Settings | None:
    """The settings, or None where pydantic is missing or broken: the check of the packages will say so."""
    try:
        return shared.settings()
    except ImportError as error:
        shared.console.warn(f"the settings cannot be read: {error}")
        return None


def _look(shared: Shared, settings: Settings | None, asked: Asked) -> tuple[Report, Situation]:
    from cadmllm.doctor.cache import Cache
    from cadmllm.doctor.check import Intent, Situation
    from cadmllm.doctor.lines import lines
    from cadmllm.doctor.runner import chosen, run_checks

    console = shared.console
    checks = chosen(asked.only, asked.skip, asked.deep)
    situation = Situation(
        settings,
        _stages(settings, asked.stage or shared.start_from_stage, asked.stage is not None),
        cache=Cache(fresh=asked.fresh),
        intent=Intent(asked.resume, asked.overwrite, asked.from_scratch),
        console=console,
    )

    def say(check: Check, outcome: Outcome, seconds: float) -> None:
        for line in lines(console, check, outcome, verbose=asked.verbose, seconds=seconds):
            console.print(line)

    return run_checks(situation, say, checks, strict=asked.strict), situation


def _stages(settings: Settings | None, first: int | None, alone: bool) -> tuple[int, ...]:
    if first is not None and alone:
        return (first,)
    chosen = tuple(n for n in (1, 2, 3) if n >= (first or 1))
    if settings is None:
        return chosen
    return tuple(n for n in chosen if settings.stages[n].epochs) or chosen


def _conclude(console: Console, report: Report) -> None:
    console.json(report.as_dict())
    verdict = _verdict(report)
    word = "ready" if report.ready else "not ready"
    console.print(console.colour(word, "green" if report.ready else "red") + verdict.removeprefix(word))


def _verdict(report: Report) -> str:
    """'ready: about 3.4 h, 5.2 GiB of disk (1 warning)', or 'not ready: E501, E813'."""
    from cadmllm.doctor.check import Level

    failed = [finding.code for finding in report.findings if finding.level is Level.FAIL]
    warned = len(report.findings) - len(failed)
    notes = f" ({warned} warning{'s' if warned > 1 else ''})" if warned else ""
    if not report.ready:
        codes = failed or [finding.code for finding in report.findings]
        return f"not ready: {', '.join(dict.fromkeys(codes))}{notes}"
    cost = _cost(report)
    return f"ready{f': {cost}' if cost else ''}{notes}"


def _cost(report: Report) -> str:
    """Time and disk of the run, as far as they are known; '' where nothing was planned."""
    if not report.plan:
        return ""
    measured = report.plan.get("measured", {}).get("time")
    if measured is None:
        from cadmllm.doctor.fit import sentence

        return sentence(report.plan)
    from cadmllm.plan.speed import span
    from cadmllm.plan.whole import gib

    time = f"{span(measured['seconds'])} ({span(measured['low'])} to {span(measured['high'])}, by measured steps)"
    return f"{time}, {gib(report.plan['disk_bytes'])} of disk" if "disk_bytes" in report.plan else time


def _write(file: Path, report: Report, situation: Situation, shared: Shared) -> None:
    """The page for an issue, written aside and renamed."""
    import os

    from cadmllm.doctor.page import page

    resolved = shared.resolve() if situation.settings is not None else None
    text = page(report, situation, resolved, " ".join(["cadmllm", *sys.argv[1:]]))
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        aside = file.with_name(f".{file.name}.tmp")
        aside.write_text(text, encoding="utf-8")
        os.replace(aside, file)
    except OSError as error:
        raise CadmllmError("E303", f"{file}: {error.strerror or error}", "--report ANOTHER_FILE") from error
    shared.console.note(f"wrote {file}: read it before you paste it")


def _mend(console: Console, fixes: list[Fix], shared: Shared, yes: bool) -> bool:
    """Show the plan, ask, do it; whether anything was done."""
    from cadmllm.doctor import fix

    config = shared.config or CONFIG
    if not fixes:
        console.note("fix: nothing that can be mended from here; the arrows above say what you can do")
        return False
    console.note("fix: this would be done, and nothing else:")
    for one in fixes:
        console.note(f"  {fix.describe(one, config)}")
    if not yes and not _agreed():
        console.note("fix: nothing was done (--fix --yes does it without asking)")
        return False
    for done in fix.apply(fixes, config):
        console.note(f"  {done.what} (to take it back: {done.undo})")
    _overridden(shared, {one.name for one in fixes if one.kind == "setting"}, config)
    return True


def _overridden(shared: Shared, keys: set[str], config: Path) -> None:
    """Settings of the command line go before those of a file."""
    given = sorted({key for key, _, _ in shared.given} & keys)
    if given:
        shared.console.warn(f"on the command line {', '.join(given)} stands over {config}: leave it out there")


def _agreed() -> bool:
    if not sys.stdin.isatty():
        return False
    print("do it? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _apply(report: Report, shared: Shared) -> bool:
    """Write the plan's changes into the settings file; whether there were any."""
    from cadmllm.tomlfile import set_values

    config = shared.config or CONFIG
    changes = report.plan.get("changes", [])
    values = {key: value for change in changes for key, value in change["set"].items()}
    for change in changes:
        if change["command"]:
            shared.console.note(f"apply: run first: {change['command']}")
    lines = set_values(config, values) if values else []
    for line in lines or ["nothing to write: the run fits as it is, or no setting helps"]:
        shared.console.note(f"apply: {line}")
    _overridden(shared, set(values), config)
    return bool(lines)


def _list(console: Console) -> None:
    from cadmllm.doctor.runner import CHECKS

    rows = [(c.name, c.group, "deep" if c.deep else "quick", c.what, " ".join(c.codes)) for c in CHECKS]
    console.table(rows, ("check", "group", "part", "makes sure that", "codes"))
    listed = [
        {"name": c.name, "group": c.group, "deep": c.deep, "what": c.what, "codes": c.codes, "cached_by": c.cached_by}
        for c in CHECKS
    ]
    console.json({"checks": listed})


def _explain(console: Console, code: str) -> None:
    if code not in CODES:
        remedy = "the codes are listed in docs/doctor.md"
        raise CadmllmError("E106", f"there is no code {code}", remedy, exit_code=Exit.USAGE)
    from cadmllm.doctor.docs import explanation
    from cadmllm.remedies import remedy_of

    console.print(explanation(code))
    console.json({"code": code, "meaning": CODES[code], "remedy": remedy_of(code)})
