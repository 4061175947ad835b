"""All checks in their order, each on its own: one that raises is a finding, never a crash."""

from __future__ import annotations

import difflib
import time
from collections.abc import Callable, Sequence

from cadmllm.doctor import (
    checkpoints,
    data,
    datafiles,
    disk,
    features,
    fit,
    gpu,
    growing,
    load,
    logging,
    numerics,
    packages,
    proofs,
    sequences,
    since,
    start,
    system,
    torchbuild,
)
from cadmllm.doctor.check import Check, Finding, Level, Outcome, Report, Situation
from cadmllm.errors import CadmllmError, Exit

GROUPS = ("system", "packages", "gpu", "checkpoints", "data", "disk", "logging", "plan", "proofs")
CHECKS: tuple[Check, ...] = (
    *system.CHECKS,
    *packages.CHECKS,
    *gpu.CHECKS,
    *torchbuild.CHECKS,
    *load.CHECKS,
    *numerics.CHECKS,
    *checkpoints.CHECKS,
    *start.CHECKS,
    *data.CHECKS,
    *sequences.CHECKS,
    *features.CHECKS,
    *datafiles.CHECKS,
    *system.LATER,
    *logging.CHECKS,
    *disk.CHECKS,
    *fit.CHECKS,
    *growing.CHECKS,
    *since.CHECKS,
    *proofs.CHECKS,
)


def chosen(only: Sequence[str] = (), skip: Sequence[str] = (), deep: bool = False) -> tuple[Check, ...]:
    """The checks to make.

    Args:
        only, skip: names of checks or of groups; a deep check that is named in `only` is made without `deep`, too.
        deep: the proofs as well.

    Raises:
        CadmllmError: E106 for a name that is neither.
    """
    known = {check.name for check in CHECKS} | set(GROUPS)
    for name in (*only, *skip):
        if name not in known:
            near = difflib.get_close_matches(name, sorted(known), 1)
            hint = f"--only {near[0]}; " if near else ""
            raise CadmllmError(
                "E106", f"there is no check {name!r}", f"{hint}they are listed by: cadmllm doctor --list", exit_code=Exit.USAGE
            )

    def wanted(check: Check) -> bool:
        asked = not only or check.name in only or check.group in only
        return asked and check.name not in skip and check.group not in skip and (deep or not check.deep or check.name in only)

    return tuple(check for check in CHECKS if wanted(check))


def run_checks(
    situation: Situation,
    said: Callable[[Check, Outcome, float], None] | None = None,
    checks: Sequence[Check] | None = None,
    *,
    strict: bool = False,
) -> Report:
    """Runs the checks in order.

    Args:
        situation: what they look at; `packages` notes there what later checks have to do without.
        said: told of every outcome, and the seconds it took, as soon as it is known.
        checks: which; all quick ones by default.
        strict: warnings keep from being ready, too.
    """
    report = Report(plan=situation.plan, strict=strict)
    for check in chosen() if checks is None else checks:
        begun = time.perf_counter()
        outcome = _run(check, situation)
        report.seconds[check.name] = time.perf_counter() - begun
        report.outcomes.append((check, outcome))
        if said is not None:
            said(check, outcome, report.seconds[check.name])
    return report


def _run(check: Check, situation: Situation) -> Outcome:
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
