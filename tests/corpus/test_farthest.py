"""Farthest point sampling: the plain definition, its seeds, and every path that it reaches."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.spatial import KDTree

from cadmllm.corpus.farthest import farthest_points
from cadmllm.corpus.points import RawCloud, draw_cloud
from cadmllm.corpus.sources import inputs_of


def plainly(points: np.ndarray, count: int) -> list[int]:
    """By the definition: n times k distances."""
    chosen = [0]
    while len(chosen) < count:
        gaps = np.square(points[:, None] - points[chosen]).sum(axis=2).min(axis=1)
        gaps[chosen] = -1.0
        chosen.append(int(np.argmax(gaps)))
    return chosen


def surface(count: int, seed: int = 0) -> np.ndarray:
    """Points of a flat box."""
    points = np.random.default_rng(seed).uniform(-1.0, 1.0, (count, 3)) * [20.0, 10.0, 2.0]
    points[:, 2] = np.where(points[:, 2] > 0.0, 2.0, -2.0)
    return points


def spread(points: np.ndarray, chosen: np.ndarray) -> float:
    return float(KDTree(chosen).query(points)[0].max())


@pytest.mark.parametrize("count", [1, 2, 64, 65, 66, 200, 250])
def test_it_is_what_the_definition_says(count):
    points = surface(250)
    assert farthest_points(points, count).tolist() == plainly(points, count)


@settings(max_examples=30, deadline=None)
@given(hnp.arrays(np.float64, st.tuples(st.integers(1, 120), st.just(3)), elements=st.integers(-3, 3)), st.data())
def test_points_are_different_rows_even_among_duplicates(points, data):
    count = data.draw(st.integers(1, len(points)))
    chosen = farthest_points(points, count)
    assert len(set(chosen.tolist())) == count
    assert chosen[0] == 0
    if count < len(points):
        assert spread(points, points[chosen]) <= spread(points, points[:1]) + 1e-12


def test_a_cloud_drawn_far_apart():
    points = surface(3000)
    raw = RawCloud(points, np.tile([0.0, 0.0, 1.0], (3000, 1)), None)
    far, uniform = (draw_cloud(raw, 256, 5, how) for how in ("farthest", "uniform"))
    back = far.transform.invert(far.points)
    gaps, rows = KDTree(points).query(back)
    assert gaps.max() < 1e-4  # float32
    assert len(set(rows.tolist())) == 256
    assert far.transform == uniform.transform
    assert np.abs(far.points).max() <= 1.0
    assert spread(points, back) < 0.8 * spread(points, uniform.transform.invert(uniform.points))
    again, other = draw_cloud(raw, 256, 5, "farthest"), draw_cloud(raw, 256, 6, "farthest")
    assert (again.points == far.points).all()
    assert (other.points != far.points).any()


def test_fewer_points_than_wanted_are_as_with_uniform():
    points = surface(100)
    raw = RawCloud(points, None, None)
    far, uniform = (draw_cloud(raw, 160, 5, how) for how in ("farthest", "uniform"))
    assert (far.points == uniform.points).all()
    assert (far.normals == uniform.normals).all()


def test_cached_features_of_one_sampling_are_not_of_the_other():
    assert inputs_of("points", 64, 2, "farthest") != inputs_of("points", 64, 2)
    assert inputs_of("images", 64, 2, "farthest") == inputs_of("images", 64, 2)
