"""Rates and parameter groups."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import Parameter

from cadmllm.settings import Settings, TrainSettings
from cadmllm.train.optim import PRETRAINED_LR, build_optimizer, lr_share, peak_rate, pretrained, set_rates


def test_warmup_starts_at_one_over_warmup_and_ends_at_the_full_rate() -> None:
    assert lr_share(0, 100, 10, 0.1) == pytest.approx(0.1)
    assert lr_share(9, 100, 10, 0.1) == pytest.approx(1.0)
    assert lr_share(99, 100, 10, 0.1) == pytest.approx(0.1)
    assert lr_share(0, 100, 0, 0.1) > 0.99


@given(st.integers(1, 500), st.integers(0, 700), st.floats(0, 1))
def test_the_rate_rises_then_falls_and_stays_in_bounds(total: int, warmup: int, floor: float) -> None:
    shares = [lr_share(step, total, warmup, floor) for step in range(total)]
    assert all(0 < share <= 1 + 1e-12 or (share == 0 and floor == 0) for share in shares)
    assert all(a < b for a, b in zip(shares[:warmup], shares[1:warmup], strict=False))
    assert all(a >= b - 1e-12 for a, b in zip(shares[warmup:], shares[warmup + 1 :], strict=False))
    if total > warmup:
        assert shares[-1] == pytest.approx(floor, abs=1e-9)


def _groups() -> dict[str, list[tuple[str, Parameter]]]:
    def make(name: str) -> list[tuple[str, Parameter]]:
        return [(f"{name}.weight", Parameter(torch.randn(3, 3))), (f"{name}.bias", Parameter(torch.randn(3)))]

    return {name: make(name) for name in ("llm", "rows", "projectors", "encoders")}


def test_groups_have_their_multiplier_and_vectors_no_decay() -> None:
    train = TrainSettings(weight_decay=0.1, projector_lr_multiplier=5.0, rows_lr_multiplier=2.0)
    optimizer, infos = build_optimizer(_groups(), 2, 1e-4, train)
    rates = {(info.component, info.weight_decay): info.lr for info in infos}
    assert rates == pytest.approx(
        {
            (name, decay): 1e-4 * by
            for name, by in (("llm", 1), ("rows", 2), ("projectors", 5), ("encoders", 5))
            for decay in (0.1, 0)
        }
    )
    assert set_rates(optimizer, infos, 0.5) == pytest.approx(5e-5)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([info.lr * 0.5 for info in infos])


def test_projectors_and_encoders_are_frozen_in_stage_1() -> None:
    groups = _groups()
    _, infos = build_optimizer(groups, 1, 1e-4, TrainSettings())
    assert {info.component for info in infos} == {"llm", "rows"}
    assert not any(p.requires_grad for name in ("projectors", "encoders") for _, p in groups[name])


def test_groups_are_split_by_branch_and_factors_reach_theirs_alone() -> None:
    members = [(f"{branch}.projector.{kind}", Parameter(torch.randn(shape))) for branch in ("points", "images")
               for kind, shape in (("weight", (3, 3)), ("bias", (3,)))]  # fmt: skip
    groups = {**_groups(), "projectors": members, "encoders": [("points.encoder.weight", Parameter(torch.randn(3, 3)))]}
    optimizer, infos = build_optimizer(groups, 3, 1e-4, TrainSettings(weight_decay=0.1))
    apart = [(info.component, info.branch, info.weight_decay) for info in infos if info.component in ("projectors", "encoders")]
    assert apart == [
        ("projectors", "images", 0.1),
        ("projectors", "images", 0.0),
        ("projectors", "points", 0.1),
        ("projectors", "points", 0.0),
        ("encoders", "points", 0.1),
    ]
    set_rates(optimizer, infos, 0.5, {"images": 0.25})
    for group, info in zip(optimizer.param_groups, infos, strict=True):
        assert group["lr"] == pytest.approx(info.lr * 0.5 * (0.25 if info.branch == "images" else 1.0))


def _branches() -> dict[str, list[tuple[str, Parameter]]]:
    members = lambda part: [(f"{b}.{part}.weight", Parameter(torch.randn(3, 3))) for b in ("points", "images")]  # noqa: E731
    return {**_groups(), "projectors": members("projector"), "encoders": members("encoder")}


def test_pretrained_encoders_have_a_rate_of_their_own_and_others_the_projectors() -> None:
    train = TrainSettings(projector_lr_multiplier=5.0)
    optimizer, infos = build_optimizer(_branches(), 3, 1e-4, train, pretrained=("points",))
    rates = {(info.component, info.branch): (info.lr, info.own_rate) for info in infos if info.branch}
    assert rates == {
        ("projectors", "points"): (pytest.approx(5e-4), False),
        ("projectors", "images"): (pytest.approx(5e-4), False),
        ("encoders", "points"): (PRETRAINED_LR, True),
        ("encoders", "images"): (pytest.approx(5e-4), False),
    }
    # the schedule's share holds for all, an adaptive factor for what learns at the projectors' rate
    set_rates(optimizer, infos, 0.5, {"points": 2.0, "images": 4.0})
    set_ = {(i.component, i.branch): g["lr"] for i, g in zip(infos, optimizer.param_groups, strict=True)}
    assert set_["encoders", "points"] == pytest.approx(0.5 * PRETRAINED_LR)
    assert set_["projectors", "points"] == pytest.approx(5e-4)
    assert set_["encoders", "images"] == set_["projectors", "images"] == pytest.approx(1e-3)


def test_a_rate_that_is_asked_for_is_every_encoders() -> None:
    _, infos = build_optimizer(_branches(), 3, 1e-4, TrainSettings(encoder_lr=3e-6), pretrained=("points",))
    assert [(info.lr, info.own_rate) for info in infos if info.component == "encoders"] == [(3e-6, True)] * 2


def test_a_rate_of_zero_freezes_encoders_alone() -> None:
    groups = _branches()
    _, infos = build_optimizer(groups, 3, 1e-4, TrainSettings(encoder_lr=0.0), pretrained=("points",))
    assert {info.component for info in infos} == {"llm", "rows", "projectors"}
    assert not any(parameter.requires_grad for _, parameter in groups["encoders"])
    assert all(parameter.requires_grad for _, parameter in groups["projectors"])


def test_which_encoders_come_trained() -> None:
    assert pretrained(Settings()) == {"points", "images"}
    assert pretrained(Settings(model={"points_encoder": "fourier", "image_encoder": "tiny"})) == set()
    assert peak_rate("encoders", "points", 1e-4, TrainSettings(), pretrained(Settings())) == PRETRAINED_LR == 1e-5
