"""A stage ends when its held-out loss stops getting better."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cadmllm.train.patience import MIN_DELTA, Patience


def test_so_many_validations_without_improvement_end_the_stage() -> None:
    patience = Patience(2)
    assert [patience.validated(loss) for loss in (3.0, 2.0, 2.0, 1.5, 1.6, 1.5)] == [False, False, False, False, False, True]
    assert patience.best == 1.5
    assert "1.5000 for 2 validations" in patience.reason()
    assert patience.spent


def test_an_improvement_has_to_be_one() -> None:
    patience = Patience(1)
    assert not patience.validated(2.0)
    assert not patience.validated(2.0 - 2.0 * MIN_DELTA)
    assert patience.validated(2.0 - 2.5 * MIN_DELTA)


def test_many_small_steps_down_are_an_improvement_in_the_end() -> None:
    patience = Patience(3)
    assert not any(patience.validated(2.0 - k * 0.6 * MIN_DELTA) for k in range(20))


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_what_is_no_number_is_no_improvement(loss: float) -> None:
    patience = Patience(1)
    patience.validated(2.0)
    assert patience.validated(loss)
    assert patience.best == 2.0


def test_0_never_ends_a_stage() -> None:
    patience = Patience(0)
    assert not any(patience.validated(2.0) for _ in range(50))


@given(st.lists(st.floats(0.0, 20.0), max_size=30), st.integers(0, 30), st.integers(1, 4))
def test_a_resumed_run_ends_at_the_same_validation(losses: list[float], cut: int, limit: int) -> None:
    whole = Patience(limit)
    wanted = [whole.validated(loss) for loss in losses]
    first, second = Patience(limit), Patience(limit)
    got = [first.validated(loss) for loss in losses[:cut]]
    second.load(json.loads(json.dumps(first.state())))
    assert got + [second.validated(loss) for loss in losses[cut:]] == wanted
    assert second.state() == whole.state()
    assert second.spent == whole.spent
