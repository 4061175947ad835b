"""Every preset that ships: it resolves, says what it is for, keeps the guide's rhythm, and its arithmetic is right."""

from __future__ import annotations

import re

import pytest

from cadmllm.places import bundled
from cadmllm.plan.sizes import GIB, KNOWN, shape_of
from cadmllm.resolve import preset_names, resolve

CARDS = [name for name in preset_names() if name.endswith("gb")]


def text_of(name: str) -> str:
    return (bundled("presets") / f"{name}.toml").read_text(encoding="utf-8")


def test_the_presets_and_their_order():
    assert preset_names() == ["tiny", "8gb", "12gb", "16gb", "24gb", "80gb"]


@pytest.mark.parametrize("name", preset_names())
def test_it_resolves_and_every_line_says_what_it_does(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    resolved = resolve(preset=name, environ={})
    assert "preset" in {origin.kind for origin in resolved.origins.values()}
    lines = text_of(name).splitlines()
    assert lines[0].startswith("# for ")
    assert len(lines) <= 40
    seen = set()
    for line in lines:
        key = line.partition(" =")[0]
        if "=" in line and not line.startswith("#") and key not in seen:  # repeated for each stage: explained once
            assert " # " in line, f"{name}: {line}"
            seen.add(key)


@pytest.mark.parametrize("name", CARDS)
def test_card_presets_keep_the_guides_rhythm(name):
    settings = resolve(preset=name, environ={}).settings
    assert settings.train.batch_size * settings.train.accumulation == 64
    assert {(settings.stages[n].epochs, settings.stages[n].lr) for n in (1, 2, 3)} == {(1, 2e-4)}
    assert (settings.lora.enabled, settings.lora.r, settings.lora.alpha) == (True, 32, 64)
    assert settings.train.gradient_checkpointing
    assert (settings.train.warmup_steps, settings.train.logging_steps, settings.train.save_steps) == (100, 10, 100)
    assert settings.device == "cuda"


@pytest.mark.parametrize("name", CARDS)
def test_the_memory_that_the_first_line_promises(name):
    """FACTS 6: weights, LoRA with AdamW, added rows, encoders, CUDA; then stored layer inputs and one live layer a token."""
    settings = resolve(preset=name, environ={}).settings
    shape = KNOWN[settings.model.llm]
    fixed = shape.weight_bytes(settings.dtype, settings.model.quantization, head=False)
    fixed += 16 * shape.lora_parameters(settings.lora.r) + 16 * 2 * 1600 * shape.hidden + 0.8 * GIB + 0.5 * GIB
    stored = shape.layers * shape.hidden * 2  # bytes a token: a layer's input in 16 bit
    live = stored / 2  # FACTS: 0.1 to 0.15 MB beside 0.295
    tokens = settings.train.batch_size * settings.train.max_seq_length
    computed = (fixed + tokens * (stored + live)) / GIB
    promised = float(re.search(r"about ([\d.]+) GiB", text_of(name)).group(1))
    assert promised == pytest.approx(computed, rel=0.02)
    assert computed < 0.93 * int(name.removesuffix("gb"))


def test_the_sizes_that_the_facts_give():
    shape = shape_of("Qwen/Qwen3-8B")
    assert shape.weight_bytes("bfloat16", "none", head=True) / GIB == pytest.approx(15.26, abs=0.01)
    assert shape.weight_bytes("bfloat16", "nf4", head=True) / GIB == pytest.approx(3.34 + 2.32, abs=0.01)
    assert shape.lora_parameters(32) == pytest.approx(87.3e6, rel=0.001)
    assert shape_of("someone/unknown") is None


def test_tiny_needs_nothing_from_elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = resolve(preset="tiny", environ={}).settings
    assert (settings.model.llm, settings.model.image_encoder, settings.model.points_encoder) == ("tiny", "tiny", "fourier")
    assert settings.data.root == bundled("data")
    assert settings.wandb.mode == "off"


def test_the_shape_of_a_local_folder(tmp_path):
    config = '{"num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "vocab_size": 100}'
    (tmp_path / "config.json").write_text(config)
    shape = shape_of(str(tmp_path))
    assert shape.linear_parameters == 2 * 64 * (4 * 64 + 3 * 128)
    assert shape.embedding_parameters == 2 * 100 * 64
    (tmp_path / "config.json").write_text('{"hidden_size": 64}')
    assert shape_of(str(tmp_path)) is None
