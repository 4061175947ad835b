"""metrics.jsonl has each step once; wandb never stops a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cadmllm.train.curriculum import plan_stages
from cadmllm.train.telemetry import Metrics, Wandb, read_metrics, run_name


def _write(metrics: Metrics, stage: int, steps: range) -> None:
    for step in steps:
        metrics.write({"stage": stage, "step": step, "loss": 1 / (7 * step)})


def test_rewinding_drops_what_will_be_written_again_and_torn_lines(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path / "metrics.jsonl")
    metrics.rewind(1, 0)
    _write(metrics, 1, range(1, 6))
    metrics.rewind(2, 0)
    _write(metrics, 2, range(1, 8))
    metrics.sync()
    metrics.close()
    with metrics.path.open("a") as file:
        file.write('{"stage": 2, "st')
    again = Metrics(metrics.path)
    again.rewind(2, 4)
    _write(again, 2, range(5, 8))
    again.close()
    records = [json.loads(line) for line in metrics.path.read_text().splitlines()]
    assert [(r["stage"], r["step"]) for r in records] == [(1, k) for k in range(1, 6)] + [(2, k) for k in range(1, 8)]
    assert records[2]["loss"] == 1 / 21  # full precision
    assert read_metrics(metrics.path) == records
    assert sorted(p.name for p in tmp_path.iterdir()) == ["metrics.jsonl"]


def test_the_run_name_is_the_guides(settings) -> None:
    s = settings(
        model={"llm": "Qwen/Qwen3-8B"},
        lora={"r": 32},
        train={"batch_size": 2, "accumulation": 32},
        stages={"1": {"epochs": 1, "lr": 2e-4}},
    )
    assert run_name(s, plan_stages(s, [1])[0]) == "Qwen3-8B-lora-r32-lr2e-04-bs64-ep1"


def test_wandb_that_fails_is_said_and_the_run_goes_on(settings, console, monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    class Broken:
        def log(self, values: dict) -> None:
            raise RuntimeError("disk on fire")

    monkeypatch.setattr(wandb, "init", lambda **_: Broken())
    s = settings(wandb={"mode": "offline"})
    s.run.dir.mkdir()
    run = Wandb(s, plan_stages(s, [1])[0], console)
    run.start()
    run.log({"train/loss": 1.0})
    run.log({"train/loss": 1.0})
    run.close()
    assert console.err.getvalue().count("disk on fire") == 1


def test_wandb_online_without_a_login_goes_offline_and_says_so(settings, console, monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    seen: list[dict] = []
    monkeypatch.setattr(wandb, "init", lambda **options: seen.append(options))
    monkeypatch.setattr(wandb, "api", type("Api", (), {"api_key": None}))
    s = settings(wandb={"mode": "online"})
    s.run.dir.mkdir()
    Wandb(s, plan_stages(s, [1])[0], console).start()
    assert seen[0]["mode"] == "offline"
    assert "wandb login" in console.err.getvalue()


def test_wandb_off_imports_nothing(settings, console) -> None:
    run = Wandb(settings(), plan_stages(settings(), [1])[0], console)
    run.start()
    run.log({"train/loss": 1.0})
    run.close()
    assert not (settings().run.dir / "wandb-id").exists()
