"""Welding, orienting and cutting: what comes out is a manifold, and it is as much of the soup as can be."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from cadmllm.evaluate.orient import Soup, dangling, orient, weld
from tests.evaluate.soups import CUBE, cube, moebius, together


def directed(faces: np.ndarray) -> list[tuple[int, int]]:
    return [(int(face[k]), int(face[(k + 1) % 3])) for face in faces for k in range(3)]


def fans(faces: np.ndarray) -> dict[int, int]:
    """How many groups of faces that hang together by edges each vertex has: one, where its surroundings are a disk."""
    around: dict[int, list[int]] = defaultdict(list)
    for number, face in enumerate(faces):
        for vertex in face:
            around[int(vertex)].append(number)
    groups = {}
    for vertex, ring in around.items():
        left, count = set(ring), 0
        while left:
            count += 1
            reached = [left.pop()]
            while reached:
                here = set(faces[reached.pop()]) - {vertex}
                near = {f for f in left if here & set(faces[f]) - {vertex}}
                left -= near
                reached += near
        groups[vertex] = count
    return groups


def is_manifold(soup: Soup) -> bool:
    edges = directed(soup.faces)
    return len(set(edges)) == len(edges) and set(fans(soup.faces).values()) <= {1}


def numbers(most: int) -> st.SearchStrategy[list[tuple[int, int, int]]]:
    index = st.integers(0, most)
    face = st.tuples(index, index, index).filter(lambda f: len(set(f)) == 3)
    return st.lists(face, max_size=25)


@settings(max_examples=120, deadline=None)
@given(numbers(6))
def test_whatever_comes_in_a_manifold_comes_out(drawn) -> None:
    faces = np.array(drawn, np.int64).reshape(-1, 3)
    soup = orient(faces)
    assert is_manifold(soup)
    back = soup.origin[soup.faces]
    assert (np.sort(back, axis=1) == np.sort(faces, axis=1)).all()
    expected = np.where(soup.flipped[:, None], faces[:, ::-1], faces)
    assert (back == expected).all()
    assert sorted(set(soup.faces.ravel())) == list(range(len(soup.origin)))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.booleans(), min_size=12, max_size=12), st.permutations(range(12)))
def test_a_closed_solid_is_oriented_alike_whatever_its_faces_were(turned, order) -> None:
    faces = CUBE.copy()
    faces[turned] = faces[turned][:, ::-1]
    soup = orient(faces[list(order)])
    assert len(soup.origin) == 8
    assert len(dangling(soup.faces)) == 0
    edges = set(directed(soup.faces))
    assert edges == {(b, a) for a, b in edges}
    assert not soup.flipped[0]


def test_a_moebius_strip_is_cut_once() -> None:
    vertices, faces = moebius(12)
    soup = orient(faces)
    assert is_manifold(soup)
    assert soup.segments == 1
    assert len(soup.origin) == len(vertices) + 2  # the two ends of one edge
    assert len(dangling(soup.faces)) == 24 + 2  # the border, and both sides of the cut


def test_a_fin_on_a_closed_box_falls_off_and_the_box_stays_closed() -> None:
    fin = (np.array([[0, 0, 0], [1, 0, 0], [0, -1, 0]], float), np.array([[0, 1, 2]]))
    vertices, faces = weld(*together(cube(), fin))
    soup = orient(faces)
    assert soup.segments == 2
    assert len(dangling(soup.faces)) == 3


def test_three_faces_on_one_edge_are_three_pieces() -> None:
    soup = orient(np.array([[0, 1, 2], [0, 1, 3], [0, 1, 4]]))
    assert soup.segments == 3
    assert len(dangling(soup.faces)) == 9


def test_cubes_that_share_a_vertex_an_edge_or_a_face() -> None:
    for at, segments, edges in (((1, 1, 1), 2, 0), ((1, 1, 0), 2, 0), ((1, 0, 0), 4, 16)):
        soup = orient(weld(*together(cube(), cube(at)))[1])
        assert is_manifold(soup)
        assert (soup.segments, len(dangling(soup.faces))) == (segments, edges), at


def test_duplicate_faces_are_cut_off() -> None:
    pillow = orient(np.array([[0, 1, 2], [0, 1, 2]]))  # twice the same: a closed pillow of two triangles
    assert (pillow.segments, len(dangling(pillow.faces)), pillow.flipped.tolist()) == (1, 0, [False, True])
    box = orient(np.concatenate([CUBE, CUBE[:1]]))  # three faces on each edge of the doubled one
    assert (box.segments, len(dangling(box.faces))) == (3, 9)


def test_many_pieces() -> None:
    vertices, faces = weld(*together(*(cube((3.0 * k, 0, 0)) for k in range(200))))
    soup = orient(faces)
    assert soup.segments == 200
    assert not soup.flipped.any()


def test_nothing() -> None:
    soup = orient(np.zeros((0, 3), np.int64))
    assert (soup.segments, len(soup.faces), len(dangling(soup.faces))) == (0, 0, 0)


def test_weld_is_by_float32_and_drops_what_no_face_uses() -> None:
    vertices = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [-0.0, 0, 0], [1 + 1e-9, 0, 0], [0, 1 + 1e-6, 0], [7, 7, 7]])
    points, faces = weld(vertices, np.array([[0, 1, 2], [3, 4, 5]]))
    assert len(points) == 4
    assert (faces[0, :2] == faces[1, :2]).all()
    assert faces[0, 2] != faces[1, 2]
    assert points.max() < 2
