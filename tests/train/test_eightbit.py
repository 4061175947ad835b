"""AdamW in 32 and in 8 bit: the kinds of moments, exact saves, and what is said where it cannot be had."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import Parameter

from cadmllm.errors import CadmllmError
from cadmllm.settings import TrainSettings
from cadmllm.train.optim import build_optimizer, note
from cadmllm.train.state import load_optimizer, optimizer_tensors

pytest.importorskip("bitsandbytes", reason="the extra qlora is not installed")
KINDS = ("adamw", "adamw_8bit", "paged_adamw_8bit")
SHAPES = {
    "llm": {"llm.lora_A": (96, 64), "llm.small": (8, 8), "llm.norm": (5000,)},
    "rows": {"rows.input": (80, 64)},
    "projectors": {"points.projector.weight": (128, 64), "images.projector.weight": (128, 64), "points.projector.bias": (64,)},
    "encoders": {"points.encoder.weight": (70, 64)},
}


def _groups() -> dict[str, list[tuple[str, Parameter]]]:
    generator = torch.Generator().manual_seed(0)
    return {
        component: [(name, Parameter(torch.randn(shape, generator=generator))) for name, shape in members.items()]
        for component, members in SHAPES.items()
    }


def _steps(groups: dict[str, list[tuple[str, Parameter]]], optimizer: torch.optim.Optimizer, first: int, count: int) -> None:
    """Steps first .. first + count - 1, with gradients that depend on the step; no sample reaches the images branch."""
    for step in range(first, first + count):
        generator = torch.Generator().manual_seed(step)
        for members in groups.values():
            for name, parameter in members:
                gradient = torch.randn(parameter.shape, generator=generator)
                parameter.grad = None if name.startswith("images.") else gradient
        optimizer.step()


def _values(groups: dict[str, list[tuple[str, Parameter]]]) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for members in groups.values() for name, parameter in members}


@pytest.mark.parametrize("kind", KINDS)
def test_five_steps_are_three_steps_a_save_and_two_steps(kind: str, tmp_path: Path) -> None:
    train = TrainSettings(optimizer=kind, weight_decay=0.1)  # ty: ignore[invalid-argument-type]
    straight = _groups()
    optimizer, _ = build_optimizer(straight, 2, 1e-2, train)
    _steps(straight, optimizer, 0, 5)

    before = _groups()
    optimizer, infos = build_optimizer(before, 2, 1e-2, train)
    _steps(before, optimizer, 0, 3)
    save_file(optimizer_tensors(optimizer, infos), tmp_path / "optimizer.safetensors")
    after = _groups()
    for name, value in _values(before).items():
        next(p for members in after.values() for n, p in members if n == name).data.copy_(value)
    optimizer, infos = build_optimizer(after, 2, 1e-2, train)
    load_optimizer(optimizer, infos, load_file(tmp_path / "optimizer.safetensors"), "here")
    _steps(after, optimizer, 3, 2)

    for name, value in _values(straight).items():
        assert torch.equal(value, _values(after)[name]), name
    assert not torch.equal(_values(straight)["rows.input"], _values(_groups())["rows.input"])


@pytest.mark.parametrize("kind", KINDS)
def test_a_parameter_that_no_sample_reached_has_no_state_to_save(kind: str) -> None:
    groups = _groups()
    optimizer, infos = build_optimizer(groups, 2, 1e-2, TrainSettings(optimizer=kind))  # ty: ignore[invalid-argument-type]
    assert optimizer_tensors(optimizer, infos) == {}
    _steps(groups, optimizer, 0, 1)
    assert not [key for key in optimizer_tensors(optimizer, infos) if key.startswith("images.")]


def test_rows_projectors_and_small_tensors_keep_moments_of_32_bit() -> None:
    groups = _groups()
    optimizer, infos = build_optimizer(groups, 2, 1e-2, TrainSettings(optimizer="adamw_8bit"))
    _steps(groups, optimizer, 0, 1)
    saved = optimizer_tensors(optimizer, infos)
    types = {key.removesuffix("/state2"): value.dtype for key, value in saved.items() if key.endswith("/state2")}
    assert {name for name, dtype in types.items() if dtype == torch.uint8} == {"llm.lora_A", "llm.norm", "points.encoder.weight"}
    assert all(dtype in (torch.uint8, torch.float32) for dtype in types.values())
    assert all(p.dtype == torch.float32 for members in groups.values() for _, p in members)


def test_moments_of_8_bit_take_a_quarter_and_follow_those_of_32() -> None:
    exact, coarse = _groups(), _groups()
    begin = _values(exact)["llm.lora_A"]
    sizes = {}
    for groups, kind in ((exact, "adamw"), (coarse, "adamw_8bit")):
        optimizer, infos = build_optimizer(groups, 2, 1e-2, TrainSettings(optimizer=kind))  # ty: ignore[invalid-argument-type]
        _steps(groups, optimizer, 0, 20)
        tensors = optimizer_tensors(optimizer, infos)
        sizes[kind] = sum(value.nbytes for key, value in tensors.items() if key.startswith("llm.lora_A/"))
    assert sizes["adamw_8bit"] < 0.27 * sizes["adamw"]
    there, here = _values(exact)["llm.lora_A"] - begin, _values(coarse)["llm.lora_A"] - begin
    assert torch.nn.functional.cosine_similarity(there.flatten(), here.flatten(), dim=0) > 0.99
    assert torch.allclose(_values(exact)["rows.input"], _values(coarse)["rows.input"], atol=1e-5)  # these are exact in both


@pytest.mark.parametrize(("was", "now"), [("adamw", "adamw_8bit"), ("adamw_8bit", "adamw")])
def test_the_state_of_another_kind_of_optimizer_is_refused(was: str, now: str) -> None:
    groups = _groups()
    optimizer, infos = build_optimizer(groups, 2, 1e-2, TrainSettings(optimizer=was))  # ty: ignore[invalid-argument-type]
    _steps(groups, optimizer, 0, 1)
    tensors = optimizer_tensors(optimizer, infos)
    optimizer, infos = build_optimizer(groups, 2, 1e-2, TrainSettings(optimizer=now))  # ty: ignore[invalid-argument-type]
    with pytest.raises(CadmllmError, match=r"llm\.lora_A") as caught:
        load_optimizer(optimizer, infos, tensors, "here")
    assert caught.value.code == "E504"
    assert not optimizer.state


@pytest.mark.parametrize("kind", ["adamw", "adamw_8bit"])
def test_a_missing_or_misshapen_moment_is_refused(kind: str) -> None:
    groups = _groups()
    optimizer, infos = build_optimizer(groups, 2, 1e-2, TrainSettings(optimizer=kind))  # ty: ignore[invalid-argument-type]
    _steps(groups, optimizer, 0, 1)
    moment = "exp_avg_sq" if kind == "adamw" else "absmax2"
    whole = optimizer_tensors(optimizer, infos)
    for broken in (None, torch.zeros(3)):
        tensors = dict(whole)
        del tensors[f"llm.lora_A/{moment}"]
        if broken is not None:
            tensors[f"llm.lora_A/{moment}"] = broken
        with pytest.raises(CadmllmError, match=r"llm\.lora_A"):
            load_optimizer(optimizer, infos, tensors, "here")


def test_moments_spread_over_processes_are_gathered_and_given_back() -> None:
    groups = _groups()
    optimizer, infos = build_optimizer(groups, 2, 1e-2, TrainSettings())
    _steps(groups, optimizer, 0, 1)
    seen = []
    tensors = optimizer_tensors(optimizer, infos, lambda moment: seen.append(moment.shape) or moment * 2)
    assert len(seen) == 2 * len(optimizer.state)
    other, infos = build_optimizer(groups, 2, 1e-2, TrainSettings())
    load_optimizer(other, infos, tensors, "here", lambda whole, parameter: whole / 2)
    for parameter, state in optimizer.state.items():
        assert all(torch.equal(value, other.state[parameter][key]) for key, value in state.items())


def test_without_bitsandbytes_the_command_that_installs_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, package=None: None)
    with pytest.raises(CadmllmError) as caught:
        build_optimizer(_groups(), 2, 1e-2, TrainSettings(optimizer="adamw_8bit"))
    assert caught.value.code == "E613"
    assert f"{sys.executable} -m pip install" in caught.value.remedy
    assert "--set train.optimizer=adamw" in caught.value.remedy


def test_a_bitsandbytes_that_cannot_step_here_is_found_before_the_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    from cadmllm.train.eightbit import MixedAdamW

    def broken(*_: object) -> None:
        raise RuntimeError("named symbol not found in libbitsandbytes")

    monkeypatch.setattr(MixedAdamW, "update_step", broken)
    with pytest.raises(CadmllmError, match="named symbol not found") as caught:
        build_optimizer(_groups(), 2, 1e-2, TrainSettings(optimizer="paged_adamw_8bit"))
    assert caught.value.code == "E613"
    monkeypatch.setattr(MixedAdamW, "update_step", lambda *_: None)
    with pytest.raises(CadmllmError, match="wrong"):
        build_optimizer(_groups(), 2, 1e-2, TrainSettings(optimizer="adamw_8bit"))


def test_what_a_cpu_does_with_paged_moments_is_said() -> None:
    paged = TrainSettings(optimizer="paged_adamw_8bit")
    assert "pages nothing on cpu" in note(paged, torch.device("cpu"))
    assert note(paged, torch.device("cuda")) == note(TrainSettings(), torch.device("cpu")) == ""
