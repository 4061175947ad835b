"""Outlines, placements and dice that the families of the generator are drawn with. Millimetres, counter-clockwise."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

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
    Point3,
    Profile,
    Program,
    Sketch,
)

T = TypeVar("T")
NEW, JOIN, CUT, INTERSECT = Operation.NEW_BODY, Operation.JOIN, Operation.CUT, Operation.INTERSECT


class Dice:
    """Random choices from a text seed; only `random()` is used, which Python keeps stable between releases."""

    def __init__(self, seed: str) -> None:
        self._source = random.Random(seed)
        self.unit = 1.0  # mm that one step of `size` is worth: makes small and large parts of the same family

    def share(self) -> float:
        """A number in [0, 1)."""
        return self._source.random()

    def chance(self, share: float) -> bool:
        """True with probability `share`."""
        return self.share() < share

    def pick(self, items: Sequence[T]) -> T:
        """One of `items`, all alike."""
        return items[int(self.share() * len(items))]

    def weighted(self, items: Sequence[tuple[T, float]]) -> T:
        """One of the first members, with odds by the second."""
        at = self.share() * sum(weight for _, weight in items)
        for item, weight in items:
            at -= weight
            if at < 0.0:
                return item
        return items[-1][0]

    def whole(self, low: int, high: int, step: int = 1) -> int:
        """An integer low, low + step, ... up to high."""
        return low + step * int(self.share() * ((max(low, high) - low) // step + 1))

    def size(self, low: float, high: float, step: int = 1) -> float:
        """A length in mm: a whole number of steps between low and high, in units of this part."""
        return self.whole(math.ceil(low), math.floor(high), step) * self.unit

    def between(self, low: float, high: float) -> float:
        """A round length in mm between two lengths in mm (a multiple of half a unit, at least one half)."""
        half = self.unit / 2.0
        return max(1, self.whole(math.ceil(low / half), math.floor(high / half))) * half


# outlines ----------------------------------------------------------------------------------------------------------------


def chain(points: Sequence[Point2]) -> Loop:
    """A closed polygon."""
    following = [*points[1:], points[0]]
    return Loop(tuple(Line(a, b) for a, b in zip(points, following, strict=True)))


def rectangle(width: float, height: float, at: Point2 = (0.0, 0.0)) -> Loop:
    """A rectangle centred at `at`."""
    (x, y), a, b = at, width / 2.0, height / 2.0
    return chain([(x - a, y - b), (x + a, y - b), (x + a, y + b), (x - a, y + b)])


def circle(radius: float, at: Point2 = (0.0, 0.0)) -> Loop:
    """A circle."""
    return Loop((Circle(at, radius),))


def rounded_rectangle(width: float, height: float, radius: float, at: Point2 = (0.0, 0.0)) -> Loop:
    """A rectangle with four quarter-circle corners; radius < half the shorter side."""
    (x, y), a, b, r = at, width / 2.0, height / 2.0, radius
    quarter = math.pi / 2.0
    return Loop(
        (
            Line((x - a + r, y - b), (x + a - r, y - b)),
            Arc((x + a - r, y - b), (x + a, y - b + r), quarter),
            Line((x + a, y - b + r), (x + a, y + b - r)),
            Arc((x + a, y + b - r), (x + a - r, y + b), quarter),
            Line((x + a - r, y + b), (x - a + r, y + b)),
            Arc((x - a + r, y + b), (x - a, y + b - r), quarter),
            Line((x - a, y + b - r), (x - a, y - b + r)),
            Arc((x - a, y - b + r), (x - a + r, y - b), quarter),
        )
    )


def slot(length: float, width: float, at: Point2 = (0.0, 0.0), upright: bool = False) -> Loop:
    """An obround: overall `length` > `width`, two straight sides and two half circles."""
    (x, y), a, r = at, (length - width) / 2.0, width / 2.0
    if upright:
        corners = (x + r, y - a), (x + r, y + a), (x - r, y + a), (x - r, y - a)
    else:
        corners = (x - a, y - r), (x + a, y - r), (x + a, y + r), (x - a, y + r)
    p, q, s, t = corners
    return Loop((Line(p, q), Arc(q, s, math.pi), Line(s, t), Arc(t, p, math.pi)))


def polar(radius: float, degrees: float, at: Point2 = (0.0, 0.0)) -> Point2:
    """The point at `degrees` on a circle; rounded to a picometre so that quarter turns land on the axes exactly."""
    angle = math.radians(degrees)
    return round(at[0] + radius * math.cos(angle), 9), round(at[1] + radius * math.sin(angle), 9)


def regular_polygon(sides: int, radius: float) -> Loop:
    """A regular polygon by the radius of its corners; the lowest side is level."""
    return chain([polar(radius, -90.0 + (k + 0.5) * 360.0 / sides) for k in range(sides)])


def star(points: int, outer: float, inner: float) -> Loop:
    """A star: corners alternate between two radii, the first tip up."""
    return chain([polar(outer if k % 2 == 0 else inner, 90.0 + k * 180.0 / points) for k in range(2 * points)])


def gear(teeth: int, tip: float, root: float) -> Loop:
    """A gear-like outline of straight flanks: trapezoid teeth between two radii."""
    pitch = 360.0 / teeth
    marks = ((root, -0.25), (tip, -0.14), (tip, 0.14), (root, 0.25))
    return chain([polar(radius, (k + share) * pitch) for k in range(teeth) for radius, share in marks])


def keyed_circle(radius: float, key_width: float, key_depth: float) -> Loop:
    """A bore with a rectangular keyway at the top: one long arc and three lines."""
    half = key_width / 2.0
    y = math.sqrt(radius * radius - half * half)
    top = radius + key_depth
    sweep = 2.0 * math.pi - 2.0 * math.asin(half / radius)
    left, right = (-half, y), (half, y)
    return Loop((Arc(left, right, sweep), Line(right, (half, top)), Line((half, top), (-half, top)), Line((-half, top), left)))


def d_shape(radius: float, flat: float) -> Loop:
    """A circle with a flat cut off at x = `flat` (0 <= flat < radius)."""
    y = math.sqrt(radius * radius - flat * flat)
    sweep = 2.0 * math.pi - 2.0 * math.acos(flat / radius)
    return Loop((Line((flat, -y), (flat, y)), Arc((flat, y), (flat, -y), sweep)))


def moved(loop: Loop, dx: float, dy: float) -> Loop:
    """The loop shifted."""

    def shift(p: Point2) -> Point2:
        return p[0] + dx, p[1] + dy

    def one(curve: Curve) -> Curve:
        if isinstance(curve, Circle):
            return Circle(shift(curve.center), curve.radius)
        if isinstance(curve, Arc):
            return Arc(shift(curve.start), shift(curve.end), curve.sweep)
        return Line(shift(curve.start), shift(curve.end))

    return Loop(tuple(one(curve) for curve in loop.curves))


# placements --------------------------------------------------------------------------------------------------------------

LEVEL = Plane()


def level(height: float = 0.0) -> Plane:
    """The horizontal plane at a height: u = x, v = y, normal = z."""
    return Plane((0.0, 0.0, height))


def facing_y(y: float = 0.0) -> Plane:
    """An upright plane: u = x, v = z, normal = -y."""
    return Plane((0.0, y, 0.0), (1.0, 0.0, 0.0), (0.0, -1.0, 0.0))


def facing_x(x: float = 0.0) -> Plane:
    """An upright plane: u = y, v = z, normal = x."""
    return Plane((x, 0.0, 0.0), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0))


@dataclass(frozen=True, slots=True)
class Turn:
    """A rotation of the whole part: the images of the three axes."""

    x: Point3
    y: Point3
    z: Point3

    def __call__(self, v: Point3) -> Point3:
        x, y, z = ((v[0] * self.x[k] + v[1] * self.y[k] + v[2] * self.z[k]) + 0.0 for k in range(3))
        return x, y, z


UPRIGHT = Turn((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
ONTO_BACK = Turn((1.0, 0.0, 0.0), (0.0, 0.0, 1.0), (0.0, -1.0, 0.0))  # z looks to -y
ONTO_SIDE = Turn((0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (1.0, 0.0, 0.0))  # z looks to x


def placed(extrudes: Sequence[Extrude], turn: Turn, offset: Point3) -> Program:
    """The program turned, then moved."""

    def plane(p: Plane) -> Plane:
        x, y, z = turn(p.origin)
        return Plane((x + offset[0], y + offset[1], z + offset[2]), turn(p.x_axis), turn(p.normal))

    return Program(
        tuple(Extrude(tuple(Sketch(plane(s.plane), s.profiles) for s in e.sketches), e.operation, e.extent) for e in extrudes)
    )


def along(plane: Plane, height: float) -> Plane:
    """The plane moved along its normal."""
    return Plane(plane.to_world((0.0, 0.0), height), plane.x_axis, plane.normal)


def profile(outer: Loop, *inner: Loop) -> Profile:
    """A region with holes."""
    return Profile(outer, tuple(inner))


def slab(
    dice: Dice, profiles: Profile | Sequence[Profile], low: float, high: float, plane: Plane = LEVEL, operation: Operation = NEW
) -> Extrude:
    """Profiles extruded between two heights over `plane`; how the extent is written varies as it does in real files.

    Mostly one-sided from the lower face (from the upper one, with a negative distance, for cuts), sometimes symmetric about
    the middle or two-sided. The solid is the same.
    """
    regions = (profiles,) if isinstance(profiles, Profile) else tuple(profiles)
    cuts = operation is CUT
    how = dice.weighted((("up", 25.0 if cuts else 86.0), ("down", 65.0 if cuts else 4.0), ("symmetric", 7.0), ("two", 3.0)))
    if how == "up":
        height, extent = low, Extent(ExtentType.ONE_SIDE, high - low)
    elif how == "down":
        height, extent = high, Extent(ExtentType.ONE_SIDE, low - high)
    elif how == "symmetric":
        height, extent = (low + high) / 2.0, Extent(ExtentType.SYMMETRIC, (high - low) / 2.0)
    else:
        part = (high - low) * dice.pick((0.25, 0.75))
        height, extent = low + part, Extent(ExtentType.TWO_SIDES, high - low - part, part)
    return Extrude((Sketch(along(plane, height), regions),), operation, extent)
