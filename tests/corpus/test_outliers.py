"""Outliers: what is removed from a dirty cloud, and that nothing is from a clean one."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import KDTree

from cadmllm.corpus.outliers import FEWEST, MOST_REMOVED, find_outliers

PARTS = {
    "box": trimesh.creation.box((40.0, 20.0, 10.0)),
    "plate": trimesh.creation.box((40.0, 20.0, 0.5)),
    "ring": trimesh.creation.annulus(5.0, 10.0, 4.0),
    "rod": trimesh.creation.cylinder(0.5, 60.0),
}


def surface(part: str, count: int = 4000) -> np.ndarray:
    return np.asarray(trimesh.sample.sample_surface(PARTS[part], count, seed=0)[0])


def chamfer(a: np.ndarray, b: np.ndarray) -> float:
    return float((KDTree(b).query(a)[0] ** 2).mean() + (KDTree(a).query(b)[0] ** 2).mean())


@pytest.mark.parametrize("part", PARTS)
def test_a_clean_surface_loses_next_to_nothing(part: str) -> None:
    found = find_outliers(surface(part))
    assert found.keep.mean() > 0.999
    assert found.refused == ""


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("share", [0.01, 0.05, 0.2])
def test_uniform_noise_is_removed(part: str, share: float) -> None:
    clean = surface(part)
    middle, half = (clean.max(axis=0) + clean.min(axis=0)) / 2, np.ptp(clean, axis=0).max() * 0.625
    noise = np.random.default_rng(1).uniform(middle - half, middle + half, (int(share * len(clean)), 3))
    dirty = np.vstack([clean, noise])
    found = find_outliers(dirty)
    assert found.keep[: len(clean)].mean() > 0.999
    assert chamfer(dirty[found.keep], clean) < 0.1 * chamfer(dirty, clean)
    assert found.strays + found.clustered == (~found.keep).sum()


def test_a_small_group_apart_is_removed_and_a_large_one_kept() -> None:
    clean = surface("box")
    crumb = clean[:30] * 0.05 + [60.0, 0.0, 0.0]
    found = find_outliers(np.vstack([clean, crumb]))
    assert found.keep[: len(clean)].all()
    assert not found.keep[len(clean) :].any()
    second = surface("box") + [100.0, 0.0, 0.0]
    assert find_outliers(np.vstack([clean, second])).keep.all()


def test_too_much_is_never_removed() -> None:
    random = np.random.default_rng(0)
    points = np.vstack([random.uniform(-0.01, 0.01, (550, 3)), random.uniform(-9, 9, (450, 3))])
    found = find_outliers(points)
    assert found.keep.all()
    assert f"{MOST_REMOVED:.0%}" in found.refused
    assert find_outliers(points[: FEWEST - 1]).refused
    assert find_outliers(np.ones((100, 3))).keep.all()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 200), st.sampled_from([1, 3, 1000]), st.integers(0, 99))
def test_any_points_keep_most(count: int, grid: int, seed: int) -> None:
    points = np.random.default_rng(seed).integers(0, grid, (count, 3)).astype(np.float64)
    found = find_outliers(points)
    assert len(found.keep) == count
    assert (~found.keep).sum() <= MOST_REMOVED * count
