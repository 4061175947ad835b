from __future__ import annotations

import pytest

from cadmllm.models.bytes import bytes_of
from cadmllm.models.fusion import build_model
from cadmllm.train.optim import build_optimizer


def test_every_byte_of_a_model_is_counted_once(settings, make_batch) -> None:
    model = build_model(settings(), 3)
    held = [*model.parameters(), *model.buffers()]
    found = bytes_of(model)
    assert found["total"] == sum(tensor.nbytes for tensor in held)
    assert found["LoRA float32"] == sum(p.nbytes for n, p in model.named_parameters() if "lora_" in n)
    assert found["embedding float32"] == 272 * 32 * 4
    assert "gradients" not in found
    assert "in main memory" not in found

    optimizer, _ = build_optimizer(model.parameter_groups(), 3, 1e-3, model.settings.train, model.device)
    model.loss(make_batch(model.text_size, clouds=1, images=1))[0].backward()
    optimizer.step()
    trained = sum(p.nbytes for p in model.parameters() if p.grad is not None)
    full = bytes_of(model, optimizer)
    assert full["gradients"] == trained
    assert full["optimizer"] == pytest.approx(2 * trained, rel=0.01)
    assert full["total"] == found["total"] + full["gradients"] + full["optimizer"]


def test_there_is_no_output_matrix_and_weights_of_4_bit_take_little_more_than_4(settings) -> None:
    pytest.importorskip("bitsandbytes", reason="the extra qlora is not installed")
    chosen = settings(quantization="nf4")
    chosen.dtype = "bfloat16"
    whole, packed = build_model(settings(), 1), build_model(chosen, 1)
    weights = sum(p.numel() for n, p in whole.named_parameters() if "base_layer" in n)
    assert bytes_of(packed)["embedding bfloat16"] == 272 * 32 * 2
    # a scale for 64 weights; the constants of so small a model weigh (a code book of 1 KB each): 4.13 bits at real sizes
    layers = sum("base_layer" in n for n, _ in packed.named_parameters())
    assert 0.5 <= (bytes_of(packed)["language model nf4"] - layers * 1100) / weights <= 0.6
    assert sum(size for key, size in bytes_of(packed).items() if key.startswith(("embedding", "lm_head"))) == 272 * 32 * 2


def test_what_lies_elsewhere_is_told_apart(settings) -> None:
    model = build_model(settings(), 1)
    model.rows.to("meta")  # the model's own device is that of its rows
    found = bytes_of(model)
    assert found["in main memory"] == sum(p.nbytes for n, p in model.named_parameters() if n.startswith("llm.")) + sum(
        buffer.nbytes for buffer in model.buffers()
    )
    assert {key for key in found if key.startswith(("LoRA", "embedding"))} == {
        "LoRA float32 (main memory)",
        "embedding float32 (main memory)",
    }
