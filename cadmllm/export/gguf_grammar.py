"""The grammar of answers for llama.cpp (`--grammar-file cad.gbnf`): the automaton of `cad/grammar`, a rule a state.

llama.cpp's grammars work on the text of tokens. Every CAD item is one token whose text no other item begins with, and no text
token is ever sampled (`tokenizer.ggml.suppress_tokens`), so the grammar admits what the automaton admits. The end item has no
text there: llama.cpp lets a token that ends the answer pass where the grammar may end.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cadmllm.cad.grammar import ALLOWED, DONE, NEXT, START
from cadmllm.cad.vocabulary import END, FINE_BASE, GRID, NUMBER_BASE, VOCABULARY

FILE = "cad.gbnf"
HEADER = "# the grammar of cadmllm's answers; with it llama.cpp writes whole CAD programs only\n"


def write_grammar(folder: Path) -> Path:
    """Write `cad.gbnf` into a folder."""
    path = folder / FILE
    path.write_text(grammar(), encoding="utf-8")
    return path


def grammar() -> str:
    """The rules, as text: `root`, one a state of the automaton, and one a range of numbers."""
    ranges: dict[str, str] = {}
    rules = [f"root ::= {_rule(START)}"]
    for state in range(len(NEXT)):
        if state != DONE:
            rules.append(f"{_rule(state)} ::= {' | '.join(_alternatives(state, ranges))}")
    return HEADER + "\n".join([*rules, *(f"{name} ::= {rule}" for name, rule in ranges.items())]) + "\n"


def _rule(state: int) -> str:
    return f"s{state}"


def _alternatives(state: int, ranges: dict[str, str]) -> list[str]:
    """What a state's rule may be: an item and the rule of the state behind it; nothing where an answer may end."""
    tokens = np.flatnonzero(ALLOWED[state])
    found = [f'"{VOCABULARY[token]}" {_rule(NEXT[state, token])}' for token in tokens if token < NUMBER_BASE and token != END]
    for base, last, sign in ((NUMBER_BASE, FINE_BASE, ""), (FINE_BASE + 1, len(VOCABULARY) - 1, "+")):
        numbers = tokens[(tokens >= base) & (tokens <= last)]
        for target in dict.fromkeys(NEXT[state, numbers].tolist()):
            values = (numbers[NEXT[state, numbers] == target] - base + (sign == "+")).tolist()
            for first, final in _runs(values):
                found.append(f'"<cad:{sign}" {_range(first, final, ranges)} ">" {_rule(target)}')
    return [*found, '""'] if ALLOWED[state, END] else found


def _runs(values: list[int]) -> list[tuple[int, int]]:
    """First and last of every unbroken run in ascending values."""
    cuts = [0, *(k for k in range(1, len(values)) if values[k] != values[k - 1] + 1), len(values)]
    return [(values[a], values[b - 1]) for a, b in zip(cuts, cuts[1:], strict=False)]


def _range(first: int, last: int, ranges: dict[str, str]) -> str:
    """The name of a rule for the decimal numbers first..last."""
    name = f"n{first}-{last}"
    if name not in ranges:
        parts = []
        low = first
        while low <= last:  # as many numbers at a time as differ in their last digits alone
            size = 1
            while low % (10 * size) == 0 and low + 10 * size - 1 <= last and low != 0:
                size *= 10
            digits = len(str(size)) - 1
            top = min((last - low + 1) // size, 10 - low // size % 10) - 1
            head, digit = str(low // size)[:-1], low // size % 10
            parts.append(f'"{head}" [{digit}-{digit + top}]' + " [0-9]" * digits)
            low += size * (top + 1)
        ranges[name] = " | ".join(part.removeprefix('"" ') for part in parts)
    return name


assert GRID.levels == FINE_BASE + 1 - NUMBER_BASE
