"""Validation without a kernel, and the geometry that programs carry themselves."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import lengths, planes, programs

from cadmllm.cad.program import (
    Arc,
    Circle,
    Extent,
    ExtentType,
    Extrude,
    Line,
    Loop,
    Operation,
    Plane,
    Profile,
    Program,
    Sketch,
    validate,
)
from cadmllm.errors import CadmllmError

SQUARE = Loop(tuple(Line(a, b) for a, b in (((0, 0), (4, 0)), ((4, 0), (4, 4)), ((4, 4), (0, 4)), ((0, 4), (0, 0)))))
UP = Extent(ExtentType.ONE_SIDE, 5.0)


def part(loop: Loop = SQUARE, plane: Plane | None = None, extent: Extent = UP) -> Program:
    return Program((Extrude((Sketch(plane or Plane(), (Profile(loop),)),), Operation.NEW_BODY, extent),))


@settings(max_examples=60, deadline=None)
@given(programs())
def test_generated_programs_are_valid(program):
    assert validate(program) is program


OPEN = Loop((*SQUARE.curves[:3], Line((0, 4), (0, 0.1))))
BROKEN = {
    "no extrude": (Program(()), "E209"),
    "no sketch": (Program((Extrude((), Operation.NEW_BODY, UP),)), "E209"),
    "no profile": (Program((Extrude((Sketch(Plane(), ()),), Operation.NEW_BODY, UP),)), "E209"),
    "empty loop": (part(Loop(())), "E207"),
    "open loop": (part(OPEN), "E207"),
    "one line": (part(Loop((Line((0, 0), (1, 0)),))), "E207"),
    "there and back": (part(Loop((Line((0, 0), (1, 0)), Line((1, 0), (0, 0))))), "E207"),
    "circle among lines": (part(Loop((*SQUARE.curves, Circle((0, 0), 1)))), "E207"),
    "zero length": (part(Loop((Line((0, 0), (0, 0)), *SQUARE.curves))), "E208"),
    "zero radius": (part(Loop((Circle((0, 0), 0.0),))), "E208"),
    "negative radius": (part(Loop((Circle((0, 0), -1.0),))), "E208"),
    "zero sweep": (part(Loop((Arc((0, 0), (4, 0), 0.0), *SQUARE.curves[1:]))), "E208"),
    "full sweep": (part(Loop((Arc((0, 0), (4, 0), 2 * math.pi), *SQUARE.curves[1:]))), "E208"),
    "zero distance": (part(extent=Extent(ExtentType.ONE_SIDE, 0.0)), "E208"),
    "two ends at one height": (part(extent=Extent(ExtentType.TWO_SIDES, 3.0, -3.0)), "E208"),
    "nan": (part(Loop((Circle((math.nan, 0), 1.0),))), "E205"),
    "infinite": (part(extent=Extent(ExtentType.ONE_SIDE, math.inf)), "E205"),
    "1e300": (part(Loop((Circle((1e300, 0), 1.0),))), "E205"),
    "skew axes": (part(plane=Plane(x_axis=(0.6, 0.0, 0.8))), "E205"),
    "long axis": (part(plane=Plane(normal=(0.0, 0.0, 2.0))), "E205"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_programs_are_refused_by_code(name):
    program, code = BROKEN[name]
    with pytest.raises(CadmllmError) as caught:
        validate(program, "part.json")
    assert caught.value.code == code
    assert caught.value.message.startswith("part.json")
    assert caught.value.remedy


def test_a_gap_within_the_tolerance_is_closed_enough():
    validate(part(Loop((*SQUARE.curves[:3], Line((0, 4), (0, 0.0003))))))


@settings(deadline=None)
@given(lengths(0.1, 50), lengths(0.01, 6.2), lengths(-3, 3), st.sampled_from((1, -1)))
def test_an_arc_knows_its_centre_radius_and_points(radius, sweep, begin, way):
    center = (3.0, -7.0)

    def at(angle):
        return center[0] + radius * math.cos(angle), center[1] + radius * math.sin(angle)

    arc = Arc(at(begin), at(begin + way * sweep), way * sweep)
    assert arc.radius == pytest.approx(radius, rel=1e-9)
    assert arc.center == pytest.approx(center, abs=1e-7)
    assert arc.mid == pytest.approx(at(begin + way * sweep / 2), abs=1e-7)
    assert arc.point(0.0) == pytest.approx(arc.start, abs=1e-7)
    assert arc.point(1.0) == pytest.approx(arc.end, abs=1e-7)


@settings(deadline=None)
@given(planes())
def test_planes_are_right_handed_frames(plane):
    x, y, z = plane.x_axis, plane.y_axis, plane.normal
    assert math.hypot(*y) == pytest.approx(1.0)
    cross = (x[1] * y[2] - x[2] * y[1], x[2] * y[0] - x[0] * y[2], x[0] * y[1] - x[1] * y[0])
    assert cross == pytest.approx(z, abs=1e-12)
    lifted = replace(plane, origin=(0.0, 0.0, 0.0)).to_world((0.0, 0.0), 2.0)
    assert lifted == pytest.approx(tuple(2.0 * value for value in z))


@pytest.mark.parametrize(
    ("extent", "interval"),
    [
        (Extent(ExtentType.ONE_SIDE, 5.0), (0.0, 5.0)),
        (Extent(ExtentType.ONE_SIDE, -5.0), (-5.0, 0.0)),
        (Extent(ExtentType.SYMMETRIC, 5.0), (-5.0, 5.0)),
        (Extent(ExtentType.SYMMETRIC, -5.0), (-5.0, 5.0)),
        (Extent(ExtentType.TWO_SIDES, 5.0, 2.0), (-2.0, 5.0)),
        (Extent(ExtentType.TWO_SIDES, -1.0, 4.0), (-4.0, -1.0)),
    ],
)
def test_intervals(extent, interval):
    assert extent.interval == interval
