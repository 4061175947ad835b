"""Parameter groups, AdamW in 32 or 8 bit, and the rate of each step."""

from __future__ import annotations

import importlib.util
import math
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from cadmllm.errors import CadmllmError
from cadmllm.models.backbone import quiet_bitsandbytes
from cadmllm.settings import Settings, TrainSettings

if TYPE_CHECKING:
    from torch.nn import Parameter

ENCODER_STAGE = 2  # projectors and encoders train from this stage on
PRETRAINED_LR = 1e-5  # of encoders that come trained, unless train.encoder_lr says otherwise
EIGHT_BIT = ("llm", "encoders")  # components whose AdamW moments may be kept in 8 bit; rows and projectors stay in 32


@dataclass(frozen=True, slots=True)
class GroupInfo:
    """What a parameter group is, for the table printed at the stage's start.

    Attributes:
        component: 'llm', 'rows', 'projectors' or 'encoders'.
        names: parameter names, in the optimizer's order.
        parameters: number of trained values.
        lr: peak rate.
        weight_decay: 0 for vectors (biases, norms).
        branch: 'points' or 'images' for the projector and encoder of that branch, '' otherwise.
        own_rate: the rate is the encoder's own, not the projectors': `train.adaptive_projector_lr` neither moves it nor looks at
            its gradients.
    """

    component: str
    names: tuple[str, ...]
    parameters: int
    lr: float
    weight_decay: float
    branch: str = ""
    own_rate: bool = False


def lr_share(step: int, total: int, warmup: int, floor: float) -> float:
    """Share of the peak rate at optimizer step `step` (from 0) of `total`.

    Linear warmup (s + 1) / warmup, so the first step already learns and the last warmup step runs at the full rate; then a
    cosine to `floor` at the last step (Loshchilov & Hutter 2017, eq. 5, with one cycle).
    """
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup + 1) / max(1, total - warmup)
    return floor + (1.0 - floor) * 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))


def pretrained(settings: Settings) -> frozenset[str]:
    """The branches ('points', 'images') whose encoder comes trained; others are made here."""
    model = settings.model
    which = {"points": model.points_encoder == "michelangelo", "images": model.image_encoder != "tiny"}
    return frozenset(branch for branch, is_so in which.items() if is_so)


def peak_rate(component: str, branch: str, stage_lr: float, settings: TrainSettings, pretrained: Collection[str] = ()) -> float:
    """The highest rate of a component in a stage.

    Args:
        component: 'llm', 'rows', 'projectors' or 'encoders'.
        branch: 'points', 'images' or ''.
        stage_lr: of the language model.
        settings: multipliers, and `encoder_lr`.
        pretrained: branches whose encoder comes trained (`pretrained`).
    """
    if component == "encoders" and settings.encoder_lr is not None:
        return settings.encoder_lr
    if component == "encoders" and branch in pretrained:
        return PRETRAINED_LR
    faster = settings.projector_lr_multiplier
    return stage_lr * {"llm": 1.0, "rows": settings.rows_lr_multiplier, "projectors": faster, "encoders": faster}[component]


def trainable(
    groups: dict[str, list[tuple[str, Parameter]]], stage: int, settings: TrainSettings
) -> dict[str, list[tuple[str, Parameter]]]:
    """What this stage trains; the rest of `groups` is frozen (projectors and encoders before stage 2, `encoder_lr` of 0)."""
    chosen = {}
    for component, members in groups.items():
        trains = stage >= ENCODER_STAGE or component in ("llm", "rows")
        trains = trains and not (component == "encoders" and settings.encoder_lr == 0)
        for _, parameter in members:
            parameter.requires_grad_(trains)
        if trains and members:
            chosen[component] = members
    return chosen


