"""LoRA in one pass is peft's, to rounding; what is not the plain case is left to peft."""

from __future__ import annotations

import pytest
import torch
from peft.tuners.lora import LoraLayer

from cadmllm.models.fusion import build_model
from cadmllm.models.lora import FusedLora


def _layers(model) -> list[FusedLora]:
    return [module.forward for module in model.modules() if isinstance(module, LoraLayer)]


def _trained_a_little(model) -> None:
    """B is zero at first: what LoRA adds would be nothing."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.05, generator=torch.Generator().manual_seed(len(name)))


def _loss(model, batch, dtype: str) -> tuple[float, dict[str, torch.Tensor]]:
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
        total, _ = model.loss(batch)
    total.backward()
    return float(total.detach()), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(("dtype", "close"), [("float32", 1e-5), ("bfloat16", 6e-2)])
def test_loss_and_gradients_are_those_of_peft(settings, make_batch, dtype: str, close: float) -> None:
    chosen = settings()
    chosen.dtype = dtype
    model = build_model(chosen, 1)
    _trained_a_little(model)
    batch = make_batch(model.text_size)
    fused, gradients = _loss(model, batch, dtype)
    layers = _layers(model)
    assert len(layers) == 14
    assert all(isinstance(layer, FusedLora) for layer in layers)
    for layer in layers:
        layer.layer.forward = layer.plain
    wanted, theirs = _loss(model, batch, dtype)
    assert fused == pytest.approx(wanted, rel=close)
    assert gradients.keys() == theirs.keys()
    for name, gradient in theirs.items():
        assert (gradients[name] - gradient).abs().max() <= close * max(1e-3, float(gradient.abs().max())), name


def test_dropout_merged_and_mixed_types_are_left_to_peft(settings, make_batch) -> None:
    chosen = settings()
    chosen.lora.dropout = 0.5
    model = build_model(chosen, 1).train()
    _trained_a_little(model)
    layer = _layers(model)[0]
    x = torch.randn(3, layer.layer.in_features)
    torch.manual_seed(1)
    one = layer(x)
    torch.manual_seed(1)
    assert torch.equal(one, layer.plain(x))
    assert not torch.equal(layer(x), layer(x)), "dropout is at work"
    model.eval()
    assert torch.allclose(layer(x), layer.plain(x), atol=1e-6)
    with model.llm.disable_adapter():
        assert torch.equal(layer(x), layer.layer.base_layer(x))
    assert layer(x.bfloat16().float()).dtype == torch.float32
