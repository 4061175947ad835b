"""Which programs are the same part, or nearly: content signatures, and groups of ids that share one.

Two programs are near-duplicates when they share a signature. All are blind to where the part stands, how large it is, whether it
is turned by quarter turns or mirrored, and in which order and from which points it was drawn. There are three levels (`LEVELS`):

* **copy**: volume, centre of gravity, principal radii and box sides differ by less than 0.2 %, however the solid was drawn;
* **solid**: the same by less than 2 %;
* **drawing**: as many lines, arcs and circles bound what is added and what is removed, and five measures
  (`_Sums.drawing`) agree. Each is rounded on six grids that are shifted against each other: programs whose measures all differ
  by less than a sixth of `CELL` (1.7 % of a side or volume) share a signature; where one differs by more than `CELL`, none.

The field's measure (equal after rounding every parameter to 6 bits) tears programs apart that lie on both sides of a rounding
edge: the more parameters a part has, the surer. Two values closer than the shift between grids are parted by one grid at most,
five measures hence by five, and the sixth holds them together.
"""

from __future__ import annotations

import hashlib
import math
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from cadmllm.cad.bounds import program_box
from cadmllm.cad.program import Arc, Circle, Line, Loop, Operation, Plane, Point2, Program

VERSION = "1"  # changes when signatures do
GRIDS = 6  # of the drawing: one more than it has measures
CELL = 0.1  # of the drawing's measures, which are logarithms: a tenth of a side or of a volume
SOLIDS = ((0.002, 2), (0.02, 2))  # (cell, grids) of the solid's measures
LEVELS = {"copy": 2, "solid": 4, "drawing": 10}  # how many of the first signatures speak of each level
THIN = 1e-4  # sides below this share of the longest are all the same
NO_AREA = 1e-12  # of the circumference's square: a loop that crosses itself may enclose as much on one side as on the other
STRAIGHT = 1e-3  # sine of an angle that is no corner
_NODES = {  # Gauss-Legendre on [0, 1]: exact for the moments of lines, to 1e-6 for arcs of a quarter turn
    count: [
        ((1.0 + x) / 2.0, w / 2.0) for x, w in zip(*map(np.ndarray.tolist, np.polynomial.legendre.leggauss(count)), strict=True)
    ]
    for count in (2, 4)
}
_PHASES = tuple(((k + 1) * 0.6180339887498949) % 1.0 for k in range(8))  # so that 0, 1/2 and equal sides lie on no edge


def signatures(program: Program) -> tuple[str, ...]:
    """The program's signatures, 16 hex digits each: near-duplicates share at least one, different parts practically none.

    Args:
        program: a program that `program.validate` accepts.
    """
    sums = _sum_up(program)
    solid, cells = sums.solid(), []
    for cell, grids in SOLIDS:
        cells += [f"solid {cell} {place}" for place in _cells(solid, cell, grids)]
    cells += [f"drawing {sums.structure} {place}" for place in _cells(sums.drawing(), CELL, GRIDS)]
    return tuple(hashlib.blake2b(f"{VERSION} {cell}".encode(), digest_size=8).hexdigest() for cell in cells)


def _cells(measures: Sequence[float], cell: float, grids: int) -> list[list[int]]:
    """[grid number, a whole number a measure] on each of `grids` grids, shifted against each other by `cell / grids`."""
    places = [m / cell + phase for m, phase in zip(measures, _PHASES, strict=False)]
    return [[k, *(math.floor(place + k / grids) for place in places)] for k in range(grids)]


@dataclass(slots=True)
class _Sums:
    """What is summed over all loops, each a prism; index 0: material added, 1: removed. Unit: the box's longest side."""

    sides: list[float]  # of the box, longest first
    lines: list[int] = field(default_factory=lambda: [0, 0])
    arcs: list[int] = field(default_factory=lambda: [0, 0])
    circles: list[int] = field(default_factory=lambda: [0, 0])
    loops: list[int] = field(default_factory=lambda: [0, 0])
    volume: list[float] = field(default_factory=lambda: [0.0, 0.0])
    distance: list[float] = field(default_factory=lambda: [0.0, 0.0])  # of the prisms' centres from the box's centre
    intersections: int = 0
    first: np.ndarray = field(default_factory=lambda: np.zeros(3))  # moments of added less removed volume about the box's centre
    second: np.ndarray = field(default_factory=lambda: np.zeros((3, 3)))

    @property
    def structure(self) -> list[object]:
        return [self.lines, self.arcs, self.circles, self.loops, self.intersections]

    def drawing(self) -> list[float]:
        """Box sides and volume left (logarithms), mean distances of added and of removed prisms from the box's centre."""
        reach = math.hypot(*self.sides) / 4.0
        distances = (d / max(n, 1) / reach for d, n in zip(self.distance, self.loops, strict=True))
        return [*(math.log(side) for side in self.sides[1:]), math.log(self._left / math.prod(self.sides)), *distances]

    def solid(self) -> list[float]:
        """Box sides, volume left (logarithms), distance of the centre of gravity, principal radii."""
        box, left = math.prod(self.sides), self._left
        radii = np.sqrt(np.maximum(np.linalg.eigvalsh(self.second / left), 0.0)).tolist()
        return [
            *(math.log(side) for side in self.sides[1:]),
            math.log(left / box),
            math.hypot(*(self.first / left).tolist()),
            *radii,
        ]

    @property
    def _left(self) -> float:
        """Volume added less removed; at least 2 % of the box, as overlapping cuts may count for more than there is."""
        return max(self.volume[0] - self.volume[1], 0.02 * math.prod(self.sides))


