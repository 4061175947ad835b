"""Programs of known volume, for the tests of kernel, workshop, mesh, compare and render."""

from __future__ import annotations

from cadmllm.cad.program import (
    Circle,
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


def polygon(*points: Point2) -> Loop:
    """A closed loop of lines through the points."""
    return Loop(tuple(Line(a, b) for a, b in zip(points, points[1:] + points[:1], strict=True)))


def rectangle(x: float, y: float, width: float, height: float) -> Loop:
    """A rectangle with its lower left corner at (x, y), counter-clockwise."""
    return polygon((x, y), (x + width, y), (x + width, y + height), (x, y + height))


def circle(x: float, y: float, radius: float) -> Loop:
    """A full circle."""
    return Loop((Circle((x, y), radius),))


def extrude(
    *profiles: Profile | Loop,
    one: float = 10.0,
    two: float = 0.0,
    type: ExtentType = ExtentType.ONE_SIDE,
    operation: Operation = Operation.NEW_BODY,
    plane: Plane = Plane(),  # noqa: B008 - frozen
) -> Extrude:
    """One extrusion of profiles (a loop alone is a profile without holes) of one sketch."""
    drawn = tuple(profile if isinstance(profile, Profile) else Profile(profile) for profile in profiles)
    return Extrude((Sketch(plane, drawn),), operation, Extent(type, one, two))


def program(*extrudes: Extrude) -> Program:
    """The program of these extrusions."""
    return Program(extrudes)


BOX = program(extrude(rectangle(0, 0, 10, 20), one=30.0))
PLATE = program(extrude(Profile(rectangle(-40, -20, 80, 40), (circle(-25, 0, 6), circle(25, 0, 6))), one=8.0))
BOW = program(extrude(polygon((0, 0), (10, 10), (10, 0), (0, 10))))
