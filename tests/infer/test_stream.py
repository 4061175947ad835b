"""Answers while they are written."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cadmllm.cad.grammar import ALLOWED, DONE, NEXT, START, TO_END
from cadmllm.cad.listing import listing
from cadmllm.cad.tokens import decode, encode, from_text
from cadmllm.console import Console
from cadmllm.errors import CadmllmError
from cadmllm.infer.stream import Reader, fitted, watching
from tests.strategies import programs

TEXT = """size 40 mm
plane_z -128
rect -512 -256 1024 512
hole_circle 0 0 64.5
loop 0 0
hline 100
vline 100
close_arc 90
new_up 256
plane_x 0
circle 0 0 100
cut_down 20
end
"""
LINES = [
    "size 40 mm",
    "  sketch  on the XY plane at z = -5, origin (0, 0, -5), x along +X",
    "    outer  rectangle 40 x 20 from (-20, -10)",
    "    hole  circle Ø5.04 at (0, 0)",
    "    outer  loop of 2 lines and 1 arc",
    "      (0, 0) › (3.906, 0) › (3.906, 3.906) › R3.906 90° › back",
    "New body: extrude 10 mm along +Z",
    "  sketch  on the YZ plane, origin (0, 0, 0), x along +Y",
    "    outer  circle Ø7.812 at (0, 0)",
    "Cut: extrude 0.781 mm along -X",
]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    """A second later at each look."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


def walk(seed: int, steps: int) -> list[int]:
    """Tokens drawn from the grammar, ended within the steps."""
    generator = np.random.default_rng(seed)
    state, tokens = START, []
    while state != DONE:
        following = NEXT[state]
        may = np.flatnonzero(ALLOWED[state] & (TO_END[following] + len(tokens) < max(steps, 20)))
        may = may if len(may) else np.flatnonzero(ALLOWED[state] & (TO_END[following] < TO_END[state]))
        commands = may[may < 46]  # else almost all of them are numbers
        pool = commands if len(commands) and generator.random() < 0.7 else may
        tokens.append(int(generator.choice(pool)))
        state = int(NEXT[state, tokens[-1]])
    return tokens


def test_lines_come_when_their_instruction_is_over():
    tokens = from_text(TEXT)
    reader = Reader()
    told = [(count, line) for count in range(1, len(tokens) + 1) for line in reader.feed(tokens[:count])]
    assert [line for _, line in told] == LINES
    assert told[0][0] == 4  # when the plane begins: a size may have thousandths
    assert told[-1][0] == len(tokens)


def test_several_tokens_at_once_say_the_same():
    assert Reader().feed(from_text(TEXT)) == LINES


def test_an_unfinished_number_says_nothing_yet():
    tokens = from_text(TEXT)
    cut = from_text(TEXT.replace("hole_circle 0 0 64.5", "hole_circle 0 0 64"))
    place = next(k for k, (a, b) in enumerate(zip(tokens, cut, strict=False)) if a != b)
    for answer, size in ((tokens, "5.04"), (cut, "5")):
        reader = Reader()
        assert not any("hole" in line for line in reader.feed(answer[:place]))
        assert [f"    hole  circle Ø{size} at (0, 0)"] == [line for line in reader.feed(answer) if "hole" in line]


def test_what_waits_for_its_end_is_named():
    reader = Reader()
    reader.feed(from_text(TEXT)[:20])
    assert reader.doing == "loop, 0 curves so far" or reader.doing.startswith("loop, 1 curve")
    reader.feed(from_text(TEXT))
    assert reader.doing == ""


@given(st.integers(0, 10_000), st.integers(5, 300))
@settings(max_examples=50)
def test_whatever_the_grammar_allows_can_be_told(seed: int, steps: int):
    tokens = walk(seed, steps)
    reader = Reader()
    lines = [line for count in range(1, len(tokens) + 1) for line in reader.feed(tokens[:count])]
    assert lines == Reader().feed(tokens)
    assert not reader.left
    assert sum("extrude" in line and not line.startswith(" ") for line in lines) == len(decode(tokens).extrudes)


@given(programs())
@settings(max_examples=25)
def test_extrudes_are_told_as_the_listing_of_the_whole_part_tells_them(program):
    try:
        tokens = encode(program).tokens
    except CadmllmError:  # what cannot be put on the grid is not written by a model either
        return
    told = [line.partition(":")[0] for line in Reader().feed(tokens) if not line.startswith((" ", "size"))]
    assert told == [entry.text.partition(":")[0] for entry in listing(decode(tokens)) if entry.level == 0]


def test_tokens_outside_the_grammar_end_the_reading():
    tokens = from_text(TEXT)
    reader = Reader()
    lines = reader.feed([*tokens[:6], tokens[0], 10**9])
    assert lines[-1] == "token 7 is outside the grammar: what follows cannot be read"
    assert reader.left
    assert reader.feed([*tokens[:6], tokens[0], 10**9, 1, 2]) == []
    assert Reader().feed([-1])[-1].startswith("token 1 is outside")


def test_a_loop_that_draws_nothing_is_said():
    tokens = from_text("size 40 mm\nplane_z 0\nloop 0 0\nhline 0\nvline 0\nclose\nnew_up 256\nend\n")
    assert any("outer" in line and "no curve" in line for line in Reader().feed(tokens))


@pytest.mark.parametrize(
    ("json", "quiet", "err"), [(True, False, Terminal), (False, True, Terminal), (False, False, io.StringIO)]
)
def test_nothing_in_pipes_and_for_programs(json, quiet, err):
    with watching(Console(json, quiet, err=err())) as watch:
        assert watch is None


def test_one_answer_on_a_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")
    err = Terminal()
    with watching(Console(err=err), clock=Clock()) as watch:
        assert watch is not None
        tokens = from_text(TEXT)
        for count in range(1, len(tokens) + 1):
            watch(0, tokens[:count])
        watch(0, tokens[:5])
    text = err.getvalue()
    for line in LINES:
        assert f"\r\x1b[K  {line}\n" in text or f"\n  {line}\n" in text
    assert f"... tokens: {len(tokens) - 1}" in text
    assert "another answer:\n  size 40 mm\n" in text
    assert text.endswith("\r\x1b[K")


def test_a_dumb_terminal_has_lines_alone(monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setenv("COLUMNS", "200")
    err = Terminal()
    with watching(Console(err=err), clock=Clock()) as watch:
        assert watch is not None
        watch(0, from_text(TEXT))
    assert err.getvalue() == "".join(f"  {line}\n" for line in LINES)


def test_several_answers_are_counted(monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    err = Terminal()
    tokens = from_text(TEXT)
    with watching(Console(err=err), 3, clock=Clock()) as watch:
        assert watch is not None
        watch(0, tokens)
        watch(2, tokens[:10])
        watch(2, tokens[:4])  # another round
    text = err.getvalue()
    assert f"writing 3 answers: {len(tokens)} tokens, 1 done" in text
    assert f"writing 3 answers: {len(tokens) + 10} tokens, 1 done" in text
    assert f"writing 3 answers: {len(tokens) + 14} tokens, 0 done" in text
    assert "\n" not in text


def test_lines_are_cut_to_the_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    assert fitted("x" * 39) == "x" * 39
    assert fitted("x" * 40) == "x" * 36 + "..."
