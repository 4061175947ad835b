"""Hypothesis strategies that several rooms use: valid CAD programs of every kind."""

from __future__ import annotations

import math
from dataclasses import fields, is_dataclass

from hypothesis import strategies as st

from cadmllm.cad.program import (
    Arc,
    Circle,
    Curve,
    Extent,
    ExtentType,
    Extrude,
    Line,
    Loop,
    Operation,
    Plane,
    Point2,
    Profile,
    Program,
    Sketch,
)


def lengths(low: float, high: float) -> st.SearchStrategy[float]:
    """Lengths in mm on a grid of a millionth: they shrink to readable numbers."""
    return st.integers(round(low * 1e6), round(high * 1e6)).map(lambda n: n / 1e6)


@st.composite
def planes(draw) -> Plane:
    """Axis-aligned and tilted planes within 200 mm of the origin."""
    origin = tuple(draw(lengths(-200, 200)) for _ in range(3))
    quarter = st.integers(0, 3).map(lambda k: k * math.pi / 2)
    theta, phi, gamma = (draw(st.one_of(quarter, lengths(0, 6.28))) for _ in range(3))
    normal = (math.sin(theta) * math.cos(phi), math.sin(theta) * math.sin(phi), math.cos(theta))
    a = (math.cos(theta) * math.cos(phi), math.cos(theta) * math.sin(phi), -math.sin(theta))
    b = (-math.sin(phi), math.cos(phi), 0.0)
    x_axis = tuple(math.cos(gamma) * p + math.sin(gamma) * q for p, q in zip(a, b, strict=True))
    return Plane((origin[0], origin[1], origin[2]), (x_axis[0], x_axis[1], x_axis[2]), normal)


def _chain(points: list[Point2], sweeps: list[float]) -> Loop:
    curves: list[Curve] = []
    for start, end, sweep in zip(points, points[1:] + points[:1], sweeps, strict=True):
        curves.append(Arc(start, end, sweep) if sweep else Line(start, end))
    return Loop(tuple(curves))


@st.composite
def loops(draw, center: Point2, radius: float) -> Loop:
    """A loop that lies between 0.3 and 1 times `radius` of `center`: circle, half discs, polygons with lines and arcs."""
    x, y = center
    kind = draw(st.sampled_from(("circle", "disc", "polygon")))
    if kind == "circle":
        return Loop((Circle(center, radius),))
    turn = draw(lengths(0, 6.28))
    if kind == "disc":
        start, end = ((x + radius * math.cos(a), y + radius * math.sin(a)) for a in (turn, turn + math.pi))
        way = draw(st.sampled_from((math.pi, -math.pi)))
        return _chain([start, end], [way, way])
    count = draw(st.integers(4, 9))
    shares = [draw(lengths(0.6, 0.9)) for _ in range(count)]
    angles = [turn + 2.0 * math.pi * k / count for k in range(count)]
    points = [(x + radius * s * math.cos(a), y + radius * s * math.sin(a)) for s, a in zip(shares, angles, strict=True)]
    bulges = st.one_of(st.just(0.0), lengths(0.05, 0.4), lengths(-0.4, -0.05))
    if draw(st.booleans()):
        points.reverse()
    return _chain(points, [draw(bulges) for _ in points])


@st.composite
def profiles(draw, center: Point2 = (0.0, 0.0), radius: float | None = None) -> Profile:
    """An outer loop with up to three holes that keep clear of it and of each other."""
    size = radius or draw(lengths(0.5, 80))
    outer = draw(loops(center, size))
    places = [(center[0] + 0.13 * size * k, center[1]) for k in (-1, 0, 1)]
    count = draw(st.integers(0, 3))
    inner = tuple(draw(loops(place, 0.05 * size)) for place in places[:count])
    return Profile(outer, inner)


@st.composite
def sketches(draw) -> Sketch:
    """One or two profiles side by side on a plane."""
    size = draw(lengths(0.5, 80))
    return Sketch(draw(planes()), tuple(draw(profiles((2.5 * size * k, 0.0), size)) for k in range(draw(st.integers(1, 2)))))


@st.composite
def extents(draw) -> Extent:
    """Every extent type, with negative distances and with both ends on one side of the plane."""
    kind = draw(st.sampled_from(ExtentType))
    one = draw(lengths(0.1, 100))
    if kind is not ExtentType.TWO_SIDES:
        return Extent(kind, draw(st.sampled_from((one, -one))))
    more = draw(lengths(0.1, 100))
    return draw(st.sampled_from((Extent(kind, one, more), Extent(kind, -one, one + more), Extent(kind, one + more, -one))))


@st.composite
def programs(draw, most: int = 3) -> Program:
    """Valid programs of up to `most` extrusions: lines, arcs, circles, holes, all operations and extents, any plane."""
    extrudes = []
    for k in range(draw(st.integers(1, most))):
        operation = Operation.NEW_BODY if k == 0 else draw(st.sampled_from(Operation))
        drawn = tuple(draw(sketches()) for _ in range(draw(st.sampled_from((1, 1, 1, 2)))))
        extrudes.append(Extrude(drawn, operation, draw(extents())))
    return Program(tuple(extrudes))


def flat(value: object) -> list[object]:
    """All numbers and names of a program in order, lengths of tuples included: for comparing two programs."""
    if is_dataclass(value):
        return [type(value).__name__, *(item for field in fields(value) for item in flat(getattr(value, field.name)))]
    if isinstance(value, tuple):
        return [len(value), *(item for part in value for item in flat(part))]
    return [value]


def difference(a: Program, b: Program) -> float:
    """The largest difference of two numbers, relative to the larger (or to 1); infinite when the structures differ."""
    one, two = flat(a), flat(b)
    if len(one) != len(two):
        return math.inf
    worst = 0.0
    for x, y in zip(one, two, strict=True):
        if isinstance(x, float) and isinstance(y, float):
            worst = max(worst, abs(x - y) / max(1.0, abs(x), abs(y)))
        elif x != y:
            return math.inf
    return worst
