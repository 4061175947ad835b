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
    low, high = extrude.extent.interval
    boxes = []
    for sketch in extrude.sketches:
        for profile in sketch.profiles:
            for curve in profile.outer.curves:
                for height in (low, high):
                    boxes.append(_curve_box(curve, sketch.plane, height))
    return _union(boxes)


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


def _curve_box(curve: Curve, plane: Plane, height: float) -> Box:
    lows, highs = [], []
    for axis in range(3):
        u, v = plane.x_axis[axis], plane.y_axis[axis]
        length = math.hypot(u, v)
        direction = (u / length, v / length) if length > 1e-12 else (1.0, 0.0)
        values = [plane.to_world(point, height)[axis] for point in curve_extremes(curve, direction)]
        lows.append(min(values))
        highs.append(max(values))
    return (lows[0], lows[1], lows[2]), (highs[0], highs[1], highs[2])


def _union(boxes: list[Box]) -> Box:
    lows, highs = zip(*boxes, strict=True)
    low = tuple(min(values) for values in zip(*lows, strict=True))
    high = tuple(max(values) for values in zip(*highs, strict=True))
    return (low[0], low[1], low[2]), (high[0], high[1], high[2])
