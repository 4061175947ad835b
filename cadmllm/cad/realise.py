"""Instructions -> Program: the inverse of `quantise`.

A grid position stands for an interval of half a step to each side, and a designer's number is a round one: of the numbers in
that interval the one with the fewest decimals is taken (a hole of 4.0991 mm becomes 4.1). Neighbouring positions never become
the same number, x and -x stay opposite, and lengths are differences of such positions, so that what coincides on the grid
coincides in the part.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from cadmllm.cad.frame import Transform
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
from cadmllm.cad.quantise import AXES, axes_of
from cadmllm.cad.vocabulary import CURVES, EXTRUDES, GRID, HOLES, OUTER, PLANES, Grid, Instruction

_EXTENTS = {"up": ExtentType.ONE_SIDE, "down": ExtentType.ONE_SIDE, "both": ExtentType.SYMMETRIC, "two": ExtentType.TWO_SIDES}


def realise(instructions: Sequence[Instruction], transform: Transform | None = None, grid: Grid = GRID) -> Program:
    """The program that grammatical instructions describe, in mm.

    A line to where the pen already stands draws nothing and is dropped; whatever else is degenerate is left for
    `program.validate` and the kernel to name.

    Args:
        instructions: a sequence that `grammar` accepts, `end` included.
        transform: where the part stands and how large it is; by default centred, in the size of its `size` instruction.
        grid: the number items.
    """
    mantissa, thousandths, exponent = instructions[0].numbers
    if transform is None:
        transform = Transform((0.0, 0.0, 0.0), 2.0 / ((mantissa + thousandths / 1000.0) * 10.0**exponent))
    unit = transform.scale * grid.half * grid.fine
    reader = _Reader(unit, transform.center, grid)
    extrudes = []
    for instruction in instructions[1:-1]:
        if instruction.command in EXTRUDES:
            extrudes.append(reader.extrude(instruction))
        else:
            reader.draw(instruction)
    return Program(tuple(extrudes))


def roundest(value: float, tolerance: float) -> float:
    """The number with the fewest decimals within `tolerance` (> 0) of `value`; powers of ten above one count as fewer."""
    digits = -math.floor(math.log10(tolerance)) - 2
    while True:
        rounded = round(value, digits)
        if abs(rounded - value) <= tolerance:
            return rounded + 0.0  # no negative zero
        digits += 1


class _Reader:
    """The pen, and the sketches that wait for their extrude."""

    def __init__(self, unit: float, center: Point3, grid: Grid) -> None:
        self.unit, self.center, self.grid = unit, center, grid
        self.height = 0  # of the latest plane, in steps
        self.sketches: list[tuple[Plane, list[list[Loop]]]] = []
        self.curves: list[Curve] = []
        self.start: Point2 = (0.0, 0.0)
        self.pen: Point2 = (0.0, 0.0)
        self.hole = False

    def draw(self, instruction: Instruction) -> None:
        command, numbers = instruction.command, instruction.numbers
        if command in PLANES:
            self.sketches.append((self._plane(command, numbers), []))
        elif command in OUTER or command in HOLES:
            self.hole = command in HOLES
            self._shape(command.removeprefix("hole_"), numbers)
        elif command in CURVES:
            self._curve(command, numbers)
        else:
            self._close(command, numbers)

    def extrude(self, instruction: Instruction) -> Extrude:
        operation, direction = instruction.command.split("_")
        numbers = instruction.numbers
        one = self._between(self.height, self.height + (-numbers[0] if direction == "down" else numbers[0]))
        two = self._between(self.height - numbers[1], self.height) if direction == "two" else 0.0
        extent = Extent(_EXTENTS[direction], one, two)
        sketches = tuple(
            Sketch(plane, tuple(Profile(loops[0], tuple(loops[1:])) for loops in profiles)) for plane, profiles in self.sketches
        )
        self.sketches = []
        return Extrude(sketches, Operation(operation), extent)

    def _plane(self, command: str, numbers: tuple[int, ...]) -> Plane:
        if command == "plane_tilted":
            turn = 2.0 * math.pi / self.grid.turn
            u, _, normal = axes_of(numbers[0] * turn, numbers[1] * turn)
        else:
            u, _, normal = AXES[command]
        self.height = numbers[-1]
        height = self._mm(self.height)
        x, y, z = (c + height * n for c, n in zip(self.center, normal, strict=True))
        return Plane((x, y, z), u, normal)

    def _point(self, numbers: tuple[int, ...]) -> Point2:
        return self._mm(numbers[0]), self._mm(numbers[1])

    def _mm(self, steps: int) -> float:
        return roundest(steps / self.unit, 0.499 / self.unit)

    def _between(self, low: int, high: int) -> float:
        return self._mm(high) - self._mm(low)

    def _shape(self, command: str, numbers: tuple[int, ...]) -> None:
        if command == "circle":
            self._loop((Circle(self._point(numbers), self._mm(numbers[2])),))
        elif command == "rect":
            x0, y0, width, height = numbers
            corners = [self._point(p) for p in ((x0, y0), (x0 + width, y0), (x0 + width, y0 + height), (x0, y0 + height))]
            self._loop(tuple(Line(a, b) for a, b in zip(corners, corners[1:] + corners[:1], strict=True)))
        else:
            self.start = self.pen = self._point(numbers)
            self.curves = []

    def _curve(self, command: str, numbers: tuple[int, ...]) -> None:
        if command == "hline":
            self._to((self._mm(numbers[0]), self.pen[1]), 0)
        elif command == "vline":
            self._to((self.pen[0], self._mm(numbers[0])), 0)
        elif command == "line":
            self._to(self._point(numbers), 0)
        else:
            self._to(self._point(numbers), numbers[2] if command == "arc" else -numbers[2])

    def _close(self, command: str, numbers: tuple[int, ...]) -> None:
        sweep = 0 if command == "close" else numbers[0] if command == "close_arc" else -numbers[0]
        self._to(self.start, sweep)
        self._loop(tuple(self.curves))

    def _to(self, point: Point2, sweep: int) -> None:
        if sweep:
            self.curves.append(Arc(self.pen, point, sweep * 2.0 * math.pi / self.grid.turn))
        elif point != self.pen:
            self.curves.append(Line(self.pen, point))
        self.pen = point

    def _loop(self, curves: tuple[Curve, ...]) -> None:
        profiles = self.sketches[-1][1]
        if self.hole:
            profiles[-1].append(Loop(curves))
        else:
            profiles.append([Loop(curves)])
