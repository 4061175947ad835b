"""What a save holds beside tensors: settings, curriculum, data, environment, figures and a model card, each a file for people.

settings.json            every setting of the run; origins.json where each that is no default came from
curriculum.json          the stages, the place in this one, what was shown so far, the state of what steers it
data.json                what was trained on: how many ids, their hash, the fingerprint of the data set's index
environment.json         versions, system, device
training_metadata.json   the figures
README.md                the model card (`card`)
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from cadmllm import __version__
from cadmllm.console import jsonable
from cadmllm.models.stages import STAGE_NAMES, is_complete, stage_folder
from cadmllm.models.weights import model_record, trained_state
from cadmllm.train.card import model_card
from cadmllm.train.checkpoint import Snapshot
from cadmllm.train.environment import environment
from cadmllm.train.state import optimizer_tensors

if TYPE_CHECKING:
    from torch import Tensor

    from cadmllm.corpus.roster import Ids
    from cadmllm.settings import Settings
    from cadmllm.train.session import Session


def snapshot(
    session: Session,
    meta: Mapping[str, Any],
    step: int,
    *,
    training: bool = True,
    states: Mapping[str, object] | None = None,
    origins: Mapping[str, object] | None = None,
    full: Callable[[Tensor], Tensor] = lambda tensor: tensor,
) -> Snapshot:
    """Everything a save after `step` steps holds.

    Args:
        session: the stage that is trained.
        meta: from `metadata`.
        step: optimizer steps done.
        training: with the optimizer's state, which a finished stage does not need.
        states: JSON state of what steers the stage (patience, adaptive rates, vigil), for curriculum.json.
        origins: dotted key -> where the value came from (`resolve.Resolved.origins`).
        full: gathers a tensor of several processes (`World.kept`); every process of a run has to call this function then.
    """
    weights = {name: full(value) for name, value in trained_state(session.model).items()}
    return Snapshot(
        weights=weights,
        record=model_record(session.model),
        meta=meta,
        texts=texts(session, meta, states=states, origins=origins),
        tokenizer=session.model.tokenizer,
        place=session.place(step),
        optimizer=optimizer_tensors(session.engine.optimizer, session.infos, full) if training else {},
    )


def texts(
    session: Session,
    meta: Mapping[str, Any],
    *,
    states: Mapping[str, object] | None = None,
    origins: Mapping[str, object] | None = None,
) -> dict[str, str]:
    """File name -> content of every text file of a save. Arguments as for `snapshot`."""
    facts = environment(session.engine.device)
    data = data_facts(session)
    files: dict[str, object] = {
        "settings.json": session.settings.model_dump(mode="json", by_alias=True),
        "curriculum.json": curriculum(session, meta, states or {}),
        "data.json": data,
        "environment.json": facts,
        "training_metadata.json": dict(meta),
    }
    given = {key: str(origin) for key, origin in (origins or {}).items() if str(origin) != "default"}
    if given:
        files["origins.json"] = given
    written = {name: json.dumps(jsonable(content), indent=1, allow_nan=False) + "\n" for name, content in files.items()}
    written["README.md"] = model_card(session.settings, session.stage, meta, data, facts)
    return written


def metadata(session: Session, step: int, figures: Mapping[str, Any]) -> dict[str, Any]:
    """`training_metadata.json`: what was trained, from what, on what, to what.

    Args:
        session: the stage that is trained.
        step: optimizer steps done.
        figures: 'loss_begin', 'loss_end', 'seconds', 'supervised_tokens', and where they are known 'shown' {combination:
            samples}, 'val_loss' {combination: loss}, 'judged' {name: share}.
    """
    import torch

    return {
        "stage": session.stage.number,
        "name": session.stage.name,
        "step": step,
        "total_steps": session.windows.total,
        "epochs": session.stage.epochs,
        "started_from": _started_from(session),
        "base": session.settings.model.llm,
        "samples": len(session.data.train_ids),
        "left_out": dict(Counter(problem.code for problem in session.data.left_out)),
        "probabilities": session.stage.probabilities,
        "probabilities_end": session.stage.probabilities_end,
        "cached_features": session.cached.as_dict() if session.cached else None,
        "groups": [
            {
                "component": info.component,
                "branch": info.branch,
                "parameters": info.parameters,
                "lr": info.lr,
                "weight_decay": info.weight_decay,
            }
            for info in session.infos
        ],
        **figures,
        "made_with": {"cadmllm": __version__, "torch": torch.__version__, "python": platform.python_version()},
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _started_from(session: Session) -> str | None:
    """The checkpoint whose weights the stage began with, over any number of resumes; None for the base model."""
    start = session.start
    if start.resumed:
        return start.began
    return str(start.checkpoint) if start.checkpoint else None


def curriculum(session: Session, meta: Mapping[str, Any], states: Mapping[str, object]) -> dict[str, Any]:
    """`curriculum.json`: where in the curriculum the save stands."""
    stage, settings, step = session.stage, session.settings, meta["step"]
    per_epoch = session.windows.steps_per_epoch
    return {
        "stage": stage.number,
        "name": stage.name,
        "step": step,
        "total_steps": session.windows.total,
        "epoch": step / per_epoch,
        "epochs": stage.epochs,
        "step_in_epoch": step % per_epoch,
        "steps_per_epoch": per_epoch,
        "seed": settings.train.seed,
        "probabilities": stage.probabilities_at(step / max(1, session.windows.total - 1)),
        "shown": dict(meta.get("shown", {})),
        "states": dict(states),
        "stages": [_planned(settings, number, stage.number) for number in STAGE_NAMES],
    }


def _planned(settings: Settings, number: int, current: int) -> dict[str, Any]:
    asked = settings.stages[number]
    if number == current:
        state = "this one"
    elif is_complete(stage_folder(settings.run.dir, number)):
        state = "finished"
    else:
        state = "to come" if asked.epochs else "skipped"
    return {"number": number, "name": STAGE_NAMES[number], "state": state, **asked.model_dump(mode="json")}


def data_facts(session: Session) -> dict[str, Any]:
    """`data.json`: what was trained on and what was held out."""
    data, settings = session.data, session.settings
    return {
        "root": str(settings.data.root),
        "synthetic": settings.data.synthetic,
        "index_sha256": session.dataset.fingerprint(),
        "ids": len(session.dataset),
        "found": dict(session.dataset.counts),
        "train": {"ids": len(data.train_ids), "sha256": ids_hash(data.train_ids)},
        "held_out": {"ids": len(data.val_ids), "sha256": ids_hash(data.val_ids)},
        "left_out": dict(Counter(problem.code for problem in data.left_out)),
        "modalities": session.dataset.modality_counts(data.train_ids),
        "cached_features": session.cached.as_dict() if session.cached else None,
    }


def ids_hash(ids: Ids) -> str:
    """SHA-256 of a list of ids, one a line, 64 hexadecimal digits."""
    return hashlib.sha256(b"\n".join(ids.names.tolist())).hexdigest()
