"""One optimizer step: the whole of training on one screen."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from cadmllm.errors import CadmllmError
from cadmllm.train.offload import offloaded

if TYPE_CHECKING:
    from torch.nn import Parameter

    from cadmllm.corpus.types import Batch
    from cadmllm.models.fusion import CadMLLM
    from cadmllm.train.replica import Replica

SMALLEST_SCALE = 1.0  # a float16 loss scale below this cannot be the scaler's fault any more
CPU_EXHAUSTED = ("can't allocate memory", "not enough memory", "DefaultCPUAllocator")


class OutOfRoom(Exception):
    """Memory ran out in a step, in this process or another; nothing was updated."""


@dataclass(slots=True)
class Engine:
    """What a step needs besides the data.

    Attributes:
        model: has `loss(batch) -> (loss_sum, supervised)`, and gives the same when called.
        optimizer: over `parameters`.
        parameters: all that train; float32.
        device: where batches go.
        dtype: of the autocast ('bfloat16', 'float16'), or 'float32' for none.
        clip: largest gradient norm.
        replica: the model as it is copied to or sharded over the processes of a run; None with one process.
        offload: what the backward pass needs waits in main memory.
        scaler: of the loss; enabled with float16 alone.
    """

    model: CadMLLM
    optimizer: torch.optim.Optimizer
    parameters: list[Parameter]
    device: torch.device
    dtype: str
    clip: float
    replica: Replica | None = None
    offload: bool = False
    scaler: torch.amp.GradScaler = field(init=False)

    def __post_init__(self) -> None:
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype == "float16")

    def autocast(self) -> AbstractContextManager:
        """The precision of forward passes; trained parameters themselves stay float32."""
        if self.dtype == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=getattr(torch, self.dtype))

    def total(self, *values: float) -> list[float]:
        """Each value summed over the processes."""
        return list(values) if self.replica is None else self.replica.world.sum(values)

    def together(self, ids: list[str]) -> list[str]:
        """The lists of all processes in one."""
        return ids if self.replica is None else [i for theirs in self.replica.world.gather(ids) for i in theirs]

    def any(self, flag: bool) -> bool:
        """Whether it is true in any process."""
        return flag if self.replica is None else self.replica.world.agree(flag)


@dataclass(frozen=True, slots=True)
class StepReport:
    """What a step did, in all processes together.

    Attributes:
        loss: mean over `supervised` tokens.
        grad_norm: before clipping; not finite when float16 overflowed.
        supervised, tokens, computed: supervised positions, tokens, and positions computed (with padding).
        micro_batches: forward passes.
        updated: false when float16 overflowed and the update was skipped.
    """

    loss: float
    grad_norm: float
    supervised: int
    tokens: int
    updated: bool
    computed: int = 0
    micro_batches: int = 0


def train_step(engine: Engine, batches: Sequence[Batch], inspect: Callable[[], None] | None = None) -> StepReport:
    """One update from the micro-batches of an accumulation window (with several processes: this one's part of them).

    The loss is the mean over the supervised tokens of the whole window, so that 4 micro-batches of 2 samples give the
    gradient of 1 of 8, however they are dealt out to processes. Under float16 an overflow skips the update and halves the
    scale (`updated` is then False). `inspect` is called when all gradients are there, before the update.

    Raises:
        CadmllmError: E606 without a supervised token; E603 when loss or gradient is not finite. Nothing was updated then.
        OutOfRoom: memory ran out. Nothing was updated, and the step can be taken again with smaller micro-batches.
    """
    supervised = int(engine.total(sum(batch.supervised for batch in batches))[0])
    if supervised == 0:
        raise _unsupervised(batches)
    engine.optimizer.zero_grad(set_to_none=True)
    losses = _gradients(engine, batches, supervised)
    engine.scaler.unscale_(engine.optimizer)
    norm = _clip(engine)
    counts = [sum(batch.tokens for batch in batches), sum(batch.computed for batch in batches), len(batches)]
    total, tokens, computed, passes = engine.total(math.fsum(losses), *counts)
    overflow = engine.scaler.is_enabled() and engine.scaler.get_scale() >= SMALLEST_SCALE
    if not math.isfinite(total) or not (math.isfinite(norm) or overflow):
        engine.optimizer.zero_grad(set_to_none=True)
        raise _not_finite(engine, batches, losses, total, norm)
    if inspect is not None and math.isfinite(norm):
        inspect()
    engine.scaler.step(engine.optimizer)
    engine.scaler.update()
    updated = math.isfinite(norm)
    return StepReport(total / supervised, norm, supervised, int(tokens), updated, int(computed), int(passes))


def _gradients(engine: Engine, batches: Sequence[Batch], supervised: int) -> list[float]:
    """Accumulate the gradients of all micro-batches, and share them among the processes; the loss sum of each here."""
    replica = engine.replica
    size, lacking = (1, 0) if replica is None else (replica.world.size, replica.lacking(len(batches)))
    sums: list[torch.Tensor] = []
    failed = ""
    try:
        for batch in batches:
            with offloaded(engine.offload, engine.device):
                with engine.autocast():
                    loss_sum, _ = engine.model.loss(batch.to(engine.device))
                # the processes' gradients are averaged, so each gives `size` times its part
                engine.scaler.scale(loss_sum * (size / supervised)).backward()
            sums.append(loss_sum.detach().float())
        if replica is not None:
            replica.idle(lacking)  # before anything is said: the others may be within a pass
    except RuntimeError as error:
        if replica is not None and replica.sharded:
            replica.give_up(error, _exhausted(error))
        if not _exhausted(error):
            raise
        failed = str(error) or type(error).__name__  # the error itself would keep alive what did not fit
    if engine.any(bool(failed)):
        engine.optimizer.zero_grad(set_to_none=True)
        raise OutOfRoom(failed or "in another process")
    if replica is not None:
        replica.reduce()
    return torch.stack(sums).tolist() if sums else []


def _exhausted(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in CPU_EXHAUSTED)


def _clip(engine: Engine) -> float:
    """The norm of the gradient before it is clipped."""
    if engine.replica is not None:
        return engine.replica.clip(engine.clip)
    return float(torch.nn.utils.clip_grad_norm_(engine.parameters, engine.clip))


def _unsupervised(batches: Sequence[Batch]) -> CadmllmError:
    ids = [i for batch in batches for i in batch.ids]
    found = f"none of its {len(ids)} samples ({', '.join(ids[:4])}) has a target token" if ids else "it holds no sample"
    return CadmllmError(
        "E606",
        f"a step without anything to learn: {found}",
        "check these samples (cadmllm data check), or make room for their targets: --set train.max_seq_length=4096",
    )


def _not_finite(engine: Engine, batches: Sequence[Batch], losses: Sequence[float], total: float, norm: float) -> CadmllmError:
    bad = [i for batch, loss in zip(batches, losses, strict=True) if not math.isfinite(loss) for i in batch.ids]
    what = f"the gradient (norm {norm})" if math.isfinite(total) else "the loss"
    where = engine.together([i for batch in batches for i in batch.ids] if math.isfinite(total) else bad)
    more = f" and {len(where) - 8} more" if len(where) > 8 else ""
    stage = engine.model.stage
    rate = engine.model.settings.stages[stage].lr / 2
    return CadmllmError(
        "E603",
        f"{what} is not finite; samples of the step: {', '.join(where[:8])}{more}. The weights were not touched",
        "look at these samples (cadmllm data check), and leave them out (--set data.exclude=FILE); or train the stage again at a "
        f"lower rate: cadmllm train stage{stage} --overwrite --set stages.{stage}.lr={rate:g}",
    )
