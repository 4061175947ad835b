"""Proof 4: a save, loaded into a fresh model, goes on to the same numbers as the run that was not interrupted."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from cadmllm.doctor.check import Finding, Level, Outcome
from cadmllm.doctor.proving.taking import TRIES, taken, trained_of
from cadmllm.errors import CadmllmError
from cadmllm.models.stages import folder_bytes
from cadmllm.train.guards import Interrupts
from cadmllm.train.keeper import Keeper, Told
from cadmllm.train.metrics import Metrics
from cadmllm.train.telemetry import Wandb

if TYPE_CHECKING:
    from cadmllm.corpus.types import Batch
    from cadmllm.doctor.proving.bench import Bench

NAME = "reload"
MOST = 2  # micro-batches of the step that is compared
# CUDA adds in any order: relative difference of the loss, and length of the difference of the updates over that of the update.
# An optimizer that starts anew is off by about 1.
LOSS = {"float32": 1e-5, "float16": 2e-3, "bfloat16": 5e-3}
UPDATE = {"float32": 0.02, "float16": 0.15, "bfloat16": 0.15}


@dataclass(slots=True)
class After:
    """What a step came to: its samples, loss, gradient norm, and the trained weights (on the CPU)."""

    ids: list[str]
    loss: float
    norm: float
    weights: dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class Saved:
    """Seconds and bytes of a save."""

    seconds: float
    bytes: int


def prove(bench: Bench) -> Outcome:
    """The step after a save, with and without a reload in between; compared to the bit on a CPU.

    Raises:
        CadmllmError: E607 (the save), E503, E504, E605 (what was loaded).
    """
    done = taken(bench).steps
    bench.say("saving")
    saved = save(bench, done)
    bench.measured["save"] = {"seconds": saved.seconds, "bytes": saved.bytes}
    before = weights_of(bench)
    bench.say("the next step, undisturbed")
    undisturbed = step_after(bench, done)
    session = bench.renewed()
    problems = [] if session.begin == done else [f"the save is one after step {session.begin}, not {done}"]
    problems += _differences(before, weights_of(bench), "weights as they were saved")
    bench.say("the next step, after the reload")
    again = step_after(bench, done)
    loss, update = distance(before, undisturbed, again)
    problems += judge(bench, undisturbed, again, loss, update)
    remedy = "do not count on --resume here: train in one go, and report this with: cadmllm doctor --deep --json"
    findings = tuple(Finding("E864", Level.FAIL, NAME, text, remedy) for text in problems[:4])
    same = "the same to the bit" if bench.device.type == "cpu" else f"the same within {update:.2%} of its update"
    summary = f"saved in {saved.seconds:.1f} s ({saved.bytes / 2**20:,.0f} MiB) and loaded again: the next step is {same}"
    details = (f"loss {undisturbed.loss:.6f} and {again.loss:.6f}, updates apart by {update:.3%}",)
    return Outcome(summary, findings, details=details)


def save(bench: Bench, step: int) -> Saved:
    """A real save after `step` steps, in the temporary folder.

    Raises:
        CadmllmError: E607.
    """
    session = bench.session
    session.stage.folder.mkdir(parents=True, exist_ok=True)
    metrics = Metrics(bench.settings.run.dir / "metrics.jsonl")
    metrics.rewind(session.stage.number, 0)
    for number, loss in enumerate(taken(bench).losses, 1):
        metrics.write({"stage": session.stage.number, "step": number, "loss": loss})
    keeper = Keeper(session, Told(bench.console, metrics, Wandb(bench.settings, session.stage, bench.console), Interrupts()))
    began = time.perf_counter()
    try:
        folder = keeper.save(step)
    finally:
        metrics.close()
    assert folder is not None
    return Saved(time.perf_counter() - began, folder_bytes(folder))


def weights_of(bench: Bench) -> dict[str, Tensor]:
    """Copies of everything that trains, on the CPU."""
    return {name: parameter.detach().to("cpu", copy=True) for name, parameter in trained_of(bench)}


def step_after(bench: Bench, step: int) -> After:
    """The run's own step `step` (from 0), of its first micro-batches."""
    session = bench.session
    batches: Sequence[Batch] = session.windows[step].batches[:MOST]
    bench.set_rates(step)
    for _ in range(TRIES):
        report = session.companions.squeeze.step(batches, bench.seed(step))
        if report.updated:
            break
    ids = [i for batch in batches for i in batch.ids]
    return After(ids, report.loss, report.grad_norm, weights_of(bench))


def distance(before: dict[str, Tensor], one: After, other: After) -> tuple[float, float]:
    """(relative difference of the losses, length of the difference of the weights over that of the update)."""
    loss = abs(one.loss - other.loss) / max(abs(one.loss), 1e-12)
    apart = sum(float((one.weights[name] - other.weights[name]).double().square().sum()) for name in before)
    moved = sum(float((one.weights[name] - before[name]).double().square().sum()) for name in before)
    return loss, (apart / moved) ** 0.5 if moved else float(apart > 0)


def judge(bench: Bench, one: After, other: After, loss: float, update: float) -> list[str]:
    """What differs more than it may: nothing on a CPU; rounding on a GPU."""
    if one.ids != other.ids:
        return [f"the step after the save was made of {', '.join(one.ids[:3])}, after the reload of {', '.join(other.ids[:3])}"]
    if bench.device.type == "cpu":
        text = f"the loss of the next step is {other.loss!r} after a reload, {one.loss!r} without"
        return [text] * (one.loss != other.loss) + _differences(one.weights, other.weights, "weights after the next step")
    dtype = bench.settings.dtype
    said = []
    if not loss <= LOSS[dtype]:
        said.append(f"the loss of the next step is {other.loss:.6f} after a reload, {one.loss:.6f} without")
    if not update <= UPDATE[dtype]:
        said.append(f"the next update differs by {update:.1%} after a reload (rounding explains {UPDATE[dtype]:.0%})")
    return said


def _differences(one: dict[str, Tensor], other: dict[str, Tensor], what: str) -> list[str]:
    """Tensors that are not equal to the bit."""
    differ = [name for name, value in one.items() if name not in other or not torch.equal(value, other[name])]
    if not differ:
        return []
    largest = max((float((one[n] - other[n]).abs().max()) for n in differ if n in other), default=float("nan"))
    more = f" and {len(differ) - 1} more of {len(one)}" if len(differ) > 1 else ""
    return [f"{what} differ: {differ[0]}{more}, by {largest:.2g} at the most"]


def saved_of(bench: Bench) -> Saved | None:
    """Of the save that was made, if one was."""
    known: dict[str, Any] | None = bench.measured.get("save")
    if known is not None:
        return Saved(known["seconds"], known["bytes"])
    try:
        made = save(bench, taken(bench).steps)
    except CadmllmError:  # the proof of the save says it
        return None
    bench.measured["save"] = {"seconds": made.seconds, "bytes": made.bytes}
    return made
