"""Takes the steps that several proofs look at: two at the worst micro-batch, one at a shorter one, measured on the way."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cadmllm.doctor.proving import worst
from cadmllm.doctor.proving.bench import Bench, Taken
from cadmllm.doctor.proving.live import Live
from cadmllm.doctor.proving.sums import checksums
from cadmllm.errors import CadmllmError
from cadmllm.models.bytes import tensors_of
from cadmllm.train.flow import FlowCheck

if TYPE_CHECKING:
    from cadmllm.corpus.batch import Encoded
    from cadmllm.corpus.types import Batch

TRIES = 24  # steps that float16 may skip until its scale fits


def taken(bench: Bench) -> Taken:
    """The steps, taken at the first call.

    Raises:
        CadmllmError: E609 when not even one sample fits; E603, E606 of the step.
    """
    return bench.once("taken", lambda: _take(bench))


def samples_of(bench: Bench) -> list[Encoded]:
    """The longest samples."""
    return bench.once("longest", lambda: worst.longest(bench))


def _take(bench: Bench) -> Taken:
    session = bench.session
    bench.say("reading the longest samples")
    samples = samples_of(bench)
    worst_one = worst.full(bench, samples)
    less = worst.shorter(bench, samples, worst_one.computed)
    found = Taken(
        tokens=(worst_one.computed, 0 if less is None else less.computed),
        documents=len(worst_one.ids),
        supervised=worst_one.supervised,
        clouds=sum(worst_one.cloud_counts),
        views=sum(worst_one.image_counts),
        viewed=sum(count > 0 for count in worst_one.image_counts),
        combinations=tuple(sorted(set(worst_one.combinations))),
    )
    # with several micro-batches a step, the fullest is computed while gradients of another are there already
    many = _micro_batches(bench) > 1.0 and less is not None
    batches = [less, worst_one] if many and less is not None else [worst_one]
    found.alone = len(batches) == 1
    found.before = checksums(named(bench))
    flow = FlowCheck(session.infos, session.engine.optimizer.param_groups, steps=1)
    bench.say(f"a step of {worst_one.computed} tokens")
    _step(bench, found, batches, flow)
    bench.say("a second step, its memory measured")
    found.peak, found.reserved = measured(bench, lambda: _step(bench, found, batches, flow))
    found.after = checksums(named(bench))
    found.unjudged = flow.unjudged
    squeeze = session.companions.squeeze
    if squeeze.times:
        found.squeezed, room = str(squeeze.room), squeeze.room
        found.fits = f"train.pack_tokens={room.tokens}" if room.packed else f"train.batch_size={room.samples}"
    if less is not None and not found.squeezed:
        bench.say(f"a step of {less.computed} tokens")
        twice = [less, less] if many else [less]
        found.shorter, _ = measured(bench, lambda: _step(bench, found, twice, None))
    return found


def _micro_batches(bench: Bench) -> float:
    from cadmllm.train.forecast import tokens_of

    return bench.once("tokens", lambda: tokens_of(bench.session.windows)).micro_batches


def named(bench: Bench) -> Iterator[tuple[str, Tensor]]:
    """Every parameter and buffer of the model."""
    model = bench.session.model
    yield from model.named_parameters()
    yield from ((f"buffer {name}", buffer) for name, buffer in model.named_buffers())


def _step(bench: Bench, found: Taken, batches: Sequence[Batch], flow: FlowCheck | None) -> None:
    """One update; under float16 as many tries as it takes."""
    session = bench.session
    mix = Counter(name for batch in batches for name in batch.combinations)

    def inspect() -> None:
        if flow is None:
            return
        found.gradients.append(_largest(bench))
        try:
            flow.look(mix)
        except CadmllmError as error:
            found.dead = error.with_traceback(None)  # it would hold on to the model

    for _ in range(TRIES):
        bench.set_rates(found.steps)
        report = session.companions.squeeze.step(batches, bench.seed(found.steps), inspect)
        if report.updated:
            break
    else:
        message = f"float16 overflowed in {TRIES} steps in a row, whatever the scale of the loss"
        raise CadmllmError("E603", message, "--set dtype=bfloat16, or --set dtype=float32 on a card without it")
    found.steps += 1
    found.losses.append(report.loss)


def _largest(bench: Bench) -> dict[str, float]:
    """The largest magnitude of each trained tensor's gradient; 0 where there is none."""
    trained = trained_of(bench)
    there = [(name, p.grad) for name, p in trained if p.grad is not None]
    sizes = torch._foreach_norm([grad for _, grad in there], math.inf) if there else []
    return dict.fromkeys((name for name, _ in trained), 0.0) | {
        name: float(size) for (name, _), size in zip(there, sizes, strict=True)
    }


def trained_of(bench: Bench) -> list[tuple[str, torch.nn.Parameter]]:
    """What the optimizer has, by name."""
    session = bench.session
    groups = zip(session.infos, session.engine.optimizer.param_groups, strict=True)
    return [pair for info, group in groups for pair in zip(info.names, group["params"], strict=True)]


def measured(bench: Bench, work: Callable[[], None]) -> tuple[int, int]:
    """(bytes of tensors at the most, bytes that the allocator held) while `work` runs.

    On a GPU `torch.cuda.max_memory_allocated` and `max_memory_reserved`; on a CPU all tensors that are alive, counted at each
    operation (`live.Live`), the second is 0.
    """
    session = bench.session
    if bench.device.type == "cuda":
        session.engine.optimizer.zero_grad(set_to_none=True)
        torch.cuda.reset_peak_memory_stats(bench.device)
        work()
        bench.synchronize()
        return torch.cuda.max_memory_allocated(bench.device), torch.cuda.max_memory_reserved(bench.device)
    session.engine.optimizer.zero_grad(set_to_none=True)
    standing = [tensor for _, tensor in tensors_of(session.model, session.engine.optimizer)]
    live = Live(standing)
    with live:
        work()
    storages = {t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in standing}
    return sum(storages.values()) + live.peak, 0
