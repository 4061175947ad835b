"""How long stages take, with an interval and where it comes from: measured, given, or arithmetic. Arithmetic only, no torch."""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cadmllm.plan.disk import stage_disk
from cadmllm.plan.parts import UnknownShape
from cadmllm.plan.sizes import GIB
from cadmllm.plan.speed import operations, rate_of, work_of

if TYPE_CHECKING:
    from cadmllm.settings import Settings

UTILISATION = (0.55, 0.40, 0.25)  # of the card's rate: as good, as likely and as bad as steps are assumed to reach
CORE = (35e9, 15e9, 5e9)  # operations a second of a CPU's core: what 80 runs of the preset `tiny` did on two of them, busy or not
GIVEN = 0.10  # a rate that was given is taken to be right within so much
MEASURED = 50  # newest steps of metrics.jsonl
FORWARD = 1 / 3  # of a training step's time that a forward pass alone takes
WRITE = (2.0 * GIB, 0.5 * GIB, 0.1 * GIB)  # bytes a second that saves are written at: assumed
IDLE = 0.6  # of its power limit that a card draws at least while it trains: assumed


@dataclass(frozen=True, slots=True)
class Workload:
    """What a stage computes, as expected from the index.

    Attributes:
        stage: 1, 2 or 3.
        samples: training ids that are used.
        steps: optimizer steps.
        tokens, supervised, longest: of a sample: expected, of them answered for, and of the longest.
        square: expected square of a sample's tokens, which attention's work grows with.
        step: tokens of a step.
        clouds, views: inputs of a step.
        cut: share of the training ids whose target is too long and left out.
    """

    stage: int
    samples: int
    steps: int
    tokens: float
    supervised: float
    longest: int
    square: float
    step: float
    clouds: float = 0.0
    views: float = 0.0
    cut: float = 0.0

    @property
    def total(self) -> float:
        """Tokens of the whole stage."""
        return self.step * self.steps

    def as_dict(self) -> dict[str, float | int]:
        """For `--json`."""
        return {
            "samples": self.samples,
            "steps": self.steps,
            "a_sample": round(self.tokens, 1),
            "supervised_a_sample": round(self.supervised, 1),
            "longest": self.longest,
            "a_step": round(self.step),
            "stage": round(self.total),
            "cut": round(self.cut, 4),
        }


@dataclass(frozen=True, slots=True)
class Time:
    """Seconds: at best, as likely as not, at worst; None and why where nobody knows."""

    low: float | None
    likely: float | None
    high: float | None
    source: str

    @property
    def known(self) -> bool:
        """Whether there is a number."""
        return self.likely is not None

    def as_dict(self) -> dict[str, float | str | None]:
        """For `--json`."""
        rounded = [None if seconds is None else round(seconds, 1) for seconds in (self.low, self.likely, self.high)]
        return dict(zip(("low", "likely", "high"), rounded, strict=True)) | {"source": self.source}


def unknown(why: str) -> Time:
    """A time that nobody knows."""
    return Time(None, None, None, f"unknown: {why}")


def time_of(
    settings: Settings,
    work: Workload,
    card: str | None,
    records: Sequence[Mapping[str, Any]],
    rate: float | None = None,
    cores: int = 0,
) -> Time:
    """A stage's time, validation and saving included.

    Args:
        settings: resolved settings.
        work: of the stage.
        card: the GPU's name; None where there is none.
        records: newest lines of the run's metrics.jsonl.
        rate: tokens a second, where it was given: it counts before everything else.
        cores: of the CPU, where that trains.
    """
    found = _pace(settings, work, card, records, rate, cores)
    if isinstance(found, str):
        return unknown(found)
    (low, likely, high), source = found
    training = [seconds * work.steps for seconds in (low, likely, high)]
    a_token = [seconds / max(1.0, work.step) for seconds in (low, likely, high)]
    seen = _validations(settings, work.steps) * settings.train.val_samples * work.tokens
    written = _saves(settings, work) / 1.0
    whole = [train + pace * seen * FORWARD + written / write for train, pace, write in zip(training, a_token, WRITE, strict=True)]
    return Time(*whole, source)


def in_all(times: Sequence[Time]) -> Time:
    """The sum of stages; unknown where one of them is."""
    lacking = next((time.source for time in times if not time.known), "")
    if lacking or not times:
        return Time(None, None, None, lacking or "unknown: nothing is trained")
    sums = [sum(getattr(time, name) for time in times) for name in ("low", "likely", "high")]
    return Time(*sums, "; ".join(dict.fromkeys(time.source for time in times)))


Pace = tuple[tuple[float, float, float], str]


