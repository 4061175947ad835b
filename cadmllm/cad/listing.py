"""A program as a CAD engineer would dictate it: features in order, planes, loops, millimetres and degrees. No kernel needed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from cadmllm.cad.bounds import program_box
from cadmllm.cad.program import (
    Arc,
    Circle,
    Extent,
    ExtentType,
    Extrude,
    Line,
    Loop,
    Operation,
    Plane,
    Point2,
    Point3,
    Program,
    Sketch,
)

OPERATIONS = {
    Operation.NEW_BODY: "New body",
    Operation.JOIN: "Join",
    Operation.CUT: "Cut",
    Operation.INTERSECT: "Intersect",
}
_AXES = ("X", "Y", "Z")
_PLANES = ("YZ", "XZ", "XY")  # normal to X, Y, Z
_STRAIGHT = 1e-6  # two unit vectors are one below this
MANY = 3  # diameters of circles that have a line each
_NEAR = 1e-4  # two lengths of a loop are one below this share of its size


class Entry(NamedTuple):
    """A line of the listing.

    Attributes:
        level: 0 a feature, 1 its sketches, 2 their loops, 3 the path of a loop.
        label: what it is: '1', 'sketch', 'outer', 'hole', '' for a path.
        text: the rest, numbers in mm and degrees.
    """

    level: int
    label: str
    text: str


class _Numbers:
    """Lengths with as many decimals as the part's size deserves: five figures of it."""

    def __init__(self, size: float) -> None:
        self.decimals = min(9, max(0, 4 - math.floor(math.log10(max(size, 1e-9)))))

    def mm(self, value: float) -> str:
        text = f"{value:.{self.decimals}f}"
        text = text.rstrip("0").rstrip(".") if "." in text else text
        return "0" if text in ("-0", "") else text

    def point(self, point: Point2 | Point3) -> str:
        return f"({', '.join(map(self.mm, point))})"


def listing(program: Program) -> list[Entry]:
    """The whole program; loops are recognised as circles, rectangles, regular polygons and slots, others are written as paths.

    Args:
        program: any valid program.
    """
    low, high = program_box(program)
    numbers = _Numbers(max(b - a for a, b in zip(low, high, strict=True)))
    return [entry for k, extrude in enumerate(program.extrudes, 1) for entry in _extrude(k, extrude, numbers)]


def to_text(entries: list[Entry]) -> str:
    """The listing as plain text, indented."""
    return "".join(f"{'  ' * entry.level}{entry.label + '  ' if entry.label else ''}{entry.text}\n" for entry in entries)


def _extrude(number: int, extrude: Extrude, numbers: _Numbers) -> Iterator[Entry]:
    plane = extrude.sketches[0].plane
    yield Entry(0, str(number), f"{OPERATIONS[extrude.operation]}: extrude {_extent(extrude.extent, plane, numbers)}")
    for sketch in extrude.sketches:
        yield from _sketch(sketch, numbers)


def _extent(extent: Extent, plane: Plane, numbers: _Numbers) -> str:
    low, high = extent.interval
    along, against = _direction(plane.normal)
    if extent.type is ExtentType.SYMMETRIC:
        return f"{numbers.mm(high)} mm on each side, {numbers.mm(high - low)} mm in all"
    if extent.type is ExtentType.TWO_SIDES:
        if low < 0.0 < high:
            return f"{numbers.mm(high)} mm {along} and {numbers.mm(-low)} mm {against}"
        return f"from {numbers.mm(low)} to {numbers.mm(high)} mm {along}"
    return f"{numbers.mm(high - low)} mm {along if high > 0.0 else against}"


def _direction(normal: Point3) -> tuple[str, str]:
    """What going along and against a normal is called."""
    axis = _axis(normal)
    if axis is None:
        return "along the normal", "against the normal"
    signs = ("+", "-") if normal[axis] > 0.0 else ("-", "+")
    return f"along {signs[0]}{_AXES[axis]}", f"along {signs[1]}{_AXES[axis]}"


