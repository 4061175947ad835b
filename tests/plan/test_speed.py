"""Operations against those that torch counts, cards that are known, and the time they take."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from cadmllm.corpus.types import CAD_SIZE, IGNORE, Batch
from cadmllm.models.fusion import build_model
from cadmllm.plan.speed import RATES, UTILISATION, operations, rate_of, seconds, span, work_of
from cadmllm.settings import Settings


@pytest.mark.parametrize("lora", [True, False])
@pytest.mark.parametrize("checkpointing", [True, False])
def test_operations_of_a_step_as_torch_counts_them(settings, lora, checkpointing):
    asked = settings(2, "float32", lora={"enabled": lora}, train={"gradient_checkpointing": checkpointing})
    model, length = build_model(asked, 1), 96
    ids = torch.randint(0, 200, (1, length))
    labels = torch.full_like(ids, IGNORE)
    labels[0, -32:] = torch.randint(0, CAD_SIZE, (32,))
    batch = Batch(ids, torch.ones_like(ids), torch.arange(length).unsqueeze(0), labels)
    with FlopCounterMode(display=False) as counter:
        model.loss(batch)[0].backward()
    assert operations(work_of(asked, 1), [length], 32, {}) == pytest.approx(counter.get_total_flops(), rel=0.12)


@pytest.mark.parametrize("views", [1, 4])
def test_operations_of_a_resampler_as_torch_counts_them(views):
    from torch.nn.attention import SDPBackend, sdpa_kernel

    from cadmllm.models.resampler import Resampler

    model = {"llm": "Qwen/Qwen3-0.6B", "image_tokens": 24, "resampler_width": 128, "image_views": views}
    asked = Settings(model={**model, "image_encoder": "facebook/dinov2-small"}, data={"features": "."})
    resampler = Resampler(384, 1024, 24, inner=128, layers=2, views=8)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        resampler(torch.randn(1, views, 256, 384))
    forward = work_of(asked, 3).encoders["image"] * views / 3
    assert forward == pytest.approx(counter.get_total_flops(), rel=0.05)


def test_the_parts_of_the_sum():
    asked = Settings(model={"llm": "Qwen/Qwen3-8B"}, train={"gradient_checkpointing": True})
    work = work_of(asked, 3)
    assert work.token == pytest.approx(6 * 6.9458e9, rel=0.03)  # forward, backward, again; LoRA adds a little
    short, long = operations(work, [1000, 1000], 0, {}), operations(work, [2000], 0, {})
    assert long - short == pytest.approx(work.pair * 1_000_000, rel=0.001)  # packed samples do not attend to each other
    assert operations(work, [], 0, {"image": 2.0}) == 2 * work.encoders["image"]
    assert work.encoders["image"] > 2 * 304e6 * 257


@pytest.mark.parametrize(
    ("card", "key"),
    [
        ("NVIDIA GeForce RTX 5070 Ti", "RTX 5070 Ti"),
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("NVIDIA GeForce RTX 3090", "RTX 3090"),
        ("NVIDIA A100-SXM4-80GB", "A100"),
        ("NVIDIA A100 80GB PCIe", "A100"),
        ("NVIDIA H100 80GB HBM3", "H100 80GB HBM3"),
        ("NVIDIA H100 PCIe", "H100 PCIe"),
        ("NVIDIA H200", "H200"),
    ],
)
def test_known_cards(card, key):
    assert rate_of(card) == RATES[key]
    assert seconds(RATES[key] * UTILISATION, card) == pytest.approx(1.0)


@pytest.mark.parametrize(
    "card",
    ["NVIDIA GeForce RTX 4090 Laptop GPU", "NVIDIA GeForce RTX 4090 D", "NVIDIA GeForce RTX 3090 Ti", "Tesla T4", "A10", ""],
)
def test_of_others_nothing_is_guessed(card):
    assert rate_of(card) is None
    assert seconds(1e12, card) is None


def test_spans():
    assert [span(s) for s in (3, 89, 90, 5399, 5400, 129_600)] == ["3 s", "89 s", "2 min", "90 min", "1.5 h", "1.5 days"]
