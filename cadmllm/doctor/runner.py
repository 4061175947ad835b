"""All checks in their order."""

from __future__ import annotations

import difflib
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
from cadmllm.doctor.check import Check, Outcome, Report, Situation
from cadmllm.doctor.running import make_checks
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
        only, skip: names of checks or of groups; a deep check that is named in `only`, or a group of nothing else, is made
            without `deep`, too.
        deep: the proofs as well.

    Raises:
        CadmllmError: E106 for a name that is neither, E105 when nothing is left.
    """
    known = {check.name for check in CHECKS} | set(GROUPS)
    for name in (*only, *skip):
        if name not in known:
            near = difflib.get_close_matches(name, sorted(known), 1)
            remedy = f"{f'did you mean {near[0]}? ' if near else ''}They are listed by: cadmllm doctor --list"
            raise CadmllmError("E106", f"there is no check {name!r}", remedy, exit_code=Exit.USAGE)

    def wanted(check: Check) -> bool:
        asked = not only or check.name in only or check.group in only
        meant = deep or not check.deep or check.name in only or (check.group in only and check.group not in mixed)
        return asked and meant and check.name not in skip and check.group not in skip

    mixed = {check.group for check in CHECKS if not check.deep}  # of these the quick ones are meant, without `deep`
    found = tuple(check for check in CHECKS if wanted(check))
    if not found:
        raise CadmllmError("E105", "--only and --skip leave no check to make", "leave one of them out", exit_code=Exit.USAGE)
    return found


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
    return make_checks(situation, chosen() if checks is None else checks, said, strict=strict)
