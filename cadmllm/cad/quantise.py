"""Program -> instructions: every coordinate on one shared grid, so that what coincides stays coincident.

The part is centred and scaled into the cube [-1, 1] (`normal_frame`). Sketch coordinates are re-expressed in the axes of that
cube (for a plane across x: (y, z); y: (z, x); z: (x, y)), and an extrusion's end is rounded as a position: its length is the
difference of two grid values. So a boss that stands on a face, aligned sketches and faces that meet share one integer. Lengths
of rectangles likewise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from cadmllm.cad.bounds import program_box
from cadmllm.cad.frame import Transform
from cadmllm.cad.program import Arc, Circle, Extrude, Loop, Operation, Plane, Point2, Point3, Profile, Program, Sketch
from cadmllm.cad.vocabulary import EXPONENTS, GRID, Grid, Instruction
from cadmllm.errors import CadmllmError

ALIGNED = 1e-6  # a normal this close to an axis (sine of the angle) is that axis
TIE = 1e-4  # exact halves are common in real parts: the rounding edge stands beside them, so that noise cannot split equals
AXES: dict[str, tuple[Point3, Point3, Point3]] = {
    "plane_x": ((0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (1.0, 0.0, 0.0)),
    "plane_y": ((0.0, 0.0, 1.0), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0)),
    "plane_z": ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)),
}


@dataclass(frozen=True, slots=True)
class Quantised:
    """Instructions, the transform that normalised the part, and what had to be left out because it is finer than the grid."""

    instructions: tuple[Instruction, ...]
    transform: Transform
    notes: tuple[str, ...]


def quantise(program: Program, grid: Grid = GRID) -> Quantised:
    """Put a valid program on the grid.

    Args:
        program: a program that `program.validate` accepts.
        grid: the number items; only the measurement of the representation uses another than `GRID`.

    Raises:
        CadmllmError: E212 when nothing remains, or the size is beyond 1e-4..1e8 mm.
    """
    frame = normal_frame(program, grid)
    writer = _Writer(frame, grid, [], [])
    writer.size()
    for number, extrude in enumerate(program.extrudes):
        writer.extrude(extrude, number)
    if len(writer.out) == 1:
        raise CadmllmError("E212", "no profile encloses an area on the grid (1/16384 of the longest side)", "leave this part out")
    writer.out.append(Instruction("end"))
    return Quantised(tuple(writer.out), frame, tuple(writer.notes))


def normal_frame(program: Program, grid: Grid = GRID) -> Transform:
    """The transform that centres the part's box and makes its longest side 2, or less where a cut reaches beyond 1.5."""
    low, high = program_box(program)
    center = tuple((a + b) / 2.0 for a, b in zip(low, high, strict=True))
    side = max(b - a for a, b in zip(low, high, strict=True))
    far = 0.0
    for extrude in program.extrudes:
        for sketch in extrude.sketches:
            for profile in sketch.profiles:
                for height in (0.0, *extrude.extent.interval):
                    far = max(far, _farthest(profile, sketch.plane, height, center))
    limit = 1.5 * (1.0 - 1.0 / grid.zero)
    scale = min(2.0 / side if side > 0 else math.inf, limit / far if far > 0 else math.inf)
    return Transform((center[0], center[1], center[2]), scale)


def _farthest(profile: Profile, plane: Plane, height: float, center: tuple[float, ...]) -> float:
    # along the axes for aligned planes; in any direction for tilted ones, whose canonical axes are not known here
    far = 0.0
    aligned = any(abs(abs(c) - 1.0) < 1e-9 for c in plane.normal)
    for curve in (c for loop in (profile.outer, *profile.inner) for c in loop.curves):
        for point in [curve.center] if isinstance(curve, Circle) else [curve.start, curve.end]:
            delta = [a - b for a, b in zip(plane.to_world(point, height), center, strict=True)]
            far = max(far, max(map(abs, delta)) if aligned else math.hypot(*delta))
        if isinstance(curve, Circle):
            far = max(far, curve.radius / 2.0)  # a length reaches twice as far as a coordinate
    return far


def steps(value: float) -> int:
    """Round to the nearest whole number, halves away from zero, so that x and -x stay opposite."""
    rounded = math.floor(abs(value) + 0.5 + TIE)
    return rounded if value >= 0 else -rounded


def axes_of(theta: float, phi: float) -> tuple[Point3, Point3, Point3]:
    """u (horizontal), v and normal of a tilted plane from its polar angle and azimuth, radians."""
    st, ct, sp, cp = math.sin(theta), math.cos(theta), math.sin(phi), math.cos(phi)
    return (-sp, cp, 0.0), (-ct * cp, -ct * sp, st), (st * cp, st * sp, ct)


