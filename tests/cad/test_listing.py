"""Programs as a CAD engineer reads them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings

from cadmllm.cad import omnicad
from cadmllm.cad.listing import listing, to_text
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
)
from cadmllm.errors import CadmllmError
from tests.strategies import programs


def polyline(*points):
    return Loop(tuple(Line(a, b) for a, b in zip(points, points[1:] + points[:1], strict=True)))


def part(outer, inner=(), extent=None, plane=None, operation=Operation.NEW_BODY):
    sketch = Sketch(plane or Plane(), (Profile(outer, tuple(inner)),))
    return Program((Extrude((sketch,), operation, extent or Extent(ExtentType.ONE_SIDE, 12.0)),))


RECTANGLE = polyline((-20.0, -10.0), (20.0, -10.0), (20.0, 10.0), (-20.0, 10.0))


def test_a_plate_with_holes_reads_as_a_drawing():
    holes = [Loop((Circle((x, 0.0), 4.0),)) for x in (-12.0, 12.0)] + [Loop((Circle((0.0, 0.0), 2.5),))]
    assert to_text(listing(part(RECTANGLE, holes))).splitlines() == [
        "1  New body: extrude 12 mm along +Z",
        "  sketch  on the XY plane, origin (0, 0, 0), x along +X",
        "    outer  rectangle 40 x 20 from (-20, -10)",
        "    hole  2 circles Ø8 at (-12, 0), (12, 0)",
        "    hole  circle Ø5 at (0, 0)",
    ]


def test_circles_of_many_diameters_share_a_line():
    holes = [Loop((Circle((4.0 * k, 0.0), 1.0 + k % 5),)) for k in range(6)]
    entries = listing(part(RECTANGLE, holes))
    assert entries[-1].text == "6 circles: Ø2 at (0, 0), (20, 0); Ø4 at (4, 0); Ø6 at (8, 0); Ø8 at (12, 0); Ø10 at (16, 0)"


@pytest.mark.parametrize(
    ("extent", "text"),
    [
        (Extent(ExtentType.ONE_SIDE, 5.0), "5 mm along +Y"),
        (Extent(ExtentType.ONE_SIDE, -5.0), "5 mm along -Y"),
        (Extent(ExtentType.SYMMETRIC, 2.5), "2.5 mm on each side, 5 mm in all"),
        (Extent(ExtentType.TWO_SIDES, 3.0, 1.0), "3 mm along +Y and 1 mm along -Y"),
        (Extent(ExtentType.TWO_SIDES, 3.0, -1.0), "from 1 to 3 mm along +Y"),
    ],
)
def test_an_extent_says_where_it_goes(extent, text):
    plane = Plane((1.0, 7.0, 0.0), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
    entries = listing(part(RECTANGLE, extent=extent, plane=plane, operation=Operation.CUT))
    assert entries[0].text == f"Cut: extrude {text}"
    assert entries[1].text == "on the XZ plane at y = 7, origin (1, 7, 0), x along +X"


def test_a_tilted_plane_is_not_called_by_an_axis():
    half = math.sqrt(0.5)
    entries = listing(part(RECTANGLE, plane=Plane((0.0, 0.0, 0.0), (0.0, 1.0, 0.0), (half, 0.0, half))))
    assert "12 mm along the normal" in entries[0].text
    assert "normal (0.7071, 0, 0.7071)" in entries[1].text


def turned(loop, angle):
    c, s = math.cos(angle), math.sin(angle)
    points = [(c * x - s * y, s * x + c * y) for x, y in (curve.start for curve in loop.curves)]
    return polyline(*points)


def test_known_shapes_are_named():
    hexagon = polyline(*((10.0 * math.cos(k * math.pi / 3), 10.0 * math.sin(k * math.pi / 3)) for k in range(6)))
    slot = Loop(
        (
            Line((0.0, -3.0), (10.0, -3.0)),
            Arc((10.0, -3.0), (10.0, 3.0), math.pi),
            Line((10.0, 3.0), (0.0, 3.0)),
            Arc((0.0, 3.0), (0.0, -3.0), math.pi),
        )
    )
    said = [listing(part(loop))[2].text for loop in (turned(RECTANGLE, math.radians(30.0)), hexagon, slot)]
    assert said[0].startswith("rectangle 40 x 20 about (0, 0), turned by 30°")
    assert said[1].startswith("regular polygon of 6 sides, 17.32")
    assert said[2] == "slot 6 wide, 16 long, centres (10, 0) to (0, 0)"


def test_look_alikes_are_not_taken_for_them():
    kite = polyline((0.0, 0.0), (10.0, 2.0), (12.0, 12.0), (2.0, 10.0))  # a rhombus
    waist = Loop(  # the arcs of a slot, turned inwards
        (
            Line((0.0, -3.0), (10.0, -3.0)),
            Arc((10.0, -3.0), (10.0, 3.0), -math.pi),
            Line((10.0, 3.0), (0.0, 3.0)),
            Arc((0.0, 3.0), (0.0, -3.0), -math.pi),
        )
    )
    entries = listing(part(kite))
    assert entries[2].text == "loop of 4 lines"
    assert entries[3].text == "(0, 0) › (10, 2) › (12, 12) › (2, 10) › back"
    entries = listing(part(waist))
    assert entries[2].text == "loop of 2 lines and 2 arcs"
    assert "R3 -180°" in entries[3].text


@given(programs())
@settings(max_examples=60, deadline=None)
def test_every_program_has_a_listing_with_its_features_in_order(program):
    entries = listing(program)
    numbers = [entry.label for entry in entries if entry.level == 0]
    assert numbers == [str(k + 1) for k in range(len(program.extrudes))]
    assert all(entry.text and "nan" not in entry.text and "-0 " not in entry.text for entry in entries)
    loops = sum(1 + len(p.inner) for e in program.extrudes for s in e.sketches for p in s.profiles)
    told = sum(int(entry.text.split()[0]) if " circles" in entry.text[:14] else 1 for entry in entries if entry.level == 2)
    assert told == loops


def test_hard_real_programs_are_listed(shared):
    files = sorted((shared / "data" / "deepcad_hard" / "json").glob("*.json"))
    assert files
    for file in files:
        try:
            program = omnicad.read_json(file)
        except CadmllmError:
            continue
        assert len(listing(program)) >= 3 * len(program.extrudes)