def build_optimizer(
    groups: dict[str, list[tuple[str, Parameter]]],
    stage: int,
    stage_lr: float,
    settings: TrainSettings,
    device: torch.device | str = "cpu",
    pretrained: Collection[str] = (),
) -> tuple[torch.optim.Optimizer, list[GroupInfo]]:
    """AdamW over the stage's trainable parameters, apart by component, branch, and matrices or vectors.

    `settings.optimizer` 'adamw' keeps its moments in float32. 'adamw_8bit' keeps them in 8 bit, a scale for each 256 values
    (Dettmers et al. 2022, "8-bit optimizers via block-wise quantization"), for LoRA or the language model and for trained
    encoders; tensors below 4,096 values, the added rows and the projectors stay in float32. 'paged_adamw_8bit' also lets
    the driver move them to RAM when the card is full.

    Args:
        groups: of `CadMLLM.parameter_groups`.
        stage: 1, 2 or 3.
        stage_lr: the language model's rate, which the others are multiples of; encoders may have one of their own (`peak_rate`).
        settings: the rest.
        device: where the parameters are.
        pretrained: branches whose encoder comes trained (`pretrained`).

    Returns:
        The optimizer, and an info for each of its groups in the same order. A group's rate is `info.lr * lr_share(...)`.

    Raises:
        CadmllmError: E613 where bitsandbytes is missing or cannot make a step on `device`.
    """
    infos, options = [], []
    for component, members in trainable(groups, stage, settings).items():
        for branch in sorted({branch_of(name) for name, _ in members}):
            of_branch = [(name, parameter) for name, parameter in members if branch_of(name) == branch]
            lr = peak_rate(component, branch, stage_lr, settings, pretrained)
            own = component == "encoders" and (branch in pretrained or settings.encoder_lr is not None)
            for decay, chosen in (
                (settings.weight_decay, [(n, p) for n, p in of_branch if p.ndim >= 2]),
                (0.0, [(n, p) for n, p in of_branch if p.ndim < 2]),
            ):
                if chosen:
                    count = sum(p.numel() for _, p in chosen)
                    infos.append(GroupInfo(component, tuple(n for n, _ in chosen), count, lr, decay, branch, own))
                    options.append({"params": [p for _, p in chosen], "lr": lr, "weight_decay": decay})
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(options, fused=True), infos
    bits = [8 if info.component in EIGHT_BIT else 32 for info in infos]
    return _eight_bit(options, bits, settings.optimizer, torch.device(device)), infos


def _eight_bit(options: list[dict[str, Any]], bits: list[int], name: str, device: torch.device) -> torch.optim.Optimizer:
    """bitsandbytes' AdamW, or why it cannot be had."""
    from torch.distributed.tensor import DTensor

    if importlib.util.find_spec("bitsandbytes") is None:
        raise CadmllmError(
            "E613",
            f"train.optimizer={name} needs bitsandbytes, which is not installed",
            f"{sys.executable} -m pip install 'bitsandbytes>=0.49', or use the 32-bit one: --set train.optimizer=adamw",
        )
    if any(isinstance(parameter, DTensor) for group in options for parameter in group["params"]):
        raise CadmllmError(
            "E613",
            f"train.optimizer={name} cannot update the shards of FSDP",
            "--set train.distributed=ddp, or --set train.optimizer=adamw (FSDP shards its moments anyway)",
        )
    quiet_bitsandbytes()
    from cadmllm.train.eightbit import mixed_adamw

    return mixed_adamw(options, bits, name == "paged_adamw_8bit", device)


def note(settings: TrainSettings, device: torch.device) -> str:
    """What to tell about `train.optimizer` at a run's start; '' when there is nothing to tell."""
    if settings.optimizer == "paged_adamw_8bit" and device.type != "cuda":
        return f"train.optimizer=paged_adamw_8bit pages nothing on {device}: the moments, of 8 bit, are in main memory"
    return ""


def branch_of(name: str) -> str:
    """'points' or 'images' for a parameter of that branch, '' otherwise."""
    top = name.split(".", 1)[0]
    return top if top in ("points", "images") else ""


def set_rates(
    optimizer: torch.optim.Optimizer, infos: list[GroupInfo], share: float, factors: Mapping[str, float] | None = None
) -> float:
    """Give every group its rate for this step; returns the first group's (the language model's).

    Args:
        optimizer, infos: of `build_optimizer`.
        share: of the peak rate, 0..1 (`lr_share`).
        factors: on the rates of a branch ('points', 'images'), where they differ from 1; not on an encoder's own.
    """
    for group, info in zip(optimizer.param_groups, infos, strict=True):
        group["lr"] = info.lr * share * (1.0 if info.own_rate else (factors or {}).get(info.branch, 1.0))
    return optimizer.param_groups[0]["lr"]
