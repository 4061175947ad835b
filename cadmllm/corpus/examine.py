"""What one file of a data set holds and what is wrong with it: pure functions that run in worker processes.

None of them raises for anything that a file may hold, opens what is no regular file, or follows a file to another one. What
they find depends on the file and on `VERSION` alone, never on settings.
"""

from __future__ import annotations

import hashlib
import struct
from collections import Counter
from pathlib import Path

import cadmllm
from cadmllm.cad import omnicad
from cadmllm.cad.bounds import program_box
from cadmllm.cad.program import Arc, Circle, ExtentType, Operation, Program
from cadmllm.cad.vocabulary import VOCABULARY
from cadmllm.corpus import duplicates
from cadmllm.corpus.examine_files import examine_cloud, examine_views
from cadmllm.corpus.facts import Facts, Flaw, Value
from cadmllm.corpus.rawfile import json_of, other_encoding, read_raw
from cadmllm.errors import CadmllmError

RULES = 2  # to be raised whenever a file would be judged differently
_VOCABULARY = hashlib.blake2b("|".join(VOCABULARY).encode(), digest_size=8).hexdigest()
VERSION = f"{cadmllm.__version__}/{RULES}/{duplicates.VERSION}/{_VOCABULARY}"
LARGEST_PROGRAM = 16 * 2**20  # bytes; the longest real program has 0.6 MB, and JSON takes up to 20 times its size in memory
LEAVE_OUT = "leave this file out of the data set"
_OPERATIONS = {op: op.name.lower() for op in Operation}
_EXTENTS = {kind: kind.name.lower() for kind in ExtentType}


def examine_program(path: Path) -> Facts:
    """What a program file holds, as far as it can be told without a kernel.

    Returns:
        Values: `length` (tokens of the target, END included), `digest` (16 hex digits of the token sequence), `near`
        (`duplicates.signatures`), `extrudes`, `sketches` (profiles), `loops`, `curves` (by 'line', 'arc', 'circle'),
        `operations` ('new_body', 'join', 'cut', 'intersect'), `extents` ('one_side', 'symmetric', 'two_sides'), `size`
        ([x, y, z] mm of the program's box), `box` (the recorded bounding box, low then high corner, mm, or None).
        Flaws: E201 to E214, E410, E420 to E422, E424.
    """
    from cadmllm.cad import tokens  # its tables take a moment to make, and mostly nothing is new

    notes: list[str] = []
    left_out: list[str] = []
    try:
        raw = read_raw(path, LARGEST_PROGRAM, "E201", LEAVE_OUT)
        data = json_of(raw, path, "E202", LEAVE_OUT, notes)
        program = omnicad.parse(data, str(path), left_out)
        encoded = tokens.encode(program)
    except CadmllmError as error:
        return Facts({}, (_failed(error, path),))
    flaws = [Flaw("E203", "warn", str(path), note) for note in notes]
    if encoding := other_encoding(raw):
        flaws.append(Flaw("E410", "warn", str(path), f"{path} is {encoding}, not UTF-8: it is read, but not by every tool"))
    flaws += [Flaw("E209", "info", str(path), note) for note in left_out]
    flaws += [Flaw("E212", "info", str(path), f"{path}: {note}") for note in encoded.notes]
    return Facts(_values(program, encoded.tokens, omnicad.box_of(data)), tuple(flaws))


def _failed(error: CadmllmError, path: Path) -> Flaw:
    named = error.message if str(path) in error.message else f"{path}: {error.message}"
    return Flaw(error.code, "fail", str(path), named)


def _values(program: Program, target: list[int], box: tuple | None) -> dict[str, Value]:
    profiles = [p for extrude in program.extrudes for sketch in extrude.sketches for p in sketch.profiles]
    loops = [loop for profile in profiles for loop in (profile.outer, *profile.inner)]
    curves = Counter(type(curve) for loop in loops for curve in loop.curves)
    arcs, circles = curves.pop(Arc, 0), curves.pop(Circle, 0)
    low, high = program_box(program)
    digest = hashlib.blake2b(struct.pack(f"<{len(target)}H", *target), digest_size=8).hexdigest()
    return {
        "length": len(target),
        "digest": digest,
        "near": list(duplicates.signatures(program)),
        "extrudes": len(program.extrudes),
        "sketches": len(profiles),
        "loops": len(loops),
        "curves": {"line": curves.total(), "arc": arcs, "circle": circles},
        "operations": dict(Counter(_OPERATIONS[extrude.operation] for extrude in program.extrudes)),
        "extents": dict(Counter(_EXTENTS[extrude.extent.type] for extrude in program.extrudes)),
        "size": [b - a for a, b in zip(low, high, strict=True)],
        "box": [*box[0], *box[1]] if box else None,
    }


__all__ = ["VERSION", "examine_cloud", "examine_program", "examine_views"]
