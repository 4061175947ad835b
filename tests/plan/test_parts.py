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

    from cadmllm.models.image import tiny_dino

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


def test_the_added_rows():
    assert (len(ADDED), CAD_SIZE) == (INPUT_ROWS, HEAD_ROWS)


def test_frozen_encoders_are_not_there_where_their_features_are_stored(tmp_path):
    asked = Settings(data={"features": tmp_path})
    assert [part.name for part in parts_of(asked, 3) if part.branch] == ["point projector", "image projector"]
    some = [part.name for part in parts_of(asked, 3, ["points"]) if part.branch]
    assert some == ["point projector", "image encoder", "image projector"]
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
