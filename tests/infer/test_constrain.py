"""The mask: whatever is sampled under it is a complete program within the budget."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cadmllm.cad import grammar
from cadmllm.cad.vocabulary import END
from cadmllm.errors import CadmllmError
from cadmllm.infer.constrain import FORBIDDEN, Constraint, Tables, cad_tables, tables

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
