"""The curriculum's four ideas in whole stages: what each does, and that a killed run resumes to the same numbers with them."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cadmllm.cad.kernel import BuildResult, Verdict
from cadmllm.infer import sampling
from cadmllm.train import adaptive, loop, squeeze
from cadmllm.train.curriculum import Start, plan_stages
from cadmllm.train.session import open_session
from cadmllm.train.telemetry import read_metrics
from cadmllm.train.validate import HeldOut

CLOUD = {"text": 0.0, "text+point_cloud": 1.0}
TEXT = {"text": 1.0, "text+point_cloud": 0.0}


def _records(run_dir: Path) -> list[dict]:
    return list(read_metrics(run_dir / "metrics.jsonl"))


def _stage2(**values) -> dict:
    return {"2": {"epochs": 1, "lr": 1e-3, "probabilities": {"text": 0.3, "text+point_cloud": 0.7}, **values}}


def _meta(run_dir: Path) -> dict:
    return json.loads((run_dir / "stage2_text_pc_model" / "training_metadata.json").read_text())


def _interrupt_after(patch: pytest.MonkeyPatch, steps: int) -> None:
    real, done = squeeze.train_step, []

    def step(*arguments):
        done.append(1)
        if len(done) == steps:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(*arguments)

    patch.setattr(squeeze, "train_step", step)


class NoKernel:
    """In place of a workshop: builds nothing."""

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __enter__(self) -> NoKernel:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def map(self, jobs) -> list[BuildResult]:
        return [BuildResult(Verdict.EMPTY, "not built") for _ in jobs]


def test_scheduling_moves_what_is_shown_from_begin_to_end(settings, parts, console) -> None:
    s = settings(stages=_stage2(probabilities=TEXT, probabilities_end=CLOUD))
    loop.train(s, [2], parts, console, from_scratch=True)
    mixes = [Counter(record["mix"]) for record in _records(s.run.dir)]
    fell_back = [record["fell_back"] for record in _records(s.run.dir)]
    assert set(mixes[0]) == {"text"}  # at its beginning alone
    assert mixes[-1]["text"] == fell_back[-1]  # at its end none but what has no cloud
    shown = [mix["text+point_cloud"] + lost for mix, lost in zip(mixes, fell_back, strict=True)]
    assert sum(shown[:3]) < sum(shown[3:])
    assert _meta(s.run.dir)["probabilities_end"] == CLOUD
    assert "100% to 0%" in (s.run.dir / "stage2_text_pc_model" / "README.md").read_text()


def test_dropout_shows_less_and_calls_it_no_fallback(settings, parts, console) -> None:
    def looked(dropout: float) -> tuple[Counter[str], int]:
        s = settings(stages=_stage2(epochs=20), train={"modality_dropout": dropout})
        stage = plan_stages(s, [2])[0]
        windows = open_session(s, stage, Start(None, "test"), parts, console).windows
        draws = [item.draw for step in range(len(windows)) for item in windows.items(step)[1]]
        return Counter(draw.shown for draw in draws), sum(draw.fell_back for draw in draws)

    plain, fell_back = looked(0.0)
    dropped, still = looked(0.4)
    assert still == fell_back > 0
    kept = dropped["text+point_cloud"] / plain["text+point_cloud"]
    assert abs(kept - 0.6) < 0.1
    assert sum(dropped.values()) == sum(plain.values())


def test_patience_ends_a_stage_and_the_next_one_goes_on(settings, parts, console, monkeypatch) -> None:
    losses = iter([2.0, 1.5, 1.5, 1.5])  # the baseline, then after each step
    monkeypatch.setattr(HeldOut, "loss", lambda *_: {"text": 1.0, "all": next(losses, 9.0)})
    s = settings(stages=_stage2(patience=2) | {"3": {"epochs": 1, "lr": 1e-3, "probabilities": TEXT}}, train={"val_steps": 1})
    result = loop.train(s, [2, 3], parts, console, from_scratch=True)
    assert [stage.steps for stage in result.stages] == [3, 6]
    assert result.stages[0].finished
    assert "1.5000 for 2 validations" in _meta(s.run.dir)["ended_early"]
    assert "ends after step 3 of 6" in console.err.getvalue()
    assert "for 2 validations" in (result.stages[0].folder / "README.md").read_text()


def test_a_run_killed_between_its_early_end_and_its_checkpoint_trains_no_further(settings, parts, console, monkeypatch) -> None:
    monkeypatch.setattr(HeldOut, "loss", lambda *_: {"text": 1.0, "all": 1.0})
    s = settings(stages=_stage2(patience=1), train={"val_steps": 1})

    def power_cut(*_) -> dict[str, float]:
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        loop.train(s, [2], parts, console, validator=power_cut, from_scratch=True)
    result = loop.train(s, [2], parts, console, resume=True)
    assert result.stages[0].finished
    assert result.stages[0].steps == 2
    assert _meta(s.run.dir)["ended_early"]


def test_adaptive_rates_move_the_projector_alone(settings, parts, console, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(adaptive, "BEGIN", 2)
    rates = {}
    for enabled in (False, True):
        changes = {"train": {"adaptive_projector_lr": enabled}, "run": {"dir": tmp_path / str(enabled)}}
        s = settings(stages=_stage2(probabilities=CLOUD), **changes)
        loop.train(s, [2], parts, console, from_scratch=True)
        rates[enabled] = [record["rates"] for record in _records(s.run.dir)]
    for plain, moved in zip(rates[False], rates[True], strict=True):
        assert plain.keys() == moved.keys()
        for name in plain:
            same = moved[name] == pytest.approx(plain[name], rel=1e-9)
            assert same or "points" in name or name in ("projectors", "encoders")
    assert rates[True][:2] == rates[False][:2]
    assert rates[True] != rates[False]


def test_with_all_of_them_and_looks_at_prompts_a_killed_run_resumes_to_the_same_numbers(
    settings, parts, console, monkeypatch, tmp_path
) -> None:
    monkeypatch.setattr(adaptive, "BEGIN", 2)
    monkeypatch.setattr(sampling, "Workshop", NoKernel)
    train = {"modality_dropout": 0.3, "adaptive_projector_lr": True, "val_steps": 2, "max_steps": 6}
    groups = {"stages": _stage2(probabilities_end=CLOUD, patience=5), "lora": {"dropout": 0.1}, "infer": {"max_new_tokens": 24}}
    straight = settings(**groups, train=train, run={"dir": tmp_path / "straight"})
    loop.train(straight, [2], parts, console, from_scratch=True)
    broken = settings(**groups, train={**train, "sample_steps": 2, "samples": 2}, run={"dir": tmp_path / "broken"})
    look = sampling.sampler(parts, parts.split()[1], broken, 2, console)
    with monkeypatch.context() as patch:
        _interrupt_after(patch, 3)
        assert loop.train(broken, [2], parts, console, sampler=look, from_scratch=True).exit_code == 75
    torch.manual_seed(99)
    assert loop.train(broken, [2], parts, console, sampler=look, resume=True).exit_code == 0
    for key in ("loss", "grad_norm", "rates", "mix", "val_loss"):
        wanted = [record.get(key) for record in _records(straight.run.dir)]
        assert [record.get(key) for record in _records(broken.run.dir)] == wanted, key
    assert [sorted(record.get("samples_judged", {})) for record in _records(broken.run.dir)][1] == [
        "all",
        "text",
        "text+point_cloud",
    ]
    assert len(list((broken.run.dir / "samples").glob("stage2_step*.png"))) == 3
    name = "stage2_text_pc_model/model.safetensors"
    a, b = load_file(straight.run.dir / name), load_file(broken.run.dir / name)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[key], b[key]) for key in a)