def _axis(vector: Point3) -> int | None:
    """0, 1, 2 for a unit vector along X, Y, Z in either sense, None for any other."""
    return next((k for k in range(3) if abs(abs(vector[k]) - 1.0) < _STRAIGHT), None)


def _named(vector: Point3) -> str:
    axis = _axis(vector)
    if axis is not None:
        return f"{'+' if vector[axis] > 0 else '-'}{_AXES[axis]}"
    return f"({', '.join(f'{value + 0.0:.4g}' for value in vector)})"


def _sketch(sketch: Sketch, numbers: _Numbers) -> Iterator[Entry]:
    plane = sketch.plane
    axis = _axis(plane.normal)
    if axis is None:
        where = f"plane with normal {_named(plane.normal)}"
    else:
        offset = numbers.mm(plane.origin[axis])
        where = f"{_PLANES[axis]} plane" + (f" at {_AXES[axis].lower()} = {offset}" if offset != "0" else "")
    text = f"on the {where}, origin {numbers.point(plane.origin)}, x along {_named(plane.x_axis)}"
    many = len(sketch.profiles)
    yield Entry(1, "sketch", text + (f", {many} profiles" if many > 1 else ""))
    yield from _loops("outer", [profile.outer for profile in sketch.profiles if not profile.inner], numbers)
    for profile in sketch.profiles:
        if profile.inner:
            yield from _loops("outer", [profile.outer], numbers)
            yield from _loops("hole", profile.inner, numbers)


def _loops(label: str, loops: Sequence[Loop], numbers: _Numbers) -> Iterator[Entry]:
    """Loops in order, then the circles, those of one diameter together."""
    circles: dict[str, list[Circle]] = {}
    for loop in loops:
        curve = loop.curves[0]
        if isinstance(curve, Circle):
            circles.setdefault(numbers.mm(2.0 * curve.radius), []).append(curve)
        else:
            yield from _loop(label, loop, numbers)
    if len(circles) > MANY:
        total = sum(map(len, circles.values()))
        each = (f"Ø{diameter} at {_points(same, numbers)}" for diameter, same in circles.items())
        yield Entry(2, label, f"{total} circles: {'; '.join(each)}")
        return
    for diameter, same in circles.items():
        count = f"{len(same)} circles" if len(same) > 1 else "circle"
        yield Entry(2, label, f"{count} Ø{diameter} at {_points(same, numbers)}")


def _points(circles: list[Circle], numbers: _Numbers) -> str:
    return ", ".join(numbers.point(circle.center) for circle in circles)


def _loop(label: str, loop: Loop, numbers: _Numbers) -> Iterator[Entry]:
    chain = [curve for curve in loop.curves if not isinstance(curve, Circle)]
    known = _rectangle(chain, numbers) or _regular(chain, numbers) or _slot(chain, numbers)
    if known:
        yield Entry(2, label, known)
        return
    arcs = sum(isinstance(curve, Arc) for curve in chain)
    lines = len(chain) - arcs
    counts = [f"{n} {name}{'s' * (n > 1)}" for n, name in ((lines, "line"), (arcs, "arc")) if n]
    yield Entry(2, label, f"loop of {' and '.join(counts)}")
    yield Entry(3, "", _path(chain, numbers))


def _path(chain: list[Line | Arc], numbers: _Numbers) -> str:
    """'(0, 0) › (4, 0) › R2 90° › (6, 2) › back'; the sweep of an arc is positive when counter-clockwise."""
    words = [numbers.point(chain[0].start)]
    for place, curve in enumerate(chain):
        if isinstance(curve, Arc):
            words.append(f"R{numbers.mm(curve.radius)} {_degrees(curve.sweep)}")
        words.append("back" if place == len(chain) - 1 else numbers.point(curve.end))
    return " › ".join(words)


