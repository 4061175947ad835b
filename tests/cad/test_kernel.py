"""The kernel builds what the program says, refuses by name what it cannot, and writes STEP that reads back the same."""

from __future__ import annotations

import math
import random
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cadmllm.cad import kernel
from cadmllm.cad.kernel import BuildFailure, Job, Verdict, build, build_shape, measure, read_step, tessellate, write_step
from cadmllm.cad.omnicad import read_json
from cadmllm.cad.program import Arc, ExtentType, Extrude, Line, Loop, Operation, Plane, Profile, Sketch
from cadmllm.errors import CadmllmError
from tests.cad.parts import BOW, BOX, PLATE, circle, extrude, polygon, program, rectangle
from tests.strategies import programs

SQUARE = rectangle(0, 0, 10, 10)


def volume(*extrudes) -> float:
    return measure(build_shape(program(*extrudes)))["volume"]


def failure(*extrudes) -> BuildFailure:
    with pytest.raises(BuildFailure) as caught:
        build_shape(program(*extrudes))
    return caught.value


def test_a_box_has_its_volume_area_box_and_counts():
    values = measure(build_shape(BOX))
    assert values["volume"] == pytest.approx(6000.0, rel=1e-9)
    assert values["area"] == pytest.approx(2200.0, rel=1e-9)
    assert values["box"] == (pytest.approx((0, 0, 0), abs=1e-9), pytest.approx((10, 20, 30), abs=1e-9))
    assert (values["solids"], values["faces"], values["edges"]) == (1, 6, 12)


def test_the_box_of_round_parts_is_exact():
    low, high = measure(build_shape(program(extrude(circle(3, 4, 5), one=2.0))))["box"]
    assert low == pytest.approx((-2, -1, 0), abs=1e-6)
    assert high == pytest.approx((8, 9, 2), abs=1e-6)


@pytest.mark.parametrize(
    ("type", "one", "two", "low", "high"),
    [
        (ExtentType.ONE_SIDE, 7.0, 0.0, 0.0, 7.0),
        (ExtentType.ONE_SIDE, -7.0, 0.0, -7.0, 0.0),
        (ExtentType.SYMMETRIC, 7.0, 0.0, -7.0, 7.0),
        (ExtentType.TWO_SIDES, 7.0, 3.0, -3.0, 7.0),
        (ExtentType.TWO_SIDES, 7.0, -3.0, 3.0, 7.0),
    ],
)
def test_every_extent_reaches_where_it_says(type, one, two, low, high):
    values = measure(build_shape(program(extrude(SQUARE, one=one, two=two, type=type))))
    assert values["box"][0][2] == pytest.approx(low, abs=1e-9)
    assert values["box"][1][2] == pytest.approx(high, abs=1e-9)
    assert values["volume"] == pytest.approx(100.0 * (high - low))


def test_arcs_of_both_turns_and_a_major_arc():
    slot = Loop((Line((0, 0), (10, 0)), Arc((10, 0), (10, 4), math.pi), Line((10, 4), (0, 4)), Arc((0, 4), (0, 0), math.pi)))
    assert volume(extrude(slot, one=1.0)) == pytest.approx(40 + 4 * math.pi)
    bitten = Loop((Line((0, 0), (10, 0)), Arc((10, 0), (10, 4), -math.pi), Line((10, 4), (0, 4)), Line((0, 4), (0, 0))))
    assert volume(extrude(bitten, one=1.0)) == pytest.approx(40 - 2 * math.pi)
    moon = Loop((Arc((0, -1), (0, 1), 1.5 * math.pi), Line((0, 1), (0, -1))))
    radius = math.sqrt(2.0)
    assert volume(extrude(moon, one=1.0)) == pytest.approx(radius**2 * (1.5 * math.pi + 1.0) / 2)


def test_holes_and_loop_directions_do_not_depend_on_the_way_round():
    backwards = polygon(*reversed([(0, 0), (10, 0), (10, 10), (0, 10)]))
    hole = polygon((2, 2), (4, 2), (4, 4), (2, 4))
    for outer in (SQUARE, backwards):
        for inner in (hole, polygon(*reversed([(2, 2), (4, 2), (4, 4), (2, 4)]))):
            assert volume(extrude(Profile(outer, (inner,)), one=1.0)) == pytest.approx(96.0)


def test_a_tilted_plane_moves_nothing_but_the_place():
    half = math.sqrt(0.5)
    plane = Plane((5, 6, 7), (half, half, 0.0), (half, -half, 0.0))
    values = measure(build_shape(program(extrude(Profile(SQUARE, (circle(5, 5, 2),)), plane=plane))))
    assert values["volume"] == pytest.approx(1000 - 40 * math.pi)
    assert values["box"][0][2] == pytest.approx(7.0 - 0.0)
    assert values["box"][1][2] == pytest.approx(7.0 + 10.0)


