"""How a program agrees with the lengths that a prompt states: which of its own lengths they may be, and at what factor."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from statistics import median

from cadmllm.cad.bounds import Box, program_box
from cadmllm.cad.program import Arc, Circle, Line, Loop, Operation, Program
from cadmllm.infer.dimensions import Dimension

AGREES = 0.01  # a length is met when it is off by less than this share
THREAD = (0.8, 1.15)  # a hole for M6: from its core hole to a coarse clearance hole, over the nominal diameter
WEIGHTS = {"part": 3.0, "hole": 2.0, "unknown": 1.0}
SOFT = 0.1  # a length that is off by this share (logarithm) counts 1/e
ROUND = 0.03  # two sides of a round part differ by less than this share: a gear may have a tooth on one and a gap on the other
CIRCLE = 1e-3  # and of one that its diameter and height describe
FEW = 12  # straight lines of different lengths
ACROSS = ("length", "width", "height", "thickness", "depth")


@dataclass(frozen=True, slots=True)
class Lengths:
    """What can be measured on a program without a kernel, mm.

    Attributes:
        sides: of the box, x, y, z.
        outers, bores: diameters of circles that bound material, and of those that take it away.
        arcs: radii.
        heights, depths: of extrusions that add and that cut.
        edges: of straight lines.
        walls: half of what two parallel measures differ by: circles, straight lines; and what a cut leaves of a height.
    """

    sides: tuple[float, float, float]
    outers: tuple[float, ...]
    bores: tuple[float, ...]
    arcs: tuple[float, ...]
    heights: tuple[float, ...]
    depths: tuple[float, ...]
    edges: tuple[float, ...]
    walls: tuple[float, ...]


def lengths_of(program: Program, box: Box | None = None) -> Lengths:
    """Measure a program; `box` is the kernel's, else that of all material that is added."""
    low, high = box or program_box(program)
    outers, bores, arcs, heights, depths, edges = ([] for _ in range(6))
    for extrude in program.extrudes:
        cut = extrude.operation is Operation.CUT
        start, stop = extrude.extent.interval
        (depths if cut else heights).append(stop - start)
        for profile in (profile for sketch in extrude.sketches for profile in sketch.profiles):
            for k, loop in enumerate((profile.outer, *profile.inner)):
                _measure(loop, bores if cut or k else outers, arcs, edges)
    walls = _walls(outers, bores, edges, heights, depths)
    found = (outers, bores, arcs, heights, depths, edges, walls)
    return Lengths((high[0] - low[0], high[1] - low[1], high[2] - low[2]), *(tuple(sorted(set(values))) for values in found))


def _measure(loop: Loop, circles: list[float], arcs: list[float], edges: list[float]) -> None:
    for curve in loop.curves:
        if isinstance(curve, Circle):
            circles.append(2.0 * curve.radius)
        elif isinstance(curve, Arc):
            arcs.append(curve.radius)
        elif isinstance(curve, Line):
            edges.append(math.dist(curve.start, curve.end))


def _walls(*measures: list[float]) -> list[float]:
    outers, bores, edges, heights, depths = (sorted(set(values)) for values in measures)
    lines = edges if len(edges) <= FEW else []  # of many lines some differ by anything
    round_ones = [(a - b) / 2.0 for a in outers for b in bores]
    straight = [(a - b) / 2.0 for k, a in enumerate(lines) for b in lines[:k]]
    floors = [a - b for a in heights for b in depths]
    return [wall for wall in (*round_ones, *straight, *floors) if wall > 1e-6 * max((*edges, *outers, *heights))]


