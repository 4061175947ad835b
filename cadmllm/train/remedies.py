"""What to do about what `watch` and `vigil` see: commands made of today's settings."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping

from cadmllm.settings import Settings, TrainSettings
from cadmllm.train.sameness import ROUNDING_KEYS

MORE_TEXT = 0.2  # added to the share of text-only samples when text-only ability fades
MOST_TEXT = 0.9  # beyond it the stage would hardly show what it is there for
WORKERS = 8  # more loader processes than this have never been the answer


def again(stage: int, *assignments: str) -> str:
    """The command that trains a stage anew, from the checkpoint of the stage before, with other settings ('train.clip=0.5')."""
    return f"cadmllm train stage{stage} --overwrite {sets(*assignments)}"


def going_on(*assignments: str) -> str:
    """How a run goes on with other settings: resumed where they change rounding alone, else from the stage's beginning."""
    free = all(text.partition("=")[0] in ROUNDING_KEYS for text in assignments)
    how = "Ctrl-C, then your command with --resume" if free else "the stage anew: your command with --overwrite"
    return f"{how} {sets(*assignments)}"


def sets(*assignments: str) -> str:
    """Assignments as options."""
    return " ".join(f"--set {text}" for text in assignments)


def smaller_micro_batches(train: TrainSettings) -> tuple[str, ...]:
    """Assignments under which a micro-batch takes about half the memory, the samples of a step being the same."""
    if train.packing:
        tokens = train.pack_tokens or train.batch_size * train.max_seq_length
        if tokens > train.max_seq_length:
            return (f"train.pack_tokens={max(train.max_seq_length, tokens // 2)}",)
    elif train.batch_size > 1:
        half = train.batch_size // 2
        return (f"train.batch_size={half}", f"train.accumulation={-(-train.batch_size * train.accumulation // half)}")
    if not train.gradient_checkpointing:
        return ("train.gradient_checkpointing=true",)
    if not train.offload_activations:
        return ("train.offload_activations=true",)
    return (f"train.max_seq_length={max(32, train.max_seq_length // 2)}",)


def larger_micro_batches(train: TrainSettings) -> tuple[str, ...]:
    """Assignments under which a micro-batch holds twice as many tokens."""
    if train.packing:
        return (f"train.pack_tokens={2 * (train.pack_tokens or train.batch_size * train.max_seq_length)}",)
    return (f"train.batch_size={2 * train.batch_size}", f"train.accumulation={max(1, train.accumulation // 2)}")


def faster_loading(train: TrainSettings, cores: int | None = None) -> str:
    """More loader processes (free on --resume); where there are enough, the other ways."""
    wanted = min(WORKERS, max(2, (cores or os.cpu_count() or 2) - 1))
    if train.workers < wanted:
        return f"Ctrl-C, then your command with --resume --set train.workers={wanted}"
    return (
        "run the frozen encoders once (cadmllm data encode ROOT --out DIR, then --set data.features=DIR), "
        "and keep the data on this system's own disk, not under /mnt (cadmllm doctor tells)"
    )


def make_it_fall(settings: Settings, stage: int) -> str:
    """The curriculum document's ways out when the loss of stage 2 or 3 does not fall, each as a command."""
    train, asked = settings.train, settings.stages[stage]
    faster = again(stage, f"train.projector_lr_multiplier={2 * train.projector_lr_multiplier:g}")
    lower = again(stage, f"stages.{stage}.lr={asked.lr / 2:g}")
    if train.max_steps:
        longer = again(stage, f"train.max_steps={2 * train.max_steps}")
    else:
        longer = again(stage, f"stages.{stage}.epochs={2 * asked.epochs}")
    return (
        "one at a time, your other options as before: projectors that catch up faster, "
        f"{faster}; or smaller steps, {lower}; or more time, {longer}"
    )


def keep_text(settings: Settings, stage: int) -> str:
    """The curriculum document's ways out when text-only ability fades, each as a command."""
    asked = settings.stages[stage]
    tables = {"probabilities": asked.probabilities, "probabilities_end": asked.probabilities_end}
    changed = [f"'stages.{stage}.{key}={_toml(more_text(shares))}'" for key, shares in tables.items() if shares]
    epochs = max(1, 2 * settings.stages[1].epochs)
    longer = f"a longer stage 1, cadmllm train stage1 stage{stage} --overwrite --set stages.1.epochs={epochs}"
    if min(shares.get("text", 0.0) for shares in tables.values() if shares) >= MOST_TEXT:
        return f"your other options as before: {longer}; or a lower rate, {again(stage, f'stages.{stage}.lr={asked.lr / 2:g}')}"
    return f"one at a time, your other options as before: more text alone, {again(stage, *changed)}; or {longer}"


def more_text(shares: Mapping[str, float]) -> dict[str, float]:
    """The shares of a stage, text alone raised by `MORE_TEXT` (to `MOST_TEXT` at most), the others scaled to a sum of 1."""
    text = shares.get("text", 0.0)
    raised = round(min(max(text, MOST_TEXT), text + MORE_TEXT), 4)
    others = {name: share for name, share in shares.items() if name != "text"}
    rest = sum(others.values())
    if not rest:
        return dict(shares)
    scaled = {name: round(share * (1.0 - raised) / rest, 4) for name, share in others.items()}
    largest = max(scaled, key=scaled.__getitem__)
    scaled[largest] = round(1.0 - raised - sum(share for name, share in scaled.items() if name != largest), 4)
    return {"text": raised, **scaled}


def _toml(shares: Mapping[str, float]) -> str:
    return "{" + ", ".join(f"{json.dumps(name)}={share:g}" for name, share in shares.items()) + "}"
