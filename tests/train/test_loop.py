"""Whole stages on a tiny model: they train, stop, resume to the same numbers, and what was saved loads again."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cadmllm.errors import CadmllmError
from cadmllm.models.stages import MANIFEST, is_complete, newest_complete_stage
from cadmllm.models.weights import load_model, trained_state
from cadmllm.train import loop, squeeze
from cadmllm.train.checkpoint import load_save, step_saves
from cadmllm.train.curriculum import Start, plan_stages
from cadmllm.train.session import open_session
from cadmllm.train.telemetry import read_metrics


def _losses(run_dir: Path, stage: int) -> list[float]:
    records = [r for r in read_metrics(run_dir / "metrics.jsonl") if r["stage"] == stage]
    assert [r["step"] for r in records] == list(range(1, len(records) + 1))
    return [r["loss"] for r in records]


def _interrupt_after(monkeypatch: pytest.MonkeyPatch, steps: int, number: signal.Signals = signal.SIGTERM) -> None:
    """The process gets a real signal while it makes step `steps`."""
    real, done = squeeze.train_step, []

    def step(*arguments):
        done.append(1)
        if len(done) == steps:
            os.kill(os.getpid(), number)
        return real(*arguments)

    monkeypatch.setattr(squeeze, "train_step", step)


def test_three_stages_train_and_load_again(settings, parts, console) -> None:
    s = settings(train={"save_steps": 4, "val_steps": 3})
    judged: list[str] = []

    def validator(model, stage) -> dict[str, float]:
        judged.append(stage.name)
        return {"all": 0.5}

    result = loop.train(s, [1, 2, 3], parts, console, validator=validator)
    assert result.exit_code == 0
    assert [stage.number for stage in result.stages] == [1, 2, 3]
    assert judged == ["stage1_text", "stage2_text_pc", "stage3_all"]
    for stage in result.stages:
        assert stage.finished
        assert is_complete(stage.folder)
        assert len(_losses(s.run.dir, stage.number)) == stage.steps == 6
        files = {path.name for path in stage.folder.iterdir()}
        wanted = {
            "model.safetensors",
            "tokenizer.json",
            "settings.json",
            "training_metadata.json",
            "README.md",
            MANIFEST,
            "steps",
        }
        assert wanted <= files
        assert not [name for name in files if name.startswith(".")]
        assert [path.name for path in step_saves(stage.folder)] == ["step_000004"]
        meta = json.loads((stage.folder / "training_metadata.json").read_text())
        assert meta["judged"] == {"all": 0.5}
        assert meta["val_loss"]["all"] > 0
    assert newest_complete_stage(s.run.dir) == result.stages[-1].folder
    records = read_metrics(result.metrics)
    assert {r["step"] for r in records if "val_loss" in r} == {3}
    assert {"loss", "lr", "grad_norm", "tokens_per_s", "samples_per_s", "supervised", "mix", "time"} <= records[0].keys()
    text = console.err.getvalue()
    for said in (
        "6 = 1 epochs x 6 (22 samples / 4 a step)",
        "the base model",
        "stage 1 of this run",
        "fall back",
        "projectors 0.005",
    ):
        assert said in text


def test_what_was_trained_comes_back_to_the_bit(settings, parts, console) -> None:
    s = settings(train={"max_steps": 2})
    session = open_session(s, plan_stages(s, [2])[0], Start(None, "test"), parts, console)
    before = {name: value.clone() for name, value in trained_state(session.model).items()}
    frozen = {n: p.detach().clone() for n, p in session.model.named_parameters() if not p.requires_grad}
    loop.train(s, [2], parts, console, from_scratch=True)
    folder = s.run.dir / "stage2_text_pc_model"
    model = load_model(folder, s, 2)
    after = trained_state(model)
    saved = load_file(folder / "model.safetensors")
    assert after.keys() == saved.keys() == before.keys()
    assert all(torch.equal(after[name], saved[name]) for name in saved)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    for part in ("lora_B", "rows.input", "rows.output", "points.projector", "points.encoder"):
        assert any(part in name for name in moved), part
    assert all(torch.equal(p, frozen[n]) for n, p in model.named_parameters() if n in frozen)
    batch = session.windows[0].batches[0]
    again = load_model(folder, s)
    with torch.no_grad():
        assert float(model.eval().loss(batch)[0]) == float(again.eval().loss(batch)[0])


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_a_killed_run_resumes_to_the_same_numbers(settings, parts, console, monkeypatch, tmp_path, dropout: float) -> None:
    lora = {"dropout": dropout}
    straight = settings(lora=lora, run={"dir": tmp_path / "straight"})
    loop.train(straight, [2], parts, console, from_scratch=True)
    broken = settings(lora=lora, run={"dir": tmp_path / "broken"})
    with monkeypatch.context() as patch:
        _interrupt_after(patch, 3)
        result = loop.train(broken, [2], parts, console, from_scratch=True)
    assert result.exit_code == 75
    assert not result.stages[0].finished
    assert result.stages[0].steps == 3
    assert not is_complete(result.stages[0].folder)
    torch.manual_seed(99)  # another process would not have this one's random state
    result = loop.train(broken, [2], parts, console, resume=True)
    assert result.exit_code == 0
    assert _losses(broken.run.dir, 2) == _losses(straight.run.dir, 2)
    name = "stage2_text_pc_model/model.safetensors"
    a, b = load_file(straight.run.dir / name), load_file(broken.run.dir / name)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_steps_after_the_last_save_are_made_again_and_told_once(settings, parts, console, monkeypatch) -> None:
    s = settings(train={"save_steps": 2})
    real, calls = squeeze.train_step, []

    def step(*arguments):
        calls.append(1)
        if len(calls) == 6:
            raise RuntimeError("power cut")
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(squeeze, "train_step", step)
        with pytest.raises(RuntimeError, match="power cut"):
            loop.train(s, [1], parts, console)
    first = _losses(s.run.dir, 1)
    assert len(first) == 5
    loop.train(s, [1], parts, console, resume=True)
    assert _losses(s.run.dir, 1)[:5] == first
    assert "resumed after step 4" in console.err.getvalue()


def test_a_torn_save_is_named_and_the_one_before_it_taken(settings, parts, console, monkeypatch) -> None:
    s = settings(train={"save_steps": 2})
    with monkeypatch.context() as patch:
        _interrupt_after(patch, 5, signal.SIGINT)
        assert loop.train(s, [1], parts, console).exit_code == 130
    saves = step_saves(s.run.dir / "stage1_text_model")
    assert [save.name for save in saves] == ["step_000004", "step_000005"]
    weights = saves[1] / "training" / "optimizer.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(CadmllmError, match="optimizer.safetensors") as caught:
        load_save(saves[1])
    assert caught.value.code == "E503"
    loop.train(s, [1], parts, console, resume=True)
    assert len(_losses(s.run.dir, 1)) == 6
    assert "optimizer.safetensors is not the file that was saved" in console.err.getvalue()
    assert "resumed after step 4" in console.err.getvalue()


def test_resuming_under_other_settings_is_refused_by_name(settings, parts, console, monkeypatch) -> None:
    with monkeypatch.context() as patch:
        _interrupt_after(patch, 2)
        loop.train(settings(), [1], parts, console)
    with pytest.raises(CadmllmError, match=r"stages\.1\.lr was 0\.001 and is 0\.5") as caught:
        loop.train(settings(stages={"1": {"epochs": 1, "lr": 0.5}}), [1], parts, console, resume=True)
    assert caught.value.code == "E605"
    assert loop.train(settings(train={"logging_steps": 1, "workers": 0}), [1], parts, console, resume=True).exit_code == 0


def test_what_is_there_is_kept_unless_overwritten(settings, parts, console) -> None:
    s = settings(train={"max_steps": 2})
    loop.train(s, [1], parts, console)
    weights = s.run.dir / "stage1_text_model" / "model.safetensors"
    before = weights.stat().st_mtime_ns
    with pytest.raises(CadmllmError) as caught:
        loop.train(s, [1], parts, console)
    assert caught.value.code == "E605"
    again = loop.train(s, [1], parts, console, resume=True)  # nothing left to do
    assert again.exit_code == 0
    assert weights.stat().st_mtime_ns == before
    loop.train(settings(train={"max_steps": 3}), [1], parts, console, overwrite=True)
    assert weights.stat().st_mtime_ns > before
    assert len(_losses(s.run.dir, 1)) == 3


def test_refusals_write_nothing(settings, parts, console) -> None:
    s = settings()
    for stages, options, code in (
        ([2], {}, "E601"),
        ([1], {"resume": True}, "E604"),
        ([1], {"resume": True, "overwrite": True}, "E105"),
    ):
        with pytest.raises(CadmllmError) as caught:
            loop.train(s, stages, parts, console, **options)
        assert caught.value.code == code
    with pytest.raises(CadmllmError) as caught:
        loop.train(settings(train={"max_seq_length": 70}), [1], parts, console)
    assert caught.value.code == "E406"
    assert "E602" in caught.value.message
    assert not s.run.dir.exists()


def test_a_dry_run_says_the_steps_and_writes_nothing(settings, parts, console) -> None:
    s = settings()
    rows = loop.dry_run(s, [1, 2], parts, console, from_scratch=False, resume=False, overwrite=False)
    assert [(row["stage"], row["steps"], row["samples"]) for row in rows] == [(1, 6, 22), (2, 6, 22)]
    assert "22 samples / 4 a step" in console.out.getvalue()
    assert not s.run.dir.exists()


def test_whole_models_train_without_lora(settings, parts, console) -> None:
    s = settings(lora={"enabled": False}, train={"max_steps": 2})
    result = loop.train(s, [1], parts, console)
    assert "llm.layers.0.self_attn.q_proj.weight" in load_file(result.stages[0].folder / "model.safetensors")


def test_the_loss_falls(settings, parts, console) -> None:
    s = settings(lora={"enabled": False}, stages={"1": {"epochs": 6, "lr": 3e-3}})
    result = loop.train(s, [1], parts, console)
    assert result.stages[0].loss_end < 0.8 * result.stages[0].loss_begin