def may_be(dimension: Dimension, lengths: Lengths, longest: bool = False) -> tuple[float, ...]:
    """The program's own lengths that a dimension may mean, mm; none for a distance, which is not measured.

    Args:
        dimension: as read.
        lengths: of the program.
        longest: the length of the part is its longest side (where no width is told beside it).
    """
    kind, sides = dimension.kind, lengths.sides
    outers, bores, edges = lengths.outers, lengths.bores, lengths.edges
    if kind == "distance":
        return ()
    if dimension.of == "part":
        if kind in ("diameter", "thread"):
            arcs = tuple(2.0 * radius for radius in lengths.arcs)
            return (*outers, *(() if outers and kind == "thread" else (*_round_sides(sides), *arcs)))
        if kind == "radius":
            return (*(value / 2.0 for value in (*outers, *_round_sides(sides))), *lengths.arcs)
        if kind == "thickness":
            return (min(sides), *lengths.heights, *lengths.walls)
        if kind in ("side", "across"):
            return (*sides, *edges)
        return (max(sides),) if kind == "length" and longest else sides
    if dimension.of == "hole":
        if kind in ("diameter", "thread", "size"):
            return bores or tuple(2.0 * radius for radius in lengths.arcs)
        if kind == "radius":
            return (*(value / 2.0 for value in bores), *lengths.arcs)
        return (*lengths.depths, *lengths.heights, *edges) if kind in ("depth", "length", "height") else edges
    rounds = (*outers, *bores)
    if kind == "diameter":
        return (*rounds, *(2.0 * radius for radius in lengths.arcs))
    if kind == "radius":
        return (*(value / 2.0 for value in rounds), *lengths.arcs)
    return (
        *edges,
        *lengths.heights,
        *lengths.depths,
        *rounds,
        *lengths.walls,
        *sides,
        *(2.0 * radius for radius in lengths.arcs),
    )


def _round_sides(sides: tuple[float, float, float], near: float = ROUND) -> tuple[float, ...]:
    """Sides that a round part's diameter shows as: those with an equal beside them."""
    return tuple(a for k, a in enumerate(sides) if any(abs(a - b) <= near * max(a, b) for j, b in enumerate(sides) if j != k))


def overall(dimensions: Sequence[Dimension], lengths: Lengths) -> tuple[Dimension, ...]:
    """The three dimensions that state the part's box, in the order of the prompt; empty where they do not.

    '40 x 20 x 10 mm', '40 x 20 mm, 5 mm thick', three of length, width, height, thickness and depth, or, where two sides of
    the part are equal, its diameter (twice) and one of these.
    """
    own = [item for item in dimensions if item.of == "part"]
    boxes: dict[int, list[Dimension]] = {}
    for item in own:
        if item.kind == "side":
            boxes.setdefault(item.start, []).append(item)
    named = list({item.kind: item for item in reversed(own) if item.kind in ACROSS}.values())[::-1]
    for box in boxes.values():
        if len(box) == 3:
            return tuple(box)
    for box in boxes.values():
        if len(box) == 2 and len(named) == 1:
            return (*box, *named)
    if len(named) == 3:
        return tuple(named)
    diameter = next((item for item in own if item.kind == "diameter"), None)
    if diameter is not None and len(named) == 1 and len(_round_sides(lengths.sides, CIRCLE)) >= 2:
        return (diameter, diameter, *named)
    return ()


def assigned(wanted: Sequence[float | None], sides: Sequence[float]) -> tuple[tuple[float | None, ...], float]:
    """Wanted sides dealt out to x, y, z so that the proportions are closest, and how far the factors still differ.

    Among equals the order as given wins.

    Args:
        wanted: up to three, mm; None is free.
        sides: of the part, mm, > 0.

    Returns:
        The wanted side of each axis, and the greatest factor over the least (>= 1).
    """
    padded = [*wanted, *[None] * (3 - len(wanted))]
    best: tuple[tuple[float | None, ...], float] | None = None
    for order in permutations(range(3)):
        dealt = tuple(padded[k] for k in order)
        factors = [side / own for side, own in zip(dealt, sides, strict=True) if side is not None]
        spread = max(factors) / min(factors)
        if best is None or spread < best[1] * (1.0 - 1e-6):
            best = (dealt, spread)
    assert best is not None
    return best


@dataclass(frozen=True, slots=True)
class Consensus:
    """The factor at which most dimensions agree (part's before holes', then nearest to 1), and by place those that do."""

    factor: float
    agreeing: tuple[int, ...]


