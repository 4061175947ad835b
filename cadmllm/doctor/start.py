"""Where the first stage starts from: a checkpoint that is whole and fits, or a save that can be resumed; no run is in the way."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from cadmllm.doctor.cache import file_key
from cadmllm.doctor.check import Check, Finding, Level, Outcome, Situation
from cadmllm.doctor.fitting import check_fit
from cadmllm.doctor.resuming import find_save
from cadmllm.errors import CadmllmError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cadmllm.train.curriculum import Stage, Start

NAME = "start"
RECORD = "model.json"  # every checkpoint of ours has one


def check_start(situation: Situation) -> Outcome:
    """The first stage has a checkpoint to start from that its model can take, and no other run is in the way.

    What `train` refuses is found by train's own functions; a folder that is taken is a warning here, as nobody has said yet
    whether to resume it or to throw it away.

    Raises:
        CadmllmError: E105 for stages that cannot be planned.
    """
    from cadmllm.train.curriculum import plan_stages
    from cadmllm.train.guards import check_run_folder

    intent = situation.intent
    stages = plan_stages(situation.needed, situation.stages)
    try:
        check_run_folder(stages, intent.resume, intent.overwrite)
    except CadmllmError as error:
        level = Level.WARN if error.code == "E605" else Level.FAIL
        taken = Finding(error.code, level, NAME, error.message, error.remedy)
        if level is Level.FAIL:
            return Outcome(findings=(taken,))
        begun = _begin(situation, stages, 0)
        return Outcome(begun.summary, (taken, *begun.findings), details=begun.details)
    return _resume(situation, stages) if intent.resume else _begin(situation, stages, 0)


def _begin(situation: Situation, stages: Sequence[Stage], index: int) -> Outcome:
    """A stage from its first step."""
    settings, stage = situation.needed, stages[index]
    try:
        start = start_of(situation, stages, index)
        if start.checkpoint is not None:
            check_fit(situation, start.checkpoint, stage.number)
    except CadmllmError as error:
        missing = error.code in ("E503", "E505", "E601")
        hint, why = (_instead(situation, stage), _more(situation, stage)) if missing else ("", "")
        return Outcome(findings=(Finding(error.code, Level.FAIL, NAME, f"{error.message}{why}", f"{hint}{error.remedy}"),))
    source = start.checkpoint or f"the base model {settings.model.llm}"
    details = ("it is whole (names and sizes; --deep hashes it), made with this base, tokenizer and settings",)
    summary = f"stage {stage.number} starts from {source} ({start.reason})"
    return Outcome(summary, details=details if start.checkpoint else ())


def start_of(situation: Situation, stages: Sequence[Stage], index: int) -> Start:
    """`curriculum.starting_point`, without hashing a checkpoint that `run.init_from` names and whose sizes are right.

    Raises:
        CadmllmError: E601, E503.
    """
    from cadmllm.models.stages import is_complete
    from cadmllm.train.curriculum import Start, starting_point

    settings = situation.needed
    given = settings.run.init_from
    if index == 0 and given is not None and is_complete(given):
        return Start(given, "run.init_from")
    start = starting_point(settings, stages, index, situation.intent.from_scratch)
    if start.checkpoint is not None and not is_complete(start.checkpoint):
        _raise_torn(start.checkpoint)
    return start


def _raise_torn(folder: Path) -> None:
    from cadmllm.models.stages import verify

    verify(folder)


def _instead(situation: Situation, stage: Stage) -> str:
    """Another checkpoint that would do: a whole stage before this one in the run's folder or where checkpoints usually lie."""
    from cadmllm.models.stages import is_complete, stage_folder

    given = situation.needed.run.init_from
    for place in (situation.needed.run.dir, Path("checkpoints"), *([given.parent] if given else [])):
        for number in range(stage.number - 1, 0, -1):
            folder = stage_folder(place, number)
            if folder != given and is_complete(folder):
                quoted = shlex.quote(str(folder))
                return f"{folder} is whole: cadmllm train stage{stage.number} --resume_from_ckpt {quoted}; or "
    return ""


def _more(situation: Situation, stage: Stage) -> str:
    """What more can be said of the folder that was named, or of the stage's before: whose files it holds, what is torn."""
    from cadmllm.models.stages import MANIFEST, STEPS, is_complete, stage_folder, why_incomplete

    folder = situation.needed.run.init_from or stage_folder(situation.needed.run.dir, max(1, stage.number - 1))
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    ours = {RECORD, MANIFEST, STEPS} & set(names)
    shown = [name for name in names if not name.startswith(".")][:3]
    if shown and not ours:
        return f"; it holds {', '.join(shown)}: made by another program, whose weights cannot be taken"
    torn = MANIFEST in ours and situation.needed.run.init_from is None
    return f": {why_incomplete(folder)}" if torn and not is_complete(folder) else ""


def _resume(situation: Situation, stages: Sequence[Stage]) -> Outcome:
    """The first stage that is not complete goes on from its newest whole save."""
    from cadmllm.models.stages import is_complete
    from cadmllm.train.guards import has_saves

    done: list[str] = []
    for index, stage in enumerate(stages):
        if is_complete(stage.folder):
            done.append(f"stage {stage.number} is complete in {stage.folder}: passed over")
            continue
        if not has_saves(stage):
            begun = _begin(situation, stages, index)
            return Outcome(begun.summary, begun.findings, details=(*done, *begun.details))
        findings: list[Finding] = []
        try:
            save = find_save(situation, stage, findings)
            check_fit(situation, save.folder, stage.number)
        except CadmllmError as error:
            findings.append(Finding(error.code, Level.FAIL, NAME, error.message, error.remedy))
            return Outcome(findings=tuple(findings), details=tuple(done))
        summary = f"stage {stage.number} goes on after step {save.step} of {save.total} ({save.folder})"
        return Outcome(summary, tuple(findings), details=(*done, *save.notes))
    return Outcome("every stage is complete: nothing is left to train", details=tuple(done))


def check_contents(situation: Situation) -> Outcome:
    """Every byte of the checkpoint that the first stage starts from is as it was saved.

    Raises:
        CadmllmError: E503, E601, which the runner makes a finding of.
    """
    from cadmllm.models.stages import MANIFEST, verify
    from cadmllm.train.curriculum import plan_stages
    from cadmllm.train.guards import has_saves

    stages = plan_stages(situation.needed, situation.stages)
    if situation.intent.resume and has_saves(stages[0]):
        folder = find_save(situation, stages[0], []).folder
    else:
        folder = start_of(situation, stages, 0).checkpoint
    if folder is None:
        return Outcome(skipped=f"stage {stages[0].number} starts from the base model")
    key = sorted(file_key(path) for path in folder.rglob("*") if path.is_file())
    if situation.cache.get("contents", *key) is None:
        verify(folder)
        situation.cache.put("contents", *key, answer=True)
    return Outcome(f"{folder}: every file has the SHA-256 that {MANIFEST} notes")


CHECKS = (
    Check(
        NAME,
        "the first stage has a whole checkpoint to start from that fits, no run is in the way",
        ("E105", "E503", "E504", "E505", "E601", "E604", "E605"),
        check_start,
        group="checkpoints",
        cached_by="the base's files (sizes, times): the mark by which a checkpoint recognises it",
    ),
    Check(
        "start-contents",
        "every byte of that checkpoint is as it was saved",
        ("E503", "E601", "E604", "E605"),
        check_contents,
        group="checkpoints",
        deep=True,
        cached_by="its files' sizes and times: that their SHA-256 are right",
    ),
)
