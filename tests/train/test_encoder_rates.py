"""Encoders that are trained along, at a rate of their own, or held: on small files of the real kinds."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from encoders import make_dino, make_michelangelo
from safetensors.torch import load_file
from torch import Tensor

from cadmllm.corpus.layout import DataSet
from cadmllm.errors import CadmllmError
from cadmllm.models.fusion import build_model
from cadmllm.models.weights import load_model
from cadmllm.plan.disk import stage_disk
from cadmllm.plan.memory import predict
from cadmllm.plan.parts import parts_of
from cadmllm.settings import Settings
from cadmllm.train import loop, squeeze
from cadmllm.train.curriculum import Start, plan_stages
from cadmllm.train.encode import Options, encode
from cadmllm.train.session import Session, open_session
from cadmllm.train.telemetry import read_metrics

Make = Callable[..., Settings]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with points.pt and dino/; read only."""
    folder = tmp_path_factory.mktemp("encoders")
    make_michelangelo(folder / "points.pt")
    make_dino(folder / "dino")
    return folder


@pytest.fixture
def pretrained(settings: Make, files: Path, parts: DataSet) -> Make:
    """Settings with both encoders from files, to be trained along; `pretrained(model={...}, train={...})` changes groups."""

    def make(**groups: dict) -> Settings:
        model = {"points_encoder": "michelangelo", "points_checkpoint": files / "points.pt", "point_tokens": 9}
        model |= {"image_encoder": str(files / "dino"), "image_bridge": "mlp", "image_tokens": 5, "train_encoders": True}
        groups["model"] = {**model, **groups.get("model", {})}
        groups["train"] = {"batch_size": 2, "accumulation": 2, "max_seq_length": 512, "warmup_steps": 2} | groups.get("train", {})
        made = settings(data={"root": parts.data.root}, **groups)
        made.stages[3].probabilities = {"text+point_cloud": 0.5, "text+image": 0.5}
        return made

    return make


def encoders_of(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if ".encoder." in name}


def on_disk(settings: Settings, stage: int) -> dict[str, Tensor]:
    folder = {2: "stage2_text_pc_model", 3: "stage3_all_model"}[stage]
    return load_file(settings.run.dir / folder / "model.safetensors")


def opened(settings: Settings, parts: DataSet, console, stage: int = 3) -> Session:
    return open_session(settings, plan_stages(settings, [stage])[0], Start(None, "test"), parts, console)


def test_frozen_ones_stay_as_they_are_to_the_bit_and_are_not_saved(pretrained, parts, console) -> None:
    s = pretrained(model={"train_encoders": False})
    session = opened(s, parts, console)
    before = {name: value.clone() for name, value in encoders_of(session.model.state_dict()).items()}
    assert before
    loop.train(s, [3], parts, console, from_scratch=True)
    assert not encoders_of(on_disk(s, 3))
    after = load_model(s.run.dir / "stage3_all_model", s, 3).state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


@pytest.mark.parametrize(
    "bridge", [{}, {"image_bridge": "perceiver", "image_tokens": 4, "resampler_width": 32, "point_tokens": 5}]
)
def test_trained_ones_move_at_their_own_rate_and_come_back_to_the_bit(pretrained, parts, console, bridge: dict) -> None:
    s = pretrained(model=bridge, train={"adaptive_projector_lr": True})
    before = encoders_of(build_model(s, 3).state_dict())
    loop.train(s, [3], parts, console, from_scratch=True)
    saved = encoders_of(on_disk(s, 3))
    still = {name for name, value in before.items() if torch.equal(saved[name], value)}
    assert still <= {"images.encoder.dino.embeddings.mask_token"}  # shown to nothing but DINOv2's own training
    # AdamW moves a weight by about its rate a step, whatever the gradient: projectors 5e-3, these 1e-5
    name = "points.encoder.encoder.self_attn.resblocks.0.mlp.c_fc.weight"
    steps = len(list(read_metrics(s.run.dir / "metrics.jsonl")))
    assert 1e-7 < float((saved[name] - before[name]).abs().max()) < 2e-5 * steps
    again = encoders_of(load_model(s.run.dir / "stage3_all_model", s).state_dict())
    assert again.keys() == before.keys() == saved.keys()
    assert all(torch.equal(again[name], value) for name, value in saved.items())
    assert "encoder of points 1e-05, encoder of images 1e-05; warmup 2 steps" in console.err.getvalue()


def test_the_rate_that_is_asked_for_is_what_is_set_and_told(pretrained, parts, console) -> None:
    s = pretrained(train={"encoder_lr": 3e-4})
    session = opened(s, parts, console)
    session.set_rates(1)  # the first step of the full rate
    rates = session.rates()
    assert rates["encoders.points"] == rates["encoders.images"] == pytest.approx(3e-4)
    assert rates["projectors.points"] == pytest.approx(5e-3)
    session.set_rates(0)
    assert session.rates()["encoders.points"] == pytest.approx(1.5e-4)
    assert session.model.points is not None
    assert session.model.points.encoder is not None
    assert session.model.points.encoder.training