def consensus(dimensions: Sequence[Dimension], lengths: Lengths) -> Consensus | None:
    """One factor for the whole part; None where nothing says which length is meant.

    That is: no dimension of the part or of a hole, and not several others ('two blocks of 30 x 20 x 10 mm each') that all agree.
    """
    longest = only_length(dimensions)
    options = [may_be(item, lengths, longest) for item in dimensions]
    leads = [k for k, item in enumerate(dimensions) if item.of == "part" and options[k]]
    leads = leads or [k for k, item in enumerate(dimensions) if item.of == "hole" and options[k]]
    told = bool(leads)
    leads = leads or [k for k, owns in enumerate(options) if owns]
    if not told and len(leads) < 2:
        return None
    best: tuple[float, float, float] | None = None
    for k in leads:
        for own in options[k]:
            factor = dimensions[k].mm / own
            met = sum(WEIGHTS[item.of] for item, owns in zip(dimensions, options, strict=True) if _met(item, owns, factor))
            rank = (-met, abs(math.log(factor)), factor)
            best = rank if best is None or rank < best else best
    if best is None:
        return None
    factor = best[2]
    agreeing = [k for k, item in enumerate(dimensions) if _met(item, options[k], factor)]
    if not told and len(agreeing) < len(leads):
        return None
    exact = [k for k in agreeing if k in leads and dimensions[k].kind != "thread"] or agreeing
    correction = median(_error(dimensions[k], options[k], factor)[0] for k in exact)
    return Consensus(factor * math.exp(correction), tuple(agreeing))


def only_length(dimensions: Sequence[Dimension]) -> bool:
    """Whether the part's length is told without a width or another side beside it."""
    return not any(item.of == "part" and item.kind in ("width", "side") for item in dimensions)


def nearest(dimension: Dimension, lengths: Lengths, longest: bool = False) -> float | None:
    """The program's own length that comes closest to a dimension, mm; None where it has none that it may be."""
    owns = may_be(dimension, lengths, longest)
    return min(owns, key=lambda own: abs(math.log(dimension.mm / own))) if owns else None


def meets(dimension: Dimension, own: float) -> bool:
    """Whether a length is the one that is stated, within `AGREES` (a thread: within `THREAD`)."""
    if dimension.kind == "thread":
        return THREAD[0] <= own / dimension.mm <= THREAD[1]
    return abs(math.log(dimension.mm / own)) <= AGREES


def _error(item: Dimension, owns: Sequence[float], factor: float) -> tuple[float, float]:
    """(log of stated over nearest own length at a factor, that own length)."""
    own = min(owns, key=lambda value: abs(math.log(item.mm / (value * factor))))
    return math.log(item.mm / (own * factor)), own


def _met(item: Dimension, owns: Sequence[float], factor: float) -> bool:
    return bool(owns) and meets(item, _error(item, owns, factor)[1] * factor)


def agreement(dimensions: Sequence[Dimension], program: Program, box: Box | None = None) -> float | None:
    """How well a program has the lengths that a prompt states: 0..1, or None where none of them can be measured on any program.

    The weighted mean over the dimensions (part 3, hole 2, other 1) of exp(-|ln(stated / own)| / 0.1), own being the nearest of
    the lengths that it may be; half of it with the program as it is, half at the one factor that suits it best: its proportions
    may be right though its size is not, and the size is mended afterwards (`fitting`).
    """
    stated = [item for item in dimensions if item.kind != "distance"]
    if not stated:
        return None
    lengths = lengths_of(program, box)
    whole = overall(stated, lengths)
    if whole:
        dealt, _ = assigned([item.mm for item in whole], lengths.sides)
        logs = [math.log(side / own) for side, own in zip(dealt, lengths.sides, strict=True) if side is not None]
        best = math.exp(sum(logs) / len(logs))
    else:
        found = consensus(stated, lengths)
        logs, best = [], found.factor if found else 1.0
    rest = [item for item in stated if item not in whole]
    return (_score(rest, lengths, logs, 1.0) + _score(rest, lengths, logs, best)) / 2.0


def _score(rest: Sequence[Dimension], lengths: Lengths, logs: Sequence[float], factor: float) -> float:
    longest = only_length(rest)
    total, weight = 0.0, 0.0
    for log in logs:
        total += WEIGHTS["part"] * math.exp(-abs(log - math.log(factor)) / SOFT)
        weight += WEIGHTS["part"]
    for item in rest:
        owns = may_be(item, lengths, longest)
        weight += WEIGHTS[item.of]
        if owns:
            met = item.kind == "thread" and _met(item, owns, factor)
            total += WEIGHTS[item.of] * (1.0 if met else math.exp(-abs(_error(item, owns, factor)[0]) / SOFT))
    return total / weight if weight else 0.0