def _degrees(angle: float) -> str:
    return f"{round(math.degrees(angle), 2):g}°"


def _size(points: list[Point2]) -> tuple[float, float, Point2]:
    """Width, height and middle of the points' box."""
    xs, ys = [p[0] for p in points], [p[1] for p in points]
    return max(xs) - min(xs), max(ys) - min(ys), ((max(xs) + min(xs)) / 2.0, (max(ys) + min(ys)) / 2.0)


def _rectangle(chain: list[Line | Arc], numbers: _Numbers) -> str:
    if len(chain) != 4 or any(isinstance(curve, Arc) for curve in chain):
        return ""
    points = [curve.start for curve in chain]
    (ax, ay), (bx, by), (cx, cy), (dx, dy) = points
    long, wide = math.dist(points[0], points[1]), math.dist(points[1], points[2])
    near = _NEAR * max(long, wide)
    square = abs((bx - ax) * (cx - bx) + (by - ay) * (cy - by)) < near * min(long, wide)
    if not square or math.dist((ax + cx, ay + cy), (bx + dx, by + dy)) > near:
        return ""
    width, height, middle = _size(points)
    if min(abs(bx - ax), abs(by - ay)) < near:
        corners = f"from {numbers.point((middle[0] - width / 2, middle[1] - height / 2))}"
        return f"rectangle {numbers.mm(width)} x {numbers.mm(height)} {corners}"
    turn = math.degrees(math.atan2(by - ay, bx - ax)) % 180.0
    if turn >= 90.0:
        long, wide, turn = wide, long, turn - 90.0
    return f"rectangle {numbers.mm(long)} x {numbers.mm(wide)} about {numbers.point(middle)}, turned by {turn:.4g}°"


def _regular(chain: list[Line | Arc], numbers: _Numbers) -> str:
    if len(chain) < 5 or any(isinstance(curve, Arc) for curve in chain):
        return ""
    points = [curve.start for curve in chain]
    middle = (sum(p[0] for p in points) / len(points), sum(p[1] for p in points) / len(points))
    radii = [math.dist(p, middle) for p in points]
    sides = [math.dist(curve.start, curve.end) for curve in chain]
    near = _NEAR * max(radii)
    if max(radii) - min(radii) > near or max(sides) - min(sides) > near:
        return ""
    flats = 2.0 * radii[0] * math.cos(math.pi / len(chain))
    across = f"{numbers.mm(flats)} across flats" if len(chain) % 2 == 0 else f"inside Ø{numbers.mm(2.0 * radii[0])}"
    return f"regular polygon of {len(chain)} sides, {across}, about {numbers.point(middle)}"


def _slot(chain: list[Line | Arc], numbers: _Numbers) -> str:
    """Two half circles joined by two parallel lines."""
    if len(chain) != 4 or [isinstance(curve, Arc) for curve in chain] not in ([True, False] * 2, [False, True] * 2):
        return ""
    first, second = (curve for curve in chain if isinstance(curve, Arc))
    near = _NEAR * max(first.radius, second.radius)
    half = all(abs(abs(arc.sweep) - math.pi) < 1e-3 for arc in (first, second)) and first.sweep * second.sweep > 0.0
    if not half or abs(first.radius - second.radius) > near:
        return ""
    apart = math.dist(first.center, second.center)
    chords = [curve for curve in chain if isinstance(curve, Line)]
    # a half circle that bulges inwards makes a shape of the same counts
    if apart < near or any(abs(math.dist(line.start, line.end) - apart) > near for line in chords):
        return ""
    farthest = max(math.dist(first.mid, second.mid), apart)
    if abs(farthest - apart - 2.0 * first.radius) > near:
        return ""
    ends = f"{numbers.point(first.center)} to {numbers.point(second.center)}"
    return f"slot {numbers.mm(2.0 * first.radius)} wide, {numbers.mm(farthest)} long, centres {ends}"
