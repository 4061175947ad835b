"""Measures of programs: DeepCAD's accuracies by hand, Text2CAD's matching by hand, real vectors against themselves."""

from __future__ import annotations

import math
from dataclasses import replace

import h5py
import numpy as np
import pytest
from hypothesis import given, settings

from cadmllm.cad.deepcad_vec import from_vec, to_vec
from cadmllm.cad.omnicad import read_json, recorded_box
from cadmllm.cad.program import Arc, Circle, Extent, ExtentType, Extrude, Line, Loop, Operation, Plane, Profile, Program, Sketch
from cadmllm.evaluate.metrics import METRICS
from cadmllm.evaluate.sequence import accuracies, matches, sequence
from tests.strategies import programs

START = [4] + [-1] * 16
END = [3] + [-1] * 16
EXTRUDE = [5] + [-1] * 5 + [128, 128, 128, 96, 128, 128, 64, 160, 128, 0, 0]


def line(x, y):
    return [0, x, y] + [-1] * 14


def circle(x=176, y=128, r=48):
    return [2, x, y, -1, -1, r] + [-1] * 11


def arc(x, y, sweep, way):
    return [1, x, y, sweep, way] + [-1] * 12


def table(*rows):
    return np.array([*rows, END])


def polygon(*points):
    return Loop(tuple(Line(a, b) for a, b in zip(points, points[1:] + points[:1], strict=True)))


def square(size=20.0, at=(0.0, 0.0)):
    x, y = at
    return polygon((x, y), (x + size, y), (x + size, y + size), (x, y + size))


def part(*profiles):
    """An extrusion for each list of profiles."""
    one = Extent(ExtentType.ONE_SIDE, 10.0)
    kinds = [Operation.NEW_BODY] + [Operation.JOIN] * len(profiles)
    return Program(tuple(Extrude((Sketch(Plane(), tuple(p)),), k, one) for p, k in zip(profiles, kinds, strict=False)))


PLATE = part([Profile(square(), (Loop((Circle((10.0, 10.0), 4.0),)),))])
PROGRAM_KEYS = {metric.key for metric in METRICS if not metric.solid}


def test_accuracies_by_hand() -> None:
    truth = table(START, line(200, 128), arc(200, 200, 64, 1), line(128, 200), line(128, 128), EXTRUDE)
    moved = [*EXTRUDE]
    moved[9], moved[10], moved[15] = 98, 131, 1  # two off: right; three off: wrong; another boolean: wrong
    answer = table(START, line(202, 131), arc(200, 200, 66, 0), circle(), line(128, 128), moved, START, circle())
    command, parameter = accuracies(answer, truth)
    assert command == pytest.approx(5 / 6)
    # line 1 of 2; arc: direction wrong, 3 of 4; line 2 of 2; extrude 9 of 11
    assert parameter == pytest.approx((1 + 3 + 2 + 9) / (2 + 4 + 2 + 11))


def test_a_row_that_is_not_there_is_wrong_and_one_too_many_is_not_looked_at() -> None:
    truth = table(START, circle(), EXTRUDE)
    assert accuracies(table(START, circle()), truth) == (2 / 3, 1.0)
    assert accuracies(table(START, circle(), EXTRUDE, START, circle(), EXTRUDE), truth) == (1.0, 1.0)
    command, parameter = accuracies(np.zeros((0, 17), int), truth)
    assert command == 0.0
    assert math.isnan(parameter)


def test_only_arguments_that_a_command_uses_count() -> None:
    truth, answer = table(START, circle(), EXTRUDE), table(START, circle(), EXTRUDE)
    answer[1, 3:5] = 77
    assert accuracies(answer, truth) == (1.0, 1.0)


@settings(max_examples=15, deadline=None)
@given(programs())
def test_a_program_against_itself_is_right_throughout(program) -> None:
    found = sequence(program, program)
    assert set(found) == PROGRAM_KEYS
    kinds = {type(c).__name__.lower() for e in program.extrudes for s in e.sketches for p in s.profiles
             for loop in (p.outer, *p.inner) for c in loop.curves}  # fmt: skip
    for key, value in found.items():
        there = not key.startswith(("line", "arc", "circle")) or key.split("_")[0] in kinds
        assert value == 1.0 if there else math.isnan(value), key


