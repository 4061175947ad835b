"""Procedural parts with captions: what the bundled data, the demo and `--create-dummy-data` are made of.

Part k of seed s is a pure function of (s, k) and of the parts before it (two parts never have the same token sequence), so
it does not depend on how many are asked for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from types import FunctionType

from cadmllm.cad import tokens
from cadmllm.cad.program import Program
from cadmllm.corpus import captions
from cadmllm.corpus.captions import Design
from cadmllm.corpus.families import FLAT
from cadmllm.corpus.families_cut import CUTS
from cadmllm.corpus.families_joined import JOINED
from cadmllm.corpus.families_outline import OUTLINES
from cadmllm.corpus.shapes import ONTO_BACK, ONTO_SIDE, UPRIGHT, Dice, placed

VERSION = 1  # of the generator: raised whenever the parts of a seed change, so that folders of two versions never mix
SHARD = 10_000  # parts a folder

FAMILIES: tuple[tuple[FunctionType, float], ...] = (*FLAT, *OUTLINES, *JOINED, *CUTS)
_TURNS = ((UPRIGHT, 72.0), (ONTO_BACK, 14.0), (ONTO_SIDE, 14.0))
_UNITS = ((0.5, 10.0), (1.0, 72.0), (2.0, 14.0), (5.0, 4.0))


@dataclass(frozen=True, slots=True)
class Part:
    """A generated part.

    Attributes:
        id: 'SHARD/NUMBER', e.g. '0000/00000001'.
        family: name of the function that drew it.
        program: in mm.
        captions: style -> text, the styles of `captions.STYLES`.
    """

    id: str
    family: str
    program: Program
    captions: dict[str, str]


def part_id(number: int) -> str:
    """The id of part `number`, counted from 0."""
    return f"{number // SHARD:04d}/{number:08d}"


def generate(count: int, seed: int) -> Iterator[Part]:
    """Parts 0 .. count-1 of a seed, all different, every program valid.

    Args:
        count: how many.
        seed: any integer.
    """
    seen: set[bytes] = set()
    for number in range(count):
        attempt = 0
        while True:
            part, key = draw(seed, number, attempt)
            if key not in seen:
                break
            attempt += 1  # simple families run out of new sizes: the next attempt may well be another family
        seen.add(key)
        yield part


def draw(seed: int, number: int, attempt: int = 0) -> tuple[Part, bytes]:
    """One part and the hash of its token sequence, by which duplicates are known."""
    dice = Dice(f"{VERSION}:{seed}:{number}:{attempt}")
    dice.unit = dice.weighted(_UNITS)
    family = dice.weighted(FAMILIES)
    design: Design = family(dice)
    turn = dice.weighted(_TURNS)
    offset = (0.0, 0.0, 0.0)
    if dice.chance(0.3):
        offset = (dice.size(-50, 50, 5), dice.size(-50, 50, 5), dice.size(-50, 50, 5))
    program = placed(design.extrudes, turn, offset)
    written = captions.write_captions(dice, design)
    sequence = " ".join(map(str, tokens.encode(program).tokens))
    key = hashlib.blake2b(sequence.encode(), digest_size=12).digest()
    return Part(part_id(number), family.__name__, program, written), key
