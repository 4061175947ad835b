"""A program as readable Python source for build123d (https://build123d.readthedocs.io). It is text: nothing here runs it.

Names of the library that the source uses, as documented there: BuildPart, BuildSketch, BuildLine, Plane (with .offset),
Locations, Circle, Rectangle, Line, Polyline, ThreePointArc, make_face, extrude, Mode, export_step. Lengths are millimetres.
"""

from __future__ import annotations

import math
import re

from cadmllm.cad.loops import area, polygon
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

DIGITS = 12  # significant decimal digits, of the largest length of the part
MODES = {
    Operation.NEW_BODY: "ADD",
    Operation.JOIN: "ADD",
    Operation.CUT: "SUBTRACT",
    Operation.INTERSECT: "INTERSECT",
}
TITLES = {
    Operation.NEW_BODY: "new body",
    Operation.JOIN: "join",
    Operation.CUT: "cut",
    Operation.INTERSECT: "intersection",
}


def to_script(program: Program, name: str) -> str:
    """Python source that builds the part with build123d and writes `NAME.step`.

    Radii, rectangle sides and heights are named at the top; equal ones share a name, so that one edit changes them together.
    A cut or an intersection before there is a body does nothing, and is left out with a comment.

    Args:
        program: a valid program, mm.
        name: what to call the part; anything but letters, digits, '.', '_' and '-' becomes '_'.

    Returns:
        ASCII source; numbers agree with the program within 1e-11 of its largest length.
    """
    safe = re.sub(r"[^A-Za-z0-9._-]+", "_", name).lstrip(".-")[:100] or "part"
    writer = _Writer(program)
    started = False
    for number, extrude in enumerate(program.extrudes, start=1):
        started = started or extrude.operation in (Operation.NEW_BODY, Operation.JOIN)
        if started:
            writer.extrude(extrude, number)
        else:
            title = TITLES[extrude.operation]
            writer.body.append(f"    # extrusion {number} ({title}): there is no body yet, so it does nothing")
    if not started:
        writer.body.append("    pass")
    lines = [
        f'"""{safe}: made by cadmllm. Run it with Python after `pip install build123d`. Lengths in millimetres."""',
        "",
        f"from build123d import {', '.join(sorted(writer.used, key=str.lower))}",
        "",
        *(["# dimensions, mm", *writer.names.lines(), ""] if writer.names.values else []),
        "with BuildPart() as part:",
        *writer.body,
        "",
        f'export_step(part.part, "{safe}.step")',
    ]
    return "\n".join(lines) + "\n"


class _Names:
    """The dimensions at the top: `width_1 = 20`."""

    def __init__(self) -> None:
        self.values: dict[str, tuple[str, str]] = {}
        self.count: dict[str, int] = {}

    def get(self, kind: str, value: str, about: str) -> str:
        """The name of a dimension of this kind and value, made when it is new."""
        for name, (known, _) in self.values.items():
            if known == value and name.rpartition("_")[0] == kind:
                return name
        return self.new(kind, value, about)

    def new(self, kind: str, value: str, about: str) -> str:
        self.count[kind] = self.count.get(kind, 0) + 1
        name = f"{kind}_{self.count[kind]}"
        self.values[name] = (value, about)
        return name

    def lines(self) -> list[str]:
        return [f"{name} = {value}  # {about}" for name, (value, about) in self.values.items()]


