"""The plan of a run: what it prints is what training would do, and nothing is loaded or written."""

from __future__ import annotations

import io
import json
import sys
from types import SimpleNamespace

import pytest

from cadmllm.console import Console, jsonable
from cadmllm.models.fusion import build_model
from cadmllm.train import forecast, outline
from cadmllm.train.curriculum import Start, plan_stages
from cadmllm.train.forecast import Card
from cadmllm.train.optim import build_optimizer
from cadmllm.train.windows import Windows, room_of

KNOWN_CARD = Card("NVIDIA GeForce RTX 4090", 24564 << 20, 23000 << 20)
BASE = Start(None, "a test")


@pytest.fixture(autouse=True)
def _no_card(monkeypatch) -> None:
    monkeypatch.setattr(outline, "card_of", lambda settings: None)


def planned(settings, parts, console, numbers=(1, 2, 3), **options):
    stages = plan_stages(settings, numbers)
    return outline.outline(settings, stages, [BASE] * len(stages), parts, console, **options)


def test_what_is_planned_is_what_would_be_trained(settings, parts, console) -> None:
    s = settings()
    rows = planned(s, parts, console)
    assert [row["stage"] for row in rows] == [1, 2, 3]
    for row in rows:
        model = build_model(s, row["stage"])
        _, infos = build_optimizer(model.parameter_groups(), row["stage"], s.stages[row["stage"]].lr, s.train, "cpu")
        assert row["trainable"] == sum(info.parameters for info in infos)
        assert row["parameters"] == sum(parameter.numel() for parameter in model.parameters())
        groups: dict[tuple[str, str, float], int] = {}
        for info in infos:
            key = (info.component, info.branch, info.lr)
            groups[key] = groups.get(key, 0) + info.parameters
        assert {(g["component"], g["branch"], g["lr"]): g["parameters"] for g in row["groups"]} == groups
        assert row["steps"] == 6
        assert (row["samples"], row["held_out"]) == (22, 4)
    assert not s.run.dir.exists()


def test_no_model_is_loaded(settings, parts, console, monkeypatch) -> None:
    def refuse(*args, **kwargs):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("cadmllm.models.fusion.build_model", refuse)
    monkeypatch.setattr("cadmllm.models.backbone.load_backbone", refuse)
    monkeypatch.setattr("cadmllm.train.windows.load_sample", refuse)
    assert len(planned(settings(), parts, console)) == 3


def test_the_tokens_are_those_of_the_windows(settings, parts, console) -> None:
    from cadmllm.corpus.batch import Collator

    s = settings()
    (stage,) = plan_stages(s, [3])
    model = build_model(s, 3)
    collate = Collator(model.tokenizer, model.text_size, model.cloud_tokens, model.image_tokens, s.train.max_seq_length)
    ids = parts.usable(parts.split()[0], 400)[0]
    windows = Windows(parts, ids, stage, s, collate, room_of(s, True))
    loaded = [windows[step] for step in range(windows.steps_per_epoch)]
    told = forecast.tokens_of(windows)
    supervised = sum(batch.supervised for window in loaded for batch in window.batches)
    assert told.supervised * told.looked_at == pytest.approx(supervised)  # exact: the index knows the targets
    tokens = sum(batch.tokens for window in loaded for batch in window.batches)
    letters = sum(len(parts.caption(id_)) for id_ in ids)  # the tiny base has a token a letter, hence this much more
    assert told.sample * told.looked_at < tokens < told.sample * told.looked_at + letters
    assert told.micro_batches == sum(len(window.batches) for window in loaded) / len(loaded)
    assert told.longest <= told.rows


def test_for_people(settings, parts, console) -> None:
    planned(settings(), parts, console)
    said = console.out.getvalue()
    for line in (
        "22 samples / 4 a step",
        "  tokens  ",
        "  trains  ",
        "  memory  ",
        "  time  ",
        "  disk  ",
        "in all",
        "LoRA",
        "frozen",
    ):
        assert line in said
    assert "no card here to compare with" in said
    assert "nothing was trained or written" in said


def test_for_programs_every_stage_has_the_same_keys(settings, parts) -> None:
    out = io.StringIO()
    rows = planned(settings(), parts, Console(json=True, out=out, err=io.StringIO()))
    unknown = planned(settings(model={"llm": "some/model"}), parts, Console(json=True, out=out, err=io.StringIO()), (1,))
    assert out.getvalue() == ""
    assert {tuple(sorted(row)) for row in [*rows, *unknown]} == {tuple(sorted(rows[0]))}
    again = json.loads(json.dumps(jsonable(rows), allow_nan=False))
    assert again[0]["memory"]["parts"][0]["part"] == "linear layers"
    assert again[2]["tokens"]["samples_looked_at"] == 22


