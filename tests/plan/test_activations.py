"""What a token is said to take against what a built model really keeps, on small models with Qwen3-8B's ratios."""

from __future__ import annotations

import dataclasses

import pytest
from live_bytes import step_memory

from cadmllm.models.fusion import build_model
from cadmllm.plan.activations import Recipe, per_token, recipe_of, saved_by_layer
from cadmllm.plan.parts import llm_shape
from cadmllm.settings import Settings

SHORT, LONG = 128, 512
CASES = [
    ("bfloat16", True, False),
    ("bfloat16", True, True),
    ("float32", True, False),
    ("float32", True, True),
    ("bfloat16", False, False),
    ("bfloat16", False, True),
    ("float32", False, True),
]


def recipe(settings: Settings) -> Recipe:
    lora, train = settings.lora, settings.train
    return recipe_of(settings.dtype, lora.enabled, lora.r, train.gradient_checkpointing)


def slopes(settings: Settings, documents: int = 0, copies: bool = False) -> tuple[float, float]:
    """Bytes a token: saved, and at the peak; `copies`: LoRA's layers as PEFT makes them."""
    from peft.tuners.lora import LoraLayer

    model = build_model(settings, 1)
    if documents:
        model.settle_attention()
    for module in model.llm.modules() if copies else ():
        if isinstance(module, LoraLayer):
            module.forward = module.forward.plain
            del module._cast_input_dtype
    short, long = (step_memory(model, tokens, documents) for tokens in (SHORT, LONG))
    return (long.saved - short.saved) / (LONG - SHORT), (long.peak - short.peak) / (LONG - SHORT)


@pytest.mark.parametrize(("dtype", "lora", "checkpointing"), CASES)
def test_bytes_a_token_at_the_peak(settings, dtype, lora, checkpointing):
    asked = settings(3, dtype, lora={"enabled": lora}, train={"gradient_checkpointing": checkpointing})
    each = per_token(llm_shape(asked), recipe(asked))
    _, peak = slopes(asked)
    assert each.stored + each.live == pytest.approx(peak, rel=0.1)


@pytest.mark.parametrize("lora", [True, False])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_what_a_layer_saves_is_counted_to_the_byte(settings, dtype, lora):
    few, many = (slopes(settings(layers, dtype, lora={"enabled": lora}))[0] for layers in (1, 3))
    asked = settings(1, dtype, lora={"enabled": lora})
    assert (many - few) / 2 == pytest.approx(saved_by_layer(llm_shape(asked), recipe(asked)), rel=0.005)


def test_checkpointing_stores_the_layers_inputs_alone(settings):
    few, many = (slopes(settings(layers, train={"gradient_checkpointing": True}))[0] for layers in (1, 3))
    asked = settings(3, train={"gradient_checkpointing": True})
    each = per_token(llm_shape(asked), recipe(asked))
    assert (many - few) / 2 == pytest.approx(each.stored / 3) == 2 * 128


def test_packed_rows_take_as_much(settings):
    asked = settings(3, train={"gradient_checkpointing": True})
    each = per_token(llm_shape(asked), recipe(asked))
    assert each.stored + each.live == pytest.approx(slopes(asked, documents=4)[1], rel=0.1)


@pytest.mark.parametrize("checkpointing", [True, False])
def test_with_the_copies_of_loras_inputs(settings, checkpointing):
    """As in the training guide's recipe, where PEFT copies LoRA's inputs to 32 bit."""
    asked = settings(3, train={"gradient_checkpointing": checkpointing})
    each = per_token(llm_shape(asked), dataclasses.replace(recipe(asked), copies=True))
    saved, peak = slopes(asked, copies=True)
    assert each.stored + each.live == pytest.approx(peak, rel=0.1)
    if not checkpointing:
        assert each.stored == pytest.approx(saved, rel=0.05)


def test_four_bit_weights_on_a_cpu(settings):
    pytest.importorskip("bitsandbytes")
    asked = settings(2, model={"quantization": "nf4"}, train={"gradient_checkpointing": True})
    each = per_token(llm_shape(asked), recipe(asked))
    assert each.stored + each.live == pytest.approx(slopes(asked)[1], rel=0.1)