def _sum_up(program: Program) -> _Sums:
    low, high = program_box(program)
    center = [(a + b) / 2.0 for a, b in zip(low, high, strict=True)]
    longest = max(b - a for a, b in zip(low, high, strict=True)) or 1.0
    half = [max((b - a) / longest, THIN) / 2.0 for a, b in zip(low, high, strict=True)]
    sums = _Sums(sorted((2.0 * h for h in half), reverse=True))
    for extrude in program.extrudes:
        adds = extrude.operation in (Operation.NEW_BODY, Operation.JOIN)
        sums.intersections += extrude.operation is Operation.INTERSECT
        for sketch in extrude.sketches:
            axes = np.array((sketch.plane.x_axis, sketch.plane.y_axis, sketch.plane.normal))
            height, ends = _height(sketch.plane, center, longest), extrude.extent.interval
            bottom, top = (height + end / longest for end in ends)
            if not adds:  # what a cut removes outside the part is nothing
                reach = sum(abs(n) * h for n, h in zip(sketch.plane.normal, half, strict=True))
                bottom, top = max(bottom, -reach), min(top, reach)
            origin = axes[:2] @ (np.array(sketch.plane.origin) - center) / longest
            for profile in sketch.profiles:
                for number, loop in enumerate((profile.outer, *profile.inner)):
                    _add(sums, loop, 0 if adds == (number == 0) else 1, axes, origin, (bottom, max(bottom, top)), longest)
    return sums


def _height(plane: Plane, center: Sequence[float], longest: float) -> float:
    return sum(n * (o - c) for n, o, c in zip(plane.normal, plane.origin, center, strict=True)) / longest


def _add(
    sums: _Sums, loop: Loop, side: int, axes: np.ndarray, origin: np.ndarray, span: tuple[float, float], longest: float
) -> None:
    """Add the prism over a loop: `axes` rows are u, v, normal; `origin` (u, v) and `span` (heights) are from the box's centre."""
    lines, arcs, circles = _curves(loop)
    sums.lines[side] += lines
    sums.arcs[side] += arcs
    sums.circles[side] += circles
    sums.loops[side] += 1
    area, (u, v), (uu, uv, vv) = _area(loop)
    area, height = area / longest**2, span[1] - span[0]
    middle = np.array((u / longest + origin[0], v / longest + origin[1], (span[0] + span[1]) / 2.0))
    volume = area * height
    sums.volume[side] += volume
    sums.distance[side] += math.hypot(*middle.tolist())
    signed = -volume if side else volume
    spread = np.array(((uu, uv, 0.0), (uv, vv, 0.0), (0.0, 0.0, 0.0))) / longest**2
    spread[2, 2] = height * height / 12.0
    sums.first += signed * (axes.T @ middle)
    sums.second += signed * (axes.T @ (spread + np.outer(middle, middle)) @ axes)


def _curves(loop: Loop) -> tuple[int, int, int]:
    """(lines, arcs, circles) of a loop; lines that go on straight and arcs that go on around one centre count once."""
    lines = arcs = 0
    chain = [curve for curve in loop.curves if not isinstance(curve, Circle)]
    for before, curve in zip(chain[-1:] + chain[:-1], chain, strict=True):
        if isinstance(curve, Line):
            lines += not (isinstance(before, Line) and _straight(before, curve))
        else:
            arcs += not (isinstance(before, Arc) and _round(before, curve))
    return lines, arcs, int(lines == arcs == 0)


def _straight(a: Line, b: Line) -> bool:
    ax, ay, bx, by = a.end[0] - a.start[0], a.end[1] - a.start[1], b.end[0] - b.start[0], b.end[1] - b.start[1]
    return ax * bx + ay * by > 0.0 and abs(ax * by - ay * bx) < STRAIGHT * math.hypot(ax, ay) * math.hypot(bx, by)


def _round(a: Arc, b: Arc) -> bool:
    return (a.sweep > 0) == (b.sweep > 0) and math.dist(a.center, b.center) < STRAIGHT * b.radius > abs(a.radius - b.radius)


