"""A program made larger or stretched is the same part under that map; what the language cannot say is refused by name."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cadmllm.cad.bounds import program_box
from cadmllm.cad.kernel import BuildResult, Job, build
from cadmllm.cad.omnicad import read_json
from cadmllm.cad.program import Arc, Circle, Extrude, Line, Loop, Operation, Plane, Program, Sketch, validate
from cadmllm.cad.rescale import scaled, stretched
from cadmllm.corpus import parts
from cadmllm.errors import CadmllmError
from tests.cad.parts import BOX, PLATE, circle, extrude, polygon, program, rectangle

DATA = Path(__file__).resolve().parents[2] / "data" / "json"
FACTORS = st.floats(0.01, 100.0)


def built(part: Program) -> BuildResult:
    result = build(Job(part))
    assert result.ok, result.reason
    return result


def bundled(count: int) -> list[Program]:
    return [read_json(path) for path in sorted(DATA.rglob("*.json"))[::17][:count]]


@pytest.mark.parametrize("place", range(6))
@pytest.mark.parametrize("factor", [0.37])
def test_a_scaled_part_has_the_volume_by_the_cube_and_the_box_by_the_factor(place, factor):
    part = bundled(6)[place]
    about = (3.0, -2.0, 5.0)
    before, after = built(part), built(validate(scaled(part, factor, about)))
    assert after.volume == pytest.approx(before.volume * factor**3, rel=1e-6)
    assert after.faces == before.faces
    assert before.box is not None
    assert after.box is not None
    expected = np.array(about) + factor * (np.array(before.box) - about)
    assert np.allclose(np.array(after.box), expected, atol=1e-5 * factor * 100)


def test_families_that_can_be_stretched_have_the_volume_by_all_three_factors():
    factors = (1.3, 0.8, 2.0)
    done = 0
    for part in parts.generate(24, 11):
        try:
            longer = stretched(part.program, factors, (1.0, 2.0, 3.0))
        except CadmllmError as error:
            assert error.code == "E212"
            assert "extrude" in error.message
            continue
        done += 1
        assert built(validate(longer)).volume == pytest.approx(built(part.program).volume * math.prod(factors), rel=1e-6)
    assert done >= 5


def test_families_with_circles_across_equal_factors_can_be_stretched_along_them():
    """Along each axis alone the two others are equal: what stands on its sketch plane can grow whatever it is made of."""
    done = 0
    for part in parts.generate(24, 12):
        normals = {max(range(3), key=lambda k: abs(s.plane.normal[k])) for e in part.program.extrudes for s in e.sketches}  # noqa: B023
        aligned = all(max(map(abs, s.plane.normal)) > 1.0 - 1e-9 for e in part.program.extrudes for s in e.sketches)
        if len(normals) != 1 or not aligned:
            continue
        factors = [1.0, 1.0, 1.0]
        factors[normals.pop()] = 1.7
        longer = stretched(part.program, (factors[0], factors[1], factors[2]))
        assert built(validate(longer)).volume == pytest.approx(1.7 * built(part.program).volume, rel=1e-6)
        done += 1
    assert done >= 12


@given(FACTORS)
@settings(max_examples=25, deadline=None)
def test_there_and_back_is_the_same_part(factor):
    back = scaled(scaled(PLATE, factor, (1.0, 2.0, 3.0)), 1.0 / factor, (1.0, 2.0, 3.0))
    assert np.allclose(np.array(program_box(back)), np.array(program_box(PLATE)), rtol=1e-9, atol=1e-9)


@given(FACTORS, FACTORS, FACTORS)
@settings(max_examples=25, deadline=None)
def test_loops_stay_closed_to_the_bit(x, y, z):
    turned = Plane((1.0, 2.0, 3.0), (0.6, 0.8, 0.0), (0.0, 0.0, 1.0))
    part = stretched(program(extrude(rectangle(0, 0, 10, 20), plane=turned), *BOX.extrudes), (x, y, z))
    for one in part.extrudes:
        curves = one.sketches[0].profiles[0].outer.curves
        for before, after in zip(curves, (*curves[1:], curves[0]), strict=True):
            assert isinstance(before, Line)
            assert isinstance(after, Line)
            assert before.end == after.start


def test_a_turned_sketch_is_stretched_along_the_axes_of_the_part_not_its_own():
    half = math.sqrt(0.5)
    turned = Plane((0.0, 0.0, 0.0), (half, half, 0.0), (0.0, 0.0, 1.0))
    before = program(extrude(rectangle(-10, -5, 20, 10), one=4.0, plane=turned))
    after = stretched(before, (3.0, 1.0, 1.0))
    (a, b, _), (c, d, _) = program_box(after)
    (e, f, _), (g, h, _) = program_box(before)
    assert (c - a, d - b) == pytest.approx((3.0 * (g - e), h - f))
    assert built(after).volume == pytest.approx(3.0 * built(before).volume)


def test_a_circle_is_refused_by_name_and_kept_round_when_asked():
    with pytest.raises(CadmllmError) as caught:
        stretched(PLATE, (1.5, 1.0, 1.0))
    assert caught.value.code == "E212"
    assert "extrude 1, sketch 1, profile 1, loop 2: a circle of radius 6 mm" in caught.value.message
    assert "1.5 x 1 x 1" in caught.value.message
    after = stretched(PLATE, (1.5, 1.0, 1.0), keep_round=True)
    hole = after.extrudes[0].sketches[0].profiles[0].inner[0].curves[0]
    assert hole == Circle((-37.5, 0.0), 6.0)
    assert built(after).volume == pytest.approx((120 * 40 - 2 * math.pi * 36) * 8)


def test_an_arc_is_refused_even_then():
    slot = Loop((Line((0, 0), (10, 0)), Arc((10, 0), (10, 5), math.pi), Line((10, 5), (0, 5)), Arc((0, 5), (0, 0), math.pi)))
    with pytest.raises(CadmllmError, match=r"E212.*an arc of radius 2\.5"):
        stretched(program(extrude(slot)), (2.0, 1.0, 1.0), keep_round=True)
    assert built(stretched(program(extrude(slot)), (2.0, 2.0, 0.5))).volume == pytest.approx(
        built(program(extrude(slot))).volume * 2
    )


def test_a_tilted_plane_grows_among_equal_factors_alone():
    half = math.sqrt(0.5)
    tilted = Plane((0.0, 0.0, 0.0), (0.0, 0.0, 1.0), (half, half, 0.0))
    before = program(extrude(rectangle(0, 0, 10, 5), one=3.0, plane=tilted))
    assert built(stretched(before, (2.0, 2.0, 3.0))).volume == pytest.approx(12.0 * built(before).volume)
    with pytest.raises(CadmllmError, match=r"E212.*extrude 1, sketch 1: its plane is tilted"):
        stretched(before, (2.0, 1.0, 1.0))


def test_sketches_of_one_extrude_that_would_need_two_distances_are_refused():
    across = Sketch(Plane((50.0, 0.0, 0.0), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0)), BOX.extrudes[0].sketches[0].profiles)
    both = Extrude((BOX.extrudes[0].sketches[0], across), Operation.NEW_BODY, BOX.extrudes[0].extent)
    with pytest.raises(CadmllmError, match=r"E212.*different distances"):
        stretched(program(both), (2.0, 2.0, 1.0))


@pytest.mark.parametrize("factor", [0.0, -1.0, math.inf, math.nan])
def test_a_factor_that_is_none_is_a_programming_error(factor):
    with pytest.raises(ValueError, match="factors"):
        scaled(BOX, factor)


def test_polygons_keep_their_corners():
    part = program(extrude(polygon((0, 0), (4, 0), (0, 3)), circle(20, 0, 1)))
    corner = scaled(part, 2.0).extrudes[0].sketches[0].profiles[0].outer.curves[1]
    assert corner == Line((8.0, 0.0), (0.0, 6.0))
