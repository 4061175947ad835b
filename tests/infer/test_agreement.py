"""What a program's own lengths are, which of them a dimension may mean, and how well they agree."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cadmllm.cad.program import Operation, Profile
from cadmllm.cad.rescale import scaled
from cadmllm.corpus import parts
from cadmllm.infer.agreement import agreement, assigned, consensus, lengths_of, overall
from cadmllm.infer.dimensions import dimensions_in
from tests.cad.parts import PLATE, circle, extrude, program, rectangle

RING = program(extrude(Profile(circle(0, 0, 25), (circle(0, 0, 20),)), one=10.0))
DRILLED = program(extrude(rectangle(0, 0, 40, 20), one=10.0), extrude(circle(10, 10, 3), one=6.0, operation=Operation.CUT))


def test_lengths_are_measured():
    found = lengths_of(RING)
    assert found.sides == (50, 50, 10)
    assert (found.outers, found.bores, found.walls, found.heights) == ((50,), (40,), (5,), (10,))
    found = lengths_of(DRILLED)
    assert (found.outers, found.bores, found.depths, found.heights) == ((), (6,), (6,), (10,))
    assert found.edges == (20, 40)


@pytest.mark.parametrize(
    ("prompt", "sides"),
    [
        ("a plate 80 x 40 x 8 mm", [80, 40, 8]),
        ("a plate 80 x 40 mm, 8 mm thick", [80, 40, 8]),
        ("a plate 80 mm long, 40 mm wide and 8 mm high", [80, 40, 8]),
        ("a plate 80 mm long and 40 mm wide", []),
        ("a plate with an 80 x 40 x 8 mm pocket", []),
        ("a plate 80 mm in diameter and 8 mm high", []),  # this one is not round
    ],
)
def test_what_states_the_whole_box(prompt, sides):
    assert [item.mm for item in overall(dimensions_in(prompt), lengths_of(PLATE))] == sides


def test_a_round_part_has_its_diameter_twice():
    found = overall(dimensions_in("a ring of 50 mm diameter and 10 mm height"), lengths_of(RING))
    assert [item.mm for item in found] == [50, 50, 10]


@given(st.permutations([40.0, 20.0, 10.0]), st.floats(0.1, 10.0))
def test_sides_are_dealt_to_the_closest_proportions(order, factor):
    dealt, spread = assigned([side * factor for side in order], [40.0, 20.0, 10.0])
    assert dealt == pytest.approx((40 * factor, 20 * factor, 10 * factor))
    assert spread == pytest.approx(1.0)


def test_free_sides_stay_free():
    assert assigned([10.0, None], [40.0, 20.0, 10.0])[0] == (10.0, None, None)  # any single side fits: the order as given
    assert assigned([30.0, 15.0], [40.0, 20.0, 10.0])[0] == (30.0, 15.0, None)
    assert assigned([10.0, None, 40.0], [40.0, 20.0, 10.0])[0] == (40.0, None, 10.0)


def test_the_factor_is_the_one_at_which_most_agree():
    found = consensus(dimensions_in("a ring of 100 mm diameter with an 80 mm bore, 7 mm high"), lengths_of(RING))
    assert found is not None
    assert found.factor == pytest.approx(2.0)
    assert found.agreeing == (0, 1)


def test_of_several_factors_the_one_nearest_to_what_is_there():
    """A 6 mm hole in a part with holes of 6 and 12 mm asks for nothing."""
    part = program(extrude(Profile(rectangle(0, 0, 80, 40), (circle(20, 20, 6), circle(60, 20, 3))), one=8.0))
    found = consensus(dimensions_in("a plate with a 6 mm hole"), lengths_of(part))
    assert found is not None
    assert found.factor == pytest.approx(1.0)


@pytest.mark.parametrize("prompt", ["a plate", "holes 20 mm apart", "a plate with a boss 3 mm high"])
def test_what_says_nothing_of_part_or_hole_gives_no_factor(prompt):
    assert consensus(dimensions_in(prompt), lengths_of(PLATE)) is None


def test_several_lengths_of_features_that_agree_give_one():
    blocks = program(extrude(rectangle(0, 0, 60, 40), rectangle(80, 0, 60, 40), one=20.0))
    found = consensus(dimensions_in("two blocks of 30 x 20 x 10 mm each"), lengths_of(blocks))
    assert found is not None
    assert found.factor == pytest.approx(0.5)
    assert consensus(dimensions_in("two blocks of 30 x 20 x 13 mm each"), lengths_of(blocks)) is None


def test_agreement_is_1_where_all_is_met_and_falls_with_every_fault():
    dimensions = dimensions_in("a plate 80 x 40 x 8 mm with two 12 mm holes")
    right = agreement(dimensions, PLATE)
    larger = agreement(dimensions, scaled(PLATE, 1.2))
    other = program(extrude(Profile(rectangle(-40, -20, 80, 40), (circle(0, 0, 7),)), one=8.0))
    assert right == pytest.approx(1.0)
    assert larger is not None
    assert 0.5 < larger < 0.7  # its proportions are right
    met = agreement(dimensions, other)
    assert met is not None
    assert met < 0.9
    assert agreement(dimensions_in("a plate with holes 20 mm apart"), PLATE) is None


def test_generated_parts_agree_with_their_captions():
    """Parts whose caption says of several blocks or of a base what reads like the whole are the exception."""
    scores = []
    for part in parts.generate(80, 41):
        found = agreement(dimensions_in(part.captions["dimensioned"]), part.program)
        if found is not None:
            scores.append(found)
    assert len(scores) > 60
    assert sum(score > 0.95 for score in scores) / len(scores) > 0.8
