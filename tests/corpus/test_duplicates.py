"""Near-duplicates: what must share a signature, what must not, and groups of ids."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cadmllm.cad import omnicad
from cadmllm.cad.loops import reverse
from cadmllm.cad.program import (
    Arc,
    Circle,
    Curve,
    Extent,
    ExtentType,
    Extrude,
    Line,
    Loop,
    Operation,
    Plane,
    Point2,
    Profile,
    Program,
    Sketch,
)
from cadmllm.corpus import duplicates
from cadmllm.corpus.duplicates import CELL, GRIDS, LEVELS, connect, group, pack, signatures
from cadmllm.corpus.parts import generate
from tests.strategies import programs

TURNS = [  # the 48 ways to lay a cube on itself, mirrored ones among them
    np.array([[sign[row] * (column == order[row]) for column in range(3)] for row in range(3)], float)
    for order in itertools.permutations(range(3))
    for sign in itertools.product((1.0, -1.0), repeat=3)
]


def shared(a: Program, b: Program, level: str = "drawing") -> bool:
    return not set(signatures(a)[: LEVELS[level]]).isdisjoint(signatures(b)[: LEVELS[level]])


def rectangle(x: float, y: float, width: float, height: float) -> Loop:
    return chain([(x, y), (x + width, y), (x + width, y + height), (x, y + height)])


def chain(points: list[Point2]) -> Loop:
    return Loop(tuple(Line(a, b) for a, b in zip(points, points[1:] + points[:1], strict=True)))


def circle(x: float, y: float, radius: float) -> Loop:
    return Loop((Circle((x, y), radius),))


def extrude(*profiles: Profile, height: float, operation: Operation = Operation.NEW_BODY, plane: Plane | None = None) -> Extrude:
    return Extrude((Sketch(plane or Plane(), profiles),), operation, Extent(ExtentType.ONE_SIDE, height))


def plate(width: float, depth: float, height: float, *holes: Loop) -> Program:
    return Program((extrude(Profile(rectangle(0, 0, width, depth), holes), height=height),))


def placed(program: Program, turn: np.ndarray, scale: float, shift: tuple[float, float, float]) -> Program:
    """The part turned (or mirrored), then scaled, then moved."""
    flip = float(np.linalg.det(turn))

    def at(point: Point2) -> Point2:
        return point[0] * scale, point[1] * scale * flip

    def curve(c: Curve) -> Curve:
        if isinstance(c, Circle):
            return Circle(at(c.center), c.radius * scale)
        return Line(at(c.start), at(c.end)) if isinstance(c, Line) else Arc(at(c.start), at(c.end), c.sweep * flip)

    def loop(found: Loop) -> Loop:
        return Loop(tuple(curve(c) for c in found.curves))

    def three(vector: np.ndarray) -> tuple[float, float, float]:
        x, y, z = (float(v) + 0.0 for v in vector)
        return x, y, z

    def plane(p: Plane) -> Plane:
        return Plane(three(turn @ p.origin * scale + shift), three(turn @ p.x_axis), three(turn @ p.normal))

    return Program(
        tuple(
            Extrude(
                tuple(
                    Sketch(plane(s.plane), tuple(Profile(loop(p.outer), tuple(map(loop, p.inner))) for p in s.profiles))
                    for s in e.sketches
                ),
                e.operation,
                Extent(e.extent.type, e.extent.one * scale, e.extent.two * scale),
            )
            for e in program.extrudes
        )
    )


@settings(deadline=None)
@given(programs(), st.sampled_from(TURNS), st.sampled_from((0.01, 0.3, 1.0, 7.0, 1000.0)), st.sampled_from((0.0, -31.7, 250.0)))
def test_place_size_quarter_turns_and_mirrors_do_not_matter(program: Program, turn: np.ndarray, scale: float, shift: float):
    other = placed(program, turn, scale, (shift, 2.0 * shift, -shift))
    assert shared(program, other, "copy")
    assert not set(signatures(program)[LEVELS["solid"] :]).isdisjoint(signatures(other)[LEVELS["solid"] :])


@settings(deadline=None)
@given(programs(), st.randoms(use_true_random=False))
def test_the_order_and_the_start_of_what_is_drawn_do_not_matter(program: Program, dice):
    def mixed(loop: Loop) -> Loop:
        start = dice.randrange(len(loop.curves))
        curves = loop.curves[start:] + loop.curves[:start]
        if dice.random() < 0.5:
            return Loop(curves)
        return Loop(tuple(c if isinstance(c, Circle) else reverse(c) for c in reversed(curves)))

    def shuffled(items):
        return tuple(dice.sample(items, len(items)))

    def drawn(sketch: Sketch) -> Sketch:
        profiles = shuffled(sketch.profiles)
        return replace(sketch, profiles=tuple(Profile(mixed(p.outer), shuffled(tuple(map(mixed, p.inner)))) for p in profiles))

    other = Program(tuple(replace(e, sketches=shuffled(tuple(map(drawn, e.sketches)))) for e in program.extrudes))
    assert shared(program, other, "copy")
    assert not set(signatures(program)[LEVELS["solid"] :]).isdisjoint(signatures(other)[LEVELS["solid"] :])


def test_a_box_drawn_on_another_plane_is_the_same():
    lying = plate(40, 20, 10)
    standing = Program((extrude(Profile(rectangle(0, 0, 20, 10)), height=40, plane=Plane((5, 0, 0), (0, 1, 0), (1, 0, 0))),))
    assert shared(lying, standing, "copy")
    assert shared(lying, Program((extrude(Profile(rectangle(3, 3, 10, 40)), height=-20),)), "copy")


def test_a_hole_that_is_cut_is_a_hole_that_was_drawn():
    drawn = plate(40, 20, 10, circle(10, 10, 4))
    cut = extrude(Profile(circle(10, 10, 4)), height=500, operation=Operation.CUT, plane=Plane((0, 0, -100)))
    both = Program((*plate(40, 20, 10).extrudes, cut))
    assert set(signatures(drawn)) == set(signatures(both))


def test_one_solid_drawn_in_two_ways_is_found():
    triangles = [Profile(chain([(0, 0), (40, 0), (40, 20)])), Profile(chain([(0, 0), (40, 20), (0, 20)]))]
    assert shared(plate(40, 20, 10), Program((extrude(*triangles, height=10),)), "copy")
    more_corners = Profile(chain([(0, 0), (13, 0), (40, 0), (40, 20), (0, 20)]))
    assert set(signatures(plate(40, 20, 10))) == set(signatures(Program((extrude(more_corners, height=10),))))
    halves = Loop((Arc((5, 0), (-5, 0), math.pi), Arc((-5, 0), (5, 0), math.pi)))
    rods = [Program((extrude(Profile(loop), height=30),)) for loop in (circle(0, 0, 5), halves)]
    assert set(signatures(rods[0])) == set(signatures(rods[1]))


@pytest.mark.parametrize(
    "other",
    [
        plate(40, 20, 10),
        plate(40, 20, 10, circle(10, 10, 4), circle(30, 10, 4)),
        plate(40, 20, 10, circle(20, 10, 4)),
        plate(40, 20, 10, circle(10, 10, 7)),
        plate(40, 20, 13, circle(10, 10, 4)),
        plate(60, 20, 10, circle(10, 10, 4)),
        plate(40, 20, 10, rectangle(6, 6, 8, 8)),
    ],
)
def test_different_parts_share_nothing(other: Program):
    assert not shared(plate(40, 20, 10, circle(10, 10, 4)), other)


@settings(deadline=None)
@given(st.floats(0.995, 1.005), st.floats(0.995, 1.005), st.floats(0.995, 1.005))
def test_a_plate_with_slightly_other_sides_is_near(a: float, b: float, c: float):
    assert shared(plate(40, 20, 10, circle(10, 10, 4)), plate(40 * a, 20 * b, 10 * c, circle(10 * a, 10 * b, 4)))


@given(st.lists(st.tuples(st.floats(-9, 9), st.floats(-0.999, 0.999)), min_size=5, max_size=5))
def test_five_measures_within_a_shift_share_a_grid(measures: list[tuple[float, float]]):
    one = duplicates._cells([m for m, _ in measures], CELL, GRIDS)
    two = duplicates._cells([m + d * CELL / GRIDS for m, d in measures], CELL, GRIDS)
    assert any(a == b for a, b in zip(one, two, strict=True))


@given(st.floats(-9, 9), st.floats(1.001, 50))
def test_a_measure_that_differs_by_more_than_a_cell_shares_none(measure: float, step: float):
    one, two = duplicates._cells([measure], CELL, GRIDS), duplicates._cells([measure + step * CELL], CELL, GRIDS)
    assert not any(a == b for a, b in zip(one, two, strict=True))


def test_signatures_are_what_they_were():
    """A change of these must change `VERSION`, so that what an index holds is made anew."""
    assert duplicates.VERSION == "1"
    assert signatures(plate(40, 20, 10, circle(10, 10, 4)))[::3] == (
        "e72f78e9b36eb7de",
        "5d9c1ba9d447ba13",
        "eccf4a0dfd6f40a9",
        "b343c11282fe1b9c",
    )


@settings(deadline=None)
@given(programs())
def test_every_program_has_all_its_signatures(program: Program):
    found = signatures(program)
    assert len(found) == LEVELS["drawing"]
    assert all(len(s) == 16 and int(s, 16) >= 0 for s in found)


@pytest.mark.parametrize("tip", [(10.0, 10.0), (10.0, 10.0 + 1e-13), (1e-9, 1e-9)])
def test_a_loop_that_encloses_nothing_has_signatures_too(tip: Point2):
    bow_tie = chain([(0, 0), tip, (10, 0), (0, 10)])
    for program in (plate(40, 20, 10, bow_tie), Program((extrude(Profile(bow_tie), height=1e-7),))):
        assert len(signatures(program)) == LEVELS["drawing"]


def test_generated_parts_are_mostly_alone_and_never_hide_a_copy():
    parts = list(generate(300, 5))
    found = {part.id: signatures(part.program) for part in parts}
    sizes = group((id_, s[: LEVELS["copy"]]) for id_, s in found.items()).sizes
    assert (sizes == 1).mean() > 0.97
    twins = {f"{part.id}/b": signatures(placed(part.program, TURNS[17], 3.0, (5, 6, 7))) for part in parts}
    assert all(set(found[part.id][:2]) & set(twins[f"{part.id}/b"][:2]) for part in parts)


def test_real_programs_that_are_one_part(shared: Path):
    folder = shared / "data" / "deepcad" / "json" / "0001"
    one, two, third = (signatures(omnicad.read_json(folder / f"{name}.json")) for name in ("00017112", "00017370", "00010214"))
    assert set(one[: LEVELS["copy"]]) & set(two[: LEVELS["copy"]])  # a triangle and a pentagon; a square and a triangle
    assert not set(one) & set(third)


def test_no_ids_no_groups():
    nothing = group([])
    assert nothing.ids == []
    assert nothing.members() == []
    assert len(nothing.sizes) == 0
    assert len(connect(np.zeros((0, 10), np.uint64))) == 0


def test_groups_in_the_order_of_their_first_id():
    items = [("a", ["01", "02"]), ("b", ["03", "04"]), ("c", ["05", "02"]), ("d", ["06", "05"]), ("e", ["03", "ff"])]
    found = group(items)
    assert found.numbers.tolist() == [0, 1, 0, 0, 1]
    assert found.sizes.tolist() == [3, 2]
    assert found.members() == [["a", "c", "d"], ["b", "e"]]
    assert found.members(3) == [["a", "c", "d"]]


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, 40), min_size=3, max_size=3), max_size=60))
def test_groups_are_what_shared_signatures_connect(rows: list[list[int]]):
    ids, marks = pack((str(k), [f"{mark:016x}" for mark in row]) for k, row in enumerate(rows))
    numbers = connect(marks)
    label = list(range(len(rows)))
    for a, b in itertools.combinations(range(len(rows)), 2):
        if set(rows[a]) & set(rows[b]):
            old, new = max(label[a], label[b]), min(label[a], label[b])
            label = [new if value == old else value for value in label]
    order = {value: place for place, value in enumerate(dict.fromkeys(label))}
    assert ids == [str(k) for k in range(len(rows))]
    assert numbers.tolist() == [order[value] for value in label]


GOLDEN = ()
