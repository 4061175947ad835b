"""Every preset that ships: it resolves, says what it is for, keeps the guide's rhythm, and its arithmetic is right."""

from __future__ import annotations

import re
import tomllib

import pytest

from cadmllm.places import bundled
from cadmllm.plan.disk import stage_disk
from cadmllm.plan.memory import longest_fit, predict
from cadmllm.plan.sizes import GIB, shape_of
from cadmllm.plan.table import GUIDE, grouped, guide_rows, main, sentences
from cadmllm.resolve import preset_names, resolve
from cadmllm.settings import Settings

CARDS = [name for name in preset_names() if name.endswith("gb")]
STAGES = (1, 2, 3)
# the remedies and comparisons that a preset's comments give: what they change, and the GiB they promise
PROMISES = {
    "8gb": [({"model": {"llm": "Qwen/Qwen3-4B", "quantization": "nf4"}, "train": {"optimizer": "paged_adamw_8bit"}}, 5.7)],
    "12gb": [({"model": {"llm": "Qwen/Qwen3-8B"}, "train": {"pack_tokens": 4096, "batch_size": 1, "accumulation": 64}}, 8.7)],
    "16gb": [
        ({"train": {"pack_tokens": 16384, "offload_activations": True}}, 10.9),
        ({"train": {"pack_tokens": 8192}}, 11.1),
        ({"train": {"pack_tokens": 12288}}, 13.4),
    ],
    "24gb": [({"train": {"pack_tokens": 10240}}, 22.2)],
    "80gb": [({"train": {"gradient_checkpointing": False, "pack_tokens": 8192}}, 75.2)],
}


def text_of(name: str) -> str:
    return (bundled("presets") / f"{name}.toml").read_text(encoding="utf-8")


def settings_of(name: str) -> Settings:
    return resolve(preset=name, environ={}).settings


def changed(name: str, groups: dict[str, dict]) -> Settings:
    settings = settings_of(name).model_copy(deep=True)
    for group, values in groups.items():
        for key, value in values.items():
            setattr(getattr(settings, group), key, value)
    return settings


def test_the_presets_and_their_order():
    assert preset_names() == ["tiny", "8gb", "12gb", "16gb", "24gb", "80gb"]


