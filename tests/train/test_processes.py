"""Whole runs of `cadmllm train` in several processes: the numbers of one, whatever happens on the way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import apart
import pytest
import torch
from safetensors.torch import load_file

from cadmllm.corpus.layout import DataSet

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]
STEPS = 24
WORDS = ("train", "stage3", "--from-scratch")


@pytest.fixture
def run(base: Path, parts: DataSet, tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """`run(name, count, "--resume", **{"train.x": 1})` starts stage 3 in the folder `name`."""
    values: dict[str, object] = {
        "model.llm": base,
        "model.points_encoder": "fourier",
        "model.point_count": 64,
        "model.point_tokens": 8,
        "model.fourier_width": 32,
        "model.image_encoder": "tiny",
        "model.image_bridge": "mlp",
        "model.image_tokens": 4,
        "lora.r": 4,
        "data.root": parts.data.root,
        "data.index": tmp_path / "index",
        "train.batch_size": 2,
        "train.accumulation": 3,
        "train.max_seq_length": 512,
        "train.warmup_steps": 2,
        "train.val_samples": 6,
        "train.val_steps": 5,
        "train.save_steps": 4,
        "train.weight_decay": 0.1,
        "train.logging_steps": 1,
        "stages.3.epochs": 6,
        "stages.3.lr": 1e-3,
        "device": "cpu",
        "dtype": "float32",
    }

    def start(name: str, count: int, *options: str, **changed: object) -> subprocess.Popen[str]:
        chosen = values | {"run.dir": tmp_path / name} | changed
        pairs = [word for key, value in chosen.items() for word in ("--set", f"{key}={value}")]
        return apart.launched(count, *WORDS, *options, *pairs)

    return start


def finished(process: subprocess.Popen[str]) -> str:
    said, _ = process.communicate(timeout=600)
    assert process.returncode == 0, said[-4000:]
    return said


def metrics(folder: Path) -> list[dict]:
    file = folder / "metrics.jsonl"
    lines = file.read_text().splitlines(keepends=True) if file.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def wait_for(step: int, folder: Path, process: subprocess.Popen[str]) -> None:
    while len(metrics(folder)) < step:
        assert process.poll() is None, process.communicate()[0][-4000:]
        time.sleep(0.05)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "stage3_all_model" / "model.safetensors")


def alike(folder: Path, other: Path) -> None:
    """Every step once, with the same samples, and the same numbers but for rounding."""
    one, two = metrics(folder), metrics(other)
    assert [record["step"] for record in one] == [record["step"] for record in two] == list(range(1, STEPS + 1))
    for mine, theirs in zip(one, two, strict=True):
        for key in ("mix", "samples", "supervised", "tokens", "fell_back", "lost", "lr", "epoch"):
            assert mine[key] == theirs[key], key
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=1e-4)
        assert mine["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-2)
        assert mine.get("val_loss", {}) == pytest.approx(theirs.get("val_loss", {}), rel=1e-4)
    here, there = weights(folder), weights(other)
    assert here.keys() == there.keys()
    for name, value in here.items():
        torch.testing.assert_close(value, there[name], rtol=1e-2, atol=2e-3, msg=lambda text, name=name: f"{name}: {text}")


def test_a_run_of_two_is_a_run_of_one_and_goes_on_with_another_number(
    run: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    finished(run("one", 1))
    said = finished(run("two", 2))
    assert "2 processes (started by torchrun)" in said
    assert said.count(f"step {STEPS}/{STEPS}") == 1  # one of them talks
    alike(tmp_path / "one", tmp_path / "two")
    stopped = run("mixed", 2, **{"train.distributed": "fsdp"})
    wait_for(6, tmp_path / "mixed", stopped)
    stopped.send_signal(signal.SIGTERM)
    said, _ = stopped.communicate(timeout=120)
    assert "SIGTERM: stopped after step" in said
    assert "75" in said  # torchrun tells the exit code of each process
    finished(run("mixed", 1, "--resume"))
    alike(tmp_path / "one", tmp_path / "mixed")


def test_a_run_with_dropout_goes_on_to_the_bit_after_a_process_is_killed(
    run: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    dropout = {"lora.dropout": 0.3}
    finished(run("calm", 2, **dropout))
    process = run("hurt", 2, **dropout)
    wait_for(10, tmp_path / "hurt", process)
    os.kill(youngest_child(process.pid), signal.SIGKILL)
    process.communicate(timeout=120)
    assert process.returncode != 0
    finished(run("hurt", 2, "--resume", **dropout))
    calm, hurt = metrics(tmp_path / "calm"), metrics(tmp_path / "hurt")
    for key in ("step", "loss", "grad_norm", "mix", "val_loss"):
        assert [record.get(key) for record in calm] == [record.get(key) for record in hurt], key
    here, there = weights(tmp_path / "calm"), weights(tmp_path / "hurt")
    assert all(torch.equal(value, there[name]) for name, value in here.items())


def youngest_child(parent: int) -> int:
    """The last process that torchrun started: rank 1."""
    return max(int(pid) for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split())


def test_settings_that_differ_are_named(tmp_path: Path) -> None:
    (code, said), (other, silence) = apart.run("collectives", tmp_path, APART_OWN_SEED="1")
    assert code == other == 1
    assert "E610" in said
    assert "train.seed: process 0 has 0, process 1 has 1" in said
    assert "E610" not in silence  # all know, one says so
