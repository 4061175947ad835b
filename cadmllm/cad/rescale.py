"""Programs made larger or smaller: by one factor exactly, by three where the language can say what comes out.

The map is x -> about + F (x - about) with F = diag(fx, fy, fz). A sketch plane with normal n stays one that is extruded along its
normal when F n is parallel to n: for every plane across an axis, and for tilted ones whose normal lies among axes of equal
factors. Within the plane lines stay lines; a circle stays one, and an arc keeps its sweep, only where the two factors are equal.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from cadmllm.cad.program import (
    Arc,
    Circle,
    Curve,
    Extent,
    Extrude,
    Line,
    Loop,
    Plane,
    Point2,
    Point3,
    Profile,
    Program,
    Sketch,
)
from cadmllm.errors import CadmllmError

SAME = 1e-9  # two factors are one when they differ by less than this share, and directions by less than this sine
ORIGIN: Point3 = (0.0, 0.0, 0.0)


def scaled(program: Program, factor: float, about: Point3 = ORIGIN) -> Program:
    """The program `factor` times as large (> 0); `about` (mm) stays where it is."""
    return stretched(program, (factor, factor, factor), about)


def stretched(
    program: Program, factors: tuple[float, float, float], about: Point3 = ORIGIN, *, keep_round: bool = False
) -> Program:
    """The program with x, y and z multiplied by factors of their own.

    Args:
        program: any valid program.
        factors: of x, y and z, each > 0.
        about: the point that stays, mm.
        keep_round: full circles stay circles where the factors of their plane differ: the centre moves as everything does,
            the radius takes the smaller factor, so that the circle lies within the ellipse that it would have become. The
            volume is then not multiplied by fx fy fz.

    Raises:
        CadmllmError: E212 naming the first sketch or curve that the language cannot say after it.
    """
    if not all(math.isfinite(factor) and factor > 0.0 for factor in factors):
        raise ValueError(f"factors {factors}")
    return Program(
        tuple(
            _extrude(extrude, factors, about, f"extrude {number}", keep_round)
            for number, extrude in enumerate(program.extrudes, 1)
        )
    )


def _extrude(extrude: Extrude, factors: Point3, about: Point3, at: str, keep_round: bool) -> Extrude:
    along = {_along(sketch.plane, factors, f"{at}, sketch {k}") for k, sketch in enumerate(extrude.sketches, 1)}
    if max(along) - min(along) > SAME * max(along):
        raise _unsaid(f"{at}: its sketches look in different directions, and would need different distances", factors)
    one = extrude.extent
    extent = Extent(one.type, one.one * max(along), one.two * max(along))
    sketches = (_sketch(sketch, factors, about, f"{at}, sketch {k}", keep_round) for k, sketch in enumerate(extrude.sketches, 1))
    return Extrude(tuple(sketches), extrude.operation, extent)


def _along(plane: Plane, factors: Point3, at: str) -> float:
    """The factor along the plane's normal."""
    normal = plane.normal
    moved = [factor * part for factor, part in zip(factors, normal, strict=True)]
    factor = sum(a * b for a, b in zip(moved, normal, strict=True)) / sum(part * part for part in normal)
    if math.dist(moved, [factor * part for part in normal]) > 1e-6 * max(factors):
        shown = ", ".join(f"{part:.4g}" for part in normal)
        raise _unsaid(f"{at}: its plane is tilted (normal {shown}) and would no longer be extruded at a right angle", factors)
    if max(factors) - min(factors) <= SAME * max(factors):
        return factors[0]
    return next((f for f, part in zip(factors, normal, strict=True) if abs(abs(part) - 1.0) < SAME), factor)


def _sketch(sketch: Sketch, factors: Point3, about: Point3, at: str, keep_round: bool) -> Sketch:
    plane, mover = sketch.plane, _Mover(sketch.plane, factors, keep_round)
    x, y, z = (a + f * (o - a) for a, f, o in zip(about, factors, plane.origin, strict=True))
    profiles = []
    for j, profile in enumerate(sketch.profiles, 1):
        outer, *inner = (
            Loop(tuple(mover.curves(loop, factors, f"{at}, profile {j}, loop {k}")))
            for k, loop in enumerate((profile.outer, *profile.inner), 1)
        )
        profiles.append(Profile(outer, tuple(inner)))
    return Sketch(Plane((x, y, z), plane.x_axis, plane.normal), tuple(profiles))


class _Mover:
    """What the map does within a plane: the 2 x 2 matrix of F in the axes of the sketch."""

    def __init__(self, plane: Plane, factors: Point3, keep_round: bool) -> None:
        u, v = plane.x_axis, plane.y_axis
        low, high = min(factors), max(factors)
        if high - low <= SAME * high:
            self.matrix = (factors[0], 0.0, 0.0, factors[0])
        else:
            uu, uv, vv = (sum(f * a * b for f, a, b in zip(factors, p, q, strict=True)) for p, q in ((u, u), (u, v), (v, v)))
            self.matrix = (uu, uv, uv, vv) if abs(uv) > SAME * high else (uu, 0.0, 0.0, vv)
        a, b, _, d = self.matrix
        # the factors themselves: eigenvalues of a symmetric matrix
        middle, apart = (a + d) / 2.0, math.hypot((a - d) / 2.0, b)
        self.least, self.most = middle - apart, middle + apart
        self.round = self.most - self.least <= SAME * self.most
        if self.round:
            self.matrix, self.least = (a, 0.0, 0.0, a), a
        self.keep_round = keep_round

    def point(self, point: Point2) -> Point2:
        a, b, c, d = self.matrix
        return a * point[0] + b * point[1], c * point[0] + d * point[1]

    def curves(self, loop: Loop, factors: Point3, at: str) -> Iterator[Curve]:
        for curve in loop.curves:
            if isinstance(curve, Line):
                yield Line(self.point(curve.start), self.point(curve.end))
            elif isinstance(curve, Circle) and (self.round or self.keep_round):
                yield Circle(self.point(curve.center), curve.radius * self.least)
            elif isinstance(curve, Arc) and self.round:
                yield Arc(self.point(curve.start), self.point(curve.end), curve.sweep)
            else:
                what = "a circle" if isinstance(curve, Circle) else "an arc"
                raise _unsaid(f"{at}: {what} of radius {curve.radius:.6g} mm would become part of an ellipse", factors)


def _unsaid(what: str, factors: Point3) -> CadmllmError:
    times = " x ".join(f"{factor:.6g}" for factor in factors)
    return CadmllmError("E212", f"{what} when stretched by {times}", "scale by one factor: --size 40mm sets the longest side")
