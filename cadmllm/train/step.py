"""One optimizer step: the whole of training on one screen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from cadmllm.errors import CadmllmError

if TYPE_CHECKING:
    from torch.nn import Parameter

    from cadmllm.corpus.types import Batch
    from cadmllm.models.fusion import CadMLLM

SMALLEST_SCALE = 1.0  # a float16 loss scale below this cannot be the scaler's fault any more


@dataclass(slots=True)
class Engine:
    """What a step needs besides the data.

    Attributes:
        model: has `loss(batch) -> (loss_sum, supervised)`.
        optimizer: over `parameters`.
        parameters: all that train; float32.
        device: where batches go.
        dtype: of the autocast ('bfloat16', 'float16'), or 'float32' for none.
        clip: largest gradient norm.
        scaler: of the loss; enabled with float16 alone.
    """

    model: CadMLLM
    optimizer: torch.optim.Optimizer
    parameters: list[Parameter]
    device: torch.device
    dtype: str
    clip: float
    scaler: torch.amp.GradScaler = field(init=False)

    def __post_init__(self) -> None:
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype == "float16")

    def autocast(self) -> AbstractContextManager:
        """The precision of forward passes; trained parameters themselves stay float32."""
        if self.dtype == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=getattr(torch, self.dtype))


@dataclass(frozen=True, slots=True)
class StepReport:
    """What a step did: mean loss over `supervised` tokens, gradient norm before clipping, all `tokens` seen."""

    loss: float
    grad_norm: float
    supervised: int
    tokens: int
    updated: bool


def train_step(engine: Engine, batches: Sequence[Batch]) -> StepReport:
    """One update from the micro-batches of an accumulation window.

    The loss is the mean over the supervised tokens of the whole window, so that 4 micro-batches of 2 samples give the
    gradient of 1 of 8. Under float16 an overflow skips the update and halves the scale (`updated` is then False).

    Raises:
        CadmllmError: E606 without a supervised token; E603 when loss or gradient is not finite. Nothing was updated then.
    """
    supervised = sum(batch.supervised for batch in batches)
    if supervised == 0:
        raise _unsupervised(batches)
    engine.optimizer.zero_grad(set_to_none=True)
    sums = []
    for batch in batches:
        with engine.autocast():
            loss_sum, _ = engine.model.loss(batch.to(engine.device))
        engine.scaler.scale(loss_sum / supervised).backward()
        sums.append(loss_sum.detach().float())
    engine.scaler.unscale_(engine.optimizer)
    norm = float(torch.nn.utils.clip_grad_norm_(engine.parameters, engine.clip))
    losses = torch.stack(sums).tolist()
    overflow = engine.scaler.is_enabled() and engine.scaler.get_scale() >= SMALLEST_SCALE
    if not all(map(math.isfinite, losses)) or not (math.isfinite(norm) or overflow):
        engine.optimizer.zero_grad(set_to_none=True)
        raise _not_finite(batches, losses, norm)
    engine.scaler.step(engine.optimizer)
    engine.scaler.update()
    tokens = sum(int(batch.attention_mask.sum()) for batch in batches)
    return StepReport(math.fsum(losses) / supervised, norm, supervised, tokens, math.isfinite(norm))


def _unsupervised(batches: Sequence[Batch]) -> CadmllmError:
    ids = [i for batch in batches for i in batch.ids]
    found = f"none of its {len(ids)} samples ({', '.join(ids[:4])}) has a target token" if ids else "it holds no sample"
    return CadmllmError(
        "E606",
        f"a step without anything to learn: {found}",
        "check these samples (cadmllm data check), or make room for their targets: --set train.max_seq_length=4096",
    )


def _not_finite(batches: Sequence[Batch], losses: Sequence[float], norm: float) -> CadmllmError:
    bad = [i for batch, loss in zip(batches, losses, strict=True) if not math.isfinite(loss) for i in batch.ids]
    where = bad or [i for batch in batches for i in batch.ids]
    what = "the loss" if bad else f"the gradient (norm {norm})"
    more = f" and {len(where) - 8} more" if len(where) > 8 else ""
    return CadmllmError(
        "E603",
        f"{what} is not finite; samples of the step: {', '.join(where[:8])}{more}. The weights were not touched",
        "look at these samples (cadmllm data check), or train the stage again at a lower rate: --overwrite --set stages.N.lr=...",
    )
