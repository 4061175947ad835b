"""Makes checks one after another, each on its own: one that raises is a finding, never a crash. Standard library only."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from cadmllm.doctor.check import Check, Finding, Level, Outcome, Report, Situation
from cadmllm.errors import CadmllmError


def make_checks(
    situation: Situation,
    checks: Sequence[Check],
    said: Callable[[Check, Outcome, float], None] | None = None,
    *,
    strict: bool = False,
) -> Report:
    """Makes these checks in their order.

    Args:
        situation: what they look at; `packages` notes there what later checks have to do without.
        checks: which.
        said: told of every outcome, and the seconds it took, as soon as it is known.
        strict: warnings keep from being ready, too.
    """
    report = Report(plan=situation.plan, strict=strict)
    for check in checks:
        begun = time.perf_counter()
        outcome = _make(check, situation, report)
        report.seconds[check.name] = time.perf_counter() - begun
        report.outcomes.append((check, outcome))
        if said is not None:
            said(check, outcome, report.seconds[check.name])
    return report


def _stopped(check: Check, error: CadmllmError, report: Report) -> Outcome:
    """What keeps a check from being made (no data set) is a finding, of the first check of its group that meets it."""
    for other, outcome in report.outcomes:
        for finding in outcome.findings:
            if finding.code == error.code and (other.group == check.group or finding.message == error.message):
                return Outcome(skipped=f"{error.code}, as {other.name} has found")
    return Outcome(findings=(Finding(error.code, Level.FAIL, check.name, error.message, error.remedy),))


def _make(check: Check, situation: Situation, report: Report) -> Outcome:
    if check.needs_settings and situation.settings is None:
        return Outcome(skipped="the settings cannot be read without pydantic")
    lacking = [name for name in check.needs if name in situation.broken]
    if lacking:
        return Outcome(skipped=f"{lacking[0]} cannot be imported")
    try:
        return check.run(situation)
    except CadmllmError as error:
        return _stopped(check, error, report)
    except Exception as error:  # a check's own failure is a finding: the other checks still have something to say
        message = f"the check {check.name} failed: {type(error).__name__}: {error}"
        remedy = "report this with the output of: cadmllm doctor --json"
        return Outcome(findings=(Finding("E899", Level.FAIL, check.name, message, remedy),))
