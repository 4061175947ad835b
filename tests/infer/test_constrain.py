"""The mask: whatever is sampled under it is a complete program within the budget."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from cadmllm.cad import grammar
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
from cadmllm.cad.tokens import decode, to_text
from cadmllm.cad.vocabulary import END
from cadmllm.corpus.types import Sample
from cadmllm.errors import CadmllmError
from cadmllm.infer.constrain import FORBIDDEN, Constraint, Tables, cad_tables, tables
from cadmllm.infer.generate import generate

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def cad() -> Tables:
    return cad_tables("cpu")


def write(cad: Tables, rows: int, budget: int, generator: torch.Generator, liking: float = 0.0) -> list[list[int]]:
    """Answers of a model that knows nothing; `liking` discourages the end token."""
    constraint = Constraint(cad, rows, budget)
    written = []
    while not bool(constraint.done.all()):
        logits = torch.randn(rows, cad.cost.shape[1], generator=generator) * 3.0
        logits[:, END] -= liking
        masked = constraint.mask(logits)
        tokens = torch.where(constraint.done, END, masked.argmax(dim=-1))
        constraint.update(tokens)
        written.append(tokens)
    rows_ = torch.stack(written, dim=1).tolist()
    return [row[: row.index(END) + 1] for row in rows_]


@pytest.mark.parametrize("budget", [16, 17, 24, 40, 100, 300])
def test_random_scores_give_complete_programs_within_the_budget(cad: Tables, budget: int) -> None:
    generator = torch.Generator().manual_seed(budget)
    for row in write(cad, 64, max(budget, cad.shortest), generator, liking=100.0):
        assert len(row) <= max(budget, cad.shortest)
        assert grammar.accepts(row), row


def test_the_shortest_budget_is_enough_and_one_less_is_refused(cad: Tables) -> None:
    rows = write(cad, 8, cad.shortest, torch.Generator().manual_seed(0), liking=100.0)
    assert {len(row) for row in rows} == {cad.shortest}
    with pytest.raises(CadmllmError) as caught:
        Constraint(cad, 1, cad.shortest - 1)
    assert caught.value.code == "E102"


def test_the_cost_table_says_what_the_grammar_says(cad: Tables) -> None:
    cost = cad.cost.numpy()
    reachable = grammar.ALLOWED & (grammar.TO_END[np.where(grammar.ALLOWED, grammar.NEXT, grammar.DONE)] < FORBIDDEN - 1)
    states = np.arange(len(grammar.ALLOWED)) != grammar.DONE
    assert ((cost < FORBIDDEN) == reachable)[states].all()
    assert (cost[grammar.DONE] == 0).all()
    assert (cost[states].min(axis=1) == grammar.TO_END[states]).all()


def test_a_tight_budget_leaves_the_shortest_way_alone() -> None:
    # 0 -a-> 1, 0 -b-> 2, 1 -end-> 3, 2 -a-> 1, 2 -b-> 2; 3 is done
    end, a, b = 0, 1, 2
    allowed = np.zeros((4, 3), bool)
    following = np.full((4, 3), 3, np.int32)
    for state, token, to in ((0, a, 1), (0, b, 2), (1, end, 3), (2, a, 1), (2, b, 2)):
        allowed[state, token], following[state, token] = True, to
    small = tables(allowed, following, np.array([2, 1, 2, 0], np.int32), 0, 3, "cpu")
    assert small.shortest == 2

    def permitted(constraint: Constraint) -> list[list[bool]]:
        return (constraint.mask(torch.zeros(len(constraint.state), 3)) == 0.0).tolist()

    constraint = Constraint(small, 2, 3)
    assert permitted(constraint) == [[False, True, True]] * 2
    constraint.update(torch.tensor([b, a]))
    assert permitted(constraint) == [[False, True, False], [True, False, False]]
    constraint.update(torch.tensor([a, end]))
    assert constraint.done.tolist() == [False, True]
    assert permitted(constraint) == [[True, False, False], [True, True, True]]
    constraint.update(torch.tensor([end, b]))
    assert constraint.done.tolist() == [True, True]


def test_masking_leaves_the_given_scores_alone(cad: Tables) -> None:
    logits = torch.randn(3, cad.cost.shape[1])
    before = logits.clone()
    masked = Constraint(cad, 3, 64).mask(logits)
    assert torch.equal(logits, before)
    kept = masked > float("-inf")
    assert torch.equal(masked[kept], logits[kept])
    assert not bool(kept.all())


def complaints(program: Program, size: float) -> list[str]:
    """What is wrong with a program, read from its numbers: nothing here knows tokens or a grammar.

    Args:
        program: decoded, about the origin.
        size: its longest side in mm.
    """
    found = [] if program.extrudes and program.extrudes[0].operation is Operation.NEW_BODY else ["does not begin with a body"]
    reach = 1.5 * size / 2 * 1.002  # coordinates go up to 768 and 15 sixteenths of 512 levels
    for extrude in program.extrudes:
        low, high = extrude.extent.interval
        if not low < high or high - low > 4 * reach:
            found.append(f"extends from {low} to {high}")
        if not extrude.sketches or any(not sketch.profiles for sketch in extrude.sketches):
            found.append("an extrude without its sketch")
        for sketch in extrude.sketches:
            if max(map(abs, sketch.plane.origin)) > reach:
                found.append(f"a plane at {sketch.plane.origin}")
            for loop in (loop for profile in sketch.profiles for loop in (profile.outer, *profile.inner)):
                found += _of_loop(loop, reach)
    return found


def _of_loop(loop: Loop, reach: float) -> list[str]:
    found = []
    for curve in loop.curves:
        points = (curve.center,) if isinstance(curve, Circle) else (curve.start, curve.end)
        # a rectangle's far corner is a coordinate and a length
        if max(abs(value) for point in points for value in point) > 3 * reach:
            found.append(f"a point at {points}")
        if isinstance(curve, Circle) and not (0 < curve.radius <= 2 * reach and len(loop.curves) == 1):
            found.append(f"a circle of radius {curve.radius} among {len(loop.curves)}")
        if isinstance(curve, Arc) and not 0 < abs(curve.sweep) < 2 * math.pi:
            found.append(f"an arc over {curve.sweep}")
    chain = [curve for curve in loop.curves if not isinstance(curve, Circle)]
    if chain:
        ends = [(one.end, after.start) for one, after in itertools.pairwise([*chain, chain[0]])]
        found += [f"an open loop: {end} to {start}" for end, start in ends if end != start]
    return found


@pytest.mark.parametrize(("budget", "count"), [(16, 400), (40, 300), (120, 200), (512, 100)])
def test_a_thousand_answers_of_random_weights_are_a_thousand_programs(tiny_qwen3, budget: int, count: int) -> None:
    """1,000 over all budgets, at temperatures 1 and 3, of a decoder that has learned nothing."""
    samples = [Sample(f"0000/{k}", "text", f"{'long ' * k}plate", None) for k in range(5)]
    temperatures = [1.0, 3.0] * (count // 10)
    answers = generate(
        *(tiny_qwen3, samples), max_new_tokens=budget, temperature=temperatures, copies=count // 5, batch_size=count, seed=budget
    )
    assert len(answers) == count
    assert len({answer.tokens for answer in answers}) > 0.95 * count
    for answer in answers:
        tokens = list(answer.tokens)
        assert answer.finished
        assert len(tokens) <= budget
        assert grammar.accepts(tokens)
        program = decode(tokens)
        size = float(to_text(tokens).split()[1])
        assert complaints(program, size) == []
    assert max(len(answer.tokens) for answer in answers) > 0.9 * min(budget, 300)


def test_the_complaints_are_heard() -> None:
    """The reader above finds what it looks for."""
    line = Loop((Line((0.0, 0.0), (1.0, 0.0)), Line((1.0, 0.0), (1.0, 1.0)), Line((1.0, 1.0), (0.5, 0.0))))
    wild = Loop((Arc((0.0, 0.0), (99.0, 0.0), 7.0), Line((99.0, 0.0), (0.0, 0.0))))
    sketch = Sketch(Plane((99.0, 0.0, 0.0)), (Profile(line, (wild, Loop((Circle((0.0, 0.0), 0.0),)))),))
    program = Program((Extrude((sketch,), Operation.CUT, Extent(ExtentType.ONE_SIDE, 0.0)),))
    said = " ".join(complaints(program, 2.0))
    for words in ("begin with a body", "extends", "a plane at", "an open loop", "an arc over 7", "a point at", "a circle of"):
        assert words in said
    bare = Extrude((), Operation.NEW_BODY, Extent(ExtentType.ONE_SIDE, 1.0))
    assert "without its sketch" in " ".join(complaints(Program((bare,)), 2.0))
