"""A run as its `metrics.jsonl` tells it: columns a stage, and a row of figures each."""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cadmllm.errors import CadmllmError
from cadmllm.models.stages import STAGE_FOLDERS, STAGE_NAMES, is_complete
from cadmllm.train.metrics import Tail, counts, number, records

METRICS = "metrics.jsonl"
COLUMNS = (
    *("loss", "lr", "grad_norm", "tokens_per_s", "samples_per_s", "seconds", "waited", "tokens", "computed", "supervised"),
    *("samples", "lost", "fell_back", "peak_gib", "reserved_gib", "gpu_memory_gib", "gpu_memory_total_gib"),
    *("gpu_utilisation", "gpu_temperature", "epoch", "total_steps"),
)


@dataclass(slots=True)
class Stage:
    """What is known of a stage, a value a step; NaN where a step's record does not say.

    Attributes:
        number: 1, 2 or 3.
        steps: of the records, ascending.
        columns: the numbers of `COLUMNS` by name, and 'rates/<part>' and 'mix/<combination>'.
        held_out: (step, loss) by combination; `judged` likewise, shares (0..1) of the answers.
        overflows: steps without an update. `throttled`: steps on a GPU that slowed itself down. `notices`: how many were given.
        started, ended: times of its first and last record, as written.
        folder: its checkpoint, where the run's folder is known; `finished`: that is whole, or the last planned step is done.
        metadata: `training_metadata.json` of a finished stage.
    """

    number: int
    steps: array[int] = field(default_factory=lambda: array("q"))
    columns: dict[str, array[float]] = field(default_factory=lambda: {name: array("d") for name in COLUMNS})
    held_out: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    judged: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    overflows: list[int] = field(default_factory=list)
    throttled: int = 0
    notices: int = 0
    started: str = ""
    ended: str = ""
    finished: bool = False
    metadata: dict[str, Any] = field(default_factory=dict)
    tail: Tail = field(default_factory=Tail)

    def add(self, record: Mapping[str, Any]) -> None:
        """One more step; one that is there already is left out."""
        if record["step"] <= self.tail.steps:
            return
        self.tail.add(record)
        self.steps.append(record["step"])
        values = {name: number(record, name) for name in COLUMNS}
        rates = record.get("rates")
        values |= {f"rates/{name}": number(rates, name) for name in rates} if isinstance(rates, dict) else {}
        values |= {f"mix/{name}": float(count) for name, count in counts(record).items()}
        for name in values:
            if name not in self.columns:
                self.columns[name] = array("d", [math.nan] * (len(self.steps) - 1))
        for name, column in self.columns.items():
            value = values.get(name)
            column.append(math.nan if value is None else value)
        for key, told in (("val_loss", self.held_out), ("samples_judged", self.judged)):
            for name, value in _numbers(record.get(key)):
                told.setdefault(name, []).append((record["step"], value))
        if record.get("updated") is False:
            self.overflows.append(record["step"])
        self.throttled += record.get("gpu_throttled") is True
        notices = record.get("notices")
        self.notices += len(notices) if isinstance(notices, list) else 0
        when = str(record.get("time", ""))
        self.started, self.ended = self.started or when, when

    def column(self, name: str) -> np.ndarray:
        """float64 [steps]; all NaN where no record has it."""
        found = self.columns.get(name)
        return np.frombuffer(found) if found else np.full(len(self.steps), np.nan)

    def names(self, prefix: str) -> list[str]:
        """The parts of 'rates' or the combinations of 'mix' that any record has, in the order in which they came."""
        return [name.partition("/")[2] for name in self.columns if name.startswith(f"{prefix}/")]

    def total(self, name: str) -> float | None:
        """Sum of a column; None where no record has it."""
        values = self.column(name)
        return float(np.nansum(values)) if np.isfinite(values).any() else None

    def most(self, name: str) -> float | None:
        """Largest value of a column; None where no record has it."""
        values = self.column(name)
        return float(np.nanmax(values)) if np.isfinite(values).any() else None

    def row(self) -> dict[str, Any]:
        """The stage's figures; None where nothing in the records says."""
        figures = self.tail.figures()
        seconds, tokens, computed = self.total("seconds"), self.total("tokens"), self.total("computed")
        samples, supervised = self.total("samples"), self.total("supervised")
        padding = _share(tokens, computed)
        shown = sum(figures["mix"].values())
        return {
            "stage": self.number,
            "name": STAGE_NAMES.get(self.number, f"stage{self.number}"),
            "steps": figures["steps"],
            "total_steps": round(self.most("total_steps") or figures["steps"]),
            "finished": self.finished,
            "epochs": self.most("epoch"),
            "loss_begin": _finite(figures["loss_begin"]),
            "loss_end": _finite(figures["loss_end"]),
            "val_loss": {name: told[-1][1] for name, told in self.held_out.items()},
            "judged": {name: told[-1][1] for name, told in self.judged.items()} | dict(self.metadata.get("judged") or {}),
            "samples": _whole(samples),
            "tokens": _whole(tokens),
            "supervised_tokens": _whole(supervised),
            "samples_per_s": _share(samples, seconds),
            "tokens_per_s": _share(tokens, seconds),
            "supervised_tokens_per_s": _share(supervised, seconds),
            "waiting_share": _share(self.total("waited"), seconds),
            "padding_share": None if padding is None else 1.0 - padding,
            "peak_gib": self.most("peak_gib"),
            "gpu_memory_gib": self.most("gpu_memory_gib"),
            "gpu_utilisation": _mean(self.column("gpu_utilisation")),
            "gpu_temperature": self.most("gpu_temperature"),
            "seconds": seconds,
            "started": self.started or None,
            "ended": self.ended or None,
            "mix": {name: count / shown for name, count in figures["mix"].items() if shown},
            "fell_back": _whole(self.total("fell_back")),
            "lost": _whole(self.total("lost")),
            "overflows": len(self.overflows),
            "throttled": self.throttled,
            "notices": self.notices,
        }