def _pace(
    settings: Settings,
    work: Workload,
    card: str | None,
    records: Sequence[Mapping[str, Any]],
    rate: float | None,
    cores: int,
) -> Pace | str:
    """(seconds of a step at best, likely, at worst), and where they come from; or why nobody knows."""
    if rate is not None:
        spread = [work.step / (rate * share) for share in (1 + GIVEN, 1.0, 1 - GIVEN)]
        return (spread[0], spread[1], spread[2]), f"given: {rate:,.0f} tokens/s, taken to be right within {GIVEN:.0%}"
    measured = [record for record in records if _positive(record, "seconds") and _positive(record, "tokens")]
    own = [record["seconds"] for record in measured if record.get("stage") == work.stage][-MEASURED:]
    if own:
        return _quartiles(own), f"measured: quartiles of the stage's newest {len(own)} steps in metrics.jsonl"
    if measured:
        paces = _quartiles([record["seconds"] / record["tokens"] for record in measured[-MEASURED:]])
        steps = (paces[0] * work.step, paces[1] * work.step, paces[2] * work.step)
        return steps, f"measured: quartiles of {1 / paces[1]:,.0f} tokens/s in another stage of this run"
    return _arithmetic(settings, work, card, cores)


def _arithmetic(settings: Settings, work: Workload, card: str | None, cores: int) -> Pace | str:
    if card is None and not cores:
        return "nothing was measured yet, and there is no card whose rate could be looked up (--rate TOKENS_PER_S gives one)"
    peak = rate_of(card) if card is not None else None
    if peak is None and card is not None:
        return f"nothing was measured yet, and no rate is known of {card} (--rate TOKENS_PER_S gives one)"
    try:
        each = work_of(settings, work.stage)
    except UnknownShape as error:
        return str(error)
    samples = work.step / max(1.0, work.tokens)
    shown = {"point_cloud": work.clouds, "image": work.views}
    flops = operations(each, [], round(work.supervised * samples), shown)
    flops += each.token * work.step + each.pair * samples * (work.square + work.tokens) / 2
    if peak is None:
        best, likely, worst = (flops / (cores * rate) for rate in CORE)
        rates = f"{CORE[2] / 1e9:.0f} to {CORE[0] / 1e9:.0f} GFLOP/s"
        return (best, likely, worst), f"arithmetic: {flops / 1e9:,.0f} GFLOP a step at {rates} a core, {cores} cores"
    best, likely, worst = (flops / (peak * share) for share in UTILISATION)
    shares = f"{UTILISATION[2]:.0%} to {UTILISATION[0]:.0%}"
    return (best, likely, worst), f"arithmetic: {flops / 1e12:,.0f} TFLOP a step at {shares} of {peak / 1e12:.0f} TFLOP/s"


def _quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    if len(values) < 2:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def _positive(record: Mapping[str, Any], key: str) -> bool:
    value = record.get(key)
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0


def _validations(settings: Settings, steps: int) -> int:
    every = settings.train.val_steps
    return 1 + (max(0, steps - 1) // every if every else 0)


def _saves(settings: Settings, work: Workload) -> float:
    """Bytes written within the stage."""
    disk, every = stage_disk(settings, work.stage), settings.train.save_steps
    return float(disk.step * (work.steps // every if every else 1) + disk.stage)


# Watts that a card is built for, as the makers state them.
POWER = {
    "RTX 3090": 350,
    "RTX 4080": 320,
    "RTX 4090": 450,
    "RTX 5070 Ti": 300,
    "RTX 5080": 360,
    "RTX 5090": 575,
    "A100": 400,
    "H100 PCIe": 350,
    "H100 80GB HBM3": 700,
    "H200": 700,
}
# GiB of memory of a card, likewise.
MEMORY = {
    "RTX 3090": 24,
    "RTX 4080": 16,
    "RTX 4090": 24,
    "RTX 5070 Ti": 16,
    "RTX 5080": 16,
    "RTX 5090": 32,
    "A100": 80,
    "H100 PCIe": 80,
    "H100 80GB HBM3": 80,
    "H200": 141,
}


def listed(name: str, table: Mapping[str, int]) -> int | None:
    """What a table says of a card by the name NVML or a person gives it; None for another one."""
    bare = re.sub(r"^(NVIDIA|GeForce|\s)+", "", name, flags=re.IGNORECASE).strip()
    plain = {key.lower(): value for key, value in table.items()}
    if bare.lower() in plain:
        return plain[bare.lower()]
    if re.match(r"A100[- ]", bare):
        return table["A100"]
    return table["H200"] if re.fullmatch(r"H200( SXM.*)?", bare) else None


def energy(time: Time, watts: float | None) -> dict[str, float] | None:
    """kWh that the card draws, low to high: from `IDLE` of its power limit to all of it; None where either is unknown."""
    if watts is None or time.low is None or time.likely is None or time.high is None:
        return None
    hours = {"low": IDLE * time.low, "likely": (1 + IDLE) / 2 * time.likely, "high": time.high}
    return {name: round(seconds * watts / 3.6e6, 3) for name, seconds in hours.items()} | {"watts": watts}
