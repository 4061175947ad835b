"""The contract of benchmarks/train.py, at a tiny size."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cadmllm.places import bundled

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "train.py"
FIGURES = {"samples_per_s", "tokens_per_s", "supervised_per_s", "peak_gib", "before_gib", "padding", "steps", "seconds"}


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The script with a small vocabulary, on one thread."""
    small = ["--samples", "4", "--baseline-samples", "2", "--vocabulary", "2000", "--threads", "1", "--accumulation", "1"]
    command = [sys.executable, str(SCRIPT), *small, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.long  # four processes that import transformers and peft: 40 s on two quiet cores
def test_it_prints_the_comparison_and_nothing_else():
    done = run("--data", str(bundled("data")), "--max-seq-length", "256", "--batch-size", "2", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    for what in ("recipe", "tokens", "ours"):
        assert found[what].keys() >= FIGURES, what
        assert found[what]["samples_per_s"] > 0
        assert found[what]["peak_gib"] > found[what]["before_gib"] > 0
        assert 0 <= found[what]["padding"] < 1
    assert (found["recipe"]["samples"], found["recipe"]["steps"]) == (2, 1)
    assert (found["ours"]["samples"], found["ours"]["steps"]) == (4, 2)
    # raw JSON of a part does not fit into 256 tokens; our tokens do
    assert found["recipe"]["truncated"] == 1
    assert found["tokens"]["truncated"] == found["ours"]["truncated"] == 0
    assert found["speedup"] == pytest.approx(found["ours"]["samples_per_s"] / found["recipe"]["samples_per_s"])
    assert found["memory_ratio"] == pytest.approx(found["recipe"]["peak_gib"] / found["ours"]["peak_gib"])
    assert "bundled" in done.stderr, "which tokenizer stands in for Qwen's is said"


def test_a_folder_that_is_not_there_is_an_error_of_ours(tmp_path):
    done = run("--data", str(tmp_path / "nowhere"), "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["error"]["code"] == "E401"
    assert "Traceback" not in done.stderr
