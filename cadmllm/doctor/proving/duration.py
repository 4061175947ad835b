"""Proof 7: how long the whole run takes, from measured steps, validation and saving included."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cadmllm.doctor.check import Outcome
from cadmllm.doctor.proving import pace
from cadmllm.doctor.proving.loader import measure
from cadmllm.doctor.proving.reload import saved_of
from cadmllm.models.stages import is_complete
from cadmllm.plan.speed import span
from cadmllm.train.forecast import tokens_of
from cadmllm.train.session import stage_data
from cadmllm.train.windows import Windows

if TYPE_CHECKING:
    from cadmllm.doctor.proving.bench import Bench
    from cadmllm.train.curriculum import Stage

NAME = "time"
EITHER_WAY = 0.10  # that the interval adds to the spread of the measured steps: other stages, a warm card, a busy machine


@dataclass(frozen=True, slots=True)
class Share:
    """A stage of the run: steps, and seconds of them, of its validations and of its saves."""

    stage: int
    steps: int
    training: float
    validation: float
    saving: float

    @property
    def seconds(self) -> float:
        return self.training + self.validation + self.saving


def prove(bench: Bench) -> Outcome:
    """By stage and in all; it fails nothing."""
    measured = pace.pace_of(bench)
    save = saved_of(bench)
    validation = pace.validation_seconds(bench)
    step = measured.step + waiting(bench, measured)
    shares = [_share(bench, stage, step, validation, save.seconds if save else 0.0) for stage in _ahead(bench)]
    total = sum(share.seconds for share in shares)
    least, most = measured.spread
    low, high = total * least * (1 - EITHER_WAY), total * most * (1 + EITHER_WAY)
    found: dict[str, Any] = {
        "seconds": total,
        "low": low,
        "high": high,
        "tokens_per_s": measured.tokens_per_s,
        "seconds_a_step": step,
        "seconds_a_validation": validation,
        "seconds_a_save": save.seconds if save else None,
        "stages": [{"stage": share.stage, "steps": share.steps, "seconds": share.seconds} for share in shares],
    }
    bench.measured["time"] = found
    summary = f"{span(total)} in all ({span(low)} to {span(high)}): {measured.tokens_per_s:,.0f} tokens/s, {step:.2f} s a step"
    lines = [
        f"stage {s.stage}: {s.steps:,} steps {span(s.training)}, validation {span(s.validation)}, saves {span(s.saving)}"
        for s in shares
    ]
    answered = bench.settings.train.judge_samples or bench.settings.train.sample_steps
    lines += ["prompts that are answered and judged come on top (train.judge_samples, train.sample_steps)"] if answered else []
    return Outcome(summary, details=tuple(lines))


def waiting(bench: Bench, measured: pace.Pace) -> float:
    """Seconds a step waits for its data: all of its reading without loader processes, else what they fall short."""
    workers = bench.settings.train.workers
    rates = bench.measured.get("loader", {}).get("rates", {})
    rate = rates[workers] if workers in rates else measure(bench, workers).samples_per_s
    reading = sum(measured.samples) / len(measured.samples) / rate
    return reading if workers == 0 else max(0.0, reading - measured.step)


def _ahead(bench: Bench) -> list[Stage]:
    """The stages that are still to be trained."""
    return [stage for stage in bench.stages if not (bench.intent.resume and is_complete(stage.folder))]


def _share(bench: Bench, stage: Stage, step: float, validation: float, save: float) -> Share:
    """A stage's time: the measured step, scaled by the tokens that a step of that stage holds."""
    session = bench.session
    own = bench.once("tokens", lambda: tokens_of(session.windows))
    if stage.number == bench.stage.number:
        windows, tokens = session.windows, own
    else:
        ids = stage_data(bench.settings, stage, bench.dataset).train_ids
        store = session.cached.store if session.cached else None
        windows = Windows(bench.dataset, ids, stage, bench.settings, session.collate, session.windows.room, store)
        tokens = tokens_of(windows)
    train, total = bench.settings.train, windows.total
    validations = 1 + (total - 1) // train.val_steps if train.val_steps else 1
    validations += 1 if stage.number > 1 else 0  # the baseline before the first step
    saves = 2 + ((total - 1) // train.save_steps if train.save_steps else 0)  # the last save, and the finished stage
    return Share(stage.number, total, total * step * tokens.step / own.step, validations * validation, saves * save)
