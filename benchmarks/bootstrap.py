"""What the intervals of a report cost: 27,000 answers (Omni-CAD's test split), all metrics, against one resample after another.

OMP_NUM_THREADS=1 .venv/bin/python benchmarks/bootstrap.py
"""

from __future__ import annotations

import argparse
import resource
import time

import numpy as np

from cadmllm.evaluate.metrics import METRICS
from cadmllm.evaluate.summary import Bootstrap, group, summarise


def rows_of(count: int, combinations: int) -> list[dict]:
    random = np.random.default_rng(0)
    rows = []
    for name in range(combinations):
        values, ok = random.random((count, len(METRICS))), random.random(count) < 0.95
        for k in range(count):
            row = {"id": f"{k:08d}", "combination": f"c{name}", "verdict": "OK" if ok[k] else "BUILD", "extrudes": 1 + k % 8}
            rows.append(row | {metric.key: float(value) for metric, value in zip(METRICS, values[k], strict=True)})
    return rows


def one_by_one(values: np.ndarray, resamples: int) -> float:
    """Seconds for mean and median of one metric, a resample at a time."""
    random = np.random.default_rng(0)
    began = time.process_time()
    for _ in range(resamples):
        drawn = values[random.integers(0, len(values), len(values))]
        drawn.mean()
        np.median(drawn)
    return time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=27_000)
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--all", action="store_true", help="four combinations, by extrudes, too")
    asked = parser.parse_args()
    rows = rows_of(asked.count, 4 if asked.all else 1)
    began = time.process_time()
    if asked.all:
        summarise(rows, resamples=asked.resamples)
    else:
        group(rows, Bootstrap(asked.resamples, 0))
    ours = time.process_time() - began
    print(f"{len(rows):,} rows, {len(METRICS) + 1} metrics, {asked.resamples:,} resamples: {ours:.1f} s of CPU time")
    if not asked.all:
        plain = one_by_one(np.random.default_rng(0).random(asked.count), asked.resamples // 10) * 10 * (len(METRICS) + 1)
        print(f"one resample after another: {plain:.0f} s ({plain / ours:.0f} times; measured on a tenth of one metric)")
    print(f"at most {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


if __name__ == "__main__":
    main()
