"""An answer brought to the size that was asked for, by `--size` or in the prompt, and all that was done in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cadmllm.cad.bounds import Box, program_box
from cadmllm.cad.program import Point3, Program
from cadmllm.cad.rescale import scaled, stretched
from cadmllm.errors import CadmllmError
from cadmllm.infer.agreement import AGREES, Lengths, assigned, consensus, lengths_of, meets, nearest, only_length, overall
from cadmllm.infer.dimensions import Dimension, Size

FARTHEST = 10.0  # of `--size`: greatest over least factor up to which a part is stretched; beyond it another part was meant
FARTHEST_SAID = 2.0  # of lengths in the prompt, which may be of something else than the whole
EXACT = 1e-6  # of `--size`: a factor this close to 1 changes nothing
CLOSE = 2e-3  # of lengths in the prompt: what came out this close stays as it is
AXES = "xyz"


@dataclass(frozen=True, slots=True)
class Fitted:
    """The program in its final size.

    Attributes:
        program: the one that was given where nothing had to be done.
        factors: along x, y, z.
        notes: what was done and why, what agrees with the prompt and what does not; empty when nothing was asked.
    """

    program: Program
    factors: tuple[float, float, float] = (1.0, 1.0, 1.0)
    notes: tuple[str, ...] = ()


def fit(program: Program, box: Box | None, size: Size | None, dimensions: Sequence[Dimension] = ()) -> Fitted:
    """Bring a program to size; the centre of its box stays where it is.

    Three sides are an exact size: the part is stretched to it where the language can say that (`rescale.stretched`; circles
    stay round) and its proportions are within a factor of `FARTHEST` (of a prompt: `FARTHEST_SAID`), else scaled so that the
    longest sides agree. Sides belong to x, y, z in the order given; but a model's orientation is its own, so they are dealt out
    to the closest proportions, and it is said where that changes the order. One or two sides, and single dimensions of a
    prompt, scale the part by one factor: two sides by the longer one; dimensions by the factor at which most of them agree.

    Args:
        program: a valid one.
        box: the kernel's box, mm; None: that of the material that is added.
        size: from `parse_size`; it goes before what the prompt says.
        dimensions: from `dimensions_in`.

    Returns:
        A valid program; what a stretched one becomes in the kernel is for the caller to build.
    """
    box = box or program_box(program)
    lengths = lengths_of(program, box)
    whole = overall(dimensions, lengths)
    if size is not None:
        fitted = _to_size(program, box, size)
    elif whole:
        words = list(dict.fromkeys(item.words for item in whole))
        fitted = _three(program, box, [item.mm for item in whole], f"the prompt's {', '.join(words)}", CLOSE, FARTHEST_SAID)
    elif dimensions:
        fitted = _by_consensus(program, box, dimensions, lengths)
    else:
        return Fitted(program)
    rest = list(dimensions) if size is not None else [item for item in dimensions if item not in whole]
    grown = _times(box, fitted.factors)
    return Fitted(fitted.program, fitted.factors, (*fitted.notes, *_compared(rest, lengths_of(fitted.program, grown))))


def _to_size(program: Program, box: Box, size: Size) -> Fitted:
    sides, own = size.sides, _sides(box)
    known = size.known
    if len(known) == 3:
        return _three(program, box, list(known), f"the size {size.text}", EXACT, FARTHEST)
    if len(sides) == 1:
        return _uniform(program, box, known[0] / max(own), f"the size {size.text}: the longest side", EXACT)
    if len(known) == 1:
        axis = sides.index(known[0])
        return _uniform(program, box, known[0] / own[axis], f"the size {size.text}: the {AXES[axis]} side", EXACT)
    dealt, spread = assigned(sides, own)
    axis = max((k for k in range(3) if dealt[k] is not None), key=lambda k: dealt[k] or 0.0)
    length = dealt[axis]
    assert length is not None
    why = f"the size {size.text}: its longer side, along {AXES[axis]}"
    if spread > 1.0 + AGREES:
        why += f"; the other one does not come out, as the part has other proportions (by {spread:.3g} to 1)"
    return _uniform(program, box, length / own[axis], why, EXACT)


def _three(program: Program, box: Box, wanted: Sequence[float], what: str, near: float, farthest: float) -> Fitted:
    """Three sides: exactly, or by the longest one."""
    own = _sides(box)
    dealt, spread = assigned(wanted, own)
    target = (dealt[0] or own[0], dealt[1] or own[1], dealt[2] or own[2])
    notes = []
    if any(abs(a - b) > 1e-9 * a for a, b in zip(target, wanted, strict=True)):
        notes.append(f"{what}: taken as {_show(target)} along x, y, z, which is how this part stands")
    x, y, z = (side / length for side, length in zip(target, own, strict=True))
    if max(abs(x - 1.0), abs(y - 1.0), abs(z - 1.0)) <= near:
        return Fitted(program, notes=(*notes, f"{what}: so it came out"))
    why = f"its proportions are off by {spread:.3g} to 1, more than {farthest:g}"
    if spread <= farthest:
        exact = _stretched(program, box, (x, y, z))
        if not isinstance(exact, str):
            return Fitted(exact[0], (x, y, z), (*notes, f"{what}: {exact[1]}, {_show(own)} became {_show(target)}"))
        why = exact
    axis = max(range(3), key=lambda k: target[k])
    fitted = _uniform(program, box, target[axis] / own[axis], f"{what}: not exactly, as {why}; the longest side", near)
    return Fitted(fitted.program, fitted.factors, (*notes, *fitted.notes))


def _stretched(program: Program, box: Box, factors: Point3) -> tuple[Program, str] | str:
    """The program and how it was made; or why it cannot be."""
    about, (x, y, z) = _middle(box), factors
    if max(factors) - min(factors) <= EXACT * max(factors):
        return scaled(program, x, about), f"scaled by {x:.6g}"
    said = f"stretched by {x:.4g} x {y:.4g} x {z:.4g}"
    try:
        return stretched(program, factors, about), said
    except CadmllmError:
        pass  # circles that stay round are the next best
    try:
        made = stretched(program, factors, about, keep_round=True)
    except CadmllmError as error:
        return error.message
    wanted = _sides(_times(program_box(program), factors))
    if any(abs(a - b) > EXACT * b for a, b in zip(_sides(program_box(made)), wanted, strict=True)):
        return "a circle that bounds the part would have to become an ellipse"
    return made, f"{said} (circles stay round, by the smaller factor of their plane)"


def _uniform(program: Program, box: Box, factor: float, why: str, near: float) -> Fitted:
    if abs(factor - 1.0) <= near:
        return Fitted(program, notes=(f"{why}: so it came out, {_show(_sides(box))}",))
    factors = (factor, factor, factor)
    note = f"{why}: scaled by {factor:.6g}, {_show(_sides(box))} became {_show(_sides(_times(box, factors)))}"
    return Fitted(scaled(program, factor, _middle(box)), factors, (note,))


def _by_consensus(program: Program, box: Box, dimensions: Sequence[Dimension], lengths: Lengths) -> Fitted:
    found = consensus(dimensions, lengths)
    if found is None:
        return Fitted(program)
    words = ", ".join(dict.fromkeys(dimensions[k].words for k in found.agreeing))
    return _uniform(program, box, found.factor, f"the prompt's {words}", CLOSE)


def _compared(dimensions: Sequence[Dimension], lengths: Lengths) -> list[str]:
    """What of the prompt is there now, and what is not."""
    longest = only_length(dimensions)
    met, notes, blind = [], [], []
    for item in dimensions:
        own = nearest(item, lengths, longest)
        if item.kind == "distance":
            blind.append(item.words)
        elif own is None:
            notes.append(f"the prompt's {described(item)}: this part has no such length")
        elif meets(item, own):
            met.append(item.words)
        else:
            notes.append(f"the prompt's {described(item)}: not met, the nearest is {own:.6g} mm")
    if met:
        notes.insert(0, f"as the prompt says: {', '.join(dict.fromkeys(met))}")
    if blind:
        notes.append(f"not compared: {', '.join(dict.fromkeys(blind))} (distances between features)")
    return list(dict.fromkeys(notes))


def described(item: Dimension) -> str:
    """A dimension for a person: \"6 mm\" (diameter of a hole)."""
    owner = {"part": " of the part", "hole": " of a hole", "unknown": ""}[item.of]
    return f'"{item.words}" ({item.kind}{owner})'


def _sides(box: Box) -> tuple[float, float, float]:
    (a, b, c), (d, e, f) = box
    return d - a, e - b, f - c


def _middle(box: Box) -> Point3:
    (a, b, c), (d, e, f) = box
    return (a + d) / 2.0, (b + e) / 2.0, (c + f) / 2.0


def _times(box: Box, factors: Point3) -> Box:
    low, high = ([m + f * (c - m) for m, f, c in zip(_middle(box), factors, corner, strict=True)] for corner in box)
    return (low[0], low[1], low[2]), (high[0], high[1], high[2])


def _show(sides: Sequence[float]) -> str:
    return f"{' x '.join(f'{side:.6g}' for side in sides)} mm"