def test_a_killed_run_with_trained_encoders_resumes_to_the_same_numbers(
    pretrained, parts, console, monkeypatch, tmp_path
) -> None:
    straight = pretrained(train={"encoder_lr": 1e-3}, run={"dir": tmp_path / "straight"})
    loop.train(straight, [3], parts, console, from_scratch=True)
    broken = pretrained(train={"encoder_lr": 1e-3}, run={"dir": tmp_path / "broken"})
    real, done = squeeze.train_step, []

    def step(*arguments):
        done.append(1)
        if len(done) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(squeeze, "train_step", step)
        assert loop.train(broken, [3], parts, console, from_scratch=True).exit_code == 75
    other = pretrained(train={"encoder_lr": 0.0}, run={"dir": tmp_path / "broken"})
    with pytest.raises(CadmllmError, match="train.encoder_lr was 0.001 and is 0.0") as caught:
        loop.train(other, [3], parts, console, resume=True)
    assert caught.value.code == "E605"
    assert loop.train(broken, [3], parts, console, resume=True).exit_code == 0
    a, b = on_disk(straight, 3), on_disk(broken, 3)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("made_here", [False, True])
def test_a_rate_of_zero_holds_what_an_earlier_stage_trained(pretrained, parts, console, made_here: bool) -> None:
    here = {"points_encoder": "fourier", "image_encoder": "tiny", "point_tokens": 8, "image_tokens": 4} if made_here else {}
    first = pretrained(model=here, train={"encoder_lr": 1e-3, "max_steps": 3})
    loop.train(first, [2], parts, console, from_scratch=True)
    trained = encoders_of(on_disk(first, 2))
    fresh = build_model(first, 3).state_dict()
    assert trained
    assert not any(torch.equal(value, fresh[name]) for name, value in trained.items() if value.ndim > 1)
    s = pretrained(model=here, train={"encoder_lr": 0.0, "max_steps": 3})
    loop.train(s, [3], parts, console)
    kept = encoders_of(on_disk(s, 3))
    assert all(torch.equal(kept[name], value) for name, value in trained.items())
    images = {name: value for name, value in kept.items() if name.startswith("images.")}
    assert images
    assert all(torch.equal(value, fresh[name]) for name, value in images.items())
    again = load_model(s.run.dir / "stage3_all_model", s).state_dict()
    assert all(torch.equal(again[name], value) for name, value in kept.items())
    told = console.err.getvalue()
    assert "encoder of points 0 (held as it is: train.encoder_lr=0)" in told


def test_held_ones_are_run_as_frozen_ones_are(pretrained, parts, console) -> None:
    session = opened(pretrained(train={"encoder_lr": 0.0}), parts, console)
    assert {info.component for info in session.infos} == {"llm", "rows", "projectors"}
    for branch in (session.model.points, session.model.images):
        assert branch is not None
        assert branch.encoder is not None
        session.model.train()
        assert not branch.encoder.training
        assert branch.projector.training
        assert not any(parameter.requires_grad for parameter in branch.encoder.parameters())
    assert {name for name, _ in session.model.parameter_groups()["encoders"]} == set()


@pytest.mark.parametrize("rate", [None, 0.0, 1e-5])
def test_features_of_encoders_that_belong_to_the_checkpoint_are_not_cached(pretrained, parts, console, tmp_path, rate) -> None:
    with pytest.raises(CadmllmError, match="model.train_encoders=true") as caught:
        encode(pretrained(train={"encoder_lr": rate}), parts, tmp_path / "store", Options(), console)
    assert caught.value.code == "E472"


def test_the_plan_knows_what_is_held(pretrained) -> None:
    def encoder(settings: Settings):
        return next(part for part in parts_of(settings, 3) if part.name == "image encoder")

    asked = {"frozen": pretrained(model={"train_encoders": False}), "held": pretrained(train={"encoder_lr": 0.0})}
    asked["trained"] = pretrained()
    assert {name: (encoder(s).trained, encoder(s).held) for name, s in asked.items()} == {
        "frozen": (False, False),
        "held": (False, True),
        "trained": (True, False),
    }
    count = sum(part.parameters for part in parts_of(asked["held"], 3) if part.component == "encoders")
    disk = {name: stage_disk(s, 3) for name, s in asked.items()}
    assert disk["held"].stage - disk["frozen"].stage == 4 * count
    assert disk["trained"].stage == disk["held"].stage
    assert disk["trained"].step - disk["held"].step == 8 * count  # AdamW's moments
    memory = {name: {row.name: row.bytes for row in predict(s, 3).lines} for name, s in asked.items()}
    assert "encoders: gradients" in memory["trained"]
    assert "encoders: gradients" not in memory["held"]
    half = pretrained(train={"encoder_lr": 0.0})
    half.dtype = "bfloat16"
    assert {row.name: row.bytes for row in predict(half, 3).lines}["image encoder"] == 4 * encoder(half).parameters
    assert memory["held"]["features"] == memory["frozen"]["features"] < memory["trained"]["features"]


def test_a_dry_run_shows_the_rates(pretrained, parts, console) -> None:
    for rate, said in ((None, "1e-05"), (2e-6, "2e-06"), (0.0, "0")):
        s = pretrained(train={"encoder_lr": rate})
        rows = loop.dry_run(s, [3], parts, console, from_scratch=True, resume=False, overwrite=False)
        assert rows
        lines = console.out.getvalue().splitlines()
        row = next(line for line in reversed(lines) if "image encoder" in line)
        assert row.split()[-1] == said
        assert any(f"encoder of images {said}" in line for line in lines)
