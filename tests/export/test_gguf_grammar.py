"""`cad.gbnf` against the automaton that it was made of: read by rules of our own, every state, every item."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cadmllm.cad.grammar import ALLOWED, DONE, NEXT, START
from cadmllm.cad.vocabulary import END, VOCABULARY
from cadmllm.export.gguf_grammar import _range, _runs, grammar, write_grammar

PART = re.compile(r'"((?:[^"\\])*)"|(\[[0-9]-[0-9]\])|([a-z][a-z0-9-]*)')


@pytest.fixture(scope="module")
def rules() -> dict[str, str]:
    """Name -> what stands on its right side."""
    lines = [line for line in grammar().splitlines() if not line.startswith("#")]
    return dict(line.split(" ::= ") for line in lines)


def _compiled(alternative: str, rules: dict[str, str]) -> tuple[str, str]:
    """Regular expression of the text that an alternative reads, and the state's rule that follows."""
    pattern, behind = "", ""
    for text, digits, name in PART.findall(alternative):
        if name.startswith("s"):
            behind = name
        elif name:
            pattern += "(?:" + "|".join(_compiled(part, rules)[0] for part in rules[name].split(" | ")) + ")"
        else:
            pattern += digits or re.escape(text)
    return pattern, behind


def test_every_state_admits_what_the_automaton_admits(rules: dict[str, str]) -> None:
    assert rules["root"] == f"s{START}"
    read: dict[str, frozenset[int]] = {}
    for state in range(len(NEXT)):
        if state == DONE:
            continue
        found = np.full(len(VOCABULARY), -1)
        for alternative in rules[f"s{state}"].split(" | "):
            if alternative == '""':
                found[END] = DONE
                continue
            pattern, behind = _compiled(alternative, rules)
            if pattern not in read:
                read[pattern] = frozenset(k for k, text in enumerate(VOCABULARY) if re.fullmatch(pattern, text))
            assert read[pattern], alternative
            for token in read[pattern]:
                assert found[token] == -1, "an item leads to one state"
                found[token] = int(behind[1:])
        assert np.array_equal(found, np.where(ALLOWED[state], NEXT[state], -1)), state


def test_no_item_begins_another() -> None:
    """So llama.cpp, which reads text, cannot take two items for one."""
    ordered = sorted(VOCABULARY)
    assert not any(long.startswith(short) for short, long in zip(ordered, ordered[1:], strict=False))


@given(st.integers(0, 2000), st.integers(0, 2000))
def test_ranges_of_numbers_are_exact(one: int, other: int) -> None:
    first, last = sorted((one, other))
    rules: dict[str, str] = {}
    pattern, _ = _compiled(_range(first, last, rules), rules)
    near = {max(0, first - 1), first, first + 1, (first + last) // 2, max(0, last - 1), last, last + 1, last * 10, first // 10}
    for number in near:
        assert bool(re.fullmatch(pattern, str(number))) == (first <= number <= last), number
    assert not re.fullmatch(pattern, f"0{first}")


@given(st.sets(st.integers(0, 60)))
def test_runs_are_unbroken_and_whole(values: set[int]) -> None:
    runs = _runs(sorted(values)) if values else []
    assert [k for first, last in runs for k in range(first, last + 1)] == sorted(values)
    assert all(later[0] > former[1] + 1 for former, later in zip(runs, runs[1:], strict=False))


def test_the_file_is_small_and_says_what_it_is(tmp_path) -> None:
    path = write_grammar(tmp_path)
    assert path.name == "cad.gbnf"
    assert path.read_text().startswith("# the grammar of cadmllm")
    assert path.stat().st_size < 200_000
