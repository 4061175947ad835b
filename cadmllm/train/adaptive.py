"""Adaptive rates: each projector learns faster while more of its gradient is left than of the language model's.

With r = |gradient| / |weights| of a step, a branch b ('points', 'images') and the rest of the model (''):

    p_b     = log(r_b / r_rest)                  in the steps that show b
    level_b = running mean of p_b                (weight 1 - `MEMORY` for the newest step)
    start_b = mean of p_b over the first `BEGIN` steps that show b
    factor  = exp(`ALPHA` (level_b - start_b))   within `LOWEST` .. `HIGHEST`; 1 until the start is known

The idea is GradNorm's (Chen et al. 2018, "GradNorm: Gradient Normalization for Adaptive Loss Balancing in Deep Multitask
Networks", eq. 2): what has kept more of its first loss than the others trains slower than they do and gets a larger share, to
the power of alpha. A projector has no loss of its own, so the share of its first gradient stands in for it. Taken relative to
the rest of the model in the same step, whatever scales all gradients alike (clipping, the float16 loss scale, the general
fading of the loss) drops out; in logarithms one step with a hundred times the gradient moves a factor by 12 %.

An encoder that is made here learns at its projector's rate and belongs to the branch. One that comes pretrained, or whose rate
`train.encoder_lr` says, keeps its own rate, and its gradients are not looked at.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from cadmllm.train.optim import GroupInfo

REST = ""  # the branch of everything that is no projector or encoder
LOWEST, HIGHEST = 0.25, 4.0
ALPHA = 0.5
BEGIN = 20  # steps that show a branch before its factor moves
MEMORY = 0.95  # about the last 20 steps that show it


@dataclass(slots=True)
class BranchState:
    """What is known of a branch: steps that showed it, and `start` and `level` of the module's formula."""

    shown: int = 0
    start: float = 0.0
    level: float = 0.0


class AdaptiveRates:
    """The factors on the rates of the branches.

    Args:
        enabled: False: every factor stays 1 and nothing is kept.
    """

    def __init__(self, enabled: bool) -> None:
        self.enabled = enabled
        self._branches: dict[str, BranchState] = {}

    def update(self, norms: Mapping[str, float]) -> dict[str, float]:
        """Take note of a step's gradients; `factors()` are those of the next step.

        Args:
            norms: |gradient| / |weights| by branch, from `relative_norms`; a branch that the step did not show is absent or 0
                and keeps its factor. Steps without a finite norm of the rest ('') change nothing.
        """
        rest = norms.get(REST, 0.0)
        if not self.enabled or not _usable(rest):
            return self.factors()
        for name, norm in norms.items():
            if name != REST and _usable(norm):
                self._note(self._branches.setdefault(name, BranchState()), math.log(norm) - math.log(rest))
        return self.factors()

    @staticmethod
    def _note(branch: BranchState, value: float) -> None:
        branch.shown += 1
        if branch.shown <= BEGIN:
            branch.start += (value - branch.start) / branch.shown
            branch.level = branch.start
        else:
            branch.level += (1.0 - MEMORY) * (value - branch.level)

    def factors(self) -> dict[str, float]:
        """By branch, within `LOWEST` .. `HIGHEST`; branches that no step has shown yet are absent (1)."""
        return {
            name: min(HIGHEST, max(LOWEST, math.exp(ALPHA * (branch.level - branch.start))))
            for name, branch in sorted(self._branches.items())
        }

    def state(self) -> dict[str, dict[str, float]]:
        """For a save; JSON keeps every digit."""
        return {name: asdict(branch) for name, branch in sorted(self._branches.items())}

    def load(self, state: Mapping[str, Mapping[str, float]]) -> None:
        """Go on from a save."""
        self._branches = {
            name: BranchState(int(values["shown"]), float(values["start"]), float(values["level"]))
            for name, values in state.items()
        }


def relative_norms(optimizer: torch.optim.Optimizer, infos: Sequence[GroupInfo]) -> dict[str, float]:
    """|gradient| / |weights| of each branch after a backward pass, and of the rest of the model under ''.

    Encoders with a rate of their own count for neither. Branches without a gradient (nothing of theirs was shown) are absent.
    Clipping and scaling of all gradients do not matter.
    """
    gradients: dict[str, list[torch.Tensor]] = {}
    weights: dict[str, list[torch.Tensor]] = {}
    for group, info in zip(optimizer.param_groups, infos, strict=True):
        for parameter in () if info.own_rate else group["params"]:
            if parameter.grad is not None:
                gradients.setdefault(info.branch, []).append(parameter.grad)
                weights.setdefault(info.branch, []).append(parameter.detach())
    return {name: _norm(grads) / max(_norm(weights[name]), 1e-12) for name, grads in gradients.items()}


def _norm(tensors: list[torch.Tensor]) -> float:
    import torch
    from torch.distributed.tensor import DTensor

    sharded = [tensor for tensor in tensors if isinstance(tensor, DTensor)]  # FSDP has both kinds
    whole = [tensor for tensor in tensors if not isinstance(tensor, DTensor)]
    norms = [torch.nn.utils.get_total_norm(kind) for kind in (sharded, whole) if kind]
    return math.hypot(*(float(norm.full_tensor() if isinstance(norm, DTensor) else norm) for norm in norms))


def _usable(norm: float) -> bool:
    return math.isfinite(norm) and norm > 0.0