def test_touching_profiles_of_one_extrude_are_one_body_without_a_seam():
    values = measure(build_shape(program(extrude(rectangle(0, 0, 5, 10), rectangle(5, 0, 5, 10)))))
    assert (values["volume"], values["solids"], values["faces"]) == (pytest.approx(1000.0), 1, 6)


def test_profiles_that_miss_each_other_by_the_files_rounding_are_one_body():
    values = measure(build_shape(program(extrude(rectangle(0, 0, 5, 10), rectangle(5.00001, 0, 5, 10)))))
    assert (values["solids"], values["faces"]) == (1, 6)


def test_operations():
    base, corner = extrude(SQUARE), rectangle(5, 5, 10, 10)
    assert volume(base, extrude(corner, operation=Operation.JOIN)) == pytest.approx(1750)
    assert volume(base, extrude(corner, operation=Operation.CUT)) == pytest.approx(750)
    assert volume(base, extrude(corner, operation=Operation.INTERSECT)) == pytest.approx(250)


def test_a_new_body_stays_a_body_and_later_features_meet_all_bodies():
    both = (extrude(SQUARE), extrude(rectangle(20, 0, 10, 10)))
    assert measure(build_shape(program(*both)))["solids"] == 2
    drilled = program(*both, extrude(rectangle(-1, 4, 40, 2), operation=Operation.CUT))
    assert measure(build_shape(drilled))["volume"] == pytest.approx(1600)
    bridged = measure(build_shape(program(*both, extrude(rectangle(10, 0, 10, 10), operation=Operation.JOIN))))
    assert (bridged["solids"], bridged["faces"]) == (1, 6)
    overlapping = measure(build_shape(program(extrude(SQUARE), extrude(rectangle(5, 0, 10, 10)))))
    assert (overlapping["solids"], overlapping["volume"]) == (2, pytest.approx(2000))


@pytest.mark.parametrize(
    ("name", "loop"),
    [
        ("bow tie", polygon((0, 0), (10, 10), (10, 0), (0, 10))),
        ("bow tie through a corner", polygon((0, 0), (5, 5), (10, 10), (10, 0), (5, 5), (0, 10))),
        ("twice round", polygon((0, 0), (10, 0), (10, 10), (0, 10), (0, 0), (10, 0), (10, 10), (0, 10))),
        ("star", polygon((0, 0), (10, 3), (0, 6), (8, -3), (8, 9))),
        ("arc through a line", Loop((Line((0, 0), (10, 0)), Line((10, 0), (5, -2)), Arc((5, -2), (0, 0), 4.0)))),
    ],
)
def test_a_loop_that_crosses_itself_is_refused_by_name(name, loop):
    found = failure(extrude(SQUARE), extrude(Profile(rectangle(-50, -50, 100, 100), (loop,))))
    assert found.verdict is Verdict.INVALID, name
    assert found.reason == "extrude 2, profile 1, loop 2 crosses itself"
    assert found.where == (1, 0, 1)


@pytest.mark.parametrize(
    ("loop", "expected", "solids"),
    [
        (polygon((0, 0), (10, 0), (5, 5), (10, 10), (0, 10), (5, 5)), 500, 2),  # an hourglass
        (polygon((0, 0), (10, 0), (10, 10), (5, 0), (0, 10)), 500, 2),  # a corner on a side
        (polygon((0, 0), (10, 0), (10, 10), (10, 15), (10, 10), (0, 10)), 1000, 1),  # a hair without area
    ],
)
def test_a_loop_that_touches_itself_is_no_crossing(loop, expected, solids):
    values = measure(build_shape(program(extrude(loop))))
    assert (values["volume"], values["solids"]) == (pytest.approx(expected), solids)


def test_holes_that_touch_overlap_or_leave_the_outline():
    two = Profile(SQUARE, (circle(3, 5, 2), circle(7, 5, 2)))
    assert volume(extrude(two)) == pytest.approx(1000 - 80 * math.pi, rel=1e-6)
    tangent = Profile(SQUARE, (circle(5, 2, 2),))
    assert volume(extrude(tangent)) == pytest.approx(1000 - 40 * math.pi, rel=1e-6)
    outside = Profile(SQUARE, (circle(50, 50, 2),))
    assert volume(extrude(outside)) == pytest.approx(1000)
    half = Profile(SQUARE, (circle(5, 0, 2),))
    assert volume(extrude(half)) == pytest.approx(1000 - 20 * math.pi, rel=1e-6)
    nothing = failure(extrude(Profile(SQUARE, (circle(5, 5, 30),))))
    assert nothing.verdict is Verdict.EMPTY
    assert "profile 1" in nothing.reason
    assert nothing.where == (0, 0)


