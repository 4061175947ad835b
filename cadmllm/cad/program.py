"""The CAD program: sketches and extrusions, as small frozen dataclasses.

Units are millimetres and radians everywhere inside cadmllm; files that use others (Omni-CAD JSON and glTF: metres) are
converted where they are read and written. Sketch coordinates are (u, v) in the plane of the sketch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from cadmllm.errors import CadmllmError

Point2 = tuple[float, float]
Point3 = tuple[float, float, float]

CLOSURE = 1e-4  # two curve ends count as one point when closer than this share of the loop's size
LARGEST = 1e7  # 10 km in mm: whatever lies outside is a broken number, not a part


@dataclass(frozen=True, slots=True)
class Line:
    """A straight segment from `start` to `end`, mm in the sketch plane."""

    start: Point2
    end: Point2


@dataclass(frozen=True, slots=True)
class Arc:
    """A circular arc from `start` to `end`, mm; `sweep` in radians, 0 < |sweep| < 2 pi, positive is counter-clockwise."""

    start: Point2
    end: Point2
    sweep: float

    @property
    def radius(self) -> float:
        """Radius in mm: chord / (2 sin(|sweep| / 2))."""
        return math.dist(self.start, self.end) / (2.0 * math.sin(abs(self.sweep) / 2.0))

    @property
    def center(self) -> Point2:
        """Centre in mm: on the chord's bisector, to the left of the chord for a sweep in (0, pi)."""
        (x0, y0), (x1, y1) = self.start, self.end
        lift = 0.5 / math.tan(self.sweep / 2.0)
        return (x0 + x1) / 2.0 - (y1 - y0) * lift, (y0 + y1) / 2.0 + (x1 - x0) * lift

    def point(self, share: float) -> Point2:
        """The point after `share` (0..1) of the sweep."""
        cx, cy = self.center
        angle = math.atan2(self.start[1] - cy, self.start[0] - cx) + share * self.sweep
        radius = self.radius
        return cx + radius * math.cos(angle), cy + radius * math.sin(angle)

    @property
    def mid(self) -> Point2:
        """The point half-way along the arc."""
        return self.point(0.5)


@dataclass(frozen=True, slots=True)
class Circle:
    """A full circle; it is a loop by itself. Centre and radius (> 0) in mm."""

    center: Point2
    radius: float


Curve = Line | Arc | Circle


@dataclass(frozen=True, slots=True)
class Loop:
    """A closed chain: either one `Circle`, or lines and arcs of which each starts where the one before ended."""

    curves: tuple[Curve, ...]


@dataclass(frozen=True, slots=True)
class Profile:
    """A region of a sketch: one outer loop and the loops of its holes."""

    outer: Loop
    inner: tuple[Loop, ...] = ()


@dataclass(frozen=True, slots=True)
class Plane:
    """A sketch plane: origin in mm; `x_axis` and `normal` are orthogonal unit vectors."""

    origin: Point3 = (0.0, 0.0, 0.0)
    x_axis: Point3 = (1.0, 0.0, 0.0)
    normal: Point3 = (0.0, 0.0, 1.0)

    @property
    def y_axis(self) -> Point3:
        """normal x x_axis: the frame is right-handed."""
        (nx, ny, nz), (xx, xy, xz) = self.normal, self.x_axis
        return ny * xz - nz * xy, nz * xx - nx * xz, nx * xy - ny * xx

    def to_world(self, point: Point2, height: float = 0.0) -> Point3:
        """The space point of sketch coordinates `point`, `height` mm along the normal."""
        x, y, n, o = self.x_axis, self.y_axis, self.normal, self.origin
        u, v = point
        return (
            o[0] + u * x[0] + v * y[0] + height * n[0],
            o[1] + u * x[1] + v * y[1] + height * n[1],
            o[2] + u * x[2] + v * y[2] + height * n[2],
        )


@dataclass(frozen=True, slots=True)
class Sketch:
    """Profiles drawn on one plane."""

    plane: Plane
    profiles: tuple[Profile, ...]


class Operation(StrEnum):
    """How an extrusion meets what is already there."""

    NEW_BODY = "new"
    JOIN = "join"
    CUT = "cut"
    INTERSECT = "intersect"


class ExtentType(StrEnum):
    """One side of the plane, the same distance on each side, or two distances."""

    ONE_SIDE = "one"
    SYMMETRIC = "symmetric"
    TWO_SIDES = "two"


@dataclass(frozen=True, slots=True)
class Extent:
    """How far an extrusion goes, mm; a negative distance goes against the normal.

    `one` is along the normal; for SYMMETRIC it is the distance on *each* side; `two` (TWO_SIDES alone) is against it.
    """

    type: ExtentType
    one: float
    two: float = 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """(low, high) heights along the normal, mm, low <= high."""
        if self.type is ExtentType.SYMMETRIC:
            return -abs(self.one), abs(self.one)
        ends = (0.0, self.one) if self.type is ExtentType.ONE_SIDE else (-self.two, self.one)
        return min(ends), max(ends)


