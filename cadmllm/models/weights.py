"""Everything that was trained, to a folder and back: nothing of it is lost, and nothing is silently left as it was.

`model.safetensors` holds LoRA (or, without it, the whole language model), the added rows, projectors and trained encoders, under
names that do not depend on peft. `model.json` says what it was trained on: base, vocabulary, LoRA and model settings.
Frozen parts are not copied; they are loaded again from where they came, and the base is recognised by its fingerprint.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import Parameter

from cadmllm.errors import CadmllmError
from cadmllm.models.fusion import CadMLLM, build_model
from cadmllm.models.record import (
    FORMAT,
    OF_BRANCH,
    OF_RESAMPLER,
    OLDER,
    RECORD,
    WEIGHTS,
    check_base,
    check_settings,
    check_vocabulary,
    incomplete,
    read_record,
    unfit,
    vocabulary_hash,
)
from cadmllm.settings import Settings


def trained_state(model: CadMLLM) -> dict[str, Tensor]:
    """Every trained tensor by its name in a checkpoint, detached, not copied."""
    return {name: parameter.detach() for name, parameter in _trained(model).items()}


def _trained(model: CadMLLM) -> dict[str, Parameter]:
    """By what a part is, not by `requires_grad`, which a stage or an inference may have switched off."""
    chosen = {}
    lora = model.settings.lora.enabled
    branches = {"points": model.points, "images": model.images}
    frozen = tuple(f"{name}.encoder." for name, branch in branches.items() if branch is not None and branch.frozen)
    for name, parameter in model.named_parameters():
        if name.startswith("llm.") and lora and "lora_" not in name:
            continue
        if not name.startswith(frozen):
            chosen[name.replace("llm.base_model.model.", "llm.").replace(".default.", ".")] = parameter
    return chosen


def load_trained(model: CadMLLM, state: Mapping[str, Tensor], where: str = "checkpoint") -> list[str]:
    """Copy a trained state into a model.

    A branch (points, images) of which the state holds nothing at all keeps its fresh start.

    Returns:
        The parts left fresh, e.g. ['points.encoder', 'points.projector'].

    Raises:
        CadmllmError: E504 naming the tensor that is missing, unexpected or of another shape; the model is then unchanged.
    """
    wanted = _trained(model)
    absent = tuple(f"{branch}." for branch in OF_BRANCH if not any(name.startswith(f"{branch}.") for name in state))
    fresh = {".".join(name.split(".")[:2]) for name in wanted if name.startswith(absent)} if absent else set()
    for name in sorted(wanted.keys() | state.keys()):
        if name not in state:
            if name.startswith(absent) and absent:
                continue
            raise unfit(where, f"it lacks {name}, which this model trains")
        if name not in wanted:
            raise unfit(where, f"it holds {name}, which this model does not have")
        if state[name].shape != wanted[name].shape:
            raise unfit(where, f"{name} has shape {tuple(state[name].shape)}, and {tuple(wanted[name].shape)} here")
    with torch.no_grad():
        for name, value in state.items():
            wanted[name].copy_(value)
    return sorted(fresh)


def save_model(model: CadMLLM, folder: Path, meta: Mapping[str, object]) -> None:
    """Write `model.safetensors` and `model.json` into `folder` (made if need be), each aside and then renamed.

    Args:
        model: of any stage; parts trained in earlier stages go along.
        folder: the checkpoint folder.
        meta: what the caller wants to keep beside (step, loss, ...), under 'meta'.
    """
    write_model(folder, trained_state(model), model_record(model), meta)


def model_record(model: CadMLLM) -> dict[str, object]:
    """`model.json` but for its 'meta': what the weights were trained on and under which settings."""
    settings = model.settings
    kept = settings.model.model_dump(mode="json")
    for name in ("llm", "image_encoder"):  # a relative folder would depend on where the next command is run
        local = Path(kept[name]).expanduser()
        kept[name] = str(local.resolve()) if kept[name] != "tiny" and local.is_dir() else kept[name]
    return {
        "format": FORMAT,
        "stage": model.stage,
        "vocabulary": vocabulary_hash(),
        "base": model.fingerprint,
        "lora": settings.lora.model_dump(mode="json"),
        "model": kept,
    }


def write_model(folder: Path, weights: Mapping[str, Tensor], record: Mapping[str, object], meta: Mapping[str, object]) -> None:
    """The two files of `save_model` from tensors that are already at hand (gathered from several GPUs, for instance)."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: value.to("cpu").contiguous() for name, value in weights.items()}
    whole = {**record, "parameters": sum(value.numel() for value in tensors.values()), "meta": dict(meta)}
    beside, aside = folder / f".{RECORD}", folder / f".{WEIGHTS}"
    beside.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    save_file(tensors, aside, {"format": "pt"})  # two entries would stand in either order: the same weights, the same file
    shutil.copymode(beside, aside)  # safetensors lets nobody else read what it writes
    os.replace(aside, folder / WEIGHTS)
    os.replace(beside, folder / RECORD)


def load_model(
    folder: Path, settings: Settings, stage: int | None = None, cached: Mapping[str, tuple[int, int]] | None = None
) -> CadMLLM:
    """The model that a folder holds.

    Args:
        folder: written by `save_model`.
        settings: resolved.
        stage: None: the stage it was saved in, with the LoRA and model settings it was trained with; of `settings.model` only
            where files lie and how to run count (checkpoint of Michelangelo, attention, quantization, devices), and `llm` when
            the base is not where it was. A number: a model of that stage under `settings`, which must agree with the
            checkpoint; parts it does not hold yet start fresh and are named in `model.fresh`.
        cached: as for `build_model`: whose frozen encoders are not loaded.

    Raises:
        CadmllmError: E503 when a file is missing or broken; E504 when it does not fit; E501, E502 from its parts.
    """
    folder = Path(folder)
    record, state = _read(folder)
    check_vocabulary(record, str(folder))
    if stage is None:
        settings = recorded(settings, record)
    else:
        check_settings(settings, record, state, stage, str(folder))
    model = build_model(settings, record["stage"] if stage is None else stage, cached=cached)
    check_base(record, model.fingerprint, settings, str(folder))
    model.fresh = load_trained(model, state, str(folder))
    return model


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    record = read_record(folder)
    try:
        return record, load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise incomplete(folder, f"holds a broken {WEIGHTS}") from error


def recorded(settings: Settings, record: Mapping[str, Any]) -> Settings:
    """The settings with what the checkpoint was trained with put in."""
    chosen = settings.model_copy(deep=True)
    of_branches = [key for keys in OF_BRANCH.values() for key in keys]
    held = OLDER | record["model"]
    trained = ["llm", "point_count", "point_sampling", "image_views", "train_encoders", *of_branches]
    trained += [name for name in OF_RESAMPLER if name in held]  # a checkpoint from before there were any has none
    try:
        for name in trained:
            value = held[name]
            gone = name in ("llm", "image_encoder") and Path(value).is_absolute() and not Path(value).is_dir()
            if not gone:
                setattr(chosen.model, name, value)
        for name, value in record["lora"].items():
            setattr(chosen.lora, name, value)
    except (KeyError, ValueError, TypeError) as error:
        raise CadmllmError(
            "E504",
            f"{RECORD} of the checkpoint holds settings that this version does not know ({str(error).splitlines()[0]})",
            "use the version of cadmllm that made the checkpoint",
        ) from error
    return chosen
