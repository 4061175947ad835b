"""Self-intersection against exact arithmetic: every pair, in fractions, by clipping one triangle with the other."""

from __future__ import annotations

from fractions import Fraction
from itertools import combinations
from unittest import mock

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cadmllm.evaluate import boxtree, intersect
from cadmllm.evaluate.intersect import degenerate, self_intersecting

Point = tuple[Fraction, Fraction, Fraction]


def minus(a: Point, b: Point) -> Point:
    return a[0] - b[0], a[1] - b[1], a[2] - b[2]


def dot(a: Point, b: Point) -> Fraction:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def cross(a: Point, b: Point) -> Point:
    return a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]


def clip(points: list[Point], inside: Point, base: Point) -> list[Point]:
    """What of a convex set (its corners in order) lies where inside . (x - base) >= 0 (Sutherland and Hodgman, 1974)."""
    kept: list[Point] = []
    for k, here in enumerate(points):
        before = points[k - 1]
        now, then = dot(inside, minus(here, base)), dot(inside, minus(before, base))
        if now * then < 0:
            share = then / (then - now)
            x, y, z = (p + share * (h - p) for p, h in zip(before, here, strict=True))
            kept.append((x, y, z))
        if now >= 0:
            kept.append(here)
    return kept


def common(a: list[Point], b: list[Point]) -> list[Point]:
    """Corners of the intersection of two closed triangles with area."""
    normal = cross(minus(b[1], b[0]), minus(b[2], b[0]))
    against = minus((Fraction(0), Fraction(0), Fraction(0)), normal)
    left = clip(clip(a, normal, b[0]), against, b[0])
    for k in range(3):
        left = clip(left, cross(normal, minus(b[(k + 1) % 3], b[k])), b[k])
    return left


def between(point: Point, ends: list[Point]) -> bool:
    one, two = minus(ends[1], ends[0]), minus(point, ends[0])
    return not any(cross(one, two)) and 0 <= dot(one, two) <= dot(one, one)


def exact(vertices: np.ndarray, faces: np.ndarray) -> list[bool]:
    places = [(Fraction(float(x)), Fraction(float(y)), Fraction(float(z))) for x, y, z in vertices]
    corners = [[places[v] for v in face] for face in faces]
    flat = [not any(cross(minus(c[1], c[0]), minus(c[2], c[0]))) for c in corners]
    found = list(flat)
    for i, j in combinations(range(len(faces)), 2):
        if flat[i] or flat[j]:
            continue
        met = common(corners[i], corners[j])
        shared = [places[v] for v in set(faces[i]) & set(faces[j])]
        if len(shared) == 1:
            met = [point for point in met if point != shared[0]]
        elif len(shared) == 2:
            met = [point for point in met if not between(point, shared)]
        if met:
            found[i] = found[j] = True
    return found


