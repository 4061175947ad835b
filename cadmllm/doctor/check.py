"""What a check is, what it finds, and what all of them say together. Standard library only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cadmllm.settings import Settings


class Level(StrEnum):
    """How bad a finding is: only FAIL keeps a run from being ready."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"
    SKIP = "skip"


@dataclass(frozen=True, slots=True)
class Finding:
    """A problem: a code of `errors.CODES`, WARN or FAIL, the check that found it, what was found, and what mends it."""

    code: str
    level: Level
    check: str
    message: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a check came to.

    Attributes:
        summary: what was seen, for the check's line when nothing is wrong.
        findings: problems only.
        skipped: why the check does not apply; empty when it ran.
    """

    summary: str = ""
    findings: tuple[Finding, ...] = ()
    skipped: str = ""

    @property
    def level(self) -> Level:
        """The worst finding's level."""
        if self.skipped:
            return Level.SKIP
        levels = {finding.level for finding in self.findings}
        return Level.FAIL if Level.FAIL in levels else Level.WARN if levels else Level.OK


@dataclass(slots=True)
class Situation:
    """What the checks look at, and what earlier checks have learnt for later ones.

    Attributes:
        settings: resolved; None when pydantic, which they are made with, cannot be imported.
        stages: the stages that are to be trained, ascending; those with 0 epochs are left out.
        broken: import names of required packages that cannot be imported.
    """

    settings: Settings | None
    stages: tuple[int, ...] = (1, 2, 3)
    broken: set[str] = field(default_factory=set)

    @property
    def needed(self) -> Settings:
        """The settings, for checks that are only run when there are any."""
        assert self.settings is not None
        return self.settings


@dataclass(frozen=True, slots=True)
class Check:
    """One check.

    Attributes:
        name: its stable name ('disk').
        what: what it makes sure of, one line.
        codes: the codes it may find.
        run: looks at the situation; may raise, which is a finding E899 of its own.
        needs: import names of packages without which it cannot run.
        needs_settings: whether it reads settings.
    """

    name: str
    what: str
    codes: tuple[str, ...]
    run: Callable[[Situation], Outcome]
    needs: tuple[str, ...] = ()
    needs_settings: bool = True


@dataclass(slots=True)
class Report:
    """Every check's outcome, in order."""

    outcomes: list[tuple[Check, Outcome]] = field(default_factory=list)

    @property
    def findings(self) -> list[Finding]:
        """Problems of all checks, failures first."""
        found = [finding for _, outcome in self.outcomes for finding in outcome.findings]
        return sorted(found, key=lambda finding: finding.level is not Level.FAIL)

    @property
    def ready(self) -> bool:
        """Whether nothing failed."""
        return all(finding.level is not Level.FAIL for finding in self.findings)

    def as_dict(self) -> dict[str, object]:
        """The shape of a report under `--json`: problems only. `plan` is empty until the memory planner fills it."""
        return {"schema": 1, "ready": self.ready, "findings": self.findings, "plan": {}}
