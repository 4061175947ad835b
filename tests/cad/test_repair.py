"""A repair gives a part that builds, says all that it did, and gives back what it cannot mend."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cadmllm.cad import grammar
from cadmllm.cad.kernel import BuildResult, Job, Verdict, build
from cadmllm.cad.omnicad import read_json
from cadmllm.cad.program import Arc, Circle, Extrude, Line, Loop, Operation, Plane, Profile, Program, Sketch, validate
from cadmllm.cad.repair import Repaired, repair
from cadmllm.cad.tokens import decode
from tests.cad.parts import BOW, BOX, circle, extrude, polygon, program, rectangle

SQUARE = rectangle(0, 0, 10, 10)
TANGLED = polygon((0, 0), (5, 5), (10, 10), (10, 0), (5, 5), (0, 10))  # through a corner: nothing makes it simple
BASE = extrude(SQUARE)


def made(part: Program) -> BuildResult:
    return build(Job(part))


def mended(*extrudes: Extrude, most: int = 8) -> Repaired:
    part = program(*extrudes)
    result = made(part)
    assert not result.ok
    found = repair(part, result, made, most)
    assert found.builds <= most
    if found.result.ok:
        assert validate(found.program)
        assert found.result.volume > 0.0
        assert found.steps
    else:
        assert (found.program, found.result, found.steps) == (part, result, ())
    return found


def test_what_is_ok_or_no_program_is_given_back():
    result = made(BOX)
    calls = []
    assert repair(BOX, result, calls.append) == Repaired(BOX, result)
    parse = BuildResult(Verdict.PARSE, "no program")
    assert repair(BOX, parse, calls.append) == Repaired(BOX, parse)
    assert calls == []


def test_a_gap_is_closed_without_leaving_anything_out():
    loop = Loop((Line((0, 0), (10, 0)), Line((10, 0), (9.9, 10)), Line((10, 10), (0, 10)), Line((0, 10), (0, 0))))
    found = mended(extrude(loop), extrude(circle(5, 5, 1), operation=Operation.CUT))
    assert found.steps == ("extrude 1 (new), profile 1, outline: gaps of up to 0.1 mm closed",)
    assert found.builds == 1
    assert len(found.program.extrudes) == 2


def test_several_faults_are_mended_in_one_build():
    bad = polygon((0, 0), (math.nan, 0), (1, 1))
    found = mended(
        extrude(Profile(SQUARE, (bad, circle(5, 5, -1)))),
        extrude(SQUARE, one=0.0),
        replace(BASE, sketches=(Sketch(Plane(normal=(0.0, 0.0, 2.0)), (Profile(SQUARE),)),)),
    )
    assert found.builds == 1
    assert found.steps == (
        "extrude 1 (new), profile 1, hole 1: left out: it has numbers that are not finite or beyond 1e+07 mm",
        "extrude 1 (new), profile 1, hole 2: its radius is 1 mm",
        "extrude 2 (new): left out: its distance is zero or not a number",
        "extrude 3 (new): the axes of its plane made orthogonal, of length 1",
    )


def test_a_part_in_the_wrong_unit_is_made_smaller_as_a_whole():
    found = mended(extrude(rectangle(0, 0, 4e7, 2e7), one=1e7), extrude(circle(1e7, 1e7, 1e6), one=1e7, operation=Operation.CUT))
    assert found.steps == ("the part: made 1,000 times smaller: it reached 4e+07 mm, more than 1e+07 mm",)
    assert found.result.box == (pytest.approx((0, 0, 0), abs=1e-3), pytest.approx((4e4, 2e4, 1e4)))
    one = mended(BASE, extrude(circle(5, 5, 1e9), operation=Operation.JOIN))  # a single number too large is no unit
    assert one.result.volume == pytest.approx(1000)


def test_an_outline_that_crosses_itself_is_made_simple():
    found = mended(*BOW.extrudes)
    assert found.result.volume > 0.0
    assert "crossed" in found.steps[0]


def test_a_hole_that_cannot_be_made_simple_is_left_out():
    found = mended(extrude(Profile(rectangle(-20, -20, 60, 60), (circle(-10, -10, 2), TANGLED))))
    assert found.steps == ("extrude 1 (new), profile 1, hole 2: left out: crosses itself",)
    assert found.result.volume == pytest.approx(10 * (3600 - 4 * math.pi))


def test_an_outline_that_cannot_be_made_simple_takes_its_extrude_along():
    found = mended(BASE, extrude(TANGLED, operation=Operation.JOIN), extrude(circle(5, 5, 1), operation=Operation.CUT))
    assert found.steps == (
        "extrude 2 (join), profile 1: left out: crosses itself",
        "extrude 2 (join): left out: nothing of it is left",
    )
    assert found.result.volume == pytest.approx(1000 - 10 * math.pi)


def test_many_tangled_loops_take_one_build():
    parts = [extrude(replace_loop(k), operation=Operation.JOIN) for k in range(6)]
    found = mended(BASE, *parts)
    assert found.builds == 1
    assert len(found.steps) == 6


def replace_loop(k: int) -> Loop:
    return polygon((k, 0), (k + 10, 10), (k + 10, 0), (k, 10))


def test_holes_that_leave_nothing():
    found = mended(extrude(Profile(SQUARE, (circle(5, 5, 1), circle(5, 5, 30)))))
    assert found.steps == ("extrude 1 (new), profile 1, hole 2: left out: the holes leave nothing of it",)


def test_an_operation_that_leaves_nothing_is_left_out():
    apart = extrude(rectangle(50, 0, 5, 5), operation=Operation.INTERSECT)
    found = mended(BASE, apart, extrude(circle(0, 0, 2), operation=Operation.CUT))
    assert found.steps == ("extrude 2 (intersect): left out: leaves no solid",)
    all_of_it = extrude(rectangle(-1, -1, 12, 12), operation=Operation.CUT, one=20.0)
    assert mended(BASE, all_of_it, apart).steps == (
        "extrude 2 (cut): left out: leaves no solid",
        "extrude 3 (intersect): left out: leaves no solid",
    )


def test_a_program_that_only_cuts_becomes_a_body():
    found = mended(extrude(SQUARE, operation=Operation.CUT))
    assert found.steps == ("extrude 1 (cut): a new body now: there is nothing before it",)


def test_what_follows_a_lost_first_body():
    found = mended(extrude(TANGLED), extrude(SQUARE, operation=Operation.JOIN))
    assert found.steps[-1] == "extrude 2 (join): a new body now: there is nothing before it to join"
    assert found.program.extrudes == (BASE,)


def test_what_cannot_be_mended_is_given_back():
    found = mended(extrude(TANGLED))
    assert found.result.verdict is Verdict.INVALID
    assert mended(extrude(SQUARE, one=0.0)).builds == 0


class Kernel:
    """A kernel that answers as it is told, for as long as the place it names is there, and notes what it was given."""

    def __init__(self, *answers: BuildResult) -> None:
        self.answers = list(answers)
        self.seen: list[Program] = []

    def __call__(self, part: Program) -> BuildResult:
        self.seen.append(part)
        answer = self.answers.pop(0) if self.answers else None
        if answer is None or (answer.where is not None and answer.where[0] >= len(part.extrudes)):
            return BuildResult(Verdict.OK, volume=1.0)
        return answer


MANY = program(BASE, *(extrude(circle(k, k, 1), operation=Operation.CUT) for k in range(9)))


def failed(*where: int, verdict: Verdict = Verdict.BUILD, reason: str = "the boolean operation failed") -> BuildResult:
    return BuildResult(verdict, reason, where=where or None)


def test_a_failure_that_moves_on_keeps_what_was_done():
    kernel = Kernel(failed(5))
    found = repair(MANY, failed(3), kernel)
    assert found.steps == (
        "extrude 4 (cut): left out: the boolean operation failed",
        "extrude 7 (cut): left out: the boolean operation failed",
    )


def test_a_failure_at_the_same_place_or_before_is_taken_back():
    kernel = Kernel(failed(2))
    found = repair(MANY, failed(3), kernel)
    assert len(kernel.seen[1].extrudes) == 3  # all that follows extrude 3 is left out
    assert found.steps[0] == "extrude 4 (cut): left out: the boolean operation failed"
    assert found.steps[1] == "extrude 5 (cut): left out: it follows extrude 4, which fails"


def test_the_last_builds_are_for_what_nearly_always_works():
    kernel = Kernel(*[failed(1)] * 5)
    found = repair(program(*MANY.extrudes, *MANY.extrudes), failed(1), kernel, most=8)
    assert found.result.ok
    assert [len(part.extrudes) for part in kernel.seen] == [19, 18, 17, 16, 15, 1]


def test_builds_are_counted_and_end():
    for most in (1, 2, 5):
        kernel = Kernel(*[failed(k, reason=f"{k}") for k in range(1, 10)])
        found = repair(MANY, failed(0), kernel, most)
        assert len(kernel.seen) == found.builds <= most


def test_no_program_is_built_twice():
    never = failed(verdict=Verdict.INVALID, reason="the solid fails the kernel's check")
    kernel = Kernel(*[never] * 30)
    repair(MANY, never, kernel, most=30)
    assert len(kernel.seen) == len(set(kernel.seen)) > 5


def test_what_takes_too_long_loses_the_operation_then_all_behind_it():
    slow = failed(6, verdict=Verdict.TIMEOUT, reason="not done within 2 s, at extrude 7 of 10")
    found = repair(MANY, slow, Kernel(failed(7, verdict=Verdict.TIMEOUT, reason="not done within 2 s, at extrude 8 of 9")))
    assert len(found.program.extrudes) == 6
    assert found.steps[0] == "extrude 7 (cut): left out: not done within 2 s"
    holes = program(extrude(Profile(SQUARE, tuple(circle(k, 0, 0.1) for k in range(60)))))
    late = failed(verdict=Verdict.TIMEOUT, reason="not done within 2 s, after its last extrude")
    assert repair(holes, late, Kernel()).program == program(BASE)


def test_a_failure_without_a_place_tries_cuts_and_halves():
    kernel = Kernel(*[failed(verdict=Verdict.INVALID, reason="the solid fails the kernel's check")] * 7)
    found = repair(program(*MANY.extrudes[:3]), failed(verdict=Verdict.INVALID, reason="x"), kernel)
    assert not found.result.ok
    assert {len(part.extrudes) for part in kernel.seen} == {1, 2}


def walk(seed: int, budget: int) -> Program:
    """A random grammatical program."""
    random_, state, tokens = random.Random(seed), grammar.START, []
    while state != grammar.DONE:
        allowed = [int(t) for t in np.flatnonzero(grammar.ALLOWED[state])]
        allowed = [t for t in allowed if grammar.TO_END[grammar.NEXT[state, t]] < budget - len(tokens)]
        tokens.append(random_.choice(allowed))
        state = int(grammar.NEXT[state, tokens[-1]])
    return decode(tokens)


def test_random_walks_are_mostly_mended():
    tried = mended_ = 0
    for seed in range(16):
        part = walk(seed, 60)
        result = made(part)
        if not result.ok:
            found = repair(part, result, made)
            tried += 1
            mended_ += found.result.ok
            assert found.builds <= 8
            assert found.result.ok == bool(found.steps)
    assert tried >= 5
    assert mended_ >= 0.6 * tried


def test_the_real_program_that_fails_is_mended(shared: Path):
    part = read_json(shared / "data" / "deepcad" / "json" / "0001" / "00011413.json")
    result = made(part)
    assert result.reason == "extrude 1, profile 2, loop 1 crosses itself"
    found = repair(part, result, made)
    assert found.result.ok
    assert found.builds == 1
    assert all("left out" not in step for step in found.steps)
    assert any(isinstance(curve, (Arc, Circle)) for curve in found.program.extrudes[0].sketches[0].profiles[0].outer.curves)
