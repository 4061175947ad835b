"""The finite-state grammar as tables, against the same language read by a person: `first_wrong` below knows no table."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cadmllm.cad.grammar import ALLOWED, DONE, NEXT, START, TO_END, accepts, first_fault
from cadmllm.cad.program import Program
from cadmllm.cad.tokens import decode, encode
from cadmllm.cad.vocabulary import (
    CLOSES,
    CURVES,
    END,
    EXTRUDES,
    FINE_BASE,
    GRID,
    HOLES,
    INDEX,
    NUMBER_BASE,
    OUTER,
    PLANES,
    SLOTS,
    VOCABULARY,
)
from cadmllm.errors import CadmllmError
from tests.strategies import programs


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


class Wrong(Exception):
    """At this place."""


class Reading:
    """A program read word by word."""

    def __init__(self, tokens: list[int]) -> None:
        self.tokens, self.at = tokens, 0

    def peek(self) -> int:
        return self.tokens[self.at] if self.at < len(self.tokens) else -1

    def command(self, *allowed: str) -> str:
        names = {INDEX[name]: name for name in allowed}
        if self.peek() not in names:
            raise Wrong(self.at)
        self.at += 1
        name = names[self.tokens[self.at - 1]]
        for kind in SLOTS.get(name, ()):
            self.number(kind)
        return name

    def level(self, first: int, last: int) -> int:
        if not NUMBER_BASE + first <= self.peek() <= NUMBER_BASE + last:
            raise Wrong(self.at)
        self.at += 1
        return self.tokens[self.at - 1] - NUMBER_BASE

    def fine(self, must: bool) -> None:
        if FINE_BASE < self.peek() < len(VOCABULARY):
            self.at += 1
        elif must:
            raise Wrong(self.at)

    def number(self, kind: str) -> None:
        if kind == "mantissa":
            self.level(100, 999)
        elif kind == "thousandths":
            if self.peek() > NUMBER_BASE:
                self.level(1, 999)
        elif kind == "exponent":
            self.command(*(f"e{k}" for k in range(-6, 6)))
        else:
            last = {"coord": 1536, "length": 1536, "tilt": 360, "turn": 1439, "sweep": 1439}[kind]
            level = self.level(0, last)
            if not (kind == "tilt" and level == 360):
                self.fine(must=kind in ("length", "sweep") and level == 0)

    def loop(self) -> None:
        straight = self.command(*CURVES) in ("line", "hline", "vline")
        more = self.command(*CURVES, *(CLOSES[1:] if straight else CLOSES))
        while more not in CLOSES:
            more = self.command(*CURVES, *CLOSES)

    def sketches(self, extrudes: tuple[str, ...]) -> None:
        """From behind the plane to the extrude."""
        shape = self.command(*OUTER)
        while shape not in EXTRUDES:
            if shape in ("loop", "hole"):
                self.loop()
            shape = self.command(*OUTER) if shape in PLANES else self.command(*OUTER, *HOLES, *PLANES, *extrudes)


def first_wrong(tokens: list[int]) -> int | None:
    """Where a person who knows the rules stops; None for a whole program."""
    reading = Reading(tokens)
    try:
        reading.command("size")
        first = True
        while first or reading.peek() != END:
            reading.command(*PLANES, *([] if first else ["end"]))
            reading.sketches(tuple(name for name in EXTRUDES if name.startswith("new")) if first else EXTRUDES)
            first = False
        reading.at += 1
        if reading.at < len(tokens):
            raise Wrong(reading.at)
    except Wrong as wrong:
        return wrong.args[0]
    return None


def walk(seed: int, limit: int) -> list[int]:
    """An accepted sequence: every way on is taken as often as any other, however few tokens lead there, and the first and last
    numbers of a range more often than those between."""
    rng = np.random.default_rng(seed)
    state, tokens = START, []
    lazy = rng.random() < 0.5  # every other one ends as late as it can
    while state != DONE:
        options = np.flatnonzero(ALLOWED[state])
        options = options[len(tokens) + 1 + TO_END[NEXT[state, options]] <= limit]
        if lazy and len(options) > 1:
            options = options[options != END]
        ways = np.unique(NEXT[state, options])
        options = options[NEXT[state, options] == rng.choice(ways)]
        edge = rng.random() < 0.3
        tokens.append(int(rng.choice(options[[0, -1]] if edge else options)))
        state = int(NEXT[state, tokens[-1]])
    return tokens


def spoil(tokens: list[int], kind: str, rng: np.random.Generator) -> list[int]:
    """Tokens with one change."""
    place, token = int(rng.integers(len(tokens))), int(rng.integers(len(VOCABULARY)))
    if rng.random() < 0.5:
        token = tokens[int(rng.integers(len(tokens)))]  # one that stands somewhere, perhaps a command
    other = list(tokens)
    if kind == "replace":
        other[place] = token
    elif kind == "insert":
        other.insert(place, token)
    elif kind == "delete":
        del other[place]
    elif kind == "swap":
        second = int(rng.integers(len(tokens)))
        other[place], other[second] = other[second], other[place]
    elif kind == "truncate":
        del other[place:]
    else:
        other += tokens[place:]
    return other


def named_place(error: CadmllmError) -> int:
    """The 0-based position that a message of E211 names."""
    found = re.match(r"token (\d+) \(", error.message)
    end = re.match(r"the end after (\d+) tokens", error.message)
    assert found or end, error.message
    return int(found[1]) - 1 if found else int(end[1]) if end else -1


@given(st.integers(0, 2**32), st.integers(12, 160))
@settings(max_examples=80, deadline=None)
def test_every_accepted_sequence_is_a_program_and_what_it_becomes_is_accepted_again(seed: int, limit: int):
    tokens = walk(seed, limit)
    assert len(tokens) <= limit
    assert first_wrong(tokens) is None
    program = decode(tokens)
    assert isinstance(program, Program)
    try:
        again = encode(program)
    except CadmllmError as error:
        assert error.code == "E212"  # noqa: PT017 (larger than a part may be, or flat)
    else:
        assert accepts(again.tokens)
        assert first_wrong(again.tokens) is None


def test_walks_reach_every_state_and_every_command():
    seen, used = set(), Counter()
    for seed in range(250):
        state = START
        for token in walk(seed, 120):
            used[token] += 1
            state = int(NEXT[state, token])
            seen.add(state)
    assert {VOCABULARY[token] for token in range(NUMBER_BASE) if not used[token]} == set()
    assert len(seen) > 0.95 * len(ALLOWED)


@pytest.mark.parametrize("kind", ["replace", "insert", "delete", "swap", "truncate", "append"])
def test_a_sequence_with_a_change_is_read_or_refused_where_a_person_stops(kind: str):
    rng = np.random.default_rng(8)
    outcomes = Counter()
    for seed in range(150):
        tokens = spoil(walk(seed, int(rng.integers(12, 100))), kind, rng)
        wrong = first_wrong(tokens)
        outcomes[wrong is None] += 1
        fault = first_fault(tokens)
        assert (None if fault is None else fault[0]) == wrong
        if wrong is None:
            decode(tokens)
            continue
        with pytest.raises(CadmllmError) as caught:
            decode(tokens)
        assert caught.value.code == "E211"
        assert named_place(caught.value) == wrong
    assert outcomes[False] > 60
    assert outcomes[True] > 0 or kind in ("truncate", "append", "delete")


@given(programs())
@settings(max_examples=50, deadline=None)
def test_what_the_encoder_writes_is_what_a_person_may_write(program: Program):
    assert first_wrong(encode(program).tokens) is None


def real_programs(folder: Path, every: int) -> Counter[str]:
    """How many programs of a folder are accepted, and why others are not programs of this language."""
    from cadmllm.cad.omnicad import read_json

    found: Counter[str] = Counter()
    for file in sorted(folder.rglob("*.json"))[::every]:
        try:
            tokens = encode(read_json(file)).tokens
        except CadmllmError as error:
            found[error.code] += 1
            continue
        assert accepts(tokens), file
        assert first_wrong(tokens) is None, file
        assert encode(decode(tokens)).tokens, file
        found["accepted"] += 1
    return found


@pytest.mark.parametrize(("folder", "every", "least"), [("deepcad/json", 8, 140), ("deepcad_hard", 2, 8), ("text2cad100", 4, 15)])
def test_real_programs_are_accepted(shared: Path, folder: str, every: int, least: int):
    assert real_programs(shared / "data" / folder, every)["accepted"] >= least


@pytest.mark.long
@pytest.mark.parametrize(("folder", "least"), [("deepcad/json", 1150), ("deepcad_hard", 18), ("text2cad100", 70)])
def test_all_real_programs_are_accepted(shared: Path, folder: str, least: int):
    assert real_programs(shared / "data" / folder, 1)["accepted"] >= least
