"""Estimated normals: right on surfaces whose normals are known."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

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


def cup(count: int) -> tuple[np.ndarray, np.ndarray]:
    """A deep cup: outer and inner wall, floor on both sides, rim; radii 0.5 and 0.4, height 2."""
    rng = np.random.default_rng(4)
    parts = []
    for radius, low, side in ((0.5, -1.0, 1.0), (0.4, -0.9, -1.0)):
        angle = rng.uniform(0, 2 * np.pi, int(count * radius))
        normal = np.column_stack([np.cos(angle), np.sin(angle), 0 * angle])
        parts.append(
            (normal * radius + np.column_stack([0 * angle, 0 * angle, rng.uniform(low, 1.0, len(angle))]), side * normal)
        )
    for inner, outer, height, side in ((0.0, 0.5, -1.0, -1.0), (0.0, 0.4, -0.9, 1.0), (0.4, 0.5, 1.0, 1.0)):
        size = int(count * (outer**2 - inner**2) / 4.0)
        angle, radius = rng.uniform(0, 2 * np.pi, size), np.sqrt(rng.uniform(inner**2, outer**2, size))
        flat = np.column_stack([radius * np.cos(angle), radius * np.sin(angle), np.full(size, height)])
        parts.append((flat, np.tile([0.0, 0.0, side], (size, 1))))
    points, normals = (np.concatenate([part[k] for part in parts]) for k in (0, 1))
    order = rng.permutation(len(points))
    return points[order], normals[order]


def torus(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Radii 0.7 and 0.25, about uniform."""
    u, v = np.random.default_rng(5).uniform(0, 2 * np.pi, (2, count))
    normals = np.column_stack([np.cos(u) * np.cos(v), np.sin(u) * np.cos(v), np.sin(v)])
    return 0.7 * np.column_stack([np.cos(u), np.sin(u), 0 * u]) + 0.25 * normals, normals


def test_the_inside_of_a_deep_cup_and_a_torus():
    for points, truth in (cup(8000), torus(6000)):
        cosine = (estimate_normals(points[:3000], points) * truth[:3000]).sum(axis=1)
        assert (cosine < 0.0).mean() < 0.01
        assert np.median(cosine) > np.cos(np.radians(3.0))


def test_faces_are_exact_up_to_their_edges_and_thin_plates_have_two_sides():
    for size in ((2.0, 2.0, 2.0), (2.0, 1.4, 0.03)):
        points, truth = surface_of_box(4000, size)
        cosine = (estimate_normals(points, points) * truth).sum(axis=1)
        assert (cosine > 0.999).mean() > 0.93  # the rim of the plate is thinner than points are apart
        assert (cosine < 0.0).mean() < 0.01


def test_noise_is_smoothed():
    points, truth = surface_of_box(20_000, (2.0, 1.6, 1.2))
    points = points + np.random.default_rng(7).normal(0.0, 0.01, points.shape)
    cosine = (estimate_normals(points[:4000], points) * truth[:4000]).sum(axis=1)
    assert np.degrees(np.arccos(np.median(cosine))) < 5.0
    assert (cosine < 0.0).mean() < 0.03


def test_order_and_copies_of_points_change_nothing():
    points, _ = surface_of_box(1200, (2.0, 1.4, 0.4))
    first = estimate_normals(points, points)
    shuffled = np.random.default_rng(8).permutation(len(points))
    assert np.array_equal(estimate_normals(points[shuffled], points), first[shuffled])
    assert np.array_equal(estimate_normals(np.concatenate([points, points[:50]]), points), np.concatenate([first, first[:50]]))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.booleans(), st.floats(0.2, 1.0))
def test_normals_turn_with_the_cloud(seed, mirrored, scale):
    points, _ = surface_of_box(1500, (1.6, 1.1, 0.6))
    turn, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    turn = turn * (-1.0 if (np.linalg.det(turn) < 0) != mirrored else 1.0)
    first, moved = estimate_normals(points, points), estimate_normals(scale * points @ turn.T, scale * points @ turn.T)
    cosine = (first @ turn.T * moved).sum(axis=1)
    assert (cosine > 0.99).mean() > 0.97


@settings(max_examples=60, deadline=None)
@given(hnp.arrays(np.float64, st.tuples(st.integers(4, 80), st.just(3)), elements=st.floats(-1, 1, width=16)), st.integers(0, 2))
def test_whatever_the_points_normals_have_length_one(points, flattened):
    points[:, :flattened] = 0.0
    found = estimate_normals(points, points)
    assert np.allclose(np.linalg.norm(found, axis=1), 1.0)
