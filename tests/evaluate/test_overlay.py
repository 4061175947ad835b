"""Colours of an overlay on boxes whose difference is known."""

from __future__ import annotations

import numpy as np
import trimesh

from cadmllm.cad.mesh import Mesh
from cadmllm.evaluate.overlay import creased, draw_overlay, drawable


def mesh_of(shape: trimesh.Trimesh) -> Mesh:
    faces = shape.faces.astype(np.int32)
    none = np.zeros(len(faces), np.int32)
    return Mesh(np.asarray(shape.vertices, np.float64), faces, none, none.copy())


def box(*sides: float) -> Mesh:
    return mesh_of(trimesh.creation.box(sides))


def colours(picture: np.ndarray) -> dict[str, int]:
    """Pixels that are clearly grey, red and blue."""
    red, green, blue = (picture[:, :, k].astype(int) for k in range(3))
    solid = picture.min(axis=2) < 235
    return {
        "red": int((solid & (red > green + 60) & (red > blue + 60)).sum()),
        "blue": int((solid & (blue > red + 60)).sum()),
        "grey": int((solid & (abs(red - blue) < 25) & (red > 90)).sum()),
    }


def overlay(truth: Mesh, answer: Mesh) -> dict[str, int]:
    picture = draw_overlay(truth, answer, 160)
    assert picture is not None
    assert picture.shape == (160, 160, 3)
    return colours(picture)


def test_the_same_part_in_another_place_and_size_is_grey():
    found = overlay(box(4, 3, 2), mesh_of(trimesh.creation.box((8, 6, 4), trimesh.transformations.translation_matrix((9, 9, 9)))))
    assert found["grey"] > 2000
    assert found["red"] == found["blue"] == 0


def test_what_is_missing_is_red_and_what_is_too_much_is_blue():
    missing = overlay(box(10, 6, 6), box(10, 6, 2))
    assert missing["red"] > 1000
    assert missing["blue"] == 0
    surplus = overlay(box(10, 6, 2), box(10, 6, 6))
    assert surplus["blue"] > 1000
    assert surplus["red"] == 0


def test_a_thin_layer_is_faint():
    found = overlay(box(10, 10, 5), box(10, 10, 4.96))
    assert found["red"] == found["blue"] == 0
    assert found["grey"] > 2000


def test_an_open_mesh_has_no_overlay():
    whole = box(1, 1, 1)
    assert draw_overlay(whole, Mesh(whole.vertices, whole.faces[:-1], whole.face_ids[:-1], whole.solid_ids[:-1]), 64) is None


def test_triangles_get_their_edges_back():
    cube = drawable(box(1, 1, 1))
    assert len(cube.edges) == 12  # and no diagonals
    assert len(np.unique(cube.face_ids)) == 6
    ball = trimesh.creation.icosphere(3)
    round_one = creased(np.asarray(ball.vertices), np.asarray(ball.faces))
    assert not round_one.edges
    assert len(np.unique(round_one.face_ids)) == 1
