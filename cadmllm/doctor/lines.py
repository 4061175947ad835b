"""How a check's outcome is printed: one line a check, one a finding. Standard library only."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cadmllm.doctor.check import Check, Level, Outcome

if TYPE_CHECKING:
    from cadmllm.console import Console

COLOURS = {Level.OK: "green", Level.WARN: "yellow", Level.FAIL: "red", Level.SKIP: "dim"}
INDENT = " " * 7  # details stand below the name, behind the mark


def lines(console: Console, check: Check, outcome: Outcome, *, verbose: bool = False, seconds: float | None = None) -> list[str]:
    """What is printed of one check.

    Args:
        console: says whether there are colours.
        check: that was made.
        outcome: its outcome.
        verbose: details and the time below it.
        seconds: that the check took.

    Returns:
        `[ok]   name: summary`, or `[skip: why] name`, or a line a finding: `[fail] name: E501 message -> remedy`.
    """
    if outcome.skipped:
        found = [f"{console.colour(f'[skip: {outcome.skipped}]', COLOURS[Level.SKIP])} {check.name}"]
    elif outcome.findings:
        found = [
            f"{_mark(console, finding.level)} {check.name}: {finding.code} {_one(finding.message)}{_way(console, finding.remedy)}"
            for finding in outcome.findings
        ]
    else:
        found = [f"{_mark(console, Level.OK)} {check.name}{': ' if outcome.summary else ''}{_one(outcome.summary)}"]
    if not verbose:
        return found
    below = [f"{INDENT}{line}" for detail in outcome.details for line in detail.splitlines()]
    if outcome.findings and outcome.summary:
        below.insert(0, INDENT + _one(outcome.summary))
    if seconds is not None and not outcome.skipped:
        below.append(f"{INDENT}{console.colour(spent(seconds), 'dim')}")
    return found + below


def spent(seconds: float) -> str:
    """A time for people: '38 ms', '1.4 s'."""
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def _mark(console: Console, level: Level) -> str:
    return console.colour(f"[{level}]", COLOURS[level]) + " " * (4 - len(level))


def _way(console: Console, remedy: str) -> str:
    return f" {console.colour('->', 'cyan')} {_one(remedy)}" if remedy else ""


def _one(text: str) -> str:
    """On one line: what a package says of its failure may have many."""
    return " ".join(text.split())
