"""Which save a run would be resumed from, and whether it would go on to the same numbers. Nothing is hashed or loaded."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cadmllm.doctor.check import Finding, Level, Situation
from cadmllm.doctor.headers import BadFile, read_header
from cadmllm.errors import CadmllmError

if TYPE_CHECKING:
    from cadmllm.train.curriculum import Stage

OF_FEATURES = ("features.", "data.draws")  # what only the store of features can say


@dataclass(frozen=True, slots=True)
class Resumable:
    """A save that is whole from outside: its folder, where it stands, and what was changed that alters rounding alone."""

    folder: Path
    step: int
    total: int
    notes: tuple[str, ...]


def find_save(situation: Situation, stage: Stage, findings: list[Finding]) -> Resumable:
    """The newest save of a stage that is whole, as `train.checkpoint.newest_save` chooses it, but by sizes and headers.

    Args:
        situation: whose settings the run would be resumed with.
        stage: that is resumed.
        findings: gets a warning for the saves that are passed over.

    Raises:
        CadmllmError: E604 when none is whole, E605 when it was made under other settings.
    """
    from cadmllm.console import Console
    from cadmllm.models.stages import STEPS
    from cadmllm.train import pointer

    steps = stage.folder / STEPS
    torn: list[str] = []
    for name, manifest in pointer.candidates(steps, Console(quiet=True)):
        reason, place = _look(steps / name, manifest)
        if reason:
            torn.append(f"{name} {reason}")
            continue
        if torn:
            findings.append(_passed_over(stage, steps / name, torn))
        return _compared(situation, stage, steps / name, place)
    raise CadmllmError(
        "E604",
        f"none of the saves in {steps} is whole: {'; '.join(torn[:3])}",
        f"train the stage anew: cadmllm train stage{stage.number} --overwrite",
    )


def _look(folder: Path, manifest: str | None) -> tuple[str, dict[str, Any]]:
    """(why a save is not whole, '' where it is; its state.json)."""
    from cadmllm.models.record import WEIGHTS
    from cadmllm.models.stages import MANIFEST, sha256, why_incomplete

    reason = why_incomplete(folder)
    if reason:
        return f"({reason.replace(f'{folder}/', '')})", {}
    if manifest is not None and sha256(folder / MANIFEST) != manifest:
        return "has another manifest than was noted", {}
    training = folder / "training"
    try:
        for path in (folder / WEIGHTS, training / "optimizer.safetensors"):
            read_header(path)
        place = json.loads((training / "state.json").read_text(encoding="utf-8"))
        step, total, saved = place["step"], place["total_steps"], place["fingerprint"]
    except BadFile as error:
        return f"({path.name}) {error}", {}
    except (OSError, ValueError, KeyError, TypeError):
        return "holds a model but no readable training state", {}
    good = isinstance(step, int) and isinstance(total, int) and isinstance(saved, dict)
    return ("" if good else "holds a training state of another kind"), place


def _passed_over(stage: Stage, good: Path, torn: list[str]) -> Finding:
    message = f"stage {stage.number} would be resumed from {good}, as newer saves are not whole: {'; '.join(torn[:3])}"
    remedy = f"put their files back from a copy; or go on from it: cadmllm train stage{stage.number} --resume"
    return Finding("E503", Level.WARN, "start", message, remedy)


def _compared(situation: Situation, stage: Stage, folder: Path, place: dict[str, Any]) -> Resumable:
    from cadmllm.train.sameness import check_fingerprint, fingerprint

    ids = _training_ids(situation, stage)
    now = fingerprint(situation.needed, stage.number, ids or ())
    saved = dict(place["fingerprint"])
    unknown = [] if ids is not None else [name for name in now if name.startswith("training ids")]
    if situation.needed.data.features is not None or any(name.startswith(OF_FEATURES[0]) for name in saved):
        unknown += [name for name in saved.keys() | now.keys() if name.startswith(OF_FEATURES)]
    for name in unknown:
        now.pop(name, None)
        saved.pop(name, None)
    changed = check_fingerprint(saved, now, str(folder))
    notes = tuple(f"changed since, which alters rounding alone: {text}" for text in changed)
    return Resumable(folder, place["step"], place["total_steps"], notes)


def _training_ids(situation: Situation, stage: Stage) -> Any:
    """The ids that the stage trains on, as `session.stage_data` chooses them; None when the data set cannot be opened."""
    from cadmllm.corpus.fit import longest_target

    if situation.needed.data.synthetic or "numpy" in situation.broken:
        return None
    try:
        train_ids, _ = situation.dataset.split()
    except CadmllmError:
        return None  # the checks of the data say why
    return situation.dataset.usable(train_ids, longest_target(situation.needed, stage.reached))[0]
