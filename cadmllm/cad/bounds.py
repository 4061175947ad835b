"""The bounding box of a program, without a kernel."""

from __future__ import annotations

import math
from collections.abc import Iterator

from cadmllm.cad.program import Arc, Circle, Curve, Extrude, Operation, Plane, Point2, Point3, Program

Box = tuple[Point3, Point3]


def program_box(program: Program) -> Box:
    """The box of all material that is added (new bodies and joins), mm; cuts and intersections are not subtracted.

    For a program that adds nothing (which the kernel calls EMPTY), the box of everything drawn.
    """
    added = [e for e in program.extrudes if e.operation in (Operation.NEW_BODY, Operation.JOIN)]
    return _union([extrude_box(extrude) for extrude in added or program.extrudes])


def extrude_box(extrude: Extrude) -> Box:
    """The exact axis-aligned box of one extrusion, mm."""
    heights = extrude.extent.interval
    lows, highs = [math.inf] * 3, [-math.inf] * 3
    for sketch in extrude.sketches:
        curves = [curve for profile in sketch.profiles for curve in profile.outer.curves]
        for axis in range(3):
            values = _along_axis(curves, sketch.plane, heights, axis)
            lows[axis], highs[axis] = min(lows[axis], min(values)), max(highs[axis], max(values))
    return (lows[0], lows[1], lows[2]), (highs[0], highs[1], highs[2])


def curve_extremes(curve: Curve, direction: Point2) -> Iterator[Point2]:
    """Points among which the curve's least and greatest coordinate along `direction` (unit vector) are found."""
    if isinstance(curve, Circle):
        (x, y), r = curve.center, curve.radius
        yield x + r * direction[0], y + r * direction[1]
        yield x - r * direction[0], y - r * direction[1]
        return
    yield curve.start
    yield curve.end
    if isinstance(curve, Arc):
        (cx, cy), r = curve.center, curve.radius
        begin = math.atan2(curve.start[1] - cy, curve.start[0] - cx)
        for sign in (1.0, -1.0):
            angle = math.atan2(sign * direction[1], sign * direction[0])
            turn = (angle - begin) if curve.sweep > 0 else (begin - angle)
            if turn % (2.0 * math.pi) < abs(curve.sweep):
                yield cx + sign * r * direction[0], cy + sign * r * direction[1]


def _along_axis(curves: list[Curve], plane: Plane, heights: tuple[float, float], axis: int) -> list[float]:
    """Coordinates on a space axis among which those of least and greatest reach are; computed as `Plane.to_world` does."""
    u, v, n, o = plane.x_axis[axis], plane.y_axis[axis], plane.normal[axis], plane.origin[axis]
    length = math.hypot(u, v)
    direction = (u / length, v / length) if length > 1e-12 else (1.0, 0.0)
    points = [point for curve in curves for point in curve_extremes(curve, direction)]
    return [o + x * u + y * v + height * n for height in heights for x, y in points]


def _union(boxes: list[Box]) -> Box:
    lows, highs = zip(*boxes, strict=True)
    low = tuple(min(values) for values in zip(*lows, strict=True))
    high = tuple(max(values) for values in zip(*highs, strict=True))
    return (low[0], low[1], low[2]), (high[0], high[1], high[2])