@dataclass(slots=True)
class _Placed:
    """A sketch's plane in canonical axes: instruction head, axes, heights of plane and extrusion (steps, unrounded)."""

    command: str
    angles: tuple[int, ...]
    axes: tuple[Point3, Point3, Point3]
    sign: float
    offset: float
    low: float
    high: float


@dataclass(slots=True)
class _Writer:
    frame: Transform
    grid: Grid
    out: list[Instruction]
    notes: list[str]

    @property
    def unit(self) -> float:
        """Steps per mm."""
        return self.frame.scale * self.grid.half * self.grid.fine

    def size(self) -> None:
        side = 2.0 / self.frame.scale
        exponent = math.floor(math.log10(side)) - 2
        whole = round(side * 10.0 ** (3 - exponent))
        if whole >= 1_000_000:
            whole, exponent = 100_000, exponent + 1
        if exponent not in EXPONENTS:
            raise CadmllmError("E212", f"a part of {side:g} mm is outside 1e-4..1e8 mm", "correct the unit of the file")
        self.out.append(Instruction("size", (whole // 1000, whole % 1000, exponent)))

    def extrude(self, extrude: Extrude, number: int) -> None:
        first = not any(i.command.startswith("new_") for i in self.out)
        if first and extrude.operation in (Operation.CUT, Operation.INTERSECT):
            self.notes.append(
                f"extrude {number + 1}: a {extrude.operation.value} before there is material does nothing and was left out"
            )
            return
        low, high = extrude.extent.interval
        placed = [self._place(sketch, low, high) for sketch in extrude.sketches]
        direction, lengths = _direction(placed)
        wrote = False
        for index, (sketch, place) in enumerate(zip(extrude.sketches, placed, strict=True)):
            body = self._profiles(sketch, place, f"extrude {number + 1}, sketch {index + 1}")
            if body:
                self.out.append(Instruction(place.command, (*place.angles, steps(place.offset))))
                self.out.extend(body)
                wrote = True
        if wrote:
            operation = "new" if first else extrude.operation.value
            self.out.append(Instruction(f"{operation}_{direction}", lengths))

    def _place(self, sketch: Sketch, low: float, high: float) -> _Placed:
        plane = sketch.plane
        command, angles, axes = self._orient(plane.normal)
        normal = axes[2]
        sign = 1.0 if _dot(normal, plane.normal) > 0 else -1.0
        points = [plane.to_world(p) for profile in sketch.profiles for p in _points(profile.outer)]
        heights = [_dot(normal, self._centred(p)) for p in points]
        offset = sum(heights) / len(heights) * self.unit
        ends = sorted((offset + sign * low * self.unit, offset + sign * high * self.unit))
        return _Placed(command, angles, axes, sign, offset, ends[0], ends[1])

    def _orient(self, normal: Point3) -> tuple[str, tuple[int, ...], tuple[Point3, Point3, Point3]]:
        for axis, command in enumerate(("plane_x", "plane_y", "plane_z")):
            if math.hypot(*(c for k, c in enumerate(normal) if k != axis)) < ALIGNED:
                return command, (), AXES[command]
        up = normal if (normal[2], normal[1], normal[0]) > (0.0, 0.0, 0.0) else tuple(-c for c in normal)
        turn = self.grid.turn
        theta = steps(math.acos(max(-1.0, min(1.0, up[2]))) / (2.0 * math.pi) * turn)
        phi = steps(math.atan2(up[1], up[0]) % (2.0 * math.pi) / (2.0 * math.pi) * turn) % turn
        theta = min(theta, turn // 4)
        return "plane_tilted", (theta, phi), axes_of(theta * 2 * math.pi / turn, phi * 2 * math.pi / turn)

    def _centred(self, point: Point3) -> Point3:
        c = self.frame.center
        return point[0] - c[0], point[1] - c[1], point[2] - c[2]

    def _profiles(self, sketch: Sketch, place: _Placed, where: str) -> list[Instruction]:
        def flat(point: Point2) -> tuple[int, int]:
            delta = self._centred(sketch.plane.to_world(point))
            return steps(_dot(place.axes[0], delta) * self.unit), steps(_dot(place.axes[1], delta) * self.unit)

        groups = []
        for k, profile in enumerate(sketch.profiles):
            outer = _loop(profile.outer, flat, place.sign, self.unit, self.grid, "")
            if not outer:
                self.notes.append(f"{where}: profile {k + 1} encloses no area on the grid and was left out")
                continue
            holes = [_loop(loop, flat, place.sign, self.unit, self.grid, "hole_") for loop in profile.inner]
            if not all(holes):
                self.notes.append(
                    f"{where}: {sum(not h for h in holes)} holes of profile {k + 1} are finer than the grid and were left out"
                )
            groups.append((outer, *sorted((h for h in holes if h), key=_order)))
        groups.sort(key=lambda group: _order(group[0]))
        return [instruction for group in groups for loop in group for instruction in loop]


def _direction(placed: list[_Placed]) -> tuple[str, tuple[int, ...]]:
    """The direction word and its lengths; moves a sketch's plane to the low end where the sketches of one extrude disagree."""
    kinds = set()
    for place in placed:
        above, below = place.high - place.offset, place.offset - place.low
        near = 1e-6 * (place.high - place.low)
        if abs(above - below) <= near:
            kinds.add("both")
        elif above > near and below > near:
            kinds.add("two" if place.sign > 0 else "two'")
        elif abs(below) <= near:
            kinds.add("up")
        elif abs(above) <= near:
            kinds.add("down")
        else:
            kinds.add("away")
    kind = kinds.pop() if len(kinds) == 1 else "away"
    first = placed[0]
    if kind == "away":
        for place in placed:
            place.offset = place.low
        kind = "up"
    base, low, high = steps(first.offset), steps(first.low), steps(first.high)
    if kind.startswith("two"):
        return "two", (max(1, high - base), max(1, base - low))
    if kind == "down":
        return "down", (max(1, base - low),)
    return kind, (max(1, high - base),)


def _loop(loop: Loop, flat, sign: float, unit: float, grid: Grid, hole: str) -> list[Instruction]:
    """A loop's instructions: counter-clockwise, from its left-most (then lowest) point; empty when finer than the grid."""
    if isinstance(loop.curves[0], Circle):
        circle = loop.curves[0]
        return [Instruction(f"{hole}circle", (*flat(circle.center), max(1, steps(circle.radius * unit))))]
    chain: list[tuple[tuple[int, int], int]] = []  # (start point, sweep in steps; 0 for a line), the end being the next start
    points = [flat(curve.start) for curve in loop.curves if not isinstance(curve, Circle)]
    for k, curve in enumerate(loop.curves):
        sweep = steps(sign * curve.sweep / (2.0 * math.pi) * grid.turn) if isinstance(curve, Arc) else 0
        if points[k] == points[(k + 1) % len(points)]:
            continue
        sweep = max(-grid.turn + 1, min(grid.turn - 1, sweep))
        chain.append((points[k], sweep))
    if len(chain) < 2 or (len(chain) == 2 and not any(sweep for _, sweep in chain)):
        return []
    area = _twice_area(chain, grid)
    if area == 0:
        return []
    if area < 0:
        starts = [start for start, _ in chain]
        chain = [(starts[(k + 1) % len(chain)], -chain[k][1]) for k in range(len(chain) - 1, -1, -1)]
    lead = min(range(len(chain)), key=lambda k: chain[k][0])
    return _spell(chain[lead:] + chain[:lead], hole)


def _spell(chain: list[tuple[tuple[int, int], int]], hole: str) -> list[Instruction]:
    points = [point for point, _ in chain]
    if len(chain) == 4 and not any(sweep for _, sweep in chain):
        (x0, y0), (x1, y1) = points[0], points[2]
        if points[1] == (x1, y0) and points[3] == (x0, y1) and x1 > x0 and y1 > y0:
            return [Instruction(f"{hole}rect", (x0, y0, x1 - x0, y1 - y0))]
    out = [Instruction("hole" if hole else "loop", points[0])]
    for k, (here, sweep) in enumerate(chain):
        last = k == len(chain) - 1
        there = points[(k + 1) % len(points)]
        if sweep:
            name = "arc" if sweep > 0 else "arcw"
            out.append(Instruction(f"close_{name}", (abs(sweep),)) if last else Instruction(name, (*there, abs(sweep))))
        elif last:
            out.append(Instruction("close"))
        elif here[1] == there[1]:
            out.append(Instruction("hline", (there[0],)))
        elif here[0] == there[0]:
            out.append(Instruction("vline", (there[1],)))
        else:
            out.append(Instruction("line", there))
    return out


def _twice_area(chain: list[tuple[tuple[int, int], int]], grid: Grid) -> float:
    """Twice the signed area (steps squared): the polygon's, exact in integers, and each arc's segment r^2 (s - sin s)."""
    total = 0.0
    for (a, sweep), (b, _) in zip(chain, chain[1:] + chain[:1], strict=True):
        total += a[0] * b[1] - b[0] * a[1]
        if sweep:
            angle = sweep * 2.0 * math.pi / grid.turn
            radius = math.dist(a, b) / (2.0 * math.sin(abs(angle) / 2.0))
            total += radius * radius * (angle - math.sin(angle))
    return total


def _order(loop: list[Instruction]) -> tuple[int, int]:
    head = loop[0]
    if head.command.endswith("circle"):
        return head.numbers[0] - head.numbers[2], head.numbers[1] - head.numbers[2]
    return head.numbers[0], head.numbers[1]


def _points(loop: Loop) -> list[Point2]:
    return [curve.center if isinstance(curve, Circle) else curve.start for curve in loop.curves]


def _dot(a: Point3, b: Point3) -> float:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