@pytest.mark.parametrize("name", preset_names())
def test_it_resolves_and_every_line_says_what_it_does(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    resolved = resolve(preset=name, environ={})
    assert "preset" in {origin.kind for origin in resolved.origins.values()}
    lines = text_of(name).splitlines()
    assert lines[0].startswith("# for ")
    assert 20 <= len(lines) <= 40
    assert max(map(len, lines)) <= 130
    seen = set()
    for line in lines:
        key = line.partition(" =")[0]
        if "=" in line and not line.startswith("#") and key not in seen:  # repeated for each stage: explained once
            assert " # " in line, f"{name}: {line}"
            seen.add(key)


@pytest.mark.parametrize("name", CARDS)
def test_card_presets_keep_the_guides_rhythm(name):
    settings = settings_of(name)
    assert settings.train.batch_size * settings.train.accumulation == 64
    assert {(settings.stages[n].epochs, settings.stages[n].lr) for n in STAGES} == {(1, 2e-4)}
    assert (settings.lora.enabled, settings.lora.r, settings.lora.alpha) == (True, 32, 64)
    assert settings.train.gradient_checkpointing
    assert settings.train.packing
    assert (settings.train.warmup_steps, settings.train.logging_steps, settings.train.save_steps) == (100, 10, 100)
    assert settings.device == "cuda"


@pytest.mark.parametrize("name", CARDS)
def test_a_card_preset_stands_alone_and_leaves_nothing_to_the_others(name):
    written = tomllib.loads(text_of(name))
    assert "extends" not in written
    others = [tomllib.loads(text_of(other)) for other in CARDS]
    for group in ("model", "lora", "train", "stages"):
        keys = set.intersection(*(set(other[group]) for other in others))
        assert keys <= set(written[group])


@pytest.mark.parametrize("name", CARDS)
def test_the_memory_that_the_first_lines_promise(name):
    memory = predict(settings_of(name), 3)
    promised = float(re.search(r"about ([\d.]+) GiB", text_of(name).splitlines()[0]).group(1))
    assert promised == pytest.approx(memory.total / GIB, abs=0.051)
    for sentence in sentences(memory):
        assert f"# {sentence}\n" in text_of(name)
    assert sum(grouped(memory).values()) == pytest.approx(memory.total / GIB)


@pytest.mark.parametrize("name", CARDS)
def test_every_stage_leaves_room_on_its_card(name):
    card = int(name.removesuffix("gb"))
    totals = [predict(settings_of(name), stage).total for stage in STAGES]
    assert max(totals) == totals[2]
    assert max(totals) <= 0.88 * card * GIB
    if name == "16gb":
        assert max(totals) < 15e9
        fixed = totals[2] - settings_of(name).train.pack_tokens * predict(settings_of(name), 3).slope
        assert fixed + 1.25 * (totals[2] - fixed) < 15e9  # "errors of a quarter of the activations"


@pytest.mark.parametrize("name", CARDS)
def test_without_packing_a_micro_batch_takes_no_more(name):
    settings = settings_of(name)
    assert settings.train.batch_size * settings.train.max_seq_length <= settings.train.pack_tokens


@pytest.mark.parametrize("name", CARDS)
def test_what_the_comments_say_of_other_settings(name):
    for groups, promised in PROMISES[name]:
        memory = predict(changed(name, groups), 3)
        assert promised == pytest.approx(memory.total / GIB, abs=0.051)
        assert re.search(rf"\b{promised}\b", text_of(name).replace(",", "")), promised
        for keys in groups.values():
            assert all(str(value).lower() in text_of(name).replace(",", "").lower() for value in keys.values())
    said = re.search(r"a step save takes ([\d.]+) GiB, a finished stage ([\d.]+)", text_of(name))
    disk = stage_disk(settings_of(name), 3)
    assert [float(said[1]), float(said[2])] == pytest.approx([disk.step / GIB, disk.stage / GIB], abs=0.051)


def test_the_guides_own_settings_fit_none_of_these_cards_but_the_largest_ever():
    totals = {row[0]: float(row[-1].strip("*")) for row in guide_rows(shape_of("Qwen/Qwen3-8B"))}
    assert list(totals) == [name for name, *_ in GUIDE]
    assert min(totals.values()) > 16
    assert totals["the guide's settings"] > 80


def test_sixteen_thousand_tokens_fit_a_16_gb_card_when_the_layers_inputs_go_to_ram():
    settings = changed("16gb", {"train": {"offload_activations": True}})
    assert longest_fit(settings, 3, int(15e9)) > 16384
    assert longest_fit(settings_of("16gb"), 3, int(15e9)) > 12288


def test_the_table_that_the_docs_hold(capsys):
    main(["tiny", "16gb"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("| preset | model | stage | tokens |")
    assert sum(line.startswith("| 16gb | Qwen3-8B nf4 |") for line in lines) == 3
    assert sum(line.startswith("| tiny |") for line in lines) == 3


def test_the_sizes_that_the_facts_give():
    shape = shape_of("Qwen/Qwen3-8B")
    assert shape.weight_bytes("bfloat16", "none", head=True) / GIB == pytest.approx(15.26, abs=0.01)
    assert shape.weight_bytes("bfloat16", "nf4", head=True) / GIB == pytest.approx(3.34 + 2.32, abs=0.01)
    assert shape.lora_parameters(32) == pytest.approx(87.3e6, rel=0.001)
    assert shape_of("someone/unknown") is None


def test_tiny_needs_nothing_from_elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = settings_of("tiny")
    assert (settings.model.llm, settings.model.image_encoder, settings.model.points_encoder) == ("tiny", "tiny", "fourier")
    assert settings.data.root == bundled("data")
    assert settings.wandb.mode == "off"
    promised = float(re.search(r"about ([\d.]+) GiB", text_of("tiny").splitlines()[0]).group(1))
    assert promised == pytest.approx(predict(settings, 3, device="cpu").ram / GIB, abs=0.051)


def test_the_shape_of_a_local_folder(tmp_path):
    config = (
        '{"model_type": "llama", "num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 128, '
        '"num_attention_heads": 4, "vocab_size": 100}'
    )
    (tmp_path / "config.json").write_text(config)
    shape = shape_of(str(tmp_path))
    assert shape.linear_parameters == 2 * 64 * (4 * 64 + 3 * 128)
    assert shape.embedding_parameters == 2 * 100 * 64
    (tmp_path / "config.json").write_text('{"hidden_size": 64}')
    assert shape_of(str(tmp_path)) is None
