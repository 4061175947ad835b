"""Real windows of the run, one optimizer step each, timed; and the held-out loss, timed."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cadmllm.doctor.proving.taking import taken
from cadmllm.train.validate import HeldOut

if TYPE_CHECKING:
    from cadmllm.doctor.proving.bench import Bench

STEPS = 4  # that are timed; the first warms up and does not count
MOST = 4  # micro-batches of a step that are computed; a step has as many more as its window
LONGEST = 60.0  # seconds of timed steps after which no further one is begun


@dataclass(frozen=True, slots=True)
class Pace:
    """Measured steps of the stage that is examined.

    Attributes:
        seconds: of each step, scaled up where not all of its micro-batches were computed.
        tokens, samples: of each step.
    """

    seconds: list[float]
    tokens: list[int]
    samples: list[int]

    @property
    def step(self) -> float:
        """Mean seconds of a step."""
        return sum(self.seconds) / len(self.seconds)

    @property
    def tokens_per_s(self) -> float:
        return sum(self.tokens) / sum(self.seconds)

    @property
    def samples_per_s(self) -> float:
        return sum(self.samples) / sum(self.seconds)

    @property
    def spread(self) -> tuple[float, float]:
        """Seconds a token of the fastest and of the slowest step, over the mean."""
        each = [s / t for s, t in zip(self.seconds, self.tokens, strict=True)]
        mean = sum(self.seconds) / sum(self.tokens)
        return min(each) / mean, max(each) / mean


def pace_of(bench: Bench) -> Pace:
    """The steps, timed at the first call."""
    return bench.once("pace", lambda: _measure(bench))


def _measure(bench: Bench) -> Pace:
    done = taken(bench).steps
    found = Pace([], [], [])
    spent = 0.0
    windows = bench.session.windows
    for number in range(STEPS):
        step = (done + number) % max(1, len(windows))
        bench.say(f"timing step {number + 1} of {STEPS}")
        window = windows[step]
        batches = window.batches[:MOST]
        bench.set_rates(done + number)
        bench.synchronize()
        began = time.perf_counter()
        bench.session.companions.squeeze.step(batches, bench.seed(done + number))
        bench.synchronize()
        seconds = time.perf_counter() - began
        spent += seconds
        if number or spent > LONGEST:  # the first warms up
            part = sum(batch.tokens for batch in batches)
            whole = sum(batch.tokens for batch in window.batches)
            found.seconds.append(seconds * whole / part)
            found.tokens.append(whole)
            found.samples.append(sum(len(batch.ids) for batch in window.batches))
        if spent > LONGEST:
            break
    return found


def validation_seconds(bench: Bench) -> float:
    """Seconds of one held-out loss, the reading of its samples included; measured at the first call."""
    return bench.once("validation", lambda: _validate(bench))


def _validate(bench: Bench) -> float:
    session = bench.session
    bench.say("validating")
    store = session.cached.store if session.cached else None
    parts = (session.dataset, session.data.val_ids, session.stage, session.settings, session.collate, bench.console, store)
    held_out = HeldOut(*parts)
    began = time.perf_counter()
    held_out.loss(session.engine, session.companions.squeeze.room)
    bench.synchronize()
    return time.perf_counter() - began
