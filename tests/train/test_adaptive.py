"""Each projector's rate follows what is left of its gradient."""

from __future__ import annotations

import json
import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cadmllm.train.adaptive import BEGIN, HIGHEST, LOWEST, AdaptiveRates, relative_norms
from cadmllm.train.optim import GroupInfo

Norms = Callable[[int], float]


def _run(steps: int, points: Norms, images: Norms | None = None, rest: Norms = lambda _: 0.1) -> AdaptiveRates:
    rates = AdaptiveRates(True)
    for step in range(steps):
        rates.update({"": rest(step), "points": points(step)} | ({"images": images(step)} if images else {}))
    return rates


def test_nothing_moves_while_the_start_is_being_measured() -> None:
    assert _run(BEGIN, lambda k: 1.0 + k).factors() == {"points": 1.0}


def test_a_gradient_that_fades_slows_its_projector_and_one_that_stays_quickens_it() -> None:
    fading = _run(BEGIN + 200, points=lambda k: 1.0 if k < BEGIN else 0.25, images=lambda _: 1.0).factors()
    assert fading["points"] == pytest.approx(0.5, rel=1e-3)  # a quarter of the gradient: half the rate
    assert fading["images"] == 1.0
    kept = _run(BEGIN + 200, points=lambda _: 1.0, rest=lambda k: 0.1 if k < BEGIN else 0.025).factors()
    assert kept["points"] == pytest.approx(2.0, rel=1e-3)


def test_what_scales_all_gradients_alike_does_not_matter() -> None:
    plain = _run(80, points=lambda k: 1.0 + k / 40)
    scaled = _run(80, points=lambda k: (1.0 + k / 40) * 2.0**k, rest=lambda k: 0.1 * 2.0**k)
    assert scaled.factors()["points"] == pytest.approx(plain.factors()["points"], rel=1e-9)


def test_factors_stay_within_their_bounds() -> None:
    assert _run(BEGIN + 300, lambda k: 1.0 if k < BEGIN else 1e-9).factors() == {"points": LOWEST}
    assert _run(BEGIN + 300, lambda k: 1.0 if k < BEGIN else 1e9).factors() == {"points": HIGHEST}


def test_one_wild_step_moves_a_rate_by_an_eighth_at_most() -> None:
    factors = _run(BEGIN + 1, lambda k: 1.0 if k < BEGIN else 100.0).factors()
    assert 1.0 < factors["points"] < 1.13


@pytest.mark.parametrize(
    "norms", [{"": 0.1}, {"": 0.1, "points": 0.0}, {"": math.inf, "points": 1.0}, {"": 0.1, "points": math.nan}]
)
def test_a_branch_that_a_step_does_not_show_is_left_alone(norms: dict[str, float]) -> None:
    rates = _run(BEGIN + 30, lambda k: 1.0 / (1 + k))
    before = rates.state()
    rates.update(norms)
    assert rates.state() == before


def test_off_by_default_nothing_is_kept() -> None:
    rates = AdaptiveRates(False)
    for _ in range(100):
        assert rates.update({"": 0.1, "points": 1.0}) == {}
    assert rates.state() == {}


@given(st.lists(st.tuples(st.floats(1e-6, 1e6), st.floats(0.0, 1e6)), max_size=60), st.integers(0, 60))
def test_a_resumed_run_has_the_same_factors_to_the_bit(steps: list[tuple[float, float]], cut: int) -> None:
    whole, first, second = AdaptiveRates(True), AdaptiveRates(True), AdaptiveRates(True)
    for place, (rest, points) in enumerate(steps):
        whole.update({"": rest, "points": points})
        if place == cut:
            second.load(json.loads(json.dumps(first.state())))
        (first if place < cut else second).update({"": rest, "points": points})
    if len(steps) > cut:
        assert second.factors() == whole.factors()
        assert second.state() == whole.state()


def test_norms_are_relative_to_the_weights_and_by_branch() -> None:
    names = {"llm": "", "projectors": "points", "encoders": "points", "other": "images"}
    parameters = [torch.nn.Parameter(torch.full((4,), 2.0)) for _ in names]
    infos = [GroupInfo(name, (name,), 4, 1e-3, 0.0, branch) for name, branch in names.items()]
    optimizer = torch.optim.AdamW([{"params": [parameter]} for parameter in parameters])
    for parameter, slope in zip(parameters[:3], (1.0, 3.0, 4.0), strict=True):
        parameter.grad = torch.full((4,), slope)
    assert relative_norms(optimizer, infos) == pytest.approx({"": 0.5, "points": 5.0 / math.sqrt(8.0)})


def test_encoders_with_a_rate_of_their_own_count_for_neither() -> None:
    parameters = [torch.nn.Parameter(torch.full((4,), 2.0)) for _ in range(3)]
    infos = [GroupInfo("llm", ("a",), 4, 1e-3, 0.0), GroupInfo("projectors", ("b",), 4, 1e-3, 0.0, "points")]
    infos += [GroupInfo("encoders", ("c",), 4, 1e-5, 0.0, "points", own_rate=True)]
    optimizer = torch.optim.AdamW([{"params": [parameter]} for parameter in parameters])
    for parameter, slope in zip(parameters, (1.0, 3.0, 400.0), strict=True):
        parameter.grad = torch.full((4,), slope)
    assert relative_norms(optimizer, infos) == pytest.approx({"": 0.5, "points": 1.5})
