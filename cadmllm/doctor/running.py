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
        outcome = _once(_make(check, situation), report)
        report.seconds[check.name] = time.perf_counter() - begun
        report.outcomes.append((check, outcome))
        if said is not None:
            said(check, outcome, report.seconds[check.name])
    return report


def _once(outcome: Outcome, report: Report) -> Outcome:
    """An outcome that only repeats what an earlier check has found (no data set) is left out, and that is said."""
    told = {(finding.code, finding.message): finding.check for finding in report.findings}
    repeated = [told.get((finding.code, finding.message)) for finding in outcome.findings]
    if not repeated or None in repeated:
        return outcome
    return Outcome(skipped=f"{outcome.findings[0].code}, as {repeated[0]} has found", details=outcome.details)


def _make(check: Check, situation: Situation) -> Outcome:
    if check.needs_settings and situation.settings is None:
        return Outcome(skipped="the settings cannot be read without pydantic")
    lacking = [name for name in check.needs if name in situation.broken]
    if lacking:
        return Outcome(skipped=f"{lacking[0]} cannot be imported")
    try:
        return check.run(situation)
    except CadmllmError as error:
        return Outcome(findings=(Finding(error.code, Level.FAIL, check.name, error.message, error.remedy),))
    except Exception as error:  # a check's own failure is a finding: the other checks still have something to say
        message = f"the check {check.name} failed: {type(error).__name__}: {error}"
        remedy = "report this with the output of: cadmllm doctor --json"
        return Outcome(findings=(Finding("E899", Level.FAIL, check.name, message, remedy),))