@dataclass(frozen=True, slots=True)
class Extrude:
    """One feature: the profiles of one or more sketches, extruded together."""

    sketches: tuple[Sketch, ...]
    operation: Operation
    extent: Extent


@dataclass(frozen=True, slots=True)
class Program:
    """A part: extrusions in order."""

    extrudes: tuple[Extrude, ...]


def ends(curve: Line | Arc) -> tuple[Point2, Point2]:
    """Start and end point of an open curve."""
    return curve.start, curve.end


def validate(program: Program, where: str = "program") -> Program:
    """Check what can be checked without a kernel, and return the program unchanged.

    Args:
        program: any program.
        where: what to call it in messages (a file, an id).

    Raises:
        CadmllmError: E205 (number not finite or beyond 10 km), E207 (loop empty or open), E208 (zero length, radius,
            sweep or extent), E209 (no extrude, no profile), each naming extrude, sketch, profile and loop by position.
    """
    if not program.extrudes:
        raise CadmllmError("E209", f"{where}: the program has no extrude", "leave this file out of the data set")
    for i, extrude in enumerate(program.extrudes):
        at = f"{where}: extrude {i + 1}"
        _check_extent(extrude.extent, at)
        if not extrude.sketches or not all(sketch.profiles for sketch in extrude.sketches):
            raise CadmllmError("E209", f"{at} names no profile", "leave this file out of the data set")
        for sketch in extrude.sketches:
            _check_plane(sketch.plane, at)
            for j, profile in enumerate(sketch.profiles):
                for k, loop in enumerate((profile.outer, *profile.inner)):
                    _check_loop(loop, f"{at}, profile {j + 1}, loop {k + 1}")
    return program


def _finite(values: tuple[float, ...], at: str) -> None:
    for value in values:
        if not math.isfinite(value) or abs(value) > LARGEST:
            raise CadmllmError(
                "E205", f"{at}: {value!r} is not a length within {LARGEST:g} mm", "correct the number or leave the file out"
            )


def _check_extent(extent: Extent, at: str) -> None:
    _finite((extent.one, extent.two), at)
    low, high = extent.interval
    if high - low <= 0.0:
        raise CadmllmError("E208", f"{at} has a distance of zero", "correct the distance or leave the file out")


def _check_plane(plane: Plane, at: str) -> None:
    _finite(plane.origin + plane.x_axis + plane.normal, at)
    lengths = math.hypot(*plane.x_axis), math.hypot(*plane.normal)
    dot = sum(a * b for a, b in zip(plane.x_axis, plane.normal, strict=True))
    if any(abs(length - 1.0) > 1e-6 for length in lengths) or abs(dot) > 1e-6:
        raise CadmllmError("E205", f"{at}: the plane's axes are not orthogonal unit vectors", "correct the transform")


def _check_loop(loop: Loop, at: str) -> None:
    if not loop.curves:
        raise CadmllmError("E207", f"{at} has no curve", "leave this file out of the data set")
    if any(isinstance(curve, Circle) for curve in loop.curves):
        if len(loop.curves) > 1:
            raise CadmllmError("E207", f"{at} mixes a circle with other curves", "make each circle a loop of its own")
        circle = loop.curves[0]
        assert isinstance(circle, Circle)
        _finite((*circle.center, circle.radius), at)
        if circle.radius <= 0.0:
            raise CadmllmError("E208", f"{at}: a circle of radius {circle.radius!r}", "give a radius above zero")
        return
    chain = [curve for curve in loop.curves if not isinstance(curve, Circle)]
    for curve in chain:
        _check_curve(curve, at)
    points = [curve.start for curve in chain] + [curve.end for curve in chain]
    size = max(max(p[0] for p in points) - min(p[0] for p in points), max(p[1] for p in points) - min(p[1] for p in points))
    for one, after in zip(chain, chain[1:] + chain[:1], strict=True):
        gap = math.dist(one.end, after.start)
        if gap > CLOSURE * max(size, 1e-12):
            raise CadmllmError(
                "E207", f"{at} is open: a gap of {gap:.6g} mm at {one.end}", "close the loop or leave the file out"
            )
    if len(chain) == 1 or (len(chain) == 2 and all(isinstance(curve, Line) for curve in chain)):
        raise CadmllmError("E207", f"{at} encloses no area", "leave this file out of the data set")


def _check_curve(curve: Line | Arc, at: str) -> None:
    _finite((*curve.start, *curve.end), at)
    if math.dist(curve.start, curve.end) == 0.0:
        raise CadmllmError("E208", f"{at}: a curve of zero length at {curve.start}", "remove the curve")
    if isinstance(curve, Arc) and not 0.0 < abs(curve.sweep) < 2.0 * math.pi:
        raise CadmllmError("E208", f"{at}: an arc with a sweep of {curve.sweep!r} rad", "give a sweep within (0, 2 pi)")