def _area(loop: Loop) -> tuple[float, Point2, tuple[float, float, float]]:
    """Area (mm2, > 0), centre of gravity (mm), and the mean of uu, uv, vv about it (mm2), by Green's theorem."""
    curve = loop.curves[0]
    if isinstance(curve, Circle):
        quarter = curve.radius**2 / 4.0
        return math.pi * curve.radius**2, curve.center, (quarter, 0.0, quarter)
    x0, y0 = curve.start
    area = mx = my = xx = xy = yy = around = 0.0
    for x, y, dx, dy in _along(loop):
        x, y = x - x0, y - y0
        area += (x * dy - y * dx) / 2.0
        mx += x * x * dy / 2.0
        my -= y * y * dx / 2.0
        xx += x * x * x * dy / 3.0
        xy += x * x * y * dy / 2.0
        yy -= y * y * y * dx / 3.0
        around += abs(dx) + abs(dy)
    if abs(area) < NO_AREA * around**2:
        return 0.0, (x0, y0), (0.0, 0.0, 0.0)
    mx, my, xx, xy, yy = (value / area for value in (mx, my, xx, xy, yy))
    return abs(area), (x0 + mx, y0 + my), (xx - mx * mx, xy - mx * my, yy - my * my)


def _along(loop: Loop) -> Iterable[tuple[float, float, float, float]]:
    """(x, y, dx, dy) at the nodes of a quadrature along the loop; the weights are in dx and dy."""
    for curve in loop.curves:
        if isinstance(curve, Line):
            (x, y), (dx, dy) = curve.start, (curve.end[0] - curve.start[0], curve.end[1] - curve.start[1])
            for share, weight in _NODES[2]:
                yield x + share * dx, y + share * dy, weight * dx, weight * dy
        elif isinstance(curve, Arc):
            (cx, cy), radius = curve.center, curve.radius
            begin = math.atan2(curve.start[1] - cy, curve.start[0] - cx)
            pieces = max(1, math.ceil(abs(curve.sweep) / (math.pi / 2.0) - 1e-9))
            step = curve.sweep / pieces
            for piece in range(pieces):
                for share, weight in _NODES[4]:
                    angle = begin + (piece + share) * step
                    c, s = radius * math.cos(angle), radius * math.sin(angle)
                    yield cx + c, cy + s, -s * weight * step, c * weight * step


@dataclass(frozen=True, slots=True)
class Groups:
    """Ids that are connected by shared signatures, directly or through others.

    Attributes:
        ids: as they came.
        numbers: int32 [N], the group of each id; groups are numbered 0.. in the order of their first id.
    """

    ids: list[str]
    numbers: np.ndarray

    @property
    def sizes(self) -> np.ndarray:
        """Ids of each group, int64 [G]."""
        return np.bincount(self.numbers) if self.ids else np.zeros(0, np.int64)

    def members(self, least: int = 2) -> list[list[str]]:
        """The ids of every group of at least `least`, the largest group first, among equals the one that came first."""
        sizes, order = self.sizes, np.argsort(self.numbers, kind="stable")
        ends = np.cumsum(sizes)
        chosen = [int(g) for g in np.argsort(-sizes, kind="stable") if sizes[g] >= least]
        return [[self.ids[k] for k in order[ends[g] - sizes[g] : ends[g]]] for g in chosen]


def pack(items: Iterable[tuple[str, Sequence[str]]]) -> tuple[list[str], np.ndarray]:
    """Ids and their signatures as numbers, uint64 [N, S]; all have equally many.

    Args:
        items: (id, its signatures, or the first of them: `LEVELS`); an id comes once.
    """
    ids: list[str] = []
    marks = array("Q")
    for id_, found in items:
        ids.append(id_)
        marks.extend(int(signature, 16) for signature in found)
    return ids, np.frombuffer(marks, np.uint64).reshape(len(ids), -1) if ids else np.zeros((0, 0), np.uint64)


def connect(marks: np.ndarray) -> np.ndarray:
    """The group of each row of `marks` (uint64 [N, S]), int32 [N], numbered 0.. by their first row: rows that share a number
    are of one group, and so are rows that are connected through others."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    count, width = marks.shape
    if not count:
        return np.zeros(0, np.int32)
    order = np.argsort(marks, axis=None, kind="stable").astype(np.int32 if marks.size < 2**31 else np.int64)
    sorted_marks = marks.ravel()[order]
    same = np.flatnonzero(sorted_marks[1:] == sorted_marks[:-1])
    pair = order[same] // width, order[same + 1] // width
    links = coo_array((np.ones(len(same), bool), pair), shape=(count, count))
    labels = connected_components(links, directed=False)[1]
    _, first, numbers = np.unique(labels, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[numbers].astype(np.int32)


def group(items: Iterable[tuple[str, Sequence[str]]]) -> Groups:
    """Connect ids that share a signature; 453,000 ids with ten each take seconds and a few hundred MB.

    Args:
        items: as for `pack`.
    """
    ids, marks = pack(items)
    return Groups(ids, connect(marks))