def test_nothing_left_is_empty():
    everything = extrude(rectangle(-1, -1, 12, 12), type=ExtentType.SYMMETRIC, one=20.0, operation=Operation.CUT)
    found = failure(extrude(SQUARE), everything, extrude(circle(0, 0, 1), operation=Operation.CUT))
    assert (found.verdict, found.where, found.reason) == (Verdict.EMPTY, (1,), "extrude 2 (cut) leaves no solid")
    apart = extrude(rectangle(50, 0, 5, 5), operation=Operation.INTERSECT)
    assert failure(extrude(SQUARE), apart).where == (1,)
    first = extrude(SQUARE, operation=Operation.CUT)
    assert failure(first).where == (0,)


def test_the_place_of_what_fails_validation():
    good, bad = extrude(SQUARE), polygon((0, 0), (math.nan, 0), (1, 1))
    two = Extrude((Sketch(Plane(), (Profile(SQUARE),)), Sketch(Plane(), (Profile(SQUARE, (bad,)),))), Operation.JOIN, good.extent)
    assert failure(good, two).where == (1, 1, 1)
    assert failure(good, extrude(SQUARE, one=0.0)).where == (1,)
    assert failure(good, extrude(SQUARE, plane=Plane(normal=(0.0, 0.0, 2.0)))).where == (1,)
    assert failure(good, replace(good, sketches=())).where == (1,)
    assert failure().where is None
    assert kernel.fault(program(good, good)) is None


def test_a_program_that_fails_validation_is_invalid_with_that_reason():
    found = failure(extrude(SQUARE, one=0.0))
    assert found.verdict is Verdict.INVALID
    assert found.reason.startswith("E208")
    assert failure(extrude(circle(0, 0, -1.0))).verdict is Verdict.INVALID
    assert failure(extrude(polygon((0, 0), (math.nan, 0), (1, 1)))).verdict is Verdict.INVALID
    assert failure().reason.startswith("E209")


def test_loops_with_gaps_within_the_closure_are_snapped():
    loop = Loop((Line((0, 0), (10, 0)), Line((10.0005, 0), (10, 10)), Line((10, 10), (0, 10.0003)), Line((0, 10), (0, 0.0002))))
    assert volume(extrude(loop)) == pytest.approx(1000, rel=1e-3)


def gear(scale: float) -> float:
    """Volume of a ring with a tooth and a slot, at a scale."""
    ring = Profile(circle(0, 0, 10 * scale), (circle(0, 0, 5 * scale),))
    tooth = extrude(rectangle(9 * scale, -scale, 4 * scale, 2 * scale), one=scale, operation=Operation.JOIN)
    slot = extrude(rectangle(-12 * scale, -scale, 4 * scale, 2 * scale), one=scale, operation=Operation.CUT)
    return volume(extrude(ring, one=scale), tooth, slot)


@pytest.mark.parametrize("scale", [1e-3, 1e5])
def test_size_does_not_matter(scale):
    segment = 100 * math.asin(0.1) - math.sqrt(99)  # between the circle and the chord of a slot 2 wide
    assert gear(1.0) == pytest.approx(
        75 * math.pi + (26 - 2 * math.sqrt(99) - segment) - (2 * math.sqrt(99) + segment - 16), rel=1e-9
    )
    assert gear(scale) / scale**3 == pytest.approx(gear(1.0), rel=1e-4)


def test_files_that_cannot_be_written_or_read_are_coded(tmp_path: Path):
    with pytest.raises(CadmllmError) as caught:
        write_step(build_shape(BOX), tmp_path / "no" / "a.step", "a")
    assert caught.value.code == "E303"
    (tmp_path / "bad.step").write_text("not a step file")
    for path in (tmp_path / "bad.step", tmp_path / "none.step"):
        with pytest.raises(CadmllmError) as caught:
            read_step(path)
        assert caught.value.code == "E201"