def test_sizes_that_nobody_knows_are_said_and_not_guessed(settings, parts, console) -> None:
    (row,) = planned(settings(model={"llm": "some/model"}), parts, console, (1,))
    assert row["memory"] is None
    assert row["parameters"] is None
    assert "some/model" in row["unknown"][0]
    assert row["disk"]["known"] is False
    assert "size of some/model is unknown here" in console.out.getvalue()


def test_a_known_card_gives_a_time_and_an_unknown_one_does_not(settings, parts, console) -> None:
    s = settings().model_copy(update={"device": "cuda"})
    (row,) = planned(s, parts, console, (1,), card=KNOWN_CARD)
    assert row["time"]["seconds"] == pytest.approx(6 * row["time"]["seconds_a_step"])
    assert row["time"]["source"].startswith("arithmetic, not measured")
    assert row["memory"]["fits"] is True
    assert row["card"]["name"] == KNOWN_CARD.name
    (row,) = planned(s, parts, console, (1,), card=Card("Some GPU", 8 << 30, 7 << 30))
    assert row["time"]["seconds"] is None
    assert "Some GPU is not in the table" in row["time"]["source"]


def test_measured_steps_come_before_arithmetic(settings, parts, console) -> None:
    s = settings()
    s.run.dir.mkdir(parents=True)
    lines = [{"stage": 1, "step": k, "seconds": 2.0, "tokens": 400} for k in (1, 2, 3)]
    (s.run.dir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    first, second = planned(s, parts, console, (1, 2), card=KNOWN_CARD)
    assert (first["time"]["seconds_a_step"], first["time"]["seconds"]) == (2.0, 12.0)
    assert second["time"]["seconds_a_step"] == pytest.approx(second["tokens"]["a_step"] / 200, rel=0.01)
    assert "measured" in first["time"]["source"]
    assert "200 tokens/s of an earlier stage" in second["time"]["source"]


@pytest.mark.parametrize(
    ("free", "remedy"), [(15, "pack_tokens="), (5, "model.embedding_device=cpu"), (3, "the largest model that fits")]
)
def test_what_does_not_fit_is_said_with_what_would(settings, parts, console, free, remedy) -> None:
    model = {"llm": "Qwen/Qwen3-8B", "quantization": "nf4"}
    train = {"gradient_checkpointing": True, "max_seq_length": 4096, "batch_size": 8}
    s = settings(model=model, train=train).model_copy(update={"device": "cuda", "dtype": "bfloat16"})
    (row,) = planned(s, parts, console, (1,), card=Card("NVIDIA GeForce RTX 5070 Ti", 16303 << 20, free << 30))
    assert row["memory"]["fits"] is False
    assert remedy in console.err.getvalue()


def test_cached_features_leave_the_encoders_out(settings, parts, console) -> None:
    model = {"points_encoder": "michelangelo", "point_tokens": 8}
    with_, without = (
        planned(settings(model=model), parts, console, (2,), from_store=branches)[0] for branches in ((), ("points",))
    )
    assert with_["parameters"] - without["parameters"] == 64_012_800
    assert with_["trainable"] == without["trainable"]


def _no_driver() -> None:
    raise RuntimeError("Driver Not Loaded")


def test_without_a_driver_there_is_no_card(settings, monkeypatch) -> None:
    assert forecast.card_of(settings()) is None  # device is cpu
    monkeypatch.setitem(sys.modules, "pynvml", SimpleNamespace(NVMLError=RuntimeError, nvmlInit=_no_driver))
    assert forecast.card_of(settings().model_copy(update={"device": "cuda"})) is None


def test_the_card_that_is_visible(settings, monkeypatch) -> None:
    asked = []
    nvml = SimpleNamespace(
        NVMLError=RuntimeError,
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByIndex=lambda index: asked.append(index) or index,
        nvmlDeviceGetHandleByUUID=lambda name: asked.append(name) or name,
        nvmlDeviceGetMemoryInfo=lambda handle: SimpleNamespace(total=16 << 30, free=15 << 30),
        nvmlDeviceGetName=lambda handle: f"card {handle}",
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    s = settings().model_copy(update={"device": "cuda:1"})
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert forecast.card_of(s) == Card("card 1", 16 << 30, 15 << 30)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-abc")
    assert forecast.card_of(s) == Card("card GPU-abc", 16 << 30, 15 << 30)
    assert forecast.card_of(s.model_copy(update={"device": "cuda"})) == Card("card 3", 16 << 30, 15 << 30)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert forecast.card_of(s) is None
    assert asked == [1, "GPU-abc", 3]
