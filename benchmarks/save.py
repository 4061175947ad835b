"""What a step save costs: a save of the size of a real run is written, hashed, synced, verified and read back.

    python benchmarks/save.py --out /tmp/save --json

The default is LoRA r 32 on Qwen3-8B with the added rows and the point projector (87.3M + 16.4M + 20M values in 32 bit, and
AdamW's two moments of each), kept two at a time, so that each save also reads the one before it in full.
`--values 596000000` is the whole of Qwen3-0.6B.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from cadmllm.console import Console
from cadmllm.models.stages import verify
from cadmllm.train.checkpoint import Snapshot, newest_save, save_step
from cadmllm.train.disk import folder_bytes

TENSORS = 500  # of about the same size


class _Tokenizer:
    """Writes as many bytes as Qwen's does."""

    def save_pretrained(self, folder: Path) -> None:
        (folder / "tokenizer.json").write_bytes(bytes(11_422_650))


def measure(values: int, out: Path, saves: int) -> dict[str, float]:
    """Seconds of `saves` saves one after the other, as a run makes them (`train.save_total_limit` 2)."""
    one = torch.randn(values // TENSORS)
    tokenizer: Any = _Tokenizer()
    place: Any = {"stage": 1, "step": 0, "total_steps": saves, "fingerprint": {}, "scaler": {}, "companions": {}}
    record = {"format": 1, "stage": 1, "vocabulary": "v", "base": {}, "lora": {}, "model": {}}
    weights = {f"{n:03d}": one + n for n in range(TENSORS)}
    moments = {f"{n:03d}/{name}": one * n for n in range(TENSORS) for name in ("exp_avg", "exp_avg_sq")}
    console, seconds = Console(quiet=True), []
    for step in range(1, saves + 1):
        snapshot = Snapshot(weights, record, {}, {}, tokenizer, {**place, "step": step}, moments, {"cpu": torch.get_rng_state()})
        begun = time.perf_counter()
        folder = save_step(out, snapshot, 2, console)
        seconds.append(time.perf_counter() - begun)
    begun = time.perf_counter()
    verify(folder)
    verified = time.perf_counter() - begun
    begun = time.perf_counter()
    save = newest_save(out, console)
    assert save is not None
    read = time.perf_counter() - begun
    size = folder_bytes(folder)
    return {
        "gib": round(size / 2**30, 3),
        "first_s": round(seconds[0], 2),
        "save_s": round(min(seconds[2:]), 2),
        "slowest_s": round(max(seconds), 2),
        "verify_s": round(verified, 2),
        "verify_and_read_s": round(read, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--values", type=int, default=123_700_000, help="trained values")
    parser.add_argument("--saves", type=int, default=4, help="saves to make, at least 3")
    parser.add_argument("--out", type=Path, help="where (default: a temporary folder); a folder of its own, removed afterwards")
    parser.add_argument("--json", action="store_true", help="one JSON line")
    asked = parser.parse_args()
    place = Path(tempfile.mkdtemp(prefix="save-", dir=asked.out))
    try:
        found = measure(asked.values, place / "stage", max(3, asked.saves))
    finally:
        shutil.rmtree(place)
    print(json.dumps(found) if asked.json else "\n".join(f"{name:18} {value}" for name, value in found.items()))


if __name__ == "__main__":
    main()
