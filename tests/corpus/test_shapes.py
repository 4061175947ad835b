"""Outlines close, run counter-clockwise and have the size they say."""

from __future__ import annotations

import math

import pytest

from cadmllm.cad.bounds import extrude_box, program_box
from cadmllm.cad.program import Arc, Circle, Extent, ExtentType, Extrude, Loop, Operation, Plane, Sketch, validate
from cadmllm.corpus import shapes
from cadmllm.corpus.shapes import Dice

OUTLINES = {
    "rectangle": (shapes.rectangle(4, 2, (1, 1)), 4, 2, 8.0),
    "rounded": (shapes.rounded_rectangle(6, 4, 1), 6, 4, 24 - 4 + math.pi),
    "slot": (shapes.slot(10, 4), 10, 4, 24 + math.pi * 4),
    "upright slot": (shapes.slot(10, 4, upright=True), 4, 10, 24 + math.pi * 4),
    "hexagon": (shapes.regular_polygon(6, 2), 2 * math.sqrt(3), 4, 6 * math.sqrt(3)),
    "D": (shapes.d_shape(2, 1), 3, 4, math.pi * 4 - 4 * (math.pi / 3 - math.sqrt(3) / 4)),
    "half": (shapes.d_shape(2, 0), 2, 4, math.pi * 2),
    "circle": (shapes.circle(2), 4, 4, math.pi * 4),
    "star": (shapes.star(4, 2, 1), 4, 4, 4 * math.sqrt(2)),
}


def area(loop: Loop) -> float:
    """Signed: positive when counter-clockwise. Chords by the shoelace formula, arcs by their segments."""
    total = 0.0
    for curve in loop.curves:
        if isinstance(curve, Circle):
            return math.pi * curve.radius**2
        (x0, y0), (x1, y1) = curve.start, curve.end
        total += (x0 * y1 - x1 * y0) / 2.0
        if isinstance(curve, Arc):
            total += curve.radius**2 * (curve.sweep - math.sin(curve.sweep)) / 2.0
    return total


def extruded(loop: Loop) -> Extrude:
    sketch = Sketch(Plane(), (shapes.profile(loop),))
    return Extrude((sketch,), Operation.NEW_BODY, Extent(ExtentType.ONE_SIDE, 1.0))


@pytest.mark.parametrize("name", OUTLINES)
def test_an_outline_has_its_size_and_area(name):
    loop, width, height, expected = OUTLINES[name]
    low, high = extrude_box(extruded(loop))
    if name != "hexagon":
        assert (high[0] - low[0], high[1] - low[1]) == pytest.approx((width, height))
    assert area(loop) == pytest.approx(expected)
    validate(shapes.placed([extruded(loop)], shapes.ONTO_SIDE, (1, 2, 3)))


def test_a_gear_and_a_keyed_bore():
    gear = shapes.gear(12, 10, 8)
    assert len(gear.curves) == 48
    assert math.pi * 64 < area(gear) < math.pi * 100
    bore = shapes.keyed_circle(5, 2, 1)
    assert math.pi * 25 + 2.0 < area(bore) < math.pi * 25 + 2.1
    validate(shapes.placed([extruded(bore)], shapes.UPRIGHT, (0, 0, 0)))


def test_however_an_extent_is_written_the_slab_is_the_same():
    seen = set()
    for seed in range(300):
        made = shapes.slab(Dice(str(seed)), shapes.profile(shapes.rectangle(4, 2)), 3.0, 8.0, shapes.facing_x(1.0))
        seen.add((made.extent.type, made.extent.one > 0))
        low, high = extrude_box(made)
        assert low == pytest.approx((4.0, -2.0, -1.0))
        assert high == pytest.approx((9.0, 2.0, 1.0))
    assert len(seen) == 4


def test_turns_keep_shape_and_frames():
    part = [extruded(shapes.rectangle(6, 4))]
    for turn in (shapes.UPRIGHT, shapes.ONTO_BACK, shapes.ONTO_SIDE):
        program = validate(shapes.placed(part, turn, (10, 0, 0)))
        low, high = program_box(program)
        assert sorted(b - a for a, b in zip(low, high, strict=True)) == pytest.approx([1, 4, 6])
        plane = program.extrudes[0].sketches[0].plane
        assert plane.normal == turn((0.0, 0.0, 1.0))


def test_dice_are_seeded_and_stay_in_range():
    dice, again = Dice("7"), Dice("7")
    dice.unit = again.unit = 2.0
    for _ in range(300):
        value = dice.size(5, 9)
        assert value == again.size(5, 9)
        assert value in {10.0, 12.0, 14.0, 16.0, 18.0}
        low = dice.between(3.1, 7.9)
        again.between(3.1, 7.9)
        assert 3.1 <= low <= 7.9
        assert low == round(low)
    assert Dice("8").share() != Dice("9").share()