def _share(part: float | None, whole: float | None) -> float | None:
    return part / whole if part is not None and whole else None


def _whole(value: float | None) -> int | None:
    return None if value is None else round(value)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _mean(values: np.ndarray) -> float | None:
    return float(np.nanmean(values)) if np.isfinite(values).any() else None


def find_metrics(run: Path) -> Path:
    """The `metrics.jsonl` of a run folder, of one of its stage folders, or itself.

    Raises:
        CadmllmError: E611 where there is none.
    """
    places = [run] if run.is_file() else [run / METRICS]
    if run.name in STAGE_FOLDERS.values():
        places.append(run.parent / METRICS)
    for place in places:
        if place.is_file():
            return place
    what = "has no metrics.jsonl" if run.is_dir() else "is not there"
    raise _nothing(run, f"the run folder {run} {what}")


def load(path: Path, advance: Callable[[int], None] = lambda _: None) -> list[Stage]:
    """The stages that a `metrics.jsonl` tells of, by number. What is torn, foreign or said twice is left out.

    Args:
        path: the file; checkpoints of the stages beside it say what was held out at their end.
        advance: told how many more records were read.

    Raises:
        CadmllmError: E611 when the file has no record of a step or cannot be read.
    """
    stages: dict[int, Stage] = {}
    try:
        for record in records(path):
            stages.setdefault(record["stage"], Stage(record["stage"])).add(record)
            advance(1)
    except OSError as error:
        raise _nothing(path.parent, f"{path} cannot be read: {error.strerror}") from error
    found = [stage for _, stage in sorted(stages.items()) if len(stage.steps)]
    if not found:
        raise _nothing(path.parent, f"{path} has no record of a step")
    for stage in found:
        _read_end(stage, path.parent)
    return found


def _read_end(stage: Stage, run: Path) -> None:
    """What the stage's checkpoint says of its end: the validation there stands in no record."""
    folder = run / STAGE_FOLDERS.get(stage.number, "")
    complete = stage.number in STAGE_FOLDERS and is_complete(folder)
    stage.finished = complete or stage.tail.steps >= (stage.most("total_steps") or math.inf)
    if complete:
        try:
            metadata = json.loads((folder / "training_metadata.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return
        if isinstance(metadata, dict) and metadata.get("step") == stage.tail.steps:
            stage.metadata = metadata
            for name, value in _numbers(metadata.get("val_loss")):
                told = stage.held_out.setdefault(name, [])
                if not told or told[-1][0] < stage.tail.steps:
                    told.append((stage.tail.steps, value))


def _numbers(group: object) -> Iterator[tuple[str, float]]:
    if isinstance(group, dict):
        found = {str(name): value for name, value in group.items()}
        yield from ((name, value) for name in found if (value := number(found, name)) is not None)


def _nothing(run: Path, message: str) -> CadmllmError:
    remedy = f"name a run's folder (run.dir), or make a run: cadmllm train all --preset tiny --set run.dir={run}"
    return CadmllmError("E611", message, remedy)
