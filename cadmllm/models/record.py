"""`model.json` of a checkpoint: what it was trained on, and what a model must agree with to take its weights. No torch here."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cadmllm.corpus.types import ADDED
from cadmllm.errors import CadmllmError
from cadmllm.settings import Settings

WEIGHTS, RECORD = "model.safetensors", "model.json"
EXPORT_RECORD = "cadmllm.json"  # of an export, see `exported.py`
FORMAT = 1
# settings that a checkpoint was trained with and that its answers depend on, by the branch they belong to
OF_BRANCH = {
    "points": ("points_encoder", "point_tokens", "fourier_width"),
    "images": ("image_encoder", "image_tokens", "image_bridge"),
}
OF_RESAMPLER = ("resampler_layers", "resampler_width")  # of a branch that has one: its tensors tell
OLDER = {"image_bridge": "mlp", "point_sampling": "uniform"}  # what a model.json means that does not say it
BRANCH_STAGES = {"points": 2, "images": 3}


def vocabulary_hash() -> str:
    """Fingerprint (16 hex digits) of the added items and their order; part of every checkpoint."""
    return hashlib.sha256("\n".join(ADDED).encode()).hexdigest()[:16]


def read_record(folder: Path) -> dict[str, Any]:
    """`model.json` of a folder that `save_model` wrote.

    Raises:
        CadmllmError: E503 when it, or the weights beside it, are missing, or it is broken or of another format; E504 for an
            export, which is no checkpoint.
    """
    refuse_export(folder)
    for name in (RECORD, WEIGHTS):
        if not (folder / name).is_file():
            what = "has no " + name if folder.is_dir() else "is not there"
            raise incomplete(folder, what)
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise incomplete(folder, f"holds a broken {RECORD}") from error
    shape = {"format": int, "stage": int, "vocabulary": str, "base": dict, "lora": dict, "model": dict}
    if not isinstance(record, dict) or any(not isinstance(record.get(key), kind) for key, kind in shape.items()):
        raise incomplete(folder, f"holds a {RECORD} that is not one of a checkpoint")
    if record["format"] != FORMAT or record["stage"] not in (1, 2, 3) or "llm" not in record["model"]:
        raise incomplete(folder, f"holds a {RECORD} of another format ({record['format']})")
    return record


def refuse_export(folder: Path) -> None:
    """Raise E504 for an export: answers come from it, training starts from the checkpoint that it was made of."""
    if (folder / EXPORT_RECORD).is_file():
        raise CadmllmError(
            "E504",
            f"{folder} is an export (it has a {EXPORT_RECORD}), not a checkpoint that training can go on from",
            f"name the checkpoint that it was made of ('source' in {EXPORT_RECORD}): `cadmllm train STAGE --resume_from_ckpt D`;"
            f" to answer from it: `cadmllm infer --checkpoint {folder}`",
        )


def check_vocabulary(record: Mapping[str, Any], where: str) -> None:
    """Raise E504 when a checkpoint was trained with another CAD vocabulary."""
    if record["vocabulary"] != vocabulary_hash():
        raise unfit(
            where,
            f"it was trained with another CAD vocabulary ({record['vocabulary']}, now {vocabulary_hash()})",
            "train it again with this version of cadmllm, or use the version that made it",
        )


def check_base(record: Mapping[str, Any], found: Mapping[str, str], settings: Settings, where: str) -> None:
    """Refuse another base model than the one a checkpoint was trained on.

    Args:
        record: of `read_record`.
        found: the base's fingerprint ('config', 'tokenizer', 'weights'), or those parts of it that are known.
        settings: the base's name, and whether LoRA holds it as it was (else its weights are the checkpoint's own).
        where: the checkpoint, for the message.

    Raises:
        CadmllmError: E504.
    """
    for part in ("config", "tokenizer", "weights") if settings.lora.enabled else ("config", "tokenizer"):
        if part in found and found[part] != record["base"].get(part):
            was = record["model"]["llm"]
            other = "its files have changed since" if was == settings.model.llm else f"{settings.model.llm} is another base"
            raise unfit(
                where,
                f"it was trained on {was}, and {other} ({part})",
                f"name the base it was trained on: `--set model.llm=...` (was {was})",
            )


def check_settings(settings: Settings, record: Mapping[str, Any], names: Iterable[str], stage: int, where: str) -> None:
    """Refuse settings under which the tensors would fit but mean something else, or would not fit for a nameable reason.

    Args:
        settings: of the model that is to take the weights.
        record: of `read_record`.
        names: the checkpoint's tensors; a branch that it does not hold starts fresh and may be any.
        stage: of that model.
        where: the checkpoint, for the message.

    Raises:
        CadmllmError: E504 naming the first setting that differs.
    """
    names = set(names)
    held = {name.partition(".")[0] for name in names}
    pairs = [(f"lora.{name}", getattr(settings.lora, name), record["lora"].get(name)) for name in ("enabled", "r", "alpha")]
    if not settings.lora.enabled and record["lora"].get("enabled") is False:
        pairs = []
    for branch, keys in OF_BRANCH.items():
        if stage >= BRANCH_STAGES[branch] and branch in held:
            keys += OF_RESAMPLER if f"{branch}.projector.latents" in names else ()
            trained = OLDER | record["model"]
            pairs += [(f"model.{name}", getattr(settings.model, name), trained.get(name)) for name in keys]
    for name, now, then in pairs:
        if now != then and not (name == "model.image_encoder" and Path(str(now)).resolve() == Path(str(then))):
            raise unfit(
                where, f"it was trained with {name}={then}, and the setting is {now}", f"--set {name}={str(then).lower()}"
            )


def incomplete(folder: Path, what: str) -> CadmllmError:
    """E503: the folder is no whole checkpoint."""
    return CadmllmError(
        "E503",
        f"the checkpoint {folder} {what}",
        "name a complete checkpoint folder, or train that stage again: `cadmllm train stage1`",
    )


def unfit(where: str, reason: str, remedy: str = "") -> CadmllmError:
    """E504: the checkpoint is of another model."""
    default = "load it with the settings it was trained with (they stand in its model.json), or train from the stage before"
    return CadmllmError("E504", f"{where} does not fit this model: {reason}", remedy or default)
