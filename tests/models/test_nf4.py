"""QLoRA for real: the base in 4 bit on a CPU, by bitsandbytes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cadmllm.errors import CadmllmError
from cadmllm.models import backbone
from cadmllm.models.backbone import check_dtype, load_backbone
from cadmllm.models.fusion import CadMLLM, build_model
from cadmllm.models.weights import load_model, save_model, trained_state
from cadmllm.settings import Settings
from cadmllm.train.optim import build_optimizer

pytest.importorskip("bitsandbytes", reason="the extra qlora is not installed")


def _model(settings, stage: int = 1, dtype: str = "bfloat16", **model: object) -> CadMLLM:
    chosen: Settings = settings(**{"quantization": "nf4", **model})
    chosen.dtype = dtype  # ty: ignore[invalid-assignment]
    return build_model(chosen, stage)


def _loss(model: CadMLLM, batch) -> torch.Tensor:
    dtype = getattr(torch, model.settings.dtype)
    with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
        total, count = model.loss(batch)
    return total / count


def test_every_part_is_held_in_its_type(settings) -> None:
    model = _model(settings, 3)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.dtype == torch.float32, name
        elif "base_layer" in name:
            state = parameter.quant_state
            assert parameter.dtype == torch.uint8
            assert (state.quant_type, state.nested, state.dtype) == ("nf4", True, torch.bfloat16), name
        else:  # norms and the embedding, as the files of Qwen3 have them
            assert parameter.dtype == torch.bfloat16, name
    from bitsandbytes.nn import Linear4bit

    linears = [module for module in model.modules() if isinstance(module, Linear4bit)]
    assert len(linears) == 2 * 7
    assert {module.compute_dtype for module in linears} == {torch.bfloat16}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_loss_is_close_to_that_of_the_whole_base(settings, make_batch, dtype: str) -> None:
    whole, packed = _model(settings, 3, "float32", quantization="none"), _model(settings, 3, dtype)
    batch = make_batch(whole.text_size, clouds=1, images=1)
    exact, coarse = float(_loss(whole, batch).detach()), float(_loss(packed, batch).detach())
    assert coarse == pytest.approx(exact, rel=0.02)
    assert coarse != exact


def test_gradients_reach_lora_rows_and_projectors_and_nothing_that_is_frozen(settings, make_batch) -> None:
    model = _model(settings, 3)
    _loss(model, make_batch(model.text_size, clouds=1, images=1)).backward()
    reached = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert {name for name in trained - reached if "mask_token" not in name} == set()  # DINOv2's, of masked training
    assert all("lora_" in name for name in reached if name.startswith("llm."))
    for part in ("lora_B", "rows.input", "rows.output", "points.projector.out.weight", "images.projector.out.weight"):
        assert any(part in name and float(model.get_parameter(name).grad.abs().sum()) > 0 for name in reached), part


def test_an_evaluation_in_between_changes_neither_loss_nor_gradients(settings, make_batch) -> None:
    model = _model(settings)
    batch = make_batch(model.text_size)

    def gradients() -> dict[str, torch.Tensor]:
        model.zero_grad()
        _loss(model, batch).backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    before, loss = gradients(), _loss(model, batch).detach()
    model.eval()
    with torch.no_grad():
        _loss(model, batch)
        model.step(model.embed(batch).bfloat16(), None, batch.attention_mask, batch.position_ids, None)
    model.train()
    after = gradients()
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert torch.equal(_loss(model, batch).detach(), loss)


@pytest.mark.parametrize("kind", ["adamw", "paged_adamw_8bit"])
def test_it_learns(settings, make_batch, kind: str) -> None:
    model = _model(settings, 2, train_encoders=True)
    model.settings.train.optimizer = kind  # ty: ignore[invalid-assignment]
    optimizer, _ = build_optimizer(model.parameter_groups(), 2, 1e-2, model.settings.train, model.device)
    batch = make_batch(model.text_size, clouds=1)
    losses = []
    frozen = {name: p.detach().clone() for name, p in model.named_parameters() if not p.requires_grad}
    for _ in range(12):
        loss = _loss(model, batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
    assert all(torch.equal(value, model.get_parameter(name)) for name, value in frozen.items())


def test_a_checkpoint_comes_back_to_the_same_loss(settings, make_batch, tmp_path: Path) -> None:
    model = _model(settings, 2)
    optimizer, _ = build_optimizer(model.parameter_groups(), 2, 1e-2, model.settings.train, model.device)
    batch = make_batch(model.text_size, clouds=1)
    for _ in range(2):
        _loss(model, batch).backward()
        optimizer.step()
        optimizer.zero_grad()
    save_model(model, tmp_path, {})
    for stage in (None, 2):
        again = load_model(tmp_path, model.settings, stage)
        wanted, got = trained_state(model), trained_state(again)
        assert all(torch.equal(got[name], value) for name, value in wanted.items())
        assert torch.equal(_loss(again, batch), _loss(model, batch))
    whole = settings()  # a card with room may run it unpacked
    assert float(_loss(load_model(tmp_path, whole), batch).detach()) == pytest.approx(
        float(_loss(model, batch).detach()), rel=0.05
    )


def test_the_base_is_recognised_however_it_is_held(settings) -> None:
    def fingerprint(dtype: str, quantization: str) -> dict[str, str]:
        chosen = settings(quantization=quantization)
        chosen.dtype = dtype
        return load_backbone(chosen).fingerprint

    marks = [fingerprint(dtype, kind) for dtype in ("float32", "bfloat16", "float16") for kind in ("none", "nf4")]
    assert all(mark == marks[0] for mark in marks)


def test_float16_weights_are_held_in_float16(settings) -> None:
    for kind in ("none", "nf4"):
        model = _model(settings, dtype="float16", quantization=kind)
        assert {p.dtype for p in model.parameters() if not p.requires_grad} <= {torch.float16, torch.uint8}
        assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}


def test_nf4_cannot_be_trained_in_full(settings) -> None:
    with pytest.raises(CadmllmError, match="nf4") as caught:
        load_backbone(settings(lora=False, quantization="nf4"))
    assert caught.value.code == "E105"


def test_a_card_without_bfloat16_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    card = torch.device("cuda")
    monkeypatch.setattr(backbone.torch.cuda, "get_device_name", lambda device: "Tesla T4")
    monkeypatch.setattr(backbone.torch.cuda, "get_device_capability", lambda device: (7, 5))
    with pytest.raises(CadmllmError, match="Tesla T4") as caught:
        check_dtype("bfloat16", card)
    assert caught.value.code == "E613"
    assert "--set dtype=float16" in caught.value.remedy
    check_dtype("float16", card)
    check_dtype("bfloat16", torch.device("cpu"))
    monkeypatch.setattr(backbone.torch.cuda, "get_device_capability", lambda device: (8, 9))
    check_dtype("bfloat16", card)
