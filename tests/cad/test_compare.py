"""Distances have the values that their formulas give by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cadmllm.cad.compare import chamfer, f_score, mesh_iou, normal_consistency, overlap
from cadmllm.cad.kernel import build_shape, tessellate
from cadmllm.cad.mesh import Mesh, sample_surface
from cadmllm.cad.program import ExtentType, Profile
from tests.cad.parts import circle, extrude, program, rectangle


def mesh_of(*extrudes) -> Mesh:
    return tessellate(build_shape(program(*extrudes)))


def block(x: float, width: float, y: float = 0.0, depth: float = 10.0) -> Mesh:
    return mesh_of(extrude(rectangle(x, y, width, depth), one=10.0))


def test_chamfer_by_hand():
    a = np.array([[0.0, 0, 0], [2, 0, 0]])
    b = np.array([[0.0, 0, 0], [5, 0, 0]])
    assert chamfer(a, b) == pytest.approx((0 + 4) / 2 + (0 + 9) / 2)
    assert chamfer(a, a) == 0.0


def test_f_score_by_hand():
    a = np.array([[0.0, 0, 0], [1, 0, 0], [9, 0, 0], [9, 9, 0]])
    b = np.array([[0.0, 0, 0], [1.5, 0, 0]])
    precision, recall = 2 / 4, 1.0
    assert f_score(a, b, 0.5) == pytest.approx(2 * precision * recall / (precision + recall))
    assert f_score(a, b + 100.0, 0.5) == 0.0
    assert f_score(b, b, 0.0) == 1.0


def test_normal_consistency_ignores_the_sign():
    a = np.array([[0.0, 0, 0]])
    up, tilted = np.array([[0.0, 0, 1]]), np.array([[0.0, 0.6, -0.8]])
    assert normal_consistency(a, up, a, -up) == 1.0
    assert normal_consistency(a, up, a, tilted) == pytest.approx(0.8)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 10_000))
def test_chamfer_is_symmetric_and_never_negative(n, m, seed):
    random = np.random.default_rng(seed)
    a, b = random.normal(size=(n, 3)), random.normal(size=(m, 3))
    assert chamfer(a, b) == pytest.approx(chamfer(b, a))
    assert chamfer(a, b) >= 0.0
    assert 0.0 <= f_score(a, b, 0.5) <= 1.0


def test_iou_of_boxes_by_hand():
    assert mesh_iou(block(0, 10), block(0, 10)) == pytest.approx(1.0)
    assert mesh_iou(block(0, 10), block(5, 10)) == pytest.approx(1 / 3)
    assert mesh_iou(block(0, 10), block(50, 10)) == 0.0
    assert mesh_iou(block(0, 10), block(10, 10)) == pytest.approx(0.0, abs=1e-12)
    assert overlap(block(0, 10), block(5, 10)).method == "exact"


def test_nearly_coincident_solids_are_nearly_one():
    ring = Profile(circle(0, 0, 10), (circle(0, 0, 9.5),))
    moved = Profile(circle(1e-5, 0, 10), (circle(1e-5, 0, 9.5),))
    assert mesh_iou(mesh_of(extrude(ring)), mesh_of(extrude(moved))) == pytest.approx(1.0, abs=1e-3)


def test_overlapping_bodies_of_one_part_count_once():
    two = mesh_of(extrude(rectangle(0, 0, 10, 10)), extrude(rectangle(5, 0, 10, 10)))
    found = overlap(two, block(0, 15))
    assert (found.a, found.b, found.iou) == (pytest.approx(1500), pytest.approx(1500), pytest.approx(1.0))


def test_a_touching_pinched_profile_is_exact():
    part = mesh_of(extrude(Profile(rectangle(0, 0, 10, 10), (circle(5, 2, 2), circle(5, 6, 2)))))
    assert overlap(part, part).method == "exact"
    assert mesh_iou(part, part) == pytest.approx(1.0)


def test_an_open_mesh_is_sampled_and_said_so():
    whole, cut = block(0, 10), block(5, 10)
    cut.faces, cut.face_ids, cut.solid_ids = cut.faces[:-1], cut.face_ids[:-1], cut.solid_ids[:-1]
    upright = np.abs(np.cross(*np.moveaxis(np.diff(cut.vertices[cut.faces], axis=1), 1, 0))[:, 2]) < 1e-9
    assert upright.any()
    found = overlap(whole, cut)
    assert found.method == "sampled"
    assert found.a == pytest.approx(1000.0, rel=0.02)


def test_the_sampled_estimate_agrees_with_the_exact_one():
    from cadmllm.cad.overlap import _sampled

    a = mesh_of(extrude(Profile(circle(0, 0, 20), (circle(0, 0, 8),)), one=15.0))
    b = mesh_of(extrude(rectangle(-10, -30, 40, 50), one=9.0, type=ExtentType.SYMMETRIC))
    assert _sampled(a, b).iou == pytest.approx(overlap(a, b).iou, abs=0.01)
    assert _sampled(a, b).a == pytest.approx(math.pi * (400 - 64) * 15, rel=0.02)


def test_two_samples_of_one_surface_are_near():
    part = block(0, 10)
    a, b = sample_surface(part, 4000, 0), sample_surface(part, 4000, 1)
    # n random points on an area A are on average A / (pi n) away, squared, from the nearest of n others
    assert chamfer(a[0], b[0]) == pytest.approx(2 * 600 / (math.pi * 4000), rel=0.1)
    assert f_score(a[0] / 10, b[0] / 10, 0.05) > 0.99
    assert normal_consistency(*a, *b) > 0.95  # neighbours across an edge count 0


def test_two_empty_meshes_have_no_iou():
    empty = Mesh(np.zeros((0, 3)), np.zeros((0, 3), np.int32), np.zeros(0, np.int32), np.zeros(0, np.int32))
    assert math.isnan(mesh_iou(empty, empty))
    assert mesh_iou(block(0, 10), empty) == 0.0
