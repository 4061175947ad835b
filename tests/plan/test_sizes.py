"""Parameter counts of every kind of decoder, to the last parameter, against models that transformers makes of their configs."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from cadmllm.plan.sizes import EXACT, KNOWN, shape_from, shape_of

SMALL = {
    "vocab_size": 320,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "qwen2": {"model_type": "qwen2"},
    "qwen2-tied": {"model_type": "qwen2", "tie_word_embeddings": True, "use_sliding_window": True, "sliding_window": 16},
    "qwen2-says-no-bias": {"model_type": "qwen2", "attention_bias": False},
    "qwen3": {"model_type": "qwen3", "head_dim": 16},
    "qwen3-default-head": {"model_type": "qwen3", "hidden_size": 64},
    "qwen3-bias": {"model_type": "qwen3", "head_dim": 8, "attention_bias": True, "tie_word_embeddings": True},
    "llama": {"model_type": "llama"},
    "llama-tied-head": {"model_type": "llama", "tie_word_embeddings": True, "head_dim": 16},
    "llama-biases": {"model_type": "llama", "attention_bias": True, "mlp_bias": True},
    "llama-no-groups": {"model_type": "llama", "num_key_value_heads": None},
    "mistral": {"model_type": "mistral", "head_dim": 20, "sliding_window": 32},
    "mistral-derived-head": {"model_type": "mistral", "sliding_window": None},
}


def built(config: dict[str, Any]) -> torch.nn.Module:
    from transformers import AutoConfig, AutoModelForCausalLM

    values = {key: value for key, value in config.items() if key != "model_type"}
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(config["model_type"], **values))


@pytest.mark.parametrize("name", CONFIGS)
def test_every_parameter_is_counted(name, tmp_path):
    config = {**SMALL, **CONFIGS[name]}
    model: Any = built(config)
    (tmp_path / "config.json").write_text(json.dumps(config))
    shape = shape_of(str(tmp_path))
    assert shape is not None
    assert shape.parameters + shape.norm_parameters == sum(p.numel() for p in model.parameters())  # tied weights count once
    names = dict(model.named_parameters())
    matrices = sum(value.numel() for key, value in names.items() if key.endswith("proj.weight"))
    assert shape.linear_parameters == matrices
    assert shape.norm_parameters == sum(value.numel() for value in names.values() if value.ndim == 1)
    assert shape.tied == ("lm_head.weight" not in names)
    assert shape.window == (config.get("sliding_window") or 0)


@pytest.mark.parametrize("name", CONFIGS)
def test_loras_parameters(name):
    from peft import LoraConfig, get_peft_model

    from cadmllm.models.backbone import LORA_TARGETS

    config = {**SMALL, **CONFIGS[name]}
    wrapped = get_peft_model(built(config), LoraConfig(r=4, target_modules=list(LORA_TARGETS)))
    assert shape_from(config).lora_parameters(4) == sum(p.numel() for p in wrapped.parameters() if p.requires_grad)


@pytest.mark.parametrize(
    ("config", "billions"),
    [
        # as their config.json says it: Qwen2.5-7B-Instruct, Llama-3.1-8B, Llama-3.2-1B, Mistral-7B-v0.3
        (("qwen2", 28, 3584, 18944, 28, 4, 152_064, False), 7_615_616_512),
        (("llama", 32, 4096, 14336, 32, 8, 128_256, False), 8_030_261_248),
        (("llama", 16, 2048, 8192, 32, 8, 128_256, True), 1_235_814_400),
        (("mistral", 32, 4096, 14336, 32, 8, 32_768, False), 7_248_023_552),
    ],
)
def test_published_numbers(config, billions):
    names = ("model_type", "num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads")
    names += ("num_key_value_heads", "vocab_size", "tie_word_embeddings")
    shape = shape_from(dict(zip(names, config, strict=True)))
    assert shape.parameters + shape.norm_parameters == billions


@pytest.mark.parametrize(
    "config",
    [
        {},
        {**SMALL, "model_type": "qwen3_moe"},
        {**SMALL, "model_type": "gemma3_text"},
        {**SMALL, "model_type": ["llama"]},
        {"model_type": "llama"},
        {**SMALL, "model_type": "llama", "num_attention_heads": 0},
        {**SMALL, "model_type": "llama", "hidden_size": "wide"},
        [],
        "text",
    ],
)
def test_of_others_nothing_is_said(config, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert shape_of(str(tmp_path)) is None


def test_the_known_ones_are_all_of_a_kind_that_is_counted():
    assert {shape.kind for shape in KNOWN.values()} <= set(EXACT)
