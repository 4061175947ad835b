"""All checks in their order, each on its own: one that raises is a finding, never a crash."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cadmllm.doctor.check import Check, Finding, Level, Outcome, Report, Situation
from cadmllm.doctor.data import check_data, check_start
from cadmllm.doctor.disk import check_disk
from cadmllm.doctor.environment import check_drives, check_environment, check_memory, check_python, check_wandb
from cadmllm.doctor.features import check_features
from cadmllm.doctor.gpu import check_gpu
from cadmllm.doctor.model import check_base, check_image, check_points
from cadmllm.doctor.packages import check_packages
from cadmllm.errors import CadmllmError

CHECKS: tuple[Check, ...] = (
    Check("python", "Python is one that cadmllm is tested with", ("E801",), check_python, needs_settings=False),
    Check("environment", "where the packages live, the system, its cores", (), check_environment, needs_settings=False),
    Check("memory", "there is enough main memory to start at all", ("E814",), check_memory, needs_settings=False),
    Check(
        "packages",
        "every required package is installed in its range and imports",
        ("E802", "E803", "E804"),
        check_packages,
        needs_settings=False,
    ),
    Check(
        "gpu",
        "there is a GPU where one is needed, torch can use it, the weights fit",
        ("E811", "E812", "E813"),
        check_gpu,
    ),
    Check("base-model", "the language model's files are here and whole", ("E501",), check_base),
    Check("points-encoder", "the frozen point encoder's checkpoint is here and is one", ("E502",), check_points),
    Check("image-encoder", "the image encoder's files are here and whole", ("E502",), check_image),
    Check("start", "the first stage has a checkpoint to start from, no run is in the way", ("E503", "E601", "E605"), check_start),
    Check(
        "data",
        "the data set can be read and has what the stages show",
        ("E401", "E402", "E403", "E406", "E407"),
        check_data,
        needs=("numpy",),
    ),
    Check(
        "features",
        "cached features are those of these encoders and files, where training uses any",
        ("E470", "E471", "E472"),
        check_features,
        needs=("numpy", "torch"),
    ),
    Check("drives", "under WSL, data and checkpoints are not on a Windows drive", ("E832",), check_drives),
    Check("wandb", "wandb is logged in where it is to be used online", ("E841",), check_wandb),
    Check("disk", "there is room for the checkpoints, and the folder takes them", ("E821", "E822"), check_disk),
)


def run_checks(
    situation: Situation, said: Callable[[Check, Outcome], None] | None = None, checks: Sequence[Check] = CHECKS
) -> Report:
    """Runs the checks in order.

    Args:
        situation: what they look at; `packages` notes there what later checks have to do without.
        said: told of every outcome as soon as it is known.
        checks: which; all by default.
    """
    report = Report()
    for check in checks:
        outcome = _run(check, situation)
        report.outcomes.append((check, outcome))
        if said is not None:
            said(check, outcome)
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
