"""True clouds pass however they were sampled, the cloud of another part does not, even of one that looks alike."""

from __future__ import annotations

import numpy as np
import pytest

from cadmllm.cad.frame import Transform
from cadmllm.cad.mesh import Mesh, normalise, sample_surface
from cadmllm.corpus.facts import Flaw
from cadmllm.corpus.likeness import likeness
from cadmllm.corpus.points import RawCloud


def box(x: float, y: float, z: float, at=(5.0, -3.0, 40.0)) -> Mesh:
    """A closed box, mm."""
    corners = np.array([[i, j, k] for i in (0, 1) for j in (0, 1) for k in (0, 1)], float) * [x, y, z] + at
    faces = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    triangles = [t for a, b, c, d in faces for t in ((a, b, c), (a, c, d))]
    return Mesh(corners, np.array(triangles, np.int32), np.zeros(12, np.int32), np.zeros(12, np.int32))


def stored(mesh: Mesh, count: int, seed: int = 9) -> RawCloud:
    """As `data prepare` writes it."""
    frame = normalise(mesh)
    return RawCloud(frame.apply(sample_surface(mesh, count, seed)[0]).astype(np.float32).astype(float), None, frame)


def bare(mesh: Mesh, count: int, seed: int = 9, scale: float = 0.37, move=(7.0, 8.0, -9.0)) -> RawCloud:
    """As others write it: any scale and place, no transform."""
    return RawCloud(sample_surface(mesh, count, seed)[0] * scale + move, None, None)


PART = box(80, 50, 10)


@pytest.mark.parametrize("count", [16, 64, 300, 2048, 8192, 30_000])
@pytest.mark.parametrize("made", [stored, bare])
def test_true_clouds_are_alike(count, made):
    for seed in (5, 6):
        found = likeness(PART, made(PART, count, seed))
        assert found.alike, found
        assert not found.foreign


def test_rounded_and_thinned_clouds_are_not_called_foreign():
    rounded = stored(PART, 8192)
    half = RawCloud(rounded.points.astype(np.float16).astype(float), None, rounded.transform)
    assert likeness(PART, half).alike
    points = bare(PART, 30_000, scale=0.025, move=(0, 0, 0)).points
    thinned = np.unique((points / 0.04).round(), axis=0) * 0.04
    assert not likeness(PART, RawCloud(thinned, None, None)).foreign


@pytest.mark.parametrize("other", [box(80, 50, 12), box(80, 48, 10), box(80, 50, 9.5)])
@pytest.mark.parametrize("made", [stored, bare])
def test_a_part_that_looks_alike_is_found(other, made):
    assert not likeness(PART, made(other, 8192)).alike


@pytest.mark.parametrize("other", [box(80, 20, 40), box(160, 100, 20), box(80, 50, 10, at=(0, 0, 0))])
def test_with_its_transform_size_and_place_count(other):
    found = likeness(PART, stored(other, 8192))
    assert found.foreign, found


def test_without_a_transform_shape_alone_counts():
    assert likeness(PART, bare(box(160, 100, 20), 8192)).alike
    assert likeness(PART, bare(box(80, 20, 40), 8192)).foreign


def test_a_transform_that_the_points_belie_is_not_used():
    points = sample_surface(PART, 4096, 3)[0]
    remark = Flaw("E435", "warn", "x.npz", "not within [-1, 1]")
    assert likeness(PART, RawCloud(points, None, Transform((1.0, 2.0, 3.0), 5.0), (remark,))).alike


def test_a_lost_corner_is_found():
    found = likeness(PART, RawCloud(stored(PART, 8192).points[stored(PART, 8192).points[:, 0] < 0.9], None, normalise(PART)))
    assert not found.alike
    assert found.farthest > 0.05


def test_the_same_files_give_the_same_figures():
    assert likeness(PART, bare(PART, 20_000)) == likeness(PART, bare(PART, 20_000))
