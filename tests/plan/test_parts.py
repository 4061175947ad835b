"""Parameters by arithmetic against models that are really built (on the meta device where they are large)."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cadmllm.corpus.types import ADDED, CAD_SIZE
from cadmllm.models.fusion import build_model
from cadmllm.plan.parts import (
    HEAD_ROWS,
    INPUT_ROWS,
    KNOWN_VITS,
    MICHELANGELO,
    TINY_VIT,
    UnknownShape,
    branch_widths,
    llm_shape,
    parts_of,
    projector_parameters,
    resampler_parameters,
)
from cadmllm.plan.sizes import KNOWN
from cadmllm.settings import Settings


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("lora", [True, False])
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_every_component_of_a_built_model(settings, stage, lora):
    asked = settings(2, "float32", lora={"enabled": lora})
    parts = parts_of(asked, stage)
    for row in build_model(asked, stage).describe():
        chosen = [part for part in parts if row["component"] in ("total", part.component)]
        assert sum(part.parameters for part in chosen) == row["parameters"], row["component"]
        assert sum(part.parameters for part in chosen if part.trained) == row["trainable"], row["component"]


@pytest.mark.parametrize("name", ["Qwen/Qwen3-8B", "Qwen/Qwen3-0.6B"])
def test_the_real_language_models(name):
    from peft import LoraConfig, get_peft_model
    from transformers import Qwen3Config, Qwen3Model

    shape = KNOWN[name]
    config = Qwen3Config(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.mlp,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
    )
    with torch.device("meta"):
        model = Qwen3Model(config)
        without = shape.linear_parameters + shape.vocabulary * shape.hidden + shape.norm_parameters
        assert count(model) == without
        targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
        assert count(get_peft_model(model, LoraConfig(r=32, target_modules=targets))) == without + shape.lora_parameters(32)


def test_the_vision_transformers():
    from transformers import Dinov2Config, Dinov2Model

    from cadmllm.models.dino import tiny_dino

    assert count(tiny_dino()) == TINY_VIT.parameters
    heads = {384: 6, 768: 12, 1024: 16, 1536: 24}
    for vit in KNOWN_VITS.values():
        config = Dinov2Config(
            hidden_size=vit.width,
            num_hidden_layers=vit.layers,
            num_attention_heads=heads[vit.width],
            image_size=518,
            patch_size=14,
            use_swiglu_ffn=vit.gated,
        )
        with torch.device("meta"):
            assert count(Dinov2Model(config)) == vit.parameters
    assert KNOWN_VITS["facebook/dinov2-large"].parameters == 304_368_640


def test_the_published_point_encoder_and_its_projector():
    from cadmllm.models.michelangelo import MichelangeloEncoder
    from cadmllm.models.projector import Projector

    with torch.device("meta"):
        assert count(MichelangeloEncoder(257, 768, 3072, 12, 8)) == MICHELANGELO[0]
        assert count(Projector(768, 4096)) == projector_parameters(768, 4096)


@pytest.mark.parametrize("views", [1, 8])
@pytest.mark.parametrize(("inner", "layers"), [(512, 2), (96, 1), (200, 5)])
def test_the_resampler(inner, layers, views):
    from cadmllm.models.resampler import VIEWS, Resampler
    from cadmllm.plan import parts

    with torch.device("meta"):
        resampler = Resampler(1024, 4096, 64, inner=inner, layers=layers, views=views)
    assert count(resampler) == resampler_parameters(1024, 4096, 64, inner, layers, views)
    assert parts.VIEWS == VIEWS


@pytest.mark.parametrize("lora", [True, False])
def test_a_built_model_with_resamplers(settings, tmp_path, lora):
    from encoders import make_dino, make_michelangelo

    make_michelangelo(tmp_path / "points.pt")
    model = {"image_encoder": str(make_dino(tmp_path / "dino")), "image_bridge": "perceiver", "resampler_width": 48}
    asked = settings(1, "float32", model=model | {"resampler_layers": 3}, lora={"enabled": lora})
    built = build_model(asked, 3)
    images = [part for part in parts_of(asked, 3) if part.branch == "images"]
    assert [part.name for part in images] == ["image encoder", "image resampler"]
    assert [count(built.images.encoder), count(built.images.projector)] == [part.parameters for part in images]
    assert [part.trained for part in images] == [False, True]
    clouds = {"points_encoder": "michelangelo", "points_checkpoint": tmp_path / "points.pt", "point_tokens": 4}
    asked = settings(1, "float32", model=clouds | {"resampler_width": 48})
    found = count(build_model(asked, 2).points.projector)
    assert found == resampler_parameters(64, 128, 4, 48, 2)  # the plan itself knows the published encoder alone
    assert [part.name for part in parts_of(asked, 2) if part.component == "projectors"] == ["point resampler"]


def test_the_added_rows():
    assert (len(ADDED), CAD_SIZE) == (INPUT_ROWS, HEAD_ROWS)


def test_frozen_encoders_are_not_there_where_their_features_are_stored(tmp_path):
    asked = Settings(data={"features": tmp_path})
    assert [part.name for part in parts_of(asked, 3) if part.branch] == ["point projector", "image resampler"]
    some = [part.name for part in parts_of(asked, 3, ["points"]) if part.branch]
    assert some == ["point projector", "image encoder", "image resampler"]
    trained = Settings(data={"features": tmp_path}, model={"points_encoder": "fourier"})
    assert "point encoder" in [part.name for part in parts_of(trained, 2)]
    assert branch_widths(asked, 3) == {"points": 768, "images": 1024}


def test_sizes_that_nobody_knows_are_said(tmp_path):
    with pytest.raises(UnknownShape, match="someone/llm"):
        llm_shape(Settings(model={"llm": "someone/llm"}))
    with pytest.raises(UnknownShape, match="someone/eyes"):
        parts_of(Settings(model={"image_encoder": "someone/eyes"}), 3)
    (tmp_path / "config.json").write_text('{"hidden_size": 8}')
    with pytest.raises(UnknownShape, match=r"config\.json"):
        parts_of(Settings(model={"image_encoder": str(tmp_path)}), 3)
