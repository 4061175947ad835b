"""What a stage will compute and how long it takes, from the index and the draws themselves; no sample and no model is loaded."""

from __future__ import annotations

import os
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cadmllm.corpus.fit import PROMPT_FRAME
from cadmllm.corpus.pack import arrange
from cadmllm.corpus.sample import BARE_SHARE
from cadmllm.plan import speed
from cadmllm.plan.parts import UnknownShape

if TYPE_CHECKING:
    from cadmllm.settings import Settings
    from cadmllm.train.windows import Item, Windows

LOOKED_AT = 2000  # samples of the first epoch that the estimate is made of
LETTERS = 4  # of a caption a token
NEWEST = 50  # steps of `metrics.jsonl` that speed is taken from


@dataclass(frozen=True, slots=True)
class Card:
    """A GPU as NVML sees it; bytes."""

    name: str
    total: int
    free: int


@dataclass(frozen=True, slots=True)
class Tokens:
    """What the steps of a stage hold, on average over the first steps.

    Attributes:
        sample, supervised: tokens a sample, and those of them that are answered for.
        longest: tokens of the longest sample looked at.
        step: tokens a step.
        micro_batches: a step.
        rows: tokens of the fullest micro-batch, padding included.
        looked_at: samples.
        lengths: of one step's samples.
        shown: clouds and views a step, by modality.
    """

    sample: float
    supervised: float
    longest: int
    step: float
    micro_batches: float
    rows: int
    looked_at: int
    lengths: list[int] = field(default_factory=list)
    shown: Mapping[str, float] = field(default_factory=dict)

    def as_dict(self, steps: int) -> dict[str, float | int]:
        """For `--json`."""
        return {
            "a_sample": round(self.sample, 1),
            "supervised_a_sample": round(self.supervised, 1),
            "longest": self.longest,
            "a_step": round(self.step),
            "micro_batches_a_step": round(self.micro_batches, 2),
            "fullest_micro_batch": self.rows,
            "stage": round(self.step * steps),
            "samples_looked_at": self.looked_at,
        }


@dataclass(frozen=True, slots=True)
class Time:
    """Seconds a step and of the whole stage, or None and why nobody knows; `source` says where they come from."""

    step: float | None
    stage: float | None
    source: str

    def as_dict(self) -> dict[str, float | str | None]:
        """For `--json`."""
        return {"seconds_a_step": self.step, "seconds": self.stage, "source": self.source}


def tokens_of(windows: Windows) -> Tokens:
    """Tokens of the first steps: targets and features as they are, captions at four letters a token."""
    lengths: list[list[int]] = []
    supervised, micro_batches, fullest, looked = 0, 0, 0, 0
    shown: Counter[str] = Counter()
    steps = max(1, min(len(windows), windows.steps_per_epoch, -(-LOOKED_AT // windows.window)))
    for step in range(steps):
        _, items = windows.items(step)
        found = [_length(windows, item) for item in items]
        supervised += sum(windows.dataset.length(item.id) for item in items)
        shown.update(part for item in items for part in item.draw.shown.split("+"))
        batches = arrange(found, windows.room)
        micro_batches += len(batches)
        sizes = [[found[k] for k in batch] for batch in batches]
        fullest = max([fullest, *(sum(s) if windows.room.packed else len(s) * max(s) for s in sizes)])
        lengths.append(found)
        looked += len(items)
    every = [length for found in lengths for length in found]
    views = windows.settings.model.image_views
    inputs = {"point_cloud": shown["point_cloud"] / steps, "image": views * shown["image"] / steps}
    return Tokens(
        sample=sum(every) / looked,
        supervised=supervised / looked,
        longest=max(every),
        step=sum(every) / steps,
        micro_batches=micro_batches / steps,
        rows=fullest,
        looked_at=looked,
        lengths=lengths[0],
        shown=inputs,
    )


def _length(windows: Windows, item: Item) -> int:
    model, shown = windows.settings.model, item.draw.shown
    features = model.point_tokens if "point_cloud" in shown else 0
    features += model.view_tokens if "image" in shown else 0
    told = 1.0 if shown == "text" else 1.0 - BARE_SHARE  # some samples that show something have no words
    caption = round(told * len(windows.dataset.caption(item.id)) / LETTERS)
    fixed = features + windows.dataset.length(item.id) + PROMPT_FRAME
    return fixed + min(caption, max(0, windows.settings.train.max_seq_length - fixed))


def time_of(
    settings: Settings, stage: int, steps: int, tokens: Tokens, card: Card | None, records: Iterable[Mapping[str, Any]]
) -> Time:
    """How long a stage takes: as its own steps or an earlier stage's tokens did in this run's folder, else by arithmetic.

    Args:
        settings: resolved settings.
        stage: 1, 2 or 3.
        steps: of the stage.
        tokens: of a step.
        card: where it will run; None where that is not known here.
        records: of `metrics.jsonl`.
    """
    measured = [record for record in records if _positive(record, "seconds") and _positive(record, "tokens")]
    where = settings.run.dir / "metrics.jsonl"
    own = [record["seconds"] for record in measured if record.get("stage") == stage][-NEWEST:]
    if own:
        seconds = statistics.median(own)
        return Time(seconds, seconds * steps, f"measured: the stage's newest {len(own)} steps in {where}")
    if measured:
        pace = statistics.median(record["seconds"] / record["tokens"] for record in measured[-NEWEST:])
        source = f"measured: {1 / pace:.0f} tokens/s of an earlier stage in {where}"
        return Time(pace * tokens.step, pace * tokens.step * steps, source)
    if card is None:
        return Time(None, None, "unknown: nothing was measured yet, and there is no card here whose rate could be looked up")
    try:
        work = speed.work_of(settings, stage)
    except UnknownShape as error:
        return Time(None, None, f"unknown: {error}")
    samples = max(1, len(tokens.lengths))
    flops = speed.operations(work, tokens.lengths, round(tokens.supervised * samples), tokens.shown)
    seconds = speed.seconds(flops, card.name)
    if seconds is None:
        return Time(None, None, f"unknown: nothing was measured yet, and the rate of a {card.name} is not in the table")
    at = f"{speed.UTILISATION:.0%} of {(speed.rate_of(card.name) or 0.0) / 1e12:.0f} TFLOP/s"
    source = f"arithmetic, not measured: {flops / 1e12:.0f} TFLOP a step at {at}"
    return Time(seconds, seconds * steps, source)


def _positive(record: Mapping[str, Any], key: str) -> bool:
    value = record.get(key)
    return isinstance(value, (int, float)) and value > 0


def card_of(settings: Settings) -> Card | None:
    """The GPU that `settings.device` names, asked of NVML; None on a CPU, without a driver, or where it cannot be told which."""
    if settings.device == "cpu":
        return None
    try:
        import pynvml
    except ImportError:
        return None
    index = int(settings.device.partition(":")[2] or 0)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    try:
        pynvml.nvmlInit()
        name = visible.split(",")[index].strip() if visible is not None else str(index)
        handle = pynvml.nvmlDeviceGetHandleByIndex(int(name)) if name.isdigit() else pynvml.nvmlDeviceGetHandleByUUID(name)
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
        return Card(str(pynvml.nvmlDeviceGetName(handle)), int(memory.total), int(memory.free))
    except (pynvml.NVMLError, IndexError):
        return None
