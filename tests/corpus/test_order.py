"""Orders and draws are pure functions of their key."""

from __future__ import annotations

import numpy as np

from cadmllm.corpus import order


def test_an_epoch_is_a_permutation_that_its_key_decides():
    one = order.epoch_order(1000, 42, 1, 0)
    assert sorted(one.tolist()) == list(range(1000))
    assert (one == order.epoch_order(1000, 42, 1, 0)).all()
    for other in ((43, 1, 0), (42, 2, 0), (42, 1, 1)):
        assert (one != order.epoch_order(1000, *other)).any()


def test_the_numbers_are_frozen():
    """A run that is resumed on another machine or numpy release must see the same order."""
    assert order.epoch_order(8, 42, 1, 0).tolist() == [2, 7, 0, 5, 3, 4, 1, 6]
    assert order.whole(1, 2, 3) == 6639864445603122483


def test_draws_are_uniform_and_in_range():
    draws = np.array([order.uniform(order.DRAW, 0, 1, 0, k) for k in range(4000)])
    assert draws.min() >= 0.0
    assert draws.max() < 1.0
    assert abs(draws.mean() - 0.5) < 0.02
    assert abs(np.corrcoef(draws[:-1], draws[1:])[0, 1]) < 0.05


def test_the_hash_of_an_id_does_not_depend_on_the_process():
    assert order.fraction("0000/00000001") == 0.24167852135285828
    shares = [order.fraction(f"0000/{k:08d}") for k in range(4000)]
    assert abs(np.mean(np.array(shares) < 0.05) - 0.05) < 0.012
