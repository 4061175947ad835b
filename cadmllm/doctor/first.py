"""Stage 0: the doctor's answer where the command line itself cannot be loaded. Standard library only.

`cadmllm doctor` imports what the command line stands on (Typer, rich, pydantic) in another process first, and remembers that
it went well. Where it did not, or where an import fails after all, the checks that need neither are made here.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from cadmllm.console import Console
from cadmllm.doctor.cache import Cache
from cadmllm.doctor.check import Check, Finding, Level, Outcome, Report, Situation
from cadmllm.doctor.imports import try_all
from cadmllm.doctor.lines import lines
from cadmllm.doctor.pip import pip
from cadmllm.doctor.ranges import SHELL
from cadmllm.doctor.running import make_checks
from cadmllm.doctor.shadows import local, shadows
from cadmllm.errors import CadmllmError, Exit

OURS = str(Path(__file__).resolve().parents[1]) + os.sep
_ASKS = {"--help", "-h", "--list", "--explain"}  # answered without a check


def asked_for(argv: Sequence[str]) -> bool:
    """Whether a command line, without the program's name, is one of `doctor` that makes checks."""
    return "doctor" in argv and not _ASKS & {word.partition("=")[0] for word in argv}


def shell_works() -> bool:
    """Whether what the command line stands on can be imported; from the cache in 5 ms when nothing has changed."""
    situation = Situation(None)
    return not try_all(situation, {"shell": SHELL}, remember=not local(shadows(situation, SHELL)))


def checks() -> tuple[Check, ...]:
    """The checks that need neither settings nor any package, the slow one (which imports all packages) last."""
    from cadmllm.doctor import packages, system  # and no other room: 20 of them cost 100 ms

    every = (*system.CHECKS, *packages.CHECKS)
    found = [check for check in every if not (check.needs_settings or check.needs or check.deep)]
    return tuple(sorted(found, key=lambda check: check.name == "packages"))


def answer(argv: Sequence[str], error: BaseException | None = None) -> int:
    """Makes these checks and prints what they say, as `doctor` would, under `--json` as well.

    Args:
        argv: the command line without the program's name.
        error: what kept the command line from being loaded, if that is known.

    Returns:
        The exit code: never ready.
    """
    console = console_of(argv)
    console.note("the command line cannot be loaded: only what needs no packages is looked at")
    try:
        report = examine(console, verbose=bool({"-v", "--verbose"} & set(argv)), fresh="--fresh" in argv, error=error)
        console.json(report.as_dict())
        codes = ", ".join(dict.fromkeys(finding.code for finding in report.findings if finding.level is Level.FAIL))
        console.print(f"{console.colour('not ready', 'red')}: {codes}")
    except KeyboardInterrupt:
        console.note("interrupted")
        return Exit.INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.PIPE
    return Exit.USER


def examine(console: Console, *, verbose: bool = False, fresh: bool = False, error: BaseException | None = None) -> Report:
    """Makes the checks of stage 0; when they find nothing, `error` is the finding."""
    situation = Situation(None, cache=Cache(fresh=fresh))

    def say(check: Check, outcome: Outcome, seconds: float = 0.0) -> None:
        for line in lines(console, check, outcome, verbose=verbose, seconds=seconds):
            console.print(line)

    report = make_checks(situation, checks(), say)
    if not any(finding.level is Level.FAIL for finding in report.findings):
        last = Check("start", "the command line can be loaded", ("E802",), lambda _: _failed(error), group="packages")
        outcome = _failed(error)
        report.outcomes.append((last, outcome))
        say(last, outcome)
    return report


def _failed(error: BaseException | None) -> Outcome:
    if error is None:
        what, remedy = "it could not be imported a moment ago, and can be now", "run cadmllm doctor again"
    else:
        named = culprit(error)
        what = describe(error)
        remedy = pip("install", f"--force-reinstall --no-deps {named or 'cadmllm'}")
    message = f"the command line cannot be loaded: {what}"
    return Outcome(findings=(Finding("E802", Level.FAIL, "start", message, remedy),))


def refuse(argv: Sequence[str], error: BaseException) -> int:
    """E802 for a command other than `doctor` whose packages cannot be imported."""
    console_of(argv).error(refusal(error))
    return Exit.USER


def refusal(error: BaseException) -> CadmllmError:
    """E802 for an import that failed."""
    return CadmllmError(
        "E802", f"a package cannot be imported: {describe(error)}", "cadmllm doctor says which, and what mends it"
    )


def describe(error: BaseException) -> str:
    """One line: the package that is to blame, and what it says."""
    named = culprit(error)
    text = " ".join(str(error).split()) or type(error).__name__
    if not isinstance(error, ImportError):
        text = f"{type(error).__name__}: {text}"
    return text if not named or re.search(rf"\b{re.escape(named)}\b", text) else f"{named}: {text}"


def culprit(error: BaseException) -> str:
    """The package whose import has raised an error; empty where it was raised by something else.

    An import is what stands below our last frame: a module of somebody else that is being run.
    """
    inner: list[tuple[str, str]] = []
    trace = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        if code.co_filename.startswith(OURS):
            inner.clear()
        elif code.co_name == "<module>":
            inner.append((code.co_filename, str(trace.tb_frame.f_globals.get("__name__", ""))))
        trace = trace.tb_next
    for file, module in inner:
        if not file.startswith("<"):
            return module.partition(".")[0]
    name = ""
    if isinstance(error, ImportError):
        name = error.name or ""
    elif isinstance(error, AttributeError) and isinstance(error.obj, ModuleType):
        name = error.obj.__name__  # a module of another release, or an empty one, under this name
    top = name.partition(".")[0]
    return "" if top == "cadmllm" or (top in sys.stdlib_module_names and not isinstance(error, ImportError)) else top


def console_of(argv: Sequence[str]) -> Console:
    """The printer that a command line asks for."""
    return Console(json="--json" in argv, quiet="--quiet" in argv)
