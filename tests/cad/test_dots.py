"""Pictures of point clouds."""

from __future__ import annotations

import numpy as np
import pytest

from cadmllm.cad.dots import render_points
from cadmllm.cad.render import VIEWS


def plate(normal: float) -> tuple[np.ndarray, np.ndarray]:
    """A grid of points on z = normal * 0.1, facing that way."""
    x, y = np.meshgrid(np.linspace(-1, 1, 40), np.linspace(-1, 1, 40))
    points = np.column_stack([x.ravel(), y.ravel(), np.full(x.size, 0.1 * normal)])
    return points, np.tile([0.0, 0.0, normal], (x.size, 1))


def inked(picture: np.ndarray) -> np.ndarray:
    return (picture < 250).any(axis=2)


@pytest.mark.parametrize("view", range(len(VIEWS)))
def test_what_faces_the_camera_hides_the_rest(view):
    """Two plates, one above the other: the middle shows the colour of the one that is turned to the camera."""
    (top, up), (bottom, down) = plate(1.0), plate(-1.0)
    picture = render_points(np.concatenate([top, bottom]), np.concatenate([up, down]), view, 120)
    alone = render_points(*((top, up) if VIEWS[view][2] > 0 else (bottom, down)), view, 120)
    middle = (slice(55, 65), slice(55, 65))
    chosen = inked(alone)[middle]
    assert chosen.mean() > 0.5
    assert np.abs(picture[middle][chosen].astype(int) - alone[middle][chosen]).max() < 40


def test_normals_give_the_colour_and_depth_does_without_them():
    points, normals = plate(1.0)
    by_normal = render_points(points, normals, 0, 120)[50:70, 50:70].reshape(-1, 3).mean(axis=0)
    assert by_normal[2] > by_normal[0] + 20  # blue is up
    by_depth = render_points(points, None, 0, 120)
    near, far = by_depth[70:80, 55:65], by_depth[40:50, 55:65]  # the near edge of a flat plate is lower in the picture
    assert near[inked(near)].mean() < far[inked(far)].mean()


def test_the_picture_keeps_its_margin_and_size():
    picture = render_points(np.random.default_rng(0).normal(size=(500, 3)) * 1e-3 + 1e4, None, 3, 96, 0.2)
    assert picture.shape == (96, 96, 3)
    assert not inked(picture)[:14].any()
    assert inked(picture).any()


@pytest.mark.parametrize("points", [np.zeros((1, 3)), np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]]), np.zeros((20, 3))])
def test_degenerate_clouds_are_drawn(points):
    assert render_points(points, None, 0, 64).shape == (64, 64, 3)


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="view 8"):
        render_points(np.zeros((3, 3)), None, 8)
