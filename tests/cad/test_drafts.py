"""Edits are told in the numbers of the program as it was given, and what follows from them is done."""

from __future__ import annotations

from cadmllm.cad.drafts import Draft
from cadmllm.cad.program import Extrude, Operation, Plane, Profile, Sketch
from tests.cad.parts import circle, extrude, program, rectangle

SQUARE = rectangle(0, 0, 10, 10)
HOLED = Profile(SQUARE, (circle(2, 2, 1), circle(5, 5, 1), circle(8, 8, 1)))
PART = program(
    extrude(SQUARE),
    Extrude((Sketch(Plane(), (Profile(SQUARE), HOLED)), Sketch(Plane(), (HOLED,))), Operation.JOIN, extrude(SQUARE).extent),
    extrude(circle(5, 5, 2), operation=Operation.CUT),
)


def test_nothing_done_is_the_program():
    assert Draft(PART).program == PART
    assert Draft(PART).steps == ()


def test_places_of_what_is_left_lead_back_to_the_given_program():
    draft = Draft(PART).without((1, 0), "a").without((1, 1, 1), "b")
    assert draft.program.extrudes[1].sketches[0].profiles == (Profile(SQUARE, HOLED.inner[1:]),)
    assert draft.place_of((1, 0, 1)) == (1, 1, 2)
    assert draft.place_of((1, 1, 3)) == (1, 2, 3)
    assert draft.place_of((1, 1)) == (1, 2)
    gone = draft.without((0,), "c")
    assert gone.place_of((0, 0, 0)) == (1, 1, 0)
    assert gone.place_of((1,)) == (2,)
    assert gone.steps == (
        "extrude 2 (join), profile 1: left out: a",
        "extrude 2 (join), profile 2, hole 1: left out: b",
        "extrude 1 (new): left out: c",
        "extrude 2 (join): a new body now: there is nothing before it to join",
    )
    assert gone.program.extrudes[0].operation is Operation.NEW_BODY


def test_an_outline_goes_with_its_profile_and_an_empty_extrude_with_it():
    draft = Draft(PART).without((1, 0, 0), "x").without((1, 1), "x").without((1, 2), "x")
    assert [step.operation.value for step in draft.program.extrudes] == ["new", "cut"]
    assert draft.steps[-1] == "extrude 2 (join): left out: nothing of it is left"


def test_without_a_body_a_cut_goes_too():
    draft = Draft(PART).without((1,), "x").without((0,), "x")
    assert draft.program.extrudes == ()
    assert draft.steps[-1] == "extrude 3 (cut): left out: there is nothing before it to cut"


def test_a_change_to_what_is_left_out_later_is_not_told():
    draft = Draft(PART).with_loop((1, 1, 2), circle(5, 5, 2), "larger")
    assert draft.program.extrudes[1].sketches[0].profiles[1].inner[1] == circle(5, 5, 2)
    assert draft.steps == ("extrude 2 (join), profile 2, hole 2: larger",)
    assert draft.without((1, 1), "x").steps == ("extrude 2 (join), profile 2: left out: x",)


def test_planes_operations_and_scale():
    plane = Plane((0, 0, 5))
    draft = Draft(PART).with_plane(1, 1, plane, "moved").with_operation(2, Operation.JOIN, "added")
    assert draft.program.extrudes[1].sketches[1].plane == plane
    assert draft.program.extrudes[2].operation is Operation.JOIN
    small = Draft(PART).scaled(0.1, "smaller")
    assert small.program.extrudes[0].extent.one == 1.0
    assert small.steps == ("the part: smaller",)
