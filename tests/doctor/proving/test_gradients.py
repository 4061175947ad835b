from __future__ import annotations

import pytest
import torch

from cadmllm.doctor.proving import gradients
from cadmllm.doctor.proving.bench import Bench
from cadmllm.doctor.proving.sums import checksums


@pytest.mark.long
def test_a_healthy_run_learns_everywhere(bench, lora) -> None:
    outcome = gradients.prove(bench(**lora))
    assert outcome.findings == ()
    assert "frozen ones do not by a bit" in outcome.summary
    assert any("gradients of" in line for line in outcome.details)


def test_lora_without_gradient_is_found(bench, lora) -> None:
    b = bench(**lora)
    for name, parameter in b.session.model.named_parameters():
        if "lora_A" in name:
            parameter.register_hook(torch.zeros_like)
    (finding,) = gradients.prove(b).findings
    assert finding.code == "E862"
    assert finding.level == "fail"
    assert "LoRA A" in finding.message


@pytest.mark.long
def test_a_projector_that_is_cut_off_is_named(bench) -> None:
    b = bench()
    for name, parameter in b.session.model.named_parameters():
        if name.startswith("points.projector"):
            parameter.register_hook(torch.zeros_like)
    (finding,) = gradients.prove(b).findings
    assert "points.projector" in finding.message


def test_a_frozen_part_that_moves_is_named(bench, lora, monkeypatch) -> None:
    b = bench(**lora)
    frozen = dict(b.session.model.named_parameters())["llm.base_model.model.norm.weight"]
    step = b.session.engine.optimizer.step

    def leaky(*args, **options):
        with torch.no_grad():
            frozen.view(-1)[3] += 1e-6
        return step(*args, **options)

    monkeypatch.setattr(b.session.engine.optimizer, "step", leaky)
    (finding,) = gradients.prove(b).findings
    assert finding.code == "E862"
    assert "norm.weight" in finding.message
    assert "frozen" in finding.message


@pytest.mark.long
def test_what_has_gradients_and_does_not_move_is_found(bench, monkeypatch) -> None:
    monkeypatch.setattr(
        Bench, "set_rates", lambda self, step: [g.update(lr=0.0) for g in self.session.engine.optimizer.param_groups]
    )
    (finding,) = gradients.prove(bench()).findings
    assert finding.code == "E862"
    assert "did not move" in finding.message
    assert "--set stages.3.lr=" in finding.remedy


def test_an_encoder_that_is_held_is_frozen(bench, lora) -> None:
    b = bench(**lora, **{"train.encoder_lr": 0.0})
    outcome = gradients.prove(b)
    assert outcome.findings == ()
    assert not any(line.startswith("encoders") for line in outcome.details)
    assert not any(p.requires_grad for name, p in b.session.model.named_parameters() if ".encoder." in name)


def test_an_encoder_whose_own_rate_is_too_small_is_told_its_setting(bench, lora) -> None:
    (finding,) = gradients.prove(bench(**lora, **{"train.encoder_lr": 1e-30})).findings
    assert "did not move" in finding.message
    assert ".encoder." in finding.message
    assert finding.remedy == "raise the rate (train.encoder_lr is 1e-30): --set train.encoder_lr=1e-05"


def test_checksums_see_every_bit_and_every_place() -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.uint8, torch.int64):
        one = torch.arange(3000).remainder(100).to(dtype)
        swapped = one.clone()
        swapped[[5, 70]] = swapped[[70, 5]]
        (same, other) = checksums([("a", one)])["a"], checksums([("a", one.clone())])["a"]
        assert same == other
        assert checksums([("a", swapped)])["a"] != same
    zero, minus = torch.zeros(4), -torch.zeros(4)
    assert checksums([("a", zero)]) != checksums([("a", minus)])
