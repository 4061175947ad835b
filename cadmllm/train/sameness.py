"""Whether a resumed run goes on to the same numbers: the settings that change them against those of the save. No torch."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from cadmllm.errors import CadmllmError
from cadmllm.settings import Settings

WHERE_MODEL_KEYS = ("points_checkpoint", "embedding_device")  # say where something lies, not what it computes
VALIDATION_KEYS = {"val_steps", "val_samples"}  # free unless they decide when a stage ends
FREE_TRAIN_KEYS = {"logging_steps", "save_steps", "save_total_limit", "judge_samples", "sample_steps", "samples"}
FREE_TRAIN_KEYS |= {"workers", "prefetch", "distributed"}
# how the same sums are computed: a resumed run may change it, to the same numbers but for rounding
_ROUNDING = ("packing", "pack_tokens", "gradient_checkpointing", "offload_activations", "compile")
ROUNDING_KEYS = {"model.attention", *(f"train.{name}" for name in _ROUNDING)}

# what a save means that was made before there was such a setting; None: nothing in it depended on it
_BEFORE: dict[str, object] = {"model.image_bridge": "mlp", "model.point_sampling": "uniform"}
_BEFORE |= {"model.resampler_layers": None, "model.resampler_width": None}


def fingerprint(
    settings: Settings, stage: int, ids: Sequence[str], features: Mapping[str, object] | None = None
) -> dict[str, object]:
    """Every setting that changes the numbers of a stage, flat, the training ids as (count, hash), the cached features."""
    dumped = settings.model_dump(mode="json")
    asked = settings.stages[stage].model_dump(mode="json")
    groups = {"model": dumped["model"], "lora": dumped["lora"], "train": dumped["train"], f"stages.{stage}": asked}
    for key in WHERE_MODEL_KEYS:
        del dumped["model"][key]
    flat: dict[str, object] = {"dtype": settings.dtype}
    free = FREE_TRAIN_KEYS if asked["patience"] else FREE_TRAIN_KEYS | VALIDATION_KEYS
    for group, values in groups.items():
        for key, value in values.items():
            if not (group == "train" and key in free):
                flat[f"{group}.{key}"] = value
    if settings.data.draws and stage > 1:  # stage 1 shows no cloud
        flat["data.draws"] = settings.data.draws
    flat |= features or {}
    flat["training ids"] = len(ids)
    flat["training ids (hash)"] = hashlib.sha256("\n".join(ids).encode()).hexdigest()[:16]
    return flat


def check_fingerprint(saved: dict[str, object], now: dict[str, object], where: str) -> list[str]:
    """Refuse to continue a run under settings that would give other numbers.

    Returns:
        What was changed that alters rounding alone (`ROUNDING_KEYS`), in words: a run that ran out of memory can go on.

    Raises:
        CadmllmError: E605 naming each difference.
    """
    saved = {key: now.get(key) if before is None else before for key, before in _BEFORE.items() if key in now} | saved
    keys = sorted(set(saved) | set(now))
    differ = {key: f"{key} was {saved.get(key)} and is {now.get(key)}" for key in keys if saved.get(key) != now.get(key)}
    changed = [text for key, text in differ.items() if key not in ROUNDING_KEYS]
    if changed:
        raise CadmllmError(
            "E605",
            f"{where} was made with other settings: {'; '.join(changed[:6])}",
            "resume with the settings it was started with, or train the stage anew: --overwrite, or --set run.dir=ANOTHER; "
            f"or start a new run from its weights: --resume_from_ckpt {where} --set run.dir=ANOTHER",
        )
    return list(differ.values())
