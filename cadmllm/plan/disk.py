"""Bytes that a run writes: a step save, a finished stage, and everything that is kept at once. Arithmetic only, no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cadmllm.plan.memory import moments
from cadmllm.plan.parts import UnknownShape, llm_shape, parts_of

if TYPE_CHECKING:
    from cadmllm.settings import Settings

BESIDE = 2**24  # tokenizer (Qwen's is 11 MiB), settings, card, state
GUESS = 100_000_000  # trained parameters where nobody knows the model: about LoRA r 32 on 8B


@dataclass(frozen=True, slots=True)
class Disk:
    """Bytes of a stage.

    Attributes:
        step: of a step save: what is trained (or held) in 32 bit, the optimizer.
        stage: of the finished stage folder, without step saves.
        known: the model's size is known; else `GUESS` was taken.
    """

    step: int
    stage: int
    known: bool = True


def stage_disk(settings: Settings, stage: int) -> Disk:
    """What a stage writes."""
    try:
        shape, parts = llm_shape(settings), [part for part in parts_of(settings, stage) if part.trained or part.held]
    except UnknownShape:
        weights, states, known = 4 * GUESS, 8 * GUESS, False
    else:
        weights, known = 4 * sum(part.parameters for part in parts), True
        states = sum(moments(part, settings, shape) for part in parts if part.trained)
    return Disk(weights + states + BESIDE, weights + BESIDE, known)


def run_bytes(settings: Settings, stages: Sequence[int]) -> int:
    """Most bytes that a run's folder holds at any time: every finished stage, `train.save_total_limit` step saves of each
    stage, and one more while it is written, before the oldest goes.
    """
    each = [stage_disk(settings, stage) for stage in stages]
    finished = sum(disk.stage for disk in each)
    if not settings.train.save_steps:
        return finished + max((disk.step for disk in each), default=0)  # a stage's end saves once, before it validates
    keep = settings.train.save_total_limit
    return finished + keep * sum(disk.step for disk in each) + max((disk.step for disk in each), default=0)
