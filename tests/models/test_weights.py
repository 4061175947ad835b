import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from cadmllm.errors import CadmllmError
from cadmllm.models.fusion import CadMLLM, build_model
from cadmllm.models.weights import RECORD, WEIGHTS, load_model, save_model, trained_state


def train_a_little(model: CadMLLM, batch) -> None:
    parameters = [p for members in model.parameter_groups().values() for _, p in members]
    optimizer = torch.optim.AdamW(parameters, lr=1e-2)
    for _ in range(3):
        model.loss(batch)[0].backward()
        optimizer.step()
        optimizer.zero_grad()


@torch.no_grad()
def answers(model: CadMLLM, batch) -> torch.Tensor:
    model.eval()
    hidden = model.llm(inputs_embeds=model.embed(batch), use_cache=False).last_hidden_state
    return model.rows.logits(hidden)


@pytest.mark.parametrize("lora", [True, False])
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_what_was_trained_comes_back_bit_for_bit(settings, make_batch, tmp_path: Path, lora: bool, stage: int):
    model = build_model(settings(lora=lora), stage)
    start = {name: value.clone() for name, value in trained_state(model).items()}
    batch = make_batch(model.text_size, clouds=int(stage > 1), images=int(stage > 2))
    train_a_little(model, batch)
    save_model(model, tmp_path, {"step": 3})

    again = load_model(tmp_path, settings(lora=not lora, point_tokens=3, image_tokens=1))  # the record decides
    assert (again.stage, again.fresh, again.cloud_tokens) == (stage, [], 8)
    wanted, got = trained_state(model), trained_state(again)
    assert wanted.keys() == got.keys()
    assert all(torch.equal(got[name], value) for name, value in wanted.items())
    assert torch.equal(answers(again, batch), answers(model, batch))
    still = {name for name in wanted if torch.equal(wanted[name], start[name])}
    assert all("mask_token" in name for name in still)  # DINOv2's, which only masked training reads


def test_every_parameter_that_trains_is_saved(settings, tmp_path: Path):
    model = build_model(settings(), 3)
    save_model(model, tmp_path, {})
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    saved = load_file(tmp_path / WEIGHTS)
    assert sum(value.numel() for value in saved.values()) == trained
    assert "llm.layers.0.self_attn.q_proj.lora_A.weight" in saved
    assert not any("embed_tokens" in name for name in saved)


def test_the_next_stage_carries_the_last_and_starts_its_own_parts_fresh(settings, make_batch, tmp_path: Path):
    first = build_model(settings(), 1)
    train_a_little(first, make_batch(first.text_size))
    save_model(first, tmp_path / "1", {})
    second = load_model(tmp_path / "1", settings(), stage=2)
    assert second.fresh == ["points.encoder", "points.projector"]
    for name, value in trained_state(first).items():
        assert torch.equal(trained_state(second)[name], value)
    train_a_little(second, make_batch(second.text_size, clouds=2))
    save_model(second, tmp_path / "2", {})
    third = load_model(tmp_path / "2", settings(), stage=3)
    assert third.fresh == ["images.encoder", "images.projector"]
    for name, value in trained_state(second).items():
        assert torch.equal(trained_state(third)[name], value)


@pytest.fixture
def saved(settings, tmp_path: Path) -> Path:
    save_model(build_model(settings(), 2), tmp_path / "saved", {})
    return tmp_path / "saved"


def refused(code: str, folder: Path, *args, **kwargs) -> CadmllmError:
    with pytest.raises(CadmllmError) as caught:
        load_model(folder, *args, **kwargs)
    assert caught.value.code == code
    assert str(folder) in caught.value.message
    return caught.value


@pytest.mark.parametrize("name", [WEIGHTS, RECORD])
def test_files_that_are_missing_or_broken(settings, saved: Path, name: str):
    data = (saved / name).read_bytes()
    for content in (None, b"", data[: len(data) // 2], b"[]"):
        (saved / name).unlink(missing_ok=True)
        if content is not None:
            (saved / name).write_bytes(content)
        assert name in refused("E503", saved, settings()).message
    refused("E503", saved / "absent", settings())


@pytest.mark.parametrize("change", ["missing", "unexpected", "shape"])
def test_tensors_that_do_not_fit_are_named(settings, saved: Path, change: str):
    state = load_file(saved / WEIGHTS)
    name = "points.projector.out.bias"
    if change == "missing":
        del state[name]
    elif change == "shape":
        state[name] = torch.zeros(3)
    else:
        name = "llm.something"
        state[name] = torch.zeros(3)
    save_file(state, saved / WEIGHTS)
    assert name in refused("E504", saved, settings()).message


def test_another_base_or_vocabulary(settings, saved: Path, make_base, tmp_path: Path):
    other = str(make_base(tmp_path / "other", seed=7))
    assert other in refused("E504", saved, settings(llm=other), stage=2).message
    record = json.loads((saved / RECORD).read_text())
    (saved / RECORD).write_text(json.dumps(record | {"vocabulary": "0123"}))
    assert "vocabulary" in refused("E504", saved, settings()).message


def test_settings_that_would_change_the_meaning(settings, saved: Path):
    chosen = settings()
    chosen.lora.alpha = 64
    assert refused("E504", saved, chosen, stage=2).remedy == "--set lora.alpha=8"
    assert "lora.enabled" in refused("E504", saved, settings(lora=False), stage=2).message
    assert refused("E504", saved, settings(point_tokens=4), stage=2).remedy == "--set model.point_tokens=8"
    assert "points.encoder" in refused("E504", saved, settings(), stage=1).message


def test_a_base_that_moved_is_found_where_the_settings_say(settings, make_base, make_batch, tmp_path: Path):
    old = make_base(tmp_path / "old", seed=3)
    model = build_model(settings(llm=str(old)), 1)
    save_model(model, tmp_path / "saved", {})
    old.rename(tmp_path / "new")
    again = load_model(tmp_path / "saved", settings(llm=str(tmp_path / "new")))
    batch = make_batch(model.text_size)
    assert torch.equal(answers(again, batch), answers(model, batch))
