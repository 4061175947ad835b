"""Every stage has a checkpoint to start from, and no other run is in the way."""

from __future__ import annotations

from cadmllm.doctor.check import Check, Finding, Level, Outcome, Situation


def check_start(situation: Situation) -> Outcome:
    """The first stage has its predecessor's checkpoint, and no other run is in the way.

    Raises:
        CadmllmError: E503, E601, E105, which the runner makes a finding of.
    """
    from cadmllm.models.stages import is_complete
    from cadmllm.train.curriculum import plan_stages, starting_point

    settings = situation.needed
    stages = plan_stages(settings, situation.stages)
    start = starting_point(settings, stages, 0, from_scratch=situation.intent.from_scratch)
    findings = []
    taken = [stage for stage in stages if stage.folder.is_dir() and any(stage.folder.iterdir())]
    if taken:
        state = "a finished stage" if is_complete(taken[0].folder) else "an unfinished run"
        names = " ".join(f"stage{stage.number}" for stage in stages)
        remedy = f"continue it: cadmllm train {names} --resume; train elsewhere: --output_dir DIR; or throw it away: --overwrite"
        findings.append(Finding("E605", Level.WARN, "start", f"{taken[0].folder} already holds {state}", remedy))
    source = start.checkpoint or f"the base model {settings.model.llm}"
    return Outcome(f"stage {stages[0].number} starts from {source} ({start.reason})", tuple(findings))


CHECKS = (
    Check(
        "start",
        "the first stage has a checkpoint to start from, no run is in the way",
        ("E503", "E601", "E605"),
        check_start,
        group="checkpoints",
    ),
)
