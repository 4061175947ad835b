"""Loops are put right with the least change, and what cannot be put right is not touched."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cadmllm.cad.loops import area, polygon
from cadmllm.cad.mending import crossing, flatten, heal, untangle, usable
from cadmllm.cad.program import Arc, Circle, Line, Loop
from tests.cad import parts
from tests.cad.parts import circle, rectangle

SQUARE = rectangle(0, 0, 10, 10)


def opened(loop: Loop, by: float) -> Loop:
    """A loop whose second curve ends short of the third."""
    one = loop.curves[1]
    assert isinstance(one, Line)
    return Loop((loop.curves[0], Line(one.start, (one.end[0] - by, one.end[1])), *loop.curves[2:]))


def size(loop: Loop) -> float:
    return abs(area(polygon(loop)))


def test_a_small_gap_is_closed_by_moving_an_end():
    gap = opened(SQUARE, 0.1)
    assert not usable(gap)
    mended, words = heal(gap)
    assert mended is not None
    assert len(mended.curves) == 4
    assert size(mended) == pytest.approx(99.5)
    assert words == "gaps of up to 0.1 mm closed"


def test_a_wide_gap_is_closed_by_a_line():
    mended, words = heal(opened(SQUARE, 4.0))
    assert mended is not None
    assert len(mended.curves) == 5
    assert size(mended) == pytest.approx(80)
    assert words == "1 wide gap closed by a line"
    mended, words = heal(Loop(SQUARE.curves[:3]))
    assert mended == SQUARE
    assert words == "1 wide gap closed by a line"


def test_curves_out_of_order_and_backwards_are_put_in_order():
    a, b, c, d = SQUARE.curves
    assert isinstance(c, Line)
    mended, words = heal(Loop((a, Line(c.end, c.start), b, d)))
    assert mended is not None
    assert usable(mended)
    assert size(mended) == pytest.approx(100)
    assert "in order" in words


def test_curves_without_length_and_arcs_without_a_sweep():
    arc = Arc((10, 0), (10, 10), 2 * math.pi + 1.0)
    loop = Loop((Line((0, 0), (10, 0)), arc, Line((10, 10), (10, 10)), Arc((10, 10), (0, 10), 0.0), Line((0, 10), (0, 0))))
    mended, words = heal(loop)
    assert mended is not None
    assert [type(curve) for curve in mended.curves] == [Line, Arc, Line, Line]
    assert mended.curves[1] == Arc((10, 0), (10, 10), pytest.approx(1.0))
    assert words == "1 curve without length removed, 2 arcs with an impossible sweep put right"


@pytest.mark.parametrize("far", [1e9, math.nan, -math.inf])
def test_a_curve_with_an_impossible_number_gives_way_to_a_line(far: float):
    a, b, c, d = SQUARE.curves
    assert isinstance(b, Line)
    mended, words = heal(Loop((a, Line((far, 0), b.end), c, d)))
    assert mended is not None
    assert size(mended) == pytest.approx(100)
    assert words == "1 curve with an impossible number removed, 1 wide gap closed by a line"


def test_circles():
    assert heal(Loop((Circle((1, 2), -3.0),))) == (circle(1, 2, 3.0), "its radius is 3 mm")
    assert heal(Loop((Circle((1, 2), 0.0),)))[0] is None
    mended, words = heal(Loop((*SQUARE.curves, Circle((1, 1), 1.0))))
    assert (mended, words) == (SQUARE, "a circle among its curves was removed")


@pytest.mark.parametrize(
    "loop",
    [
        Loop(()),
        Loop((Line((0, 0), (1, 0)),)),
        Loop((Line((0, 0), (1, 0)), Line((1, 0), (0, 0)))),
        parts.polygon((0, 0), (math.nan, 0), (1, 1)),
        parts.polygon((0, 0), (1e9, 0), (1, 1)),
        circle(0, 0, math.inf),
        Loop((Arc((0, 0), (1, 0), math.inf), Line((1, 0), (0, 0)))),
    ],
)
def test_what_cannot_be_healed_says_why(loop: Loop):
    mended, words = heal(loop)
    assert mended is None
    assert words.startswith("it ")


def test_crossings_are_found_and_touching_is_none():
    assert crossing(SQUARE) == []
    assert crossing(parts.polygon((0, 0), (10, 10), (10, 0), (0, 10))) == [(0, 2)]
    assert crossing(parts.polygon((0, 0), (10, 0), (10, 10), (5, 0), (0, 10))) == []  # a corner on a side
    through = Loop((Line((0, 0), (10, 0)), Line((10, 0), (5, -2)), Arc((5, -2), (0, 0), 4.0)))
    assert (0, 2) in crossing(through)
    assert crossing(circle(0, 0, 1)) == []


def test_an_arc_on_the_wrong_side_is_turned_back():
    slot = (Line((0, 0), (10, 0)), Arc((10, 0), (10, 1), math.pi), Line((10, 1), (0, 1)), Arc((0, 1), (0, 0), math.pi))
    narrow = Loop((Line((0, 0), (1, 0)), Arc((1, 0), (1, 4), -math.pi), Line((1, 4), (0, 4)), Line((0, 4), (0, 0))))
    assert crossing(Loop(slot)) == []
    found = untangle(narrow)
    assert found is not None
    assert found[0].curves[1] == Arc((1, 0), (1, 4), math.pi)
    assert found[1] == "1 arc that crossed it bent to the other side"


def test_a_stray_corner_is_left_out():
    loop = parts.polygon((0, 0), (4, 0), (5, 30), (6, 0), (10, 0), (10, 10), (0, 10))
    assert crossing(loop)
    found = untangle(loop)
    assert found is not None
    assert size(found[0]) == pytest.approx(100)
    assert found[1] == "its corner at (5, 30) mm left out, where it crossed itself"


def test_sides_exchange_where_no_single_corner_helps():
    order = [(0, 0), (10, 10), (10, 0), (0, 10), (-5, 5), (-6, -5), (2, -6), (-3, -9)]
    found = untangle(parts.polygon(*order))
    assert found is not None
    assert crossing(found[0]) == []


def test_what_is_simple_is_left_alone():
    assert untangle(SQUARE) is None
    assert flatten(SQUARE) is None


def test_flat_arcs_become_lines():
    loop = Loop((Arc((0, 0), (10, 0), 1e-4), Line((10, 0), (10, 10)), Arc((10, 10), (0, 10), 1.0), Line((0, 10), (0, 0))))
    found = flatten(loop)
    assert found is not None
    assert [type(curve) for curve in found[0].curves] == [Line, Line, Arc, Line]
    assert found[1] == "1 arc of nearly no bend made straight"


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(3, 9))
def test_untangling_gives_a_simple_usable_loop_or_none(seed: int, corners: int):
    random_ = random.Random(seed)
    points = [(random_.uniform(-10, 10), random_.uniform(-10, 10)) for _ in range(corners)]
    curves = [
        Arc(a, b, random_.uniform(-5, 5)) if random_.random() < 0.3 else Line(a, b)
        for a, b in zip(points, points[1:] + points[:1], strict=True)
    ]
    loop = Loop(tuple(curves))
    found = untangle(loop)
    if found is not None:
        assert crossing(loop)
        assert not crossing(found[0])
        assert usable(found[0])
        ends = {end for curve in found[0].curves if not isinstance(curve, Circle) for end in (curve.start, curve.end)}
        assert ends <= set(points)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6))
def test_healing_gives_a_usable_loop_or_none(seed: int):
    random_ = random.Random(seed)
    curves = []
    for _ in range(random_.randrange(6)):
        a, b = ((random_.randrange(4), random_.randrange(4)) for _ in range(2))
        curves.append(random_.choice((Line(a, b), Arc(a, b, random_.uniform(-9, 9)), Circle(a, random_.uniform(-1, 1)))))
    mended, words = heal(Loop(tuple(curves)))
    assert words
    assert mended is None or usable(mended)
