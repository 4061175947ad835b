"""Answers brought to size: exactly where the language can, by one factor where not, and always with a word about it."""

from __future__ import annotations

import math

import pytest

from cadmllm.cad.bounds import program_box
from cadmllm.cad.program import Arc, Circle, Line, Loop, Operation, Profile, Program, validate
from cadmllm.infer.dimensions import dimensions_in, parse_size
from cadmllm.infer.fitting import Fitted, fit
from tests.cad.parts import PLATE, circle, extrude, program, rectangle

BLOCK = program(extrude(rectangle(-20, -10, 40, 20), one=10.0))
DISC = program(extrude(Profile(circle(0, 0, 25), (circle(0, 0, 5),)), one=10.0))
SLOT = program(
    extrude(
        Loop((Line((0, 0), (20, 0)), Arc((20, 0), (20, 10), math.pi), Line((20, 10), (0, 10)), Arc((0, 10), (0, 0), math.pi))),
        one=5.0,
    )
)


def sides(part: Program) -> tuple[float, float, float]:
    (a, b, c), (d, e, f) = program_box(part)
    return d - a, e - b, f - c


def sized(part: Program, text: str) -> Fitted:
    fitted = fit(part, None, parse_size(text), ())
    validate(fitted.program)
    assert fitted.notes
    return fitted


def prompted(part: Program, prompt: str) -> Fitted:
    fitted = fit(part, None, None, dimensions_in(prompt))
    validate(fitted.program)
    return fitted


def test_nothing_asked_nothing_done_nothing_said():
    assert fit(PLATE, None, None, ()) == Fitted(PLATE)


def test_an_exact_size_is_reached_exactly():
    fitted = sized(BLOCK, "44x18x11mm")
    assert sides(fitted.program) == pytest.approx((44, 18, 11))
    assert fitted.factors == pytest.approx((1.1, 0.9, 1.1))
    assert fitted.notes == ("the size 44x18x11mm: stretched by 1.1 x 0.9 x 1.1, 40 x 20 x 10 mm became 44 x 18 x 11 mm",)


def test_proportions_that_are_right_are_scaled():
    fitted = sized(BLOCK, "80x40x20")
    assert sides(fitted.program) == pytest.approx((80, 40, 20))
    assert "scaled by 2" in fitted.notes[0]


def test_the_middle_of_the_box_stays():
    moved = program(extrude(rectangle(100, 50, 40, 20), one=10.0))
    (a, b, c), (d, e, f) = program_box(sized(moved, "44x18x11").program)
    assert (a + d, b + e, c + f) == pytest.approx((240, 120, 10))


def test_sides_go_to_the_closest_proportions_and_this_is_said():
    fitted = sized(BLOCK, "10x40x20")
    assert fitted.program == BLOCK
    assert fitted.notes[0] == "the size 10x40x20: taken as 40 x 20 x 10 mm along x, y, z, which is how this part stands"


def test_of_equal_sides_the_order_is_kept():
    cube = program(extrude(rectangle(0, 0, 10, 10), one=10.0))
    fitted = sized(cube, "12x10x11")
    assert sides(fitted.program) == pytest.approx((12, 10, 11))
    assert len(fitted.notes) == 1


def test_holes_stay_round_where_the_rest_is_stretched():
    fitted = sized(PLATE, "100x40x8")
    assert sides(fitted.program) == pytest.approx((100, 40, 8))
    hole = fitted.program.extrudes[0].sketches[0].profiles[0].inner[0].curves[0]
    assert isinstance(hole, Circle)
    assert (*hole.center, hole.radius) == pytest.approx((-31.25, 0.0, 6.0))
    assert "circles stay round" in fitted.notes[0]


@pytest.mark.parametrize(
    ("part", "text", "why"),
    [
        (DISC, "60x50x10", "a circle that bounds the part would have to become an ellipse"),
        (SLOT, "40x10x5", "an arc of radius 5 mm would become part of an ellipse"),
        (BLOCK, "40x40x0.4", "its proportions are off by 50 to 1, more than 10"),
    ],
)
def test_what_cannot_be_exact_is_scaled_by_its_longest_side_and_the_reason_is_given(part, text, why):
    fitted = sized(part, text)
    assert max(sides(fitted.program)) == pytest.approx(max(parse_size(text).known))
    assert len(set(fitted.factors)) == 1
    assert why in " ".join(fitted.notes)
    assert "not exactly" in " ".join(fitted.notes)


