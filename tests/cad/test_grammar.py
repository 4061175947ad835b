"""The finite-state grammar as tables."""

from __future__ import annotations

import numpy as np

from cadmllm.cad.grammar import ALLOWED, DONE, NEXT, START, TO_END, accepts, first_fault
from cadmllm.cad.vocabulary import EXTRUDES, FINE_BASE, GRID, INDEX, NUMBER_BASE, PLANES, VOCABULARY


def run(*items: str | int) -> int:
    """The state after commands (names) and levels (numbers); a string '+3' is a fine item."""
    state = START
    for item in items:
        token = NUMBER_BASE + item if isinstance(item, int) else FINE_BASE + int(item) if item.startswith("+") else INDEX[item]
        assert ALLOWED[state, token], (items, item)
        state = int(NEXT[state, token])
    return state


def may(state: int) -> set[str]:
    return {name for name, token in INDEX.items() if ALLOWED[state, token]}


HEAD = ("size", 400, "e-1", "plane_z", 600)


def test_tables_agree():
    assert ALLOWED.shape == NEXT.shape == (len(TO_END), len(VOCABULARY))
    assert np.array_equal(ALLOWED, NEXT >= 0)
    assert not ALLOWED[DONE].any()
    assert (ALLOWED.sum(axis=1)[np.arange(len(ALLOWED)) != DONE] > 0).all()


def test_every_state_is_reached_and_reaches_the_end():
    seen, frontier = {START}, [START]
    while frontier:
        for target in set(NEXT[frontier.pop()].tolist()) - seen - {-1}:
            seen.add(target)
            frontier.append(target)
    assert seen == set(range(len(ALLOWED)))
    assert (TO_END <= 20).all()
    assert TO_END[DONE] == 0


def test_to_end_is_the_length_of_the_shortest_way():
    for state in range(len(ALLOWED)):
        if state != DONE:
            assert TO_END[state] == TO_END[NEXT[state][ALLOWED[state]]].min() + 1


def test_an_extrude_follows_its_sketch():
    assert may(START) == {"size"}
    assert may(run("size", 400, "e-1")) == set(PLANES)  # no `end` before there is material
    assert not may(run(*HEAD)) & set(EXTRUDES)
    assert "new_up" in may(run(*HEAD, "circle", 768, 768, 100))


def test_the_first_extrude_is_a_new_body_and_later_ones_are_anything():
    first = run(*HEAD, "circle", 768, 768, 100)
    assert may(first) & set(EXTRUDES) == {"new_up", "new_down", "new_both", "new_two"}
    body = run(*HEAD, "circle", 768, 768, 100, "new_up", 64)
    assert {"end", *PLANES} == may(body) & {"end", *PLANES, "circle"}
    later = run(*HEAD, "circle", 768, 768, 100, "new_up", 64, "plane_x", 768, "rect", 700, 700, 10, 10)
    assert may(later) >= set(EXTRUDES)


def test_loops_close_only_when_they_can_enclose_something():
    assert "close" not in may(run(*HEAD, "loop", 1, 2))
    assert may(run(*HEAD, "loop", 1, 2, "hline", 5)) & {"close", "close_arc"} == {"close_arc"}
    assert "close" in may(run(*HEAD, "loop", 1, 2, "hline", 5, "vline", 9))
    assert "close" in may(run(*HEAD, "loop", 1, 2, "arc", 5, 9, 360))


def test_lengths_are_never_zero_and_angles_in_range():
    zero = run(*HEAD, "circle", 768, 768, 0)
    assert np.flatnonzero(ALLOWED[zero]).tolist() == list(range(FINE_BASE + 1, FINE_BASE + GRID.fine))
    sweep = run(*HEAD, "loop", 1, 2, "arc", 5, 9)
    levels = np.flatnonzero(ALLOWED[sweep][:FINE_BASE]) - NUMBER_BASE
    assert levels.max() * GRID.fine + GRID.fine - 1 < GRID.turn
    tilt = run("size", 400, "e-1", "plane_tilted")
    assert (np.flatnonzero(ALLOWED[tilt]) - NUMBER_BASE).max() * GRID.fine * 4 == GRID.turn


def test_fine_items_are_optional_and_never_doubled():
    with_fine = run(*HEAD, "+3")
    assert may(with_fine) == may(run(*HEAD))
    assert not ALLOWED[with_fine, FINE_BASE + 1 :].any()


def test_the_first_fault_is_named_by_place():
    assert first_fault([]) == (0, START)
    assert first_fault([INDEX["size"], INDEX["size"]])[0] == 1
    assert first_fault([INDEX["size"], 10**9])[0] == 1
    assert not accepts([INDEX["end"]])
