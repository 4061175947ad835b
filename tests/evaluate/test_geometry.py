"""Distances have the values that geometry gives by hand, and do not change where they must not."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cadmllm.cad.kernel import Verdict
from cadmllm.cad.overlap import overlap
from cadmllm.evaluate.geometry import THRESHOLDS, centred, floor, geometry, raw_geometry, surface
from cadmllm.evaluate.shape import of_triangles
from tests.evaluate.solids import ball, box, flipped, joined, mesh_of, moved, without

L = joined(box((3, 1, 1)), box((1, 3, 1), (0.0, 0.0, 1.0)))  # no symmetry that hides a mistake


def test_boxes_that_overlap_by_half():
    a, b = box(), box(at=(0.5, 0, 0))
    assert raw_geometry(a, b)["iou"] == pytest.approx(1 / 3)
    assert raw_geometry(a, b)["iou_method"] == "exact"
    assert geometry(a, b)["iou"] == pytest.approx(1.0), "each is centred on its own box"


def test_concentric_balls():
    a, b = ball(1.0), ball(0.5)
    found = raw_geometry(a, b, points=20_000)
    assert found["iou"] == pytest.approx(1 / 8, rel=1e-6), "the same triangles, half the size"
    assert found["chamfer_distance"] == pytest.approx(2 * 0.25, rel=0.01)
    assert found["normal_consistency"] == pytest.approx(1.0, abs=0.01)
    assert found["f_score"] == {str(t): 0.0 for t in THRESHOLDS}
    assert geometry(a, b)["iou"] == pytest.approx(1.0)


def test_the_chamfer_distance_of_plates():
    """Two thin sheets one above the other: every point is as far from the other sheet as they are apart."""
    sheet = mesh_of([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], [[0, 1, 2], [0, 2, 3]])
    apart = raw_geometry(sheet, moved(sheet, (0, 0, 0.5)), points=8192)
    assert apart["chamfer_distance"] == pytest.approx(2 * 0.25, rel=1e-3)
    assert apart["normal_consistency"] == pytest.approx(1.0)
    assert math.isnan(apart["iou"]), "neither bounds a volume"
    below = raw_geometry(sheet, moved(sheet, (0, 0, 0.019)))["f_score"]
    assert below["0.01"] == 0.0
    assert below["0.02"] == below["0.05"] == 1.0


def test_a_mesh_and_itself_and_thresholds_in_its_unit_and_in_its_size():
    part = box((40, 20, 10))
    found = raw_geometry(part, part)
    assert (found["chamfer_distance"], found["iou"]) == (0.0, 1.0)
    assert set(found["f_score"].values()) == set(found["f_score_relative"].values()) == {1.0}
    apart = raw_geometry(moved(part, (0.0, 0.0, 0.3)), part)
    assert apart["f_score"]["0.05"] < 0.9, "0.05 mm: the sides alone"
    assert apart["f_score_relative"]["0.01"] == 1.0, "0.4 mm"


def test_deepcads_distance_sees_the_place_and_not_the_size():
    a = box()
    assert geometry(a, moved(a, scale=7.0))["cd_deepcad"] < 2e-3
    assert geometry(a, moved(a, by=(5, 0, 0)))["cd_deepcad"] > 0.1
    assert geometry(a, moved(a, by=(5, 0, 0)))["cd"] < 1e-3
    reach = np.abs(surface(moved(a, by=(5, 0, 0)), 100, 0).in_cube).max()
    assert reach == pytest.approx(0.75, rel=1e-9), "DeepCAD's NORM_FACTOR"
    assert len(surface(a, 100, 0).in_cube) == 2000


@settings(max_examples=12, deadline=None)
@given(
    st.tuples(*[st.floats(-1e3, 1e3)] * 3),
    st.floats(1e-3, 1e3),
    st.tuples(*[st.floats(0.2, 1.0)] * 3),
)
def test_place_and_size_do_not_matter(by, scale, sides):
    a, b = L, box(sides)
    one = geometry(a, b, points=1000, seed=3)
    other = geometry(a, moved(b, by, scale), points=1000, seed=3)
    for key in one.keys() - {"cd_deepcad", "iou_method"}:
        assert other[key] == pytest.approx(one[key], rel=1e-4, abs=2e-3), key


@settings(max_examples=12, deadline=None)
@given(st.tuples(*[st.floats(0.1, 2.0)] * 3), st.tuples(*[st.floats(-1.5, 1.5)] * 3))
def test_iou_is_symmetric_and_a_share(sides, at):
    a, b = L, box(sides, at)
    one, two = overlap(a, b).iou, overlap(b, a).iou
    assert 0.0 <= one <= 1.0
    assert two == pytest.approx(one, abs=1e-9)
    low, high = np.maximum([0, 0, 0], at), np.minimum([1, 1, 1], np.add(at, sides))
    common = float(np.prod(np.clip(high - low, 0.0, None)))
    assert overlap(box(), b).iou == pytest.approx(common / (1 + np.prod(sides) - common), abs=1e-9)


@pytest.mark.parametrize("mesh", [L, ball(2.0), joined(box(), box(at=(0.5, 0.2, 0.1)))], ids=["L", "ball", "overlapping"])
def test_a_perfect_answer(mesh):
    found = geometry(mesh, mesh)
    assert found["iou"] == pytest.approx(1.0, abs=1e-9)
    assert found["f_score_0.05"] == 1.0
    assert found == floor(mesh)
    assert found == geometry(mesh, mesh), "the same numbers each time"
    assert found["cd"] != geometry(mesh, mesh, seed=1)["cd"]
    assert found["cd"] > 0.0, "the points are drawn separately"


def test_the_floor_of_a_square():
    """n random points on an area A are on average A / (pi n) away, squared, from the nearest of n others."""
    sheet = mesh_of([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], [[0, 1, 2], [0, 2, 3]])
    assert floor(sheet)["cd"] == pytest.approx(2 / (math.pi * 8192), rel=0.1)


def test_a_body_that_is_inside_out_is_a_body():
    assert geometry(flipped(L), L)["iou"] == pytest.approx(1.0)
    found = overlap(joined(box(), flipped(box(at=(3, 0, 0)))), joined(box(), box(at=(3, 0, 0))))
    assert (found.a, found.b, found.iou) == (pytest.approx(2), pytest.approx(2), pytest.approx(1))


def test_cavities_and_what_lies_in_them():
    hollow = joined(box((4, 4, 4)), flipped(box((2, 2, 2), (1, 1, 1))))
    stuffed = joined(hollow, box((1, 1, 1), (1.5, 1.5, 1.5)))
    found = overlap(stuffed, hollow)
    assert (found.a, found.b) == (pytest.approx(64 - 8 + 1), pytest.approx(64 - 8))
    assert found.iou == pytest.approx(56 / 57)


def test_shells_that_overlap_count_once():
    found = overlap(joined(box(), box(at=(0.5, 0, 0))), box((1.5, 1, 1)))
    assert (found.a, found.iou, found.method) == (pytest.approx(1.5), pytest.approx(1.0), "exact")


@pytest.mark.parametrize("missing", [(0,), (3, 7), (0, 1)])
def test_a_mesh_with_holes_is_sampled(missing):
    found = overlap(without(box((2, 1, 1)), *missing), box((2, 1, 1), (1, 0, 0)))
    assert found.method == "sampled"
    assert found.iou == pytest.approx(1 / 3, abs=0.02)


def test_faces_that_look_the_wrong_way_are_sampled():
    odd = box()
    odd.faces[[2, 5]] = odd.faces[[2, 5], ::-1]
    found = overlap(odd, box(at=(0.5, 0, 0)))
    assert found.method == "sampled"
    assert found.iou == pytest.approx(1 / 3, abs=0.02)


def test_a_thin_open_plate_has_its_volume():
    plate = without(box((100, 80, 0.5)), 0)
    assert overlap(plate, plate).a == pytest.approx(100 * 80 * 0.5, rel=0.03)
    assert overlap(plate, plate).iou == pytest.approx(1.0)


def test_one_triangle_against_a_solid():
    found = geometry(mesh_of([[0, 0, 0], [1, 0, 0], [0, 1, 0.5]], [[0, 1, 2]]), box())
    assert found["iou"] == 0.0
    assert all(math.isfinite(value) for key, value in found.items() if key != "iou_method")


def test_far_huge_and_tiny():
    a, b = box((1, 2, 3)), ball(1.5)
    usual = geometry(a, b, points=1000)
    for scale in (1e-30, 1e25):
        found = geometry(moved(a, scale=scale), moved(b, scale=scale), points=1000)
        for key in usual.keys() - {"iou_method"}:
            assert found[key] == pytest.approx(usual[key], rel=1e-3), (key, scale)


def test_disjoint():
    found = raw_geometry(box(), box(at=(50, 0, 0)))
    assert found["iou"] == 0.0
    assert found["chamfer_distance"] > 2 * 49**2
    assert set(found["f_score"].values()) == {0.0}


def test_a_self_intersecting_mesh_has_a_share():
    """A box whose one corner is pulled through the opposite wall."""
    odd = box()
    corner = np.flatnonzero((odd.vertices == [1, 1, 1]).all(axis=1))
    odd.vertices[corner] = [-0.7, 0.4, 0.3]
    assert 0.0 <= geometry(odd, box())["iou"] <= 1.0
    assert geometry(odd, odd)["iou"] == pytest.approx(1.0, abs=0.05)


def test_real_parts_against_themselves(shared):
    """cadrille prints 0.16 for its CD x 1000 of the truth against itself (mean): ours is of that order on real parts."""
    from cadmllm.cad.kernel import build_shape, tessellate
    from cadmllm.cad.omnicad import read_json

    files = sorted((shared / "data" / "deepcad" / "json" / "0001").glob("*.json"))[:200:40]
    found = [floor(tessellate(build_shape(read_json(file)))) for file in files]
    assert 0.08 < 1000 * np.mean([values["cd"] for values in found]) < 0.32
    assert np.mean([values["iou"] for values in found]) > 0.999
    assert np.mean([values["f_score_0.02"] for values in found]) > 0.95


@settings(max_examples=12, deadline=None)
@given(st.integers(1, 12), st.integers(0, 10_000), st.sampled_from([1.0, 1e-8, 1e12]))
def test_any_triangles_have_finite_distances(count, seed, scale):
    """Open, crossing, doubled, flat: whatever has an area is measured, and the IoU is a share both ways round."""
    random = np.random.default_rng(seed)
    vertices = random.integers(-2, 3, (count + 3, 3)) * scale
    shape = of_triangles(vertices, random.integers(0, count + 3, (count, 3)))
    if not shape.ok:
        assert shape.verdict in (Verdict.INVALID, Verdict.EMPTY)
        return
    one = geometry(shape.mesh, L, points=64)
    assert all(math.isfinite(value) for key, value in one.items() if key != "iou_method")
    assert 0.0 <= one["iou"] <= 1.0
    assert overlap(centred(L), centred(shape.mesh)).iou == pytest.approx(one["iou"], abs=1e-6)
    itself = overlap(centred(shape.mesh), centred(shape.mesh)).iou
    assert math.isnan(itself) or itself == pytest.approx(1.0, abs=1e-6)


def test_open_triangles_that_manifold3d_crashes_on():
    random = np.random.default_rng(61)  # found by chance
    count, scale = int(random.integers(1, 13)), float(random.choice([1.0, 1e-8, 1e12]))
    shape = of_triangles(random.integers(-2, 3, (count + 3, 3)) * scale, random.integers(0, count + 3, (count, 3)))
    assert overlap(centred(shape.mesh), centred(L)).method == "sampled"


def test_a_shell_that_crosses_itself_is_counted_where_its_booleans_do_not_add_up():
    """Tetrahedra through each other on the same eight points: closed, but no solid."""
    sampled = 0
    for seed in range(12):
        random = np.random.default_rng(seed)
        faces = []
        for _ in range(5):
            a, b, c, d = random.choice(8, 4, replace=False)
            faces += [[a, b, c], [a, c, d], [a, d, b], [b, d, c]]
        shape = of_triangles(random.integers(-2, 3, (8, 3)).astype(float), np.array(faces))
        found = overlap(centred(shape.mesh), centred(L))
        sampled += found.method == "sampled"
        assert 0.0 <= found.iou <= 1.0
        assert overlap(shape.mesh, shape.mesh).iou in (pytest.approx(1.0), pytest.approx(math.nan, nan_ok=True))
    assert sampled
