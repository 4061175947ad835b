"""The memory table: its parts against built models, its total against what fits, and the guide's recipe."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from cadmllm.models.backbone import input_embedding
from cadmllm.models.fusion import build_model
from cadmllm.models.loss import CHUNK
from cadmllm.plan.memory import Memory, guide_recipe, longest_fit, micro_batch_tokens, predict
from cadmllm.plan.moving import CONTEXT, HEAD_CHUNK
from cadmllm.plan.sizes import GIB, KNOWN
from cadmllm.settings import Settings

WEIGHTS = ("linear layers", "input embedding", "norms", "LoRA", "added rows", "point encoder", "image encoder")


def big(**groups: dict) -> Settings:
    """Qwen3-8B on a card."""
    return Settings(device="cuda", **groups)  # ty: ignore[invalid-argument-type]


def line(memory: Memory, name: str) -> float:
    """GiB of a line, wherever it is."""
    return sum(row.bytes for row in memory.lines if row.name == name) / GIB


def weights(memory: Memory) -> int:
    return sum(row.bytes for row in memory.lines if row.name in WEIGHTS or row.name in ("point projector", "image projector"))


@pytest.mark.parametrize("lora", [True, False])
def test_bytes_of_weights_gradients_and_moments(settings, lora):
    asked = settings(2, "bfloat16", lora={"enabled": lora})
    for stage in (1, 3):
        memory, model = predict(asked, stage), build_model(asked, stage)
        assert weights(memory) == sum(parameter.nbytes for parameter in model.parameters())
        trained = sum(parameter.nbytes for parameter in model.parameters() if parameter.requires_grad)
        gradients = sum(row.bytes for row in memory.lines if row.name.endswith(": gradients"))
        assert gradients == trained  # float32, as the parameters
        assert sum(row.bytes for row in memory.lines if row.name.endswith(": adamw")) == 2 * trained


def test_bytes_of_eight_bit_moments(settings):
    pytest.importorskip("bitsandbytes")
    from cadmllm.train.optim import build_optimizer

    asked = settings(2, "float32", lora={"r": 16}, train={"optimizer": "adamw_8bit"})
    model = build_model(asked, 2)
    optimizer, _ = build_optimizer(model.parameter_groups(), 2, 1e-3, asked.train, "cpu")
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    kept = ("state1", "state2", "absmax1", "absmax2")
    bytes_ = sum(value.nbytes for state in optimizer.state.values() for key, value in state.items() if key in kept)
    said = sum(row.bytes for row in predict(asked, 2).lines if row.name.endswith(": adamw_8bit"))
    assert said == pytest.approx(bytes_, rel=0.03)


def test_bytes_of_four_bit_weights(settings):
    pytest.importorskip("bitsandbytes")
    asked = settings(2, "bfloat16", model={"quantization": "nf4"})
    model = build_model(asked, 1)
    four_bit = [parameter for parameter in model.parameters() if parameter.dtype == torch.uint8]
    assert len(four_bit) == 2 * 7
    bytes_ = sum(weight.nbytes + weight.quant_state.absmax.nbytes for weight in four_bit)
    bytes_ += sum(weight.quant_state.state2.absmax.nbytes for weight in four_bit)
    assert line(predict(asked, 1), "linear layers") * GIB == pytest.approx(bytes_, rel=0.01)


def test_the_known_numbers_of_qwen3_8b():
    """FACTS 6."""
    four_bit = predict(big(model={"quantization": "nf4"}, lora={"r": 32}), 1)
    assert line(four_bit, "linear layers") == pytest.approx(3.34, abs=0.01)
    assert line(four_bit, "input embedding") + line(four_bit, "output matrix") == pytest.approx(2.32, abs=0.01)
    assert sum(line(four_bit, name) for name in ("LoRA", "LoRA: gradients", "LoRA: adamw")) == pytest.approx(1.30, abs=0.01)
    eight = predict(big(lora={"r": 32}, train={"optimizer": "adamw_8bit"}), 1)
    assert sum(line(eight, name) for name in ("LoRA", "LoRA: gradients", "LoRA: adamw_8bit")) == pytest.approx(0.82, abs=0.02)
    stored = predict(big(train={"gradient_checkpointing": True}), 1, tokens=1_000_000)
    assert line(stored, "inputs of the layers") * GIB / 1e12 == pytest.approx(0.295, abs=0.001)  # MB a token


def test_the_output_matrix_is_nowhere_and_the_embedding_may_stay_in_ram():
    on_card, in_ram = predict(big(), 1), predict(big(model={"embedding_device": "cpu"}), 1)
    assert on_card.saved == in_ram.saved == 2 * 151_936 * 4096
    assert on_card.total - in_ram.total == in_ram.ram == 2 * 151_936 * 4096
    assert predict(big(model={"llm": "Qwen/Qwen3-0.6B"}), 1).saved == 0  # one matrix is both


def test_the_embedding_in_ram_is_really_there(settings):
    asked = settings(1, "float32", model={"embedding_device": "cpu"})
    assert input_embedding(build_model(asked, 1).llm).weight.device.type == "cpu"
    assert line(predict(asked, 1, device="cuda"), "input embedding") * GIB == 272 * 128 * 4


def test_offloading_moves_what_the_layers_store():
    asked = {"gradient_checkpointing": True}
    kept, moved = predict(big(train=asked), 1), predict(big(train={**asked, "offload_activations": True}), 1)
    assert moved.ram == line(kept, "inputs of the layers") * GIB
    assert kept.total - moved.total == pytest.approx(1.08 * moved.ram, rel=0.001)


def test_on_a_cpu_everything_is_in_ram(settings):
    memory = predict(settings(), 3)
    assert memory.total == 0
    assert memory.ram > 0
    assert not any(row.name == "CUDA" for row in memory.lines)


def test_tokens_of_a_micro_batch():
    assert micro_batch_tokens(big(train={"batch_size": 2, "max_seq_length": 4096})) == 8192
    assert micro_batch_tokens(big(train={"pack_tokens": 6000})) == 6000
    assert micro_batch_tokens(big(train={"pack_tokens": 1000})) == 2048  # one whole sequence must have its place
    assert micro_batch_tokens(big(train={"pack_tokens": 6000, "packing": False, "batch_size": 1})) == 2048


@examples(max_examples=25, deadline=None)
@given(tokens=st.integers(1, 200_000), stage=st.sampled_from([1, 2, 3]), saving=st.booleans())
def test_the_longest_that_fits_does_and_one_more_does_not(tokens, stage, saving):
    asked = big(train={"gradient_checkpointing": saving})
    budget = predict(asked, stage, tokens=tokens).total
    found = longest_fit(asked, stage, budget)
    assert predict(asked, stage, tokens=found).total <= budget < predict(asked, stage, tokens=found + 1).total
    assert abs(found - tokens) <= 1


def test_nothing_fits_a_card_that_is_too_small():
    assert longest_fit(big(), 1, 8 * GIB) == 0


def test_a_token_costs_what_the_slope_says():
    asked = big(train={"gradient_checkpointing": True})
    memory = predict(asked, 3, tokens=20_000)
    assert predict(asked, 3, tokens=30_000).total - memory.total == pytest.approx(10_000 * memory.slope, rel=0.001)


def test_the_guides_recipe_does_not_fit_its_card():
    shape = KNOWN["Qwen/Qwen3-8B"]
    recipe = guide_recipe(shape, 2, 16384, 32, checkpointing=True)
    assert line(recipe, "linear layers") + line(recipe, "both embeddings") == pytest.approx(15.26, abs=0.01)
    assert recipe.total > 80 * GIB
    assert guide_recipe(shape, 1, 2048, 32, checkpointing=True).total > 16 * GIB  # nor the last of its remedies


def test_constants_that_stand_elsewhere_too():
    assert HEAD_CHUNK == CHUNK
    assert CONTEXT == GIB // 2


def test_the_table():
    rows = predict(big(), 3).rows()
    assert all(gib >= 0 and place in ("card", "ram", "saved") and why for _, gib, place, why in rows)
    assert [name for name, *_ in rows][:2] == ["linear layers", "input embedding"]
    assert predict(big(), 3).as_dict()["card"] == predict(big(), 3).total
