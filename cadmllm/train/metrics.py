"""`metrics.jsonl`: a line a step, and the figures of each stage kept as they come, so that nothing is ever read twice."""

from __future__ import annotations

import errno
import json
import math
import os
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from cadmllm.console import jsonable
from cadmllm.errors import CadmllmError

FEW = 10  # losses at either end of a stage that its first and last loss are the mean of, at most
MOST = 2**53  # beyond it a float no longer tells whole numbers apart
FULL = (errno.ENOSPC, errno.EDQUOT)


def is_record(record: object) -> bool:
    """Whether a line is a step's: it says which stage and step, in whole numbers."""
    return isinstance(record, dict) and all(type(record.get(key)) is int and 0 < record[key] < MOST for key in ("stage", "step"))


def number(record: Mapping[str, Any], key: str) -> float | None:
    """A number of a record; None where it is absent, null, or no number that can be measured (NaN, infinite, absurd)."""
    value = record.get(key)
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) and -MOST < value < MOST else None


def counts(record: Mapping[str, Any]) -> dict[str, int]:
    """`mix` of a record: samples by what they showed; empty where it is absent."""
    mix = record.get("mix")
    known = {str(name): number(mix, name) for name in mix} if isinstance(mix, dict) else {}
    return {name: int(count) for name, count in known.items() if count is not None and count >= 0}


