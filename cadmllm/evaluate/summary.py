"""Rows to figures: mean and median of every metric with bootstrap intervals, invalid answers by reason, by number of extrudes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cadmllm.cad.kernel import Verdict
from cadmllm.evaluate.metrics import METRICS
from cadmllm.settings import COMBINATIONS

Row = Mapping[str, Any]  # id, combination, verdict, reason, extrudes and the keys of `METRICS`; None where there is no value

BARE = ("point_cloud", "image", "point_cloud+image")  # beside `settings.COMBINATIONS`: shown without a text of the part
SHOWN = (*COMBINATIONS, *BARE)
REASONS = tuple(verdict for verdict in Verdict if verdict is not Verdict.OK)
IOU_ALL = "iou_all"  # IoU with 0 for an answer that is no solid: what cannot be raised by failing on what is hard
EXTRUDES = ("1", "2", "3", "4", "5", "6+")
LEVEL = 0.95
AT_ONCE = 3_000_000  # weights that are drawn at a time
WINDOW = 12.0  # standard deviations of a median's rank that are looked through at first


def summarise(rows: Sequence[Row], floor: Sequence[Row] = (), *, resamples: int = 1000, seed: int = 0) -> dict[str, Any]:
    """What a report says of its rows.

    Intervals are percentile intervals (Efron & Tibshirani, "An Introduction to the Bootstrap", 1993, ch. 13) over ids: where an
    id was shown in several combinations, its rows are drawn together, as they are not independent of each other.

    Args:
        rows: of answers, any number and order.
        floor: of truths against themselves.
        resamples: behind the 95 % intervals; 0: none.
        seed: of the resamples; groups of the same ids have the same ones.

    Returns:
        {"all": group, "combinations": {name: group}, "by_extrudes": {name: {"1" .. "6+": group}} (name also "all"), "floor":
        group}. A group is {"count", "valid" (share, 0..1), "invalid_rate", "reasons": {verdict: share}, "metrics": {key:
        {"count", "mean", "median", "mean_95": [low, high], "median_95"}}}; metrics are raw (`metrics.Metric.scale` is for
        showing), and `iou_all` is one of them. A metric that no row has is not there.
    """
    names = sorted({str(row["combination"]) for row in rows}, key=place_of)
    of = {name: [row for row in rows if row["combination"] == name] for name in names}
    of_all = {"all": list(rows), **of}
    draws = Bootstrap(resamples, seed)
    return {
        "all": group(rows, draws),
        "combinations": {name: group(part, draws) for name, part in of.items()},
        "by_extrudes": {name: _by_extrudes(part, draws) for name, part in of_all.items()},
        "floor": group(floor, draws) if floor else None,
    }


def place_of(combination: str) -> tuple[int, str]:
    """Sorts combinations as the table of settings does; others behind them, by name."""
    return SHOWN.index(combination) if combination in SHOWN else len(SHOWN), combination


def _by_extrudes(rows: Sequence[Row], draws: Bootstrap) -> dict[str, Any]:
    parts: dict[str, list[Row]] = {}
    for row in rows:
        count = row.get("extrudes")
        if count:  # a mesh has none
            parts.setdefault(EXTRUDES[min(int(count), len(EXTRUDES)) - 1], []).append(row)
    return {key: group(parts[key], draws) for key in EXTRUDES if key in parts}


def group(rows: Sequence[Row], draws: Bootstrap) -> dict[str, Any]:
    """The figures of some rows; see `summarise`."""
    verdicts = Counter(str(row["verdict"]) for row in rows)
    count = len(rows)
    ids = {str(row["id"]): None for row in rows}
    place = {id_: k for k, id_ in enumerate(sorted(ids))}
    owners = np.array([place[str(row["id"])] for row in rows], dtype=np.int64)
    columns = columns_of(rows)
    valid = np.array([row["verdict"] == Verdict.OK for row in rows], dtype=float)
    told = draws.intervals({"valid": valid, **columns}, owners, len(place))
    share = told.pop("valid", {})
    return {
        "count": count,
        "ids": len(place),
        "valid": _share(verdicts[Verdict.OK], count),
        "valid_95": share.get("mean_95"),
        "invalid_rate": _share(count - verdicts[Verdict.OK], count),
        "reasons": {verdict.value: _share(verdicts[verdict], count) for verdict in REASONS},
        "metrics": told,
    }


def _share(part: int, count: int) -> float | None:
    return part / count if count else None


def columns_of(rows: Sequence[Row]) -> dict[str, np.ndarray]:
    """float64 [rows] of every metric that some row has, and of `iou_all`; NaN where a row has none.

    What is measured of a solid counts for valid answers alone. `iou_all` is the IoU, 0 for an invalid answer, and NaN where a
    valid one could not be measured.
    """
    valid = np.array([row["verdict"] == Verdict.OK for row in rows], dtype=bool)
    found: dict[str, np.ndarray] = {}
    for metric in METRICS:
        values = np.array([_number(row.get(metric.key)) for row in rows], dtype=float)
        if metric.solid:
            values[~valid] = np.nan
        if metric.key == "iou" and (np.isfinite(values).any() or (len(rows) and not valid.any())):
            found[IOU_ALL] = np.where(valid, values, 0.0)
        if np.isfinite(values).any():
            found[metric.key] = values
    return found


def _number(value: object) -> float:
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else math.nan


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """Resampling of ids.

    Attributes:
        resamples: how often; 0: no intervals.
        seed: of the generator.
    """

    resamples: int
    seed: int

    def intervals(self, columns: Mapping[str, np.ndarray], owners: np.ndarray, ids: int) -> dict[str, dict[str, Any]]:
        """Mean and median of each column, with their percentile intervals.

        Args:
            columns: values [N]; NaN is no value.
            owners: [N], the id of each row as a number 0..ids-1.
            ids: how many there are; two groups of the same ids are drawn alike, so that their figures compare.
        """
        sorted_columns = {key: _Column(values, owners, ids) for key, values in columns.items()}
        sorted_columns = {key: column for key, column in sorted_columns.items() if len(column.values)}
        means: dict[str, list[np.ndarray]] = {key: [] for key in sorted_columns}
        medians: dict[str, list[np.ndarray]] = {key: [] for key in sorted_columns}
        for weights in self._weights(ids):
            for key, column in sorted_columns.items():
                means[key].append(column.means(weights))
                medians[key].append(column.medians(weights))
        told: dict[str, dict[str, Any]] = {}
        for key, column in sorted_columns.items():
            told[key] = {
                "count": len(column.values),
                "mean": float(column.values.mean()),
                "median": float(np.median(column.values)),
                "mean_95": percentile(means[key]),
                "median_95": percentile(medians[key]),
            }
        return told

    def _weights(self, ids: int) -> Iterable[np.ndarray]:
        """How often each id is drawn: float32 [resamples of a portion, ids], portion by portion."""
        random = np.random.default_rng(self.seed)
        left = self.resamples if ids else 0
        while left:
            count = min(left, max(1, AT_ONCE // ids))
            drawn = random.integers(0, ids, (count, ids)) + np.arange(count)[:, None] * ids
            yield np.bincount(drawn.ravel(), minlength=count * ids).reshape(count, ids).astype(np.float32)
            left -= count


class _Column:
    """The finite values of a column in order, and the id of each."""

    def __init__(self, values: np.ndarray, owners: np.ndarray, ids: int) -> None:
        there = np.isfinite(values)
        order = np.argsort(values[there], kind="stable")
        self.values, self.owners, self.ids = values[there][order], owners[there][order], ids
        self.sums = np.bincount(self.owners, self.values, ids)
        self.counts = np.bincount(self.owners, minlength=ids).astype(np.float32)

    def means(self, weights: np.ndarray) -> np.ndarray:
        """[R]: NaN for a resample without a value."""
        total = weights @ self.counts
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(total > 0, (weights.astype(np.float64) @ self.sums) / total, np.nan)

    def medians(self, weights: np.ndarray) -> np.ndarray:
        """[R]: the median of the values, each as often as its id was drawn; NaN for a resample without a value.

        It lies near the middle of the sorted values: those below are counted, only those about it are gone through.
        """
        total = np.rint(weights @ self.counts).astype(np.int64)
        lower, upper = (total - 1) // 2, total // 2
        reach = WINDOW * math.sqrt(float((self.counts.astype(np.float64) ** 2).sum())) + 2.0
        count = len(self.values)
        while True:
            first, last = max(0, int(count / 2 - reach)), min(count, int(count / 2 + reach) + 1)
            below = np.bincount(self.owners[:first], minlength=self.ids).astype(np.float32)
            upto = np.cumsum(weights[:, self.owners[first:last]], axis=1) + (weights @ below)[:, None]
            found = [(upto <= rank[:, None]).sum(axis=1) for rank in (lower, upper)]
            whole = first == 0 and last == count
            if whole or (found[0].min() > 0 and found[1].max() < last - first):
                break
            reach *= 4.0
        low, high = (self.values[first + np.minimum(at, last - first - 1)] for at in found)
        return np.where(total > 0, (low + high) / 2.0, np.nan)


def percentile(portions: Sequence[np.ndarray]) -> list[float] | None:
    """The interval that holds the middle 95 % of resampled statistics; None without any."""
    drawn = np.concatenate(portions) if portions else np.zeros(0)
    drawn = drawn[np.isfinite(drawn)]
    if not len(drawn):
        return None
    low, high = np.quantile(drawn, [(1.0 - LEVEL) / 2.0, (1.0 + LEVEL) / 2.0]).tolist()
    return [low, high]