class _Writer:
    def __init__(self, program: Program) -> None:
        self.names = _Names()
        self.used = {"BuildPart", "export_step"}
        self.body: list[str] = []
        largest = _largest(program)
        self.decimals = DIGITS - 1 - math.floor(math.log10(largest)) if largest > 0.0 else DIGITS

    def number(self, value: float) -> str:
        """A length as short as it can be: 25.400000000000002 is 25.4, and 20.0 is 20."""
        text = repr(round(value, self.decimals) + 0.0)
        return text[:-2] if text.endswith(".0") else text

    def point(self, point: Point2) -> str:
        return f"({self.number(point[0])}, {self.number(point[1])})"

    def extrude(self, extrude: Extrude, number: int) -> None:
        """A feature: its sketches, then the extrusion of all of them."""
        if len(self.body) > 0:
            self.body.append("")
        self.body.append(f"    # extrusion {number}: {TITLES[extrude.operation]}")
        shift, amount = self._amount(extrude.extent, number)
        self.used |= {"BuildSketch", "Plane", "extrude", "Mode"}
        for sketch in extrude.sketches:
            self.body.append(f"    with BuildSketch({self._plane(sketch.plane)}{shift}):")
            for profile in _drawing_order(sketch):
                self._profile(profile, number)
        self.body.append(f"    extrude({amount}, mode=Mode.{MODES[extrude.operation]})")

    def _amount(self, extent: Extent, number: int) -> tuple[str, str]:
        """What moves the sketch plane, and the arguments of `extrude`."""
        about = f"extrusion {number}"

        def signed(kind: str, value: float) -> str:
            name = self.names.new(kind, self.number(abs(value)), about)
            return name if value >= 0.0 else f"-{name}"

        if extent.type is ExtentType.ONE_SIDE:
            return "", f"amount={signed('height', extent.one)}"
        if extent.type is ExtentType.SYMMETRIC:
            name = self.names.new("height", self.number(abs(extent.one)), f"{about}, on each side")
            return "", f"amount={name}, both=True"
        up, down = signed("up", extent.one), signed("down", extent.two)
        return f".offset(-({down}))" if down.startswith("-") else f".offset(-{down})", f"amount={up} + {down}"

    def _plane(self, plane: Plane) -> str:
        if plane == Plane():
            return "Plane.XY"
        origin = ", ".join(self.number(value) for value in plane.origin)
        x, z = (", ".join(_axis(value) for value in axis) for axis in (plane.x_axis, plane.normal))
        return f"Plane(origin=({origin}), x_dir=({x}), z_dir=({z}))"

    def _profile(self, profile: Profile, number: int) -> None:
        self._loop(profile.outer, "", f"extrusion {number}")
        for hole in profile.inner:
            self._loop(hole, "mode=Mode.SUBTRACT", f"extrusion {number}")

    def _loop(self, loop: Loop, mode: str, about: str) -> None:
        first = loop.curves[0]
        box = _rectangle(loop)
        if isinstance(first, Circle):
            self.used.add("Circle")
            radius = self.names.get("radius", self.number(first.radius), about)
            self._placed(first.center, f"Circle({', '.join(filter(None, (radius, mode)))})")
        elif box is not None:
            self.used.add("Rectangle")
            (x0, y0), (x1, y1) = box
            width = self.names.get("width", self.number(x1 - x0), about)
            length = self.names.get("length", self.number(y1 - y0), about)
            self._placed(((x0 + x1) / 2.0, (y0 + y1) / 2.0), f"Rectangle({', '.join(filter(None, (width, length, mode)))})")
        else:
            self.used |= {"BuildLine", "make_face"}
            self.body.append("        with BuildLine():")
            self._curves(loop.curves)
            self.body.append(f"        make_face({mode})")

    def _placed(self, center: Point2, what: str) -> None:
        place = self.point(center)
        if place == "(0, 0)":
            self.body.append(f"        {what}")
            return
        self.used.add("Locations")
        self.body += [f"        with Locations({place}):", f"            {what}"]

    def _curves(self, curves: tuple[Curve, ...]) -> None:
        if all(isinstance(curve, Line) for curve in curves):
            self.used.add("Polyline")
            points = ", ".join(self.point(curve.start) for curve in curves if isinstance(curve, Line))
            self.body.append(f"            Polyline({points}, close=True)")
            return
        for curve in curves:
            if isinstance(curve, Arc):
                self.used.add("ThreePointArc")
                points = ", ".join(self.point(point) for point in (curve.start, curve.mid, curve.end))
                self.body.append(f"            ThreePointArc({points})")
            elif isinstance(curve, Line):
                self.used.add("Line")
                self.body.append(f"            Line({self.point(curve.start)}, {self.point(curve.end)})")


def _axis(value: float) -> str:
    text = repr(round(value, 15) + 0.0)
    return text[:-2] if text.endswith(".0") else text


def _largest(program: Program) -> float:
    """The largest absolute length of the source, mm."""
    lengths = []
    for extrude in program.extrudes:
        lengths += [extrude.extent.one, extrude.extent.two]
        for sketch in extrude.sketches:
            lengths += sketch.plane.origin
            for profile in sketch.profiles:
                lengths += [value for loop in (profile.outer, *profile.inner) for point in polygon(loop) for value in point]
    return max(abs(value) for value in lengths)


def _drawing_order(sketch: Sketch) -> list[Profile]:
    """Larger outer loops first: a profile may lie in a hole of another, and must not be cut away with it."""
    if len(sketch.profiles) == 1 or not any(profile.inner for profile in sketch.profiles):
        return list(sketch.profiles)
    return sorted(sketch.profiles, key=lambda profile: -abs(area(polygon(profile.outer))))


def _rectangle(loop: Loop) -> tuple[Point2, Point2] | None:
    """The (low, high) corner of a loop that is a rectangle along the axes."""
    lines = [curve for curve in loop.curves if isinstance(curve, Line)]
    if len(loop.curves) != 4 or len(lines) != 4:
        return None
    level = [line.start[1] == line.end[1] for line in lines]
    upright = [line.start[0] == line.end[0] for line in lines]
    if not (level == [not flat for flat in upright] and level[0] != level[1] and level[0] == level[2] and level[1] == level[3]):
        return None
    xs, ys = [line.start[0] for line in lines], [line.start[1] for line in lines]
    return (min(xs), min(ys)), (max(xs), max(ys))