def test_build_writes_only_what_became_a_solid(tmp_path: Path):
    files = {kind: tmp_path / f"part.{kind}" for kind in ("step", "stl", "glb")}
    bad = build(Job(BOW, **files, mesh=True))
    assert (bad.verdict, bad.mesh, bad.box) == (Verdict.INVALID, None, None)
    assert list(tmp_path.iterdir()) == []
    good = build(Job(PLATE, **files, mesh=True))
    assert good.ok
    assert good.mesh is not None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["part.glb", "part.step", "part.stl"]


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("libGL.so.1: cannot open shared object file: No such file or directory", "apt-get install"),
        ("libfoo.so.2: cannot open shared object file", "libfoo"),
    ],
)
def test_a_missing_library_is_named_with_the_command_that_mends_it(monkeypatch, message, expected):
    class Broken:
        def find_spec(self, name, path=None, target=None):
            if name == "OCP.TopoDS":
                raise ImportError(message)
            return None

    monkeypatch.delitem(sys.modules, "OCP.TopoDS", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    with pytest.raises(CadmllmError) as caught:
        kernel.load_kernel()
    assert caught.value.code == "E301"
    assert expected in caught.value.remedy + caught.value.message


def test_a_kernel_that_is_not_installed_is_named_with_pip(monkeypatch):
    monkeypatch.setitem(sys.modules, "OCP.TopoDS", None)
    with pytest.raises(CadmllmError) as caught:
        kernel.load_kernel()
    assert (caught.value.code, "pip install" in caught.value.remedy) == ("E301", True)


def test_winding_counts_turns_round_a_point_exactly():
    from cadmllm.cad.occt.faces import winding

    moon = Loop((Arc((0, -1), (0, 1), 1.5 * math.pi), Line((0, 1), (0, -1))))
    assert winding(moon, (2.0, 0.0)) == 1  # outside the chord, inside the arc
    assert winding(moon, (-0.2, 0.0)) == 0
    back = Loop((Line((0, -1), (0, 1)), Arc((0, 1), (0, -1), -1.5 * math.pi)))
    assert winding(back, (2.0, 0.0)) == -1
    twice = polygon((0, 0), (10, 0), (10, 10), (0, 10), (0, 0), (10, 0), (10, 10), (0, 10))
    assert winding(twice, (5, 5)) == 2


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(programs())
def test_any_program_has_a_verdict_and_a_solid_fits_its_sketches(part):
    result = build(Job(part, mesh=True))
    assert result.verdict in (Verdict.OK, Verdict.BUILD, Verdict.EMPTY, Verdict.INVALID)
    if result.ok:
        assert result.volume > 0.0
        assert result.mesh is not None
        assert result.mesh.closed
    else:
        assert result.reason


@settings(max_examples=20, deadline=None)
@given(st.floats(0.5, 20), st.floats(0.5, 20), st.floats(0.1, 20), st.floats(0.05, 0.45))
def test_a_drilled_block_has_the_volume_of_its_formula(width, depth, height, share):
    radius = share * min(width, depth)
    block = Profile(rectangle(0, 0, width, depth), (circle(width / 2, depth / 2, radius),))
    assert volume(extrude(block, one=height)) == pytest.approx((width * depth - math.pi * radius**2) * height, rel=1e-6)


def test_real_programs_become_solids(shared: Path):
    files = sorted((shared / "data" / "deepcad" / "json").rglob("*.json"))
    verdicts = []
    for file in random.Random(7).sample(files, 80):
        try:
            part = read_json(file)
        except CadmllmError:
            continue
        if len(part.extrudes) > 8:  # the benchmark builds the long ones too
            continue
        result = build(Job(part, mesh=True))
        verdicts.append(result.verdict)
        if result.ok:
            assert result.mesh is not None
            assert result.mesh.closed, file
            low, high = result.mesh.box
            assert result.box is not None
            slack = 2e-3 * (high - low).max()
            assert low == pytest.approx(result.box[0], abs=slack), file
            assert high == pytest.approx(result.box[1], abs=slack), file
    assert len(verdicts) > 60
    assert verdicts.count(Verdict.OK) >= 0.98 * len(verdicts)


def test_deflection_bounds_the_error_of_the_mesh():
    shape = build_shape(program(extrude(circle(0, 0, 50), one=10.0)))
    fine, coarse = tessellate(shape, 1e-4, 0.05), tessellate(shape)
    assert len(fine.faces) > len(coarse.faces)
    for mesh, share in ((fine, 1e-4), (coarse, kernel.DEFLECTION)):
        middles = (mesh.vertices[mesh.faces] + mesh.vertices[mesh.faces[:, [1, 2, 0]]]) / 2
        wall = abs(middles[..., 2] - 5.0) > 4.999
        radius = (middles[..., 0] ** 2 + middles[..., 1] ** 2) ** 0.5
        assert radius[wall].max() <= 50.0 + 1e-6
        assert abs(mesh.box[1][0] - 50.0) <= 100.0 * share


def test_a_part_below_a_micrometre_has_a_mesh_all_the_same():
    result = build(Job(program(extrude(circle(0, 0, 2e-5), one=5e-5)), mesh=True))
    assert result.ok, result.reason
    assert result.mesh is not None
    assert result.mesh.closed


def test_a_kernel_that_fails_behind_the_last_extrude_is_a_verdict(monkeypatch):
    from OCP.Standard import Standard_NumericError

    def refuse(shape):
        raise Standard_NumericError("BRepMesh: invalid parameter value")

    monkeypatch.setattr(kernel, "tessellate", refuse)
    result = build(Job(BOX, mesh=True))
    assert (result.verdict, result.where) == (Verdict.BUILD, None)
    assert "invalid parameter value" in result.reason


def test_results_are_values():
    result = build(Job(BOX))
    assert replace(result, seconds=0.0) == replace(build(Job(BOX)), seconds=0.0)