@st.composite
def soups(draw, reach: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Triangles on a grid so small that they touch, lie in one plane and share vertices all the time."""
    flat = draw(st.booleans())
    coordinate = st.integers(0, reach)
    depth = st.just(0) if flat else coordinate
    vertices = draw(st.lists(st.tuples(coordinate, coordinate, depth), min_size=3, max_size=9))
    index = st.integers(0, len(vertices) - 1)
    face = st.tuples(index, index, index).filter(lambda f: len(set(f)) == 3)
    return np.array(vertices, np.float64), np.array(draw(st.lists(face, min_size=1, max_size=7)))


@settings(max_examples=150, deadline=None)
@given(soups())
def test_as_in_exact_arithmetic(soup) -> None:
    assert self_intersecting(*soup).tolist() == exact(*soup)


@pytest.mark.parametrize("hub", [2, 3])
@settings(max_examples=60, deadline=None)
@given(soups())
def test_within_fans_directions_are_compared(hub, soup) -> None:
    """Fans are looked at in their own way from 24 faces on; here from two or three."""
    with mock.patch.object(intersect, "HUB", hub):
        assert self_intersecting(*soup).tolist() == exact(*soup)


def test_a_fan_of_a_thousand_faces_is_not_half_a_million_pairs() -> None:
    """The caps of a finely faceted cylinder; an upright triangle on one of them is found."""
    count = 1000
    angle = np.arange(count) * 2.0 * np.pi / count
    rim = np.column_stack([np.cos(angle), np.sin(angle), np.zeros(count)])
    vertices = np.concatenate([[[0, 0, 0]], rim, [[0.5, 0.01, 0], [0.5, 0.01, 1], [0.5, 0.02, 1]]])
    ring = np.arange(count) + 1
    fan = np.column_stack([np.zeros(count, int), ring, np.roll(ring, -1)])
    faces = np.concatenate([fan, [[count + 1, count + 2, count + 3]]])
    seen: list[int] = []
    look = intersect._meet
    with mock.patch.object(intersect, "_meet", lambda mesh, a, b: seen.append(len(a)) or look(mesh, a, b)):
        found = self_intersecting(vertices, faces)
    assert np.flatnonzero(found).tolist() == [3, count]
    assert sum(seen) < 20 * count


@settings(max_examples=80, deadline=None)
@given(soups(reach=2), st.integers(0, 2**32 - 1))
def test_as_in_exact_arithmetic_when_turned_and_rounded_to_float32(soup, seed) -> None:
    """A turn makes what was in one plane nearly so: what float32 then says is decided as fractions decide it."""
    vertices, faces = soup
    random = np.random.default_rng(seed)
    turn = np.linalg.qr(random.normal(size=(3, 3)))[0]
    vertices = (vertices @ turn * random.uniform(0.01, 100) + random.normal(size=3)).astype(np.float32).astype(np.float64)
    assert self_intersecting(vertices, faces).tolist() == exact(vertices, faces)


TWO = np.array([[0, 0, 0], [4, 0, 0], [0, 4, 0]], float)


@pytest.mark.parametrize(
    ("other", "meets"),
    [
        ([[1, 1, 0], [1, 1, 1], [2, 1, 1]], True),  # a corner within
        ([[1, 1, 1e-9], [1, 1, 1], [2, 1, 1]], False),  # just above
        ([[2, 2, -1], [2, 2, 1], [5, 5, 0]], True),  # an edge through an edge
        ([[4, 0, 0], [5, 0, 0], [5, 1, 0]], True),  # corner on corner, in one plane
        ([[1, 0, 0], [3, 0, 0], [2, -1, 0]], True),  # along a part of an edge, in one plane
        ([[1, 1, 0], [2, 1, 0], [1, 2, 0]], True),  # wholly inside, in one plane
        ([[3, 3, 0], [4, 3, 0], [3, 4, 0]], False),  # in one plane, boxes overlap
        ([[-1, 2, -1], [-1, 2, 1], [-2, 2, 0]], False),
        ([[1, 1, -1], [1, 1, 1], [9, 9, 0]], True),  # straight through
        ([[5, -1, 0], [6, -1, 1], [6, -1, -1]], False),
        ([[2, 0, 0], [2, 0, 1], [2, -1, 1]], True),  # a corner on an edge
    ],
)
def test_two_triangles(other, meets) -> None:
    vertices = np.concatenate([TWO, np.array(other, float)])
    for turn in range(3):
        faces = np.array([[0, 1, 2], np.roll([3, 4, 5], turn)])
        assert self_intersecting(vertices, faces).tolist() == [meets] * 2
        assert self_intersecting(vertices, faces[::-1, ::-1]).tolist() == [meets] * 2


def test_shared_by_index_and_touching_by_place_are_different_things() -> None:
    vertices = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 0], [0, 1, 0]], float)
    assert not self_intersecting(vertices, np.array([[0, 1, 2], [1, 2, 3]])).any()
    assert self_intersecting(vertices, np.array([[0, 1, 2], [4, 5, 3]])).all()


def test_a_face_without_area_meets_itself_alone() -> None:
    vertices = np.array([[0, 0, 0], [4, 0, 0], [0, 4, 0], [1, 1, 0], [2, 2, 0], [3, 3, 0]], float)
    assert self_intersecting(vertices, np.array([[0, 1, 2], [3, 4, 5]])).tolist() == [False, True]
    assert degenerate(vertices[np.array([[0, 1, 2], [3, 4, 5]])]).tolist() == [False, True]


def test_no_faces_and_one_face() -> None:
    assert self_intersecting(TWO, np.zeros((0, 3), int)).tolist() == []
    assert self_intersecting(TWO, np.array([[0, 1, 2]])).tolist() == [False]


@pytest.mark.parametrize("block", [4, 64, 1 << 16])
@pytest.mark.parametrize("count", [1, 2, 3, 7, 64, 200])
def test_every_touching_pair_of_boxes_once(monkeypatch, block, count) -> None:
    monkeypatch.setattr(boxtree, "BLOCK", block)
    random = np.random.default_rng(count)
    low = random.integers(0, 12, (count, 3)).astype(float)
    high = low + random.integers(0, 3, (count, 3)) * (random.random((count, 1)) < 0.8)
    blocks = list(boxtree.touching(low, high, np.zeros(count, bool), np.full(count, -1)))
    found = [tuple(sorted(pair)) for pairs in blocks for pair in pairs.tolist()]
    pairs = combinations(range(count), 2)
    expected = [(i, j) for i, j in pairs if (low[i] <= high[j]).all() and (low[j] <= high[i]).all()]
    assert sorted(found) == expected


def test_what_is_settled_is_not_looked_at_again(monkeypatch) -> None:
    """A thousand boxes on one place are half a million pairs; once all are settled, nothing more comes."""
    monkeypatch.setattr(boxtree, "BLOCK", 256)
    settled = np.zeros(1000, bool)
    seen = 0
    for pairs in boxtree.touching(np.zeros((1000, 3)), np.ones((1000, 3)), settled, np.full(1000, -1)):
        seen += len(pairs)
        settled[pairs.ravel()] = True
    assert settled.all()
    assert seen < 100_000


@settings(max_examples=60, deadline=None)
@given(soups())
def test_boxes_along_the_edges_change_nothing(soup) -> None:
    """They are taken where they fit better; here always."""
    vertices, faces = soup

    def turned(mesh):
        reach = 64.0 * intersect.U * np.abs(mesh.columns).max()
        turn = np.linalg.qr(np.arange(9.0).reshape(3, 3) ** 1.5 + np.eye(3))[0]
        places = mesh.columns.transpose(2, 0, 1) @ turn
        return places.min(axis=1) - reach, places.max(axis=1) + reach

    with mock.patch.object(intersect, "_boxes", turned):
        assert self_intersecting(vertices, faces).tolist() == exact(vertices, faces)


def test_a_tilted_cylinder_of_slivers_is_not_every_pair() -> None:
    count = 500
    angle = np.arange(count) * 2.0 * np.pi / count
    ring = np.column_stack([np.cos(angle), np.sin(angle), np.zeros(count)])
    turn = np.linalg.qr(np.array([[2.0, 1, 0.5], [0.3, 2, 1], [1, 0.2, 2]]))[0]
    vertices = np.concatenate([ring, ring + [0, 0, 40]]) @ turn
    here = np.arange(count)
    there = np.roll(here, -1)
    faces = np.concatenate([np.column_stack([here, there, here + count]), np.column_stack([there, there + count, here + count])])
    seen: list[int] = []
    look = intersect._meet
    with mock.patch.object(intersect, "_meet", lambda mesh, a, b: seen.append(len(a)) or look(mesh, a, b)):
        assert not self_intersecting(vertices, faces).any()
    assert sum(seen) < 20 * len(faces)


@example(1)
@given(st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_blocks_do_not_change_the_answer(seed) -> None:
    random = np.random.default_rng(seed)
    vertices = random.integers(0, 9, (60, 3)).astype(float)
    faces = np.array([random.choice(60, 3, replace=False) for _ in range(40)])
    whole = self_intersecting(vertices, faces)
    order = random.permutation(40)
    assert (self_intersecting(vertices, faces[order]) == whole[order]).all()


@example((np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], float), np.array([[0, 1, 2], [0, 1, 2], [0, 1, 3]])))
@given(soups(reach=1))
@settings(max_examples=60, deadline=None)
def test_as_in_exact_arithmetic_on_one_cell(soup) -> None:
    assert self_intersecting(*soup).tolist() == exact(*soup)
