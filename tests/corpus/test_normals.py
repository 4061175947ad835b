"""Estimated normals: right on surfaces whose normals are known."""

from __future__ import annotations

import numpy as np

from cadmllm.corpus.normals import estimate_normals


def surface_of_box(count: int, size: tuple[float, float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Area-weighted points of a box about the origin, with outward normals."""
    rng = np.random.default_rng(1)
    half = np.array(size) / 2.0
    areas = np.array([half[1] * half[2], half[0] * half[2], half[0] * half[1]])
    axis = rng.choice(3, count, p=areas / areas.sum())
    side = rng.choice([-1.0, 1.0], count)
    points = rng.uniform(-half, half, (count, 3))
    points[np.arange(count), axis] = side * half[axis]
    normals = np.zeros((count, 3))
    normals[np.arange(count), axis] = side
    return points, normals


def agreement(points: np.ndarray, truth: np.ndarray) -> np.ndarray:
    found = estimate_normals(points[:2000], points)
    assert np.allclose(np.linalg.norm(found, axis=1), 1.0)
    return (found * truth[:2000]).sum(axis=1)


def test_a_sphere():
    points = np.random.default_rng(0).normal(size=(8000, 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    assert agreement(points, points).min() > 0.97


def test_a_cube_and_a_thin_plate():
    for size in ((2.0, 2.0, 2.0), (2.0, 1.4, 0.15)):
        cosine = agreement(*surface_of_box(8000, size))
        assert (cosine > 0.95).mean() > 0.85
        assert (cosine < 0.0).mean() < 0.01


def test_a_wide_pocket_looks_inwards():
    """The inner side of a bowl must face its axis, not away from the centre."""
    rng = np.random.default_rng(2)
    directions = rng.normal(size=(8000, 3))
    directions[:, 2] = -np.abs(directions[:, 2])
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    inner = rng.random(8000) < 0.5
    points = directions * np.where(inner, 0.85, 1.0)[:, None]
    normals = directions * np.where(inner, -1.0, 1.0)[:, None]
    cosine = agreement(points, normals)
    assert (cosine < 0.0).mean() < 0.08


def test_few_points_and_a_plane_do_not_break_it():
    flat = np.random.default_rng(3).uniform(-1, 1, (16, 3)) * [1, 1, 0]
    assert np.allclose(np.abs(estimate_normals(flat, flat)[:, 2]), 1.0)