def test_a_disc_grows_along_its_axis():
    assert sides(sized(DISC, "50x50x15").program) == pytest.approx((50, 50, 15))


def test_one_side_is_the_longest():
    fitted = sized(BLOCK, "100mm")
    assert sides(fitted.program) == pytest.approx((100, 50, 25))
    assert fitted.notes[0].startswith("the size 100mm: the longest side: scaled by 2.5")


def test_one_side_with_its_place_is_that_side():
    assert sides(sized(BLOCK, "?x30x?").program) == pytest.approx((60, 30, 15))


def test_two_sides_scale_by_the_longer_and_tell_about_the_other():
    assert sides(sized(BLOCK, "10x5").program) == pytest.approx((10, 5, 2.5))
    fitted = sized(BLOCK, "80x?x30")
    assert sides(fitted.program) == pytest.approx((80, 40, 20))
    assert "the other one does not come out" in fitted.notes[0]


def test_what_is_right_already_is_left_alone():
    fitted = sized(PLATE, "80x40x8")
    assert fitted.program is PLATE
    assert fitted.notes == ("the size 80x40x8: so it came out",)


@pytest.mark.parametrize(
    "prompt",
    [
        "a plate 100 x 40 x 8 mm with two holes of 12 mm diameter",
        "a plate 100 mm long, 40 mm wide and 8 mm thick with two 12 mm holes",
        "a plate 100 x 40 mm, 8 mm thick, two holes Ø12",
    ],
)
def test_a_box_in_the_prompt_is_a_size_and_the_rest_is_compared(prompt):
    fitted = prompted(PLATE, prompt)
    assert sides(fitted.program) == pytest.approx((100, 40, 8))
    assert fitted.notes[-1].startswith("as the prompt says: ")


def test_diameter_and_height_of_a_round_part_are_its_box():
    fitted = prompted(DISC, "a disc 60 mm in diameter and 15 mm high with a 10 mm hole")
    assert sides(fitted.program) == pytest.approx((60, 60, 15))
    assert '"10 mm" (diameter of a hole): not met, the nearest is 12 mm' in fitted.notes[-1]


def test_one_dimension_scales_by_one_factor():
    assert sides(prompted(DISC, "a disc with a diameter of 100 mm").program) == pytest.approx((100, 100, 20))
    assert sides(prompted(BLOCK, "a block 2 m long").program) == pytest.approx((2000, 1000, 500))
    assert sides(prompted(PLATE, "a plate with 6 mm holes").program) == pytest.approx((40, 20, 4))


def test_most_dimensions_win_and_the_others_are_named():
    fitted = prompted(DISC, "a disc with a diameter of 100 mm and a 20 mm hole and a 7 mm bore")
    assert fitted.factors == pytest.approx((2, 2, 2))
    assert any('"7 mm" (diameter of a hole): not met' in note for note in fitted.notes)


def test_the_size_goes_before_the_prompt():
    fitted = fit(PLATE, None, parse_size("160x80x16"), dimensions_in("a plate 100 x 50 x 10 mm"))
    assert sides(fitted.program) == pytest.approx((160, 80, 16))
    assert sum("not met" in note for note in fitted.notes) >= 1


def test_lengths_of_features_alone_scale_nothing_and_distances_are_not_compared():
    fitted = prompted(PLATE, "a plate with a boss 3 mm high and two holes 31 mm apart")
    assert fitted.program is PLATE
    assert fitted.factors == (1.0, 1.0, 1.0)
    assert any("not compared: 31 mm apart" in note for note in fitted.notes)


def test_a_thread_is_met_by_its_clearance_hole():
    plate = program(extrude(Profile(rectangle(0, 0, 80, 40), (circle(20, 20, 3.3),)), one=8.0))
    fitted = prompted(plate, "a plate 80 x 40 x 8 mm with an M6 hole")
    assert fitted.program is plate
    assert "as the prompt says: M6" in fitted.notes


def test_what_came_out_within_two_per_mille_stays():
    fitted = prompted(BLOCK, "a block 40.05 mm long")
    assert fitted.program is BLOCK


def test_the_kernels_box_is_believed_where_a_cut_made_the_part_smaller():
    cut = program(
        extrude(rectangle(0, 0, 40, 20), one=10.0), extrude(rectangle(30, -1, 20, 22), one=10.0, operation=Operation.CUT)
    )
    fitted = fit(cut, ((0.0, 0.0, 0.0), (30.0, 20.0, 10.0)), parse_size("60mm"), ())
    assert fitted.factors == (2.0, 2.0, 2.0)