@dataclass(slots=True)
class Tail:
    """What is kept of a stage's records: O(1) in their number.

    Attributes:
        steps: the last step.
        losses: how many records have one.
        first, last: the first and the newest `FEW` losses.
        epoch: the epoch (from 1) that the newest record belongs to; `in_epoch` its losses' sum and number.
        mix: samples by what they showed.
    """

    steps: int = 0
    losses: int = 0
    first: list[float] = field(default_factory=list)
    last: deque[float] = field(default_factory=lambda: deque(maxlen=FEW))
    epoch: int = 0
    in_epoch: tuple[float, int] = (0.0, 0)
    mix: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    supervised: int = 0

    def add(self, record: Mapping[str, Any]) -> None:
        """Count one more step; what an older version did not write counts as nothing."""
        self.steps = max(self.steps, record["step"])
        self.seconds += number(record, "seconds") or 0.0
        self.supervised += round(number(record, "supervised") or 0)
        self.mix.update(counts(record))
        loss, epoch = number(record, "loss"), math.ceil((number(record, "epoch") or 0.0) - 1e-9)
        if epoch != self.epoch:
            self.epoch, self.in_epoch = epoch, (0.0, 0)
        if loss is not None:
            self.losses += 1
            self.first += [loss] if len(self.first) < FEW else []
            self.last.append(loss)
            self.in_epoch = (self.in_epoch[0] + loss, self.in_epoch[1] + 1)

    def figures(self) -> dict[str, Any]:
        """See `Metrics.figures`."""
        count = min(FEW, max(1, self.losses // 10))
        return {
            "steps": self.steps,
            "loss_begin": math.fsum(self.first[:count]) / count if self.losses else math.nan,
            "loss_end": math.fsum(list(self.last)[-count:]) / count if self.losses else math.nan,
            "seconds": self.seconds,
            "supervised_tokens": self.supervised,
            "mix": dict(sorted(self.mix.items())),
        }


class Metrics:
    """`metrics.jsonl`: one JSON object a step, each step of a stage once, however often the run was killed.

    The file is read once, a line at a time; every figure is kept as lines are written. A disk that is full loses nothing: lines
    wait in memory until `sync`, which a save calls, finds room or says that there is none.

    Args:
        path: the file; it is made by the first `rewind`, which comes before the first `write`.
        writes: false: figures are kept, but nothing is written (processes of a run beside the main one).
    """

    def __init__(self, path: Path, writes: bool = True) -> None:
        self.path, self.writes = path, writes
        self._file: BinaryIO | None = None
        self._waiting = b""
        self._tails: dict[int, Tail] | None = None

    @property
    def count(self) -> int:
        """Steps of all stages so far: the x-axis of a run's curves, which only ever grows, over resumes as well."""
        return sum(tail.steps for tail in self._known().values())

    def figures(self, stage: int) -> dict[str, Any]:
        """What is known of a stage, at O(1) cost.

        Returns:
            'steps', 'loss_begin' and 'loss_end' (mean of its first and last steps: a tenth of them, at least 1, at most 10; NaN
            before the first), 'seconds' (the steps took), 'supervised_tokens', 'mix' {combination: samples}.
        """
        return self._known().get(stage, Tail()).figures()

    def epoch_loss(self, stage: int) -> float:
        """Mean loss of the newest epoch's steps so far: what `epoch/..._loss` is when the epoch ends. NaN before the first."""
        total, losses = self._known().get(stage, Tail()).in_epoch
        return total / losses if losses else math.nan

    def rewind(self, stage: int, step: int) -> int:
        """Drop the lines of `stage` beyond `step` (they will be written again), atomically, and open the file for more.

        Returns:
            How many lines went because they are no record of a step: cut off by a crash, or not ours.

        Raises:
            CadmllmError: E607 when the file cannot be written.
        """
        self.close()
        self._tails, foreign = {}, 0
        if not self.writes:
            for record in records(self.path):
                if not (record["stage"] == stage and record["step"] > step):
                    self._count(record)
            return 0
        aside = self.path.with_name(f".{self.path.name}")
        try:
            with aside.open("wb") as file:
                for line, record in _lines(self.path):
                    if record is None:
                        foreign += 1
                    elif record["stage"] == stage and record["step"] > step:
                        continue
                    elif self._count(record):
                        file.write(line + b"\n")
                file.flush()
                os.fsync(file.fileno())
            os.replace(aside, self.path)
            self._file = self.path.open("ab", buffering=0)
        except OSError as error:
            aside.unlink(missing_ok=True)
            raise _unwritable(self.path, error) from error
        return foreign

    def write(self, record: Mapping[str, object]) -> None:
        """Append one line: numbers in full precision, those that JSON lacks (NaN, infinity) as null."""
        plain = jsonable(record)
        assert isinstance(plain, dict)
        assert is_record(plain), "a record says its stage and step"
        self._count(plain)
        if not self.writes:
            return
        assert self._file is not None, "rewind comes first"
        self._waiting += json.dumps(plain, allow_nan=False).encode() + b"\n"
        try:
            self._drain()
        except OSError as error:
            if error.errno not in FULL:  # a full disk is met, and said, at the save before which the lines are needed
                raise _unwritable(self.path, error) from error

    def sync(self) -> None:
        """Onto the disk: done before each save, so that a save is never ahead of its metrics. Raises OSError where that fails."""
        assert self._file is not None, "rewind comes first"
        self._drain()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file. Lines that a full disk did not take go with it: they are later than the newest save."""
        if self._file is not None:
            self._file.close()
            self._file, self._waiting = None, b""

    def _drain(self) -> None:
        assert self._file is not None
        while self._waiting:  # a disk that fills up takes part of a line: the rest follows when there is room
            self._waiting = self._waiting[self._file.write(self._waiting) or 0 :]

    def _known(self) -> dict[int, Tail]:
        if self._tails is None:
            self._tails = {}
            for record in records(self.path):
                self._count(record)
        return self._tails

    def _count(self, record: Mapping[str, Any]) -> bool:
        """Whether the record is the next of its stage, and not one that is there already."""
        assert self._tails is not None
        tail = self._tails.setdefault(record["stage"], Tail())
        if record["step"] <= tail.steps:
            return False
        tail.add(record)
        return True


def records(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a `metrics.jsonl` one by one; torn and foreign lines are left out, a missing file has none."""
    return (record for _, record in _lines(path) if record is not None)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """All `records` at once."""
    return list(records(path))


def _lines(path: Path) -> Iterator[tuple[bytes, dict[str, Any] | None]]:
    """Every line that is not blank, and its record."""
    if not path.is_file():
        return
    with path.open("rb") as file:
        for line in file:
            if line.strip():
                try:
                    record = json.loads(line)
                except (ValueError, RecursionError):
                    record = None
                yield line.rstrip(b"\r\n"), record if is_record(record) else None


def _unwritable(path: Path, error: OSError) -> CadmllmError:
    return CadmllmError(
        "E607",
        f"{path} cannot be written: {error.strerror}",
        f"make room there (df -h {path.parent}), or name another folder: --set run.dir=FOLDER",
    )
