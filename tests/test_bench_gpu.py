"""benchmarks/gpu.py runs through, at a tiny size on a CPU: decoder filled and quantised without a file, stages, recipe."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "gpu.py"


@pytest.mark.long  # one process that imports transformers, peft and bitsandbytes
@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_a_row_for_each_stage_and_length(tmp_path, quantization):
    pytest.importorskip("bitsandbytes")
    small = ["--device", "cpu", "--tiny", "--steps", "1", "--stages", "1", "3", "--tokens", "512", "--recipe", "64"]
    out = tmp_path / "rows.jsonl"
    command = [sys.executable, str(SCRIPT), *small, "--cached", "--set", f"model.quantization={quantization}", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [json.loads(line) for line in done.stdout.splitlines()] == rows
    assert [row["what"] for row in rows] == ["machine", "ours", "ours", "from_store", "recipe"]
    assert rows[0]["rate"] > 0
    for row in rows[1:4]:
        assert row["quantization"] == quantization
        assert 0 < row["longest_row"] <= 512
        assert 0 < row["useful"] < row["utilisation"]  # the preset's checkpointing computes layers twice
    assert [(row["stage"], row["cached"]) for row in rows[1:4]] == [(1, False), (3, False), (3, True)]
    assert rows[2]["tokens"] == rows[3]["tokens"], "the same samples, but for where their features come from"
    assert rows[4]["samples_per_s"] > 0


@pytest.mark.long
def test_the_doctors_proofs_run_on_a_decoder_without_a_file(tmp_path):
    small = ["--device", "cpu", "--tiny", "--stages", "3", "--tokens", "--proofs", "--set", "train.max_seq_length=1024"]
    small += ["--set", "model.quantization=none", "--set", "train.batch_size=2", "--set", "train.accumulation=2"]
    done = subprocess.run([sys.executable, str(SCRIPT), *small], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    row = json.loads(done.stdout.splitlines()[-1])
    assert row["what"] == "proofs"
    assert list(row["proofs"]) == ["steps", "gradients", "labels", "reload", "prefill", "loader", "time"]
    for name in ("gradients", "labels", "reload", "prefill"):
        assert row["proofs"][name]["findings"] == [], name
    assert row["measured"]["time"]["seconds"] > 0
