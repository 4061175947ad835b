"""Program <-> tokens <-> text.

Tokens are indices into `vocabulary.VOCABULARY`. The text form has an instruction a line, numbers in levels (512 are half the
longest side) and angles in degrees:

    size 40 mm
    plane_z -128
    rect -512 -256 1024 512
    hole_circle 0 0 64.5
    new_up 256
    end

An exported model prints items instead, `<cad:plane_z><cad:640>...`; `from_text` reads those as well.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cadmllm.cad.frame import Transform
from cadmllm.cad.grammar import first_fault
from cadmllm.cad.program import Program
from cadmllm.cad.quantise import quantise
from cadmllm.cad.realise import realise
from cadmllm.cad.vocabulary import (
    COMMANDS,
    END,
    EXPONENTS,
    FINE_BASE,
    GRID,
    INDEX,
    NUMBER_BASE,
    SLOTS,
    VOCABULARY,
    Grid,
    Instruction,
)
from cadmllm.errors import CadmllmError

_ANGLES = ("sweep", "tilt", "turn")
ITEMS = {item: token for token, item in enumerate(VOCABULARY)}


@dataclass(frozen=True, slots=True)
class Encoded:
    """What a program became.

    Attributes:
        tokens: indices into VOCABULARY, `end` included.
        transform: mm to the normalised frame; give it to `decode` to put the part back where it was.
        notes: what was left out because it is finer than the grid; empty for almost every part.
    """

    tokens: list[int]
    transform: Transform
    notes: tuple[str, ...]


def encode(program: Program) -> Encoded:
    """The token sequence of a valid program.

    Raises:
        CadmllmError: E212 when it cannot be put on the grid.
    """
    quantised = quantise(program)
    return Encoded(list(spell(quantised.instructions)), quantised.transform, quantised.notes)


def decode(tokens: Sequence[int], transform: Transform | None = None) -> Program:
    """The program of a token sequence, in mm.

    Args:
        tokens: indices into VOCABULARY, `end` last.
        transform: that of `encode`; by default the part is centred on the origin, in the size that its `size` instruction states.

    Raises:
        CadmllmError: E211 when the grammar does not accept the sequence, naming the position.
    """
    return realise(parse(tokens), transform)


def spell(instructions: Iterable[Instruction], grid: Grid = GRID) -> Iterable[int]:
    """Tokens of instructions."""
    fine_base = NUMBER_BASE + grid.levels - 1
    for instruction in instructions:
        yield INDEX[instruction.command]
        for kind, number in zip(SLOTS[instruction.command], instruction.numbers, strict=True):
            if kind == "exponent":
                yield INDEX[f"e{number}"]
            elif kind == "mantissa" or (kind == "thousandths" and number):
                yield NUMBER_BASE + number
            elif kind != "thousandths":
                level, fine = divmod(number, grid.fine)
                yield NUMBER_BASE + level + (grid.zero if kind == "coord" else 0)
                if fine:
                    yield fine_base + fine


def parse(tokens: Sequence[int]) -> list[Instruction]:
    """Instructions of tokens.

    Raises:
        CadmllmError: E211 naming the first token that may not stand where it stands.
    """
    fault = first_fault(tokens)
    if fault is not None:
        position = fault[0]
        found = (
            f"token {position + 1} ({_name(tokens[position])})"
            if position < len(tokens)
            else f"the end after {len(tokens)} tokens"
        )
        raise CadmllmError("E211", f"{found} may not stand there", "generate with the grammar on, or correct the text")
    out: list[Instruction] = []
    place = 0
    while place < len(tokens):
        command = COMMANDS[tokens[place]]
        place += 1
        numbers = []
        for kind in SLOTS[command]:
            token = tokens[place]
            if kind == "exponent":
                numbers.append(EXPONENTS[token - INDEX[f"e{EXPONENTS[0]}"]])
            elif kind == "thousandths" and token < NUMBER_BASE:
                numbers.append(0)
                continue
            elif kind in ("mantissa", "thousandths"):
                numbers.append(token - NUMBER_BASE)
            else:
                number = (token - NUMBER_BASE - (GRID.zero if kind == "coord" else 0)) * GRID.fine
                if place + 1 < len(tokens) and tokens[place + 1] > FINE_BASE:
                    place += 1
                    number += tokens[place] - FINE_BASE
                numbers.append(number)
            place += 1
        out.append(Instruction(command, tuple(numbers)))
    return out


def to_text(tokens: Sequence[int]) -> str:
    """The readable form, an instruction a line. Raises E211 like `parse`."""
    lines = []
    for instruction in parse(tokens):
        if instruction.command == "size":
            mantissa, thousandths, exponent = instruction.numbers
            lines.append(f"size {_decimal((mantissa * 1000 + thousandths), exponent - 3)} mm")
            continue
        words = [instruction.command]
        for kind, number in zip(SLOTS[instruction.command], instruction.numbers, strict=True):
            words.append(f"{number * 360.0 / GRID.turn:.10g}" if kind in _ANGLES else f"{number / GRID.fine:.10g}")
        lines.append(" ".join(words))
    return "\n".join(lines) + "\n"


def to_items(tokens: Iterable[int]) -> str:
    """The items of tokens one after another, as the tokenizer of an exported model prints them: '<cad:size><cad:400>...'."""
    return "".join(VOCABULARY[token] for token in tokens)


def from_text(text: str) -> list[int]:
    """Tokens of the readable form, in which blank lines and what follows a '#' are skipped; or of items (`to_items`).

    Raises:
        CadmllmError: E211 naming the line, or the item.
    """
    if text.lstrip().startswith(VOCABULARY[0][:5]):
        return _from_items(text)
    instructions = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split("#", 1)[0].split()
        if words:
            instructions.append(_read_line(words, number))
    tokens = list(spell(instructions))
    parse(tokens)
    return tokens


def _from_items(text: str) -> list[int]:
    tokens = []
    for number, item in enumerate(text.replace(">", "> ").split(), 1):
        token = ITEMS.get(item)
        if token is None:
            raise CadmllmError("E211", f"item {number}: {item[:40]!r} is not of the CAD vocabulary", "give the answer as it came")
        tokens.append(token)
    parse(tokens)
    return tokens


def _read_line(words: list[str], line: int) -> Instruction:
    command, values = words[0], words[1:]
    if command not in SLOTS:
        raise CadmllmError("E211", f"line {line}: unknown command {command[:40]!r}", f"use one of {', '.join(SLOTS)}")
    kinds = SLOTS[command]
    expected = 2 if command == "size" else len(kinds)
    if len(values) != expected:
        raise CadmllmError("E211", f"line {line}: {command} takes {expected} values, not {len(values)}", "correct the line")
    if command == "size":
        return Instruction(command, _read_size(values, line))
    return Instruction(command, tuple(_read_number(kind, value, line) for kind, value in zip(kinds, values, strict=True)))


def _read_size(values: list[str], line: int) -> tuple[int, int, int]:
    side = _float(values[0], line)
    if values[1] != "mm" or not 1e-4 <= side < 1e8:
        raise CadmllmError("E211", f"line {line}: a size is written as `size 40 mm`, 1e-4 to 1e8", "correct the line")
    exponent = math.floor(math.log10(side)) - 2
    whole = round(side * 10.0 ** (3 - exponent))
    if whole >= 1_000_000:
        whole, exponent = 100_000, exponent + 1
    return whole // 1000, whole % 1000, exponent


def _read_number(kind: str, value: str, line: int) -> int:
    number = _float(value, line)
    steps = round(number * (GRID.turn / 360.0 if kind in _ANGLES else GRID.fine))
    low, high = _limits(kind)
    if not low <= steps <= high:
        raise CadmllmError("E211", f"line {line}: {value} is out of range for a {kind}", "correct the number")
    return steps


def _limits(kind: str) -> tuple[int, int]:
    if kind == "coord":
        return -GRID.reach, GRID.reach + GRID.fine - 1
    if kind == "tilt":
        return 0, GRID.turn // 4
    return (0 if kind == "turn" else 1), (GRID.levels * GRID.fine - 1 if kind == "length" else GRID.turn - 1)


def _float(value: str, line: int) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise CadmllmError("E211", f"line {line}: {value[:40]!r} is not a number", "correct the number")
    return number


def _decimal(digits: int, exponent: int) -> str:
    return f"{digits * 10.0**exponent:.6g}" if exponent >= 0 else f"{digits / 10.0**-exponent:.6g}"


def _name(token: int) -> str:
    return VOCABULARY[token] if 0 <= token < len(VOCABULARY) else str(token)


__all__ = ["END", "Encoded", "decode", "encode", "from_text", "parse", "spell", "to_items", "to_text"]
