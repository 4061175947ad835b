"""Parameter groups, AdamW and the rate of each step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from cadmllm.settings import TrainSettings

if TYPE_CHECKING:
    from torch.nn import Parameter

ENCODER_STAGE = 2  # projectors and encoders train from this stage on


@dataclass(frozen=True, slots=True)
class GroupInfo:
    """What a parameter group is, for the table printed at the stage's start.

    Attributes:
        component: 'llm', 'rows', 'projectors' or 'encoders'.
        names: parameter names, in the optimizer's order.
        parameters: number of trained values.
        lr: peak rate.
        weight_decay: 0 for vectors (biases, norms).
    """

    component: str
    names: tuple[str, ...]
    parameters: int
    lr: float
    weight_decay: float


def lr_share(step: int, total: int, warmup: int, floor: float) -> float:
    """Share of the peak rate at optimizer step `step` (from 0) of `total`.

    Linear warmup (s + 1) / warmup, so the first step already learns and the last warmup step runs at the full rate; then a
    cosine to `floor` at the last step (Loshchilov & Hutter 2017, eq. 5, with one cycle).
    """
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup + 1) / max(1, total - warmup)
    return floor + (1.0 - floor) * 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))


def multiplier(component: str, settings: TrainSettings) -> float:
    """How much faster than the stage's rate a component learns."""
    return {
        "llm": 1.0,
        "rows": settings.rows_lr_multiplier,
        "projectors": settings.projector_lr_multiplier,
        "encoders": settings.projector_lr_multiplier,
    }[component]


def trainable(groups: dict[str, list[tuple[str, Parameter]]], stage: int) -> dict[str, list[tuple[str, Parameter]]]:
    """What this stage trains; the rest of `groups` is frozen (projectors and encoders before stage 2)."""
    chosen = {}
    for component, members in groups.items():
        trains = stage >= ENCODER_STAGE or component in ("llm", "rows")
        for _, parameter in members:
            parameter.requires_grad_(trains)
        if trains and members:
            chosen[component] = members
    return chosen


def build_optimizer(
    groups: dict[str, list[tuple[str, Parameter]]], stage: int, stage_lr: float, settings: TrainSettings
) -> tuple[torch.optim.AdamW, list[GroupInfo]]:
    """AdamW over the stage's trainable parameters, matrices and vectors of each component apart.

    Returns:
        The optimizer, and an info for each of its groups in the same order. A group's rate is `info.lr * lr_share(...)`.
    """
    infos, options = [], []
    for component, members in trainable(groups, stage).items():
        lr = stage_lr * multiplier(component, settings)
        for decay, chosen in (
            (settings.weight_decay, [(n, p) for n, p in members if p.ndim >= 2]),
            (0.0, [(n, p) for n, p in members if p.ndim < 2]),
        ):
            if chosen:
                count = sum(p.numel() for _, p in chosen)
                infos.append(GroupInfo(component, tuple(n for n, _ in chosen), count, lr, decay))
                options.append({"params": [p for _, p in chosen], "lr": lr, "weight_decay": decay})
    return torch.optim.AdamW(options, fused=True), infos


def set_rates(optimizer: torch.optim.Optimizer, infos: list[GroupInfo], share: float) -> float:
    """Give every group its rate for this step; returns the first group's (the language model's)."""
    for group, info in zip(optimizer.param_groups, infos, strict=True):
        group["lr"] = info.lr * share
    return optimizer.param_groups[0]["lr"]
