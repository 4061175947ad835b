"""The frozen encoders by themselves: recognised by their weights, run as training runs them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from encoders import make_dino, make_michelangelo

from cadmllm.errors import CadmllmError
from cadmllm.models.features import FrozenEncoder
from cadmllm.models.frozen import encoder_name, feature_tokens, files_hash, refuse_trained, why_trained
from cadmllm.models.fusion import build_model


@pytest.fixture
def frozen(settings, tmp_path: Path):
    make_michelangelo(tmp_path / "points.pt")
    make_dino(tmp_path / "dino")
    return settings(
        points_encoder="michelangelo",
        points_checkpoint=tmp_path / "points.pt",
        point_tokens=9,
        image_encoder=str(tmp_path / "dino"),
        image_bridge="mlp",
        image_tokens=5,
    )


def cloud(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.uniform(-1, 1, (64, 3)).astype(np.float32), rng.normal(size=(64, 3)).astype(np.float32)


def view(seed: int) -> tuple[np.ndarray, ...]:
    return (np.random.default_rng(seed).normal(size=(3, 224, 224)).astype(np.float32),)


@pytest.mark.parametrize(("part", "inputs"), [("points", cloud), ("images", view)])
def test_features_are_those_that_the_model_would_compute(frozen, part, inputs):
    encoder = FrozenEncoder(frozen, part)
    found = encoder([inputs(0), inputs(1)], "float32")
    assert found.shape == (2, encoder.tokens, encoder.width)
    assert feature_tokens(frozen, part, encoder.tokens) == encoder.tokens
    branch = getattr(build_model(frozen, 3).eval(), part)
    columns = [torch.from_numpy(np.stack(column)) for column in zip(inputs(0), inputs(1), strict=True)]
    with torch.no_grad():
        wanted = branch(*columns)
        torch.testing.assert_close(branch.projector(torch.from_numpy(found)), wanted, rtol=1e-5, atol=1e-6)
    bits = encoder([inputs(0), inputs(1)], "bfloat16")
    assert bits.dtype == np.uint16
    torch.testing.assert_close(torch.from_numpy(bits).view(torch.bfloat16).float(), torch.from_numpy(found), rtol=0.01, atol=0.01)


def test_models_without_encoders_begin_the_same(frozen):
    with_, without = build_model(frozen, 3), build_model(frozen, 3, cached={"points": (9, 64), "images": (5, 32)})
    a, b = ({name: value for name, value in model.state_dict().items() if ".encoder." not in name} for model in (with_, without))
    assert a.keys() == b.keys() == without.state_dict().keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_weights_are_hashed_not_files(frozen, tmp_path: Path):
    first = FrozenEncoder(frozen, "points").weights
    before = files_hash(frozen, "points")
    state = torch.load(tmp_path / "points.pt", weights_only=True)
    torch.save({**state, "post_kl.bias": torch.zeros(3)}, tmp_path / "points.pt")
    assert files_hash(frozen, "points") != before
    assert FrozenEncoder(frozen, "points").weights == first
    state["encoder.ln_post.bias"][0] += 1e-4
    torch.save(state, tmp_path / "points.pt")
    assert FrozenEncoder(frozen, "points").weights != first
    frozen.dtype = "bfloat16"
    assert FrozenEncoder(frozen, "points").weights != first  # other numbers come out


def test_what_the_config_changes_is_part_of_the_weights(frozen, tmp_path: Path):
    first, files = FrozenEncoder(frozen, "images").weights, files_hash(frozen, "images")
    config = tmp_path / "dino" / "config.json"
    config.write_text(config.read_text().replace('"num_attention_heads": 2', '"num_attention_heads": 4'))
    assert files_hash(frozen, "images") != files
    assert FrozenEncoder(frozen, "images").weights != first


def test_encoders_that_are_not_here_have_no_hash(settings, tmp_path: Path):
    missing = settings(points_encoder="michelangelo", points_checkpoint=tmp_path / "no.pt", image_encoder=str(tmp_path / "no"))
    assert files_hash(missing, "points") == files_hash(missing, "images") == ""
    assert files_hash(settings(image_encoder="nobody/no-such-model"), "images") == ""
    (tmp_path / "no").mkdir()
    assert files_hash(missing, "images") == ""


def test_trained_encoders_are_refused(settings, frozen):
    assert why_trained(frozen, "points") == why_trained(frozen, "images") == ""
    refuse_trained(frozen, "points")
    for part, chosen, named in (
        ("points", settings(), "fourier"),
        ("images", settings(), "tiny"),
        ("points", settings(points_encoder="michelangelo", train_encoders=True), "train_encoders"),
    ):
        with pytest.raises(CadmllmError, match=named) as caught:
            FrozenEncoder(chosen, part)
        assert caught.value.code == "E472"
    assert encoder_name(frozen, "points")[0] == "michelangelo"