@settings(max_examples=15, deadline=None)
@given(programs(), programs())
def test_every_value_is_a_share_or_undefined(answer, truth) -> None:
    for key, value in sequence(answer, truth).items():
        assert math.isnan(value) or 0.0 <= value <= 1.0, key


def test_no_program_is_wrong_throughout() -> None:
    found = sequence(None, PLATE)
    for key, value in found.items():
        nothing = key.startswith("arc") or key == "acc_param"
        assert math.isnan(value) if nothing else value == 0.0, key


def test_a_hole_too_many_and_a_hole_too_few() -> None:
    holes = tuple(Loop((Circle((x, 10.0), 2.0),)) for x in (5.0, 15.0))
    two = part([Profile(square(), holes)])
    more, less = matches(two, PLATE), matches(PLATE, two)
    assert (more["circle_precision"], more["circle_recall"]) == (0.5, 1.0)
    assert (less["circle_precision"], less["circle_recall"]) == (1.0, 0.5)
    assert more["circle_f1"] == less["circle_f1"] == pytest.approx(2 / 3)
    assert more["line_f1"] == less["line_f1"] == 1.0


def test_loops_are_matched_by_place_not_by_order_or_size_in_mm() -> None:
    corners = [(0.0, 0.0), (30.0, 0.0)]
    one = part([Profile(square(10.0, at)) for at in corners] + [Profile(Loop((Circle((50.0, 5.0), 5.0),)))])
    other = part([Profile(Loop((Circle((500.0, 50.0), 50.0),)))] + [Profile(square(100.0, (10 * x, y))) for x, y in corners])
    found = matches(other, one)
    assert {found[f"{kind}_f1"] for kind in ("line", "circle", "extrude")} == {1.0}


def test_curves_of_a_loop_are_matched_by_place_and_right_by_type() -> None:
    a, b, c, d = (0.0, 0.0), (20.0, 0.0), (20.0, 20.0), (0.0, 20.0)
    rounded = Loop((Line(b, c), Arc(c, d, 1.0), Line(d, a), Line(a, b)))  # the top is an arc; it begins elsewhere
    found = matches(part([Profile(rounded)]), part([Profile(square())]))
    assert (found["line_precision"], found["line_recall"]) == (1.0, 0.75)
    assert math.isnan(found["arc_precision"])
    back = matches(part([Profile(square())]), part([Profile(rounded)]))
    assert (back["arc_precision"], back["arc_recall"], back["arc_f1"]) == (0.0, 0.0, 0.0)


def test_extrusions_are_counted_in_order() -> None:
    twice = part([Profile(square())], [Profile(Loop((Circle((0.0, 0.0), 5.0),)))])
    found = matches(part([Profile(square())]), twice)
    assert (found["extrude_precision"], found["extrude_recall"]) == (1.0, 0.5)
    assert (found["line_f1"], found["circle_recall"]) == (1.0, 0.0)
    swapped = Program(twice.extrudes[::-1])
    assert matches(swapped, twice)["line_f1"] == 0.0


def test_what_vectors_cannot_carry_is_undefined_for_a_truth_and_wrong_for_an_answer(monkeypatch) -> None:
    from cadmllm.errors import CadmllmError
    from cadmllm.evaluate import sequence as module

    giant = replace(PLATE)

    def refuse(program, **_):
        if program is giant:
            raise CadmllmError("E212", "it cannot be a vector", "leave it out")
        return to_vec(program, limits=False)

    monkeypatch.setattr(module, "to_vec", refuse)
    assert math.isnan(sequence(PLATE, giant)["acc_cmd"])
    assert sequence(PLATE, giant)["line_f1"] == 1.0
    assert sequence(giant, PLATE)["acc_cmd"] == 0.0


def test_real_programs_against_their_official_vectors(shared) -> None:
    """With the recorded box, by which DeepCAD scales, our vectors are the official ones."""
    root = shared / "data" / "text2cad100"
    close = []
    for path in sorted((root / "json").glob("*.json")):
        with h5py.File(root / "vec" / f"{path.stem}.h5") as file:
            official = file["vec"][:]
        program = read_json(path)
        assert accuracies(to_vec(program, recorded_box(path)), official) == (1.0, 1.0), path.stem
        close.append(sequence(from_vec(official), program)["acc_cmd"])
    assert np.mean(close) > 0.99
