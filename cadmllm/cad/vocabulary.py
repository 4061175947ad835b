"""The added vocabulary and the instructions it spells: one item per command and per level.

A program is a list of instructions (`size`, `plane_z`, `rect`, `new_up`, ...), each a command item followed by numbers. A number
is a *level* item, optionally followed by a *fine* item that adds sixteenths of a level; between instructions and tokens, numbers
are kept as integers of such sixteenths (*steps*). The order of the items is part of every checkpoint and never changes.

Kinds of number (`SLOTS`):
    coord   position in the normalised frame, -12,288..12,303 steps; 8,192 steps are half the longest side of the part
    length  the same unit, 1 step or more
    sweep   an arc's sweep, 1/64 of a degree a step, 1 step or more, below 360 degrees
    tilt, turn  a tilted plane's polar angle (0..90 degrees) and azimuth (0..360), 1/64 of a degree a step
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Grid:
    """The number items: `half` levels span half the longest side, each cut into `fine` steps; coordinates reach 1.5 halves."""

    half: int = 512
    fine: int = 16

    @property
    def zero(self) -> int:
        """The level that a coordinate of 0 has."""
        return self.half * 3 // 2

    @property
    def levels(self) -> int:
        """Number of level items."""
        return 2 * self.zero + 1

    @property
    def reach(self) -> int:
        """The largest coordinate magnitude, in steps."""
        return self.zero * self.fine

    @property
    def turn(self) -> int:
        """Steps of a full turn: the finest whole share of a degree for which 360 degrees fit into the levels."""
        return 360 * max(1, (self.levels - 1) // 360) * self.fine


GRID = Grid()
PLANES = ("plane_x", "plane_y", "plane_z", "plane_tilted")
OUTER = ("rect", "circle", "loop")
HOLES = ("hole_rect", "hole_circle", "hole")
CURVES = ("line", "hline", "vline", "arc", "arcw")
CLOSES = ("close", "close_arc", "close_arcw")
OPERATIONS = ("new", "join", "cut", "intersect")
DIRECTIONS = ("up", "down", "both", "two")
EXTRUDES = tuple(f"{operation}_{direction}" for operation in OPERATIONS for direction in DIRECTIONS)
EXPONENTS = tuple(range(-6, 6))

SLOTS: dict[str, tuple[str, ...]] = {
    "end": (),
    "size": ("mantissa", "thousandths", "exponent"),
    "plane_x": ("coord",),
    "plane_y": ("coord",),
    "plane_z": ("coord",),
    "plane_tilted": ("tilt", "turn", "coord"),
    "rect": ("coord", "coord", "length", "length"),
    "circle": ("coord", "coord", "length"),
    "loop": ("coord", "coord"),
    "hole_rect": ("coord", "coord", "length", "length"),
    "hole_circle": ("coord", "coord", "length"),
    "hole": ("coord", "coord"),
    "line": ("coord", "coord"),
    "hline": ("coord",),
    "vline": ("coord",),
    "arc": ("coord", "coord", "sweep"),
    "arcw": ("coord", "coord", "sweep"),
    "close": (),
    "close_arc": ("sweep",),
    "close_arcw": ("sweep",),
    **{name: (("length", "length") if name.endswith("two") else ("length",)) for name in EXTRUDES},
}

COMMANDS = (*SLOTS, *(f"e{k}" for k in EXPONENTS))
NUMBER_BASE = len(COMMANDS)
FINE_BASE = NUMBER_BASE + GRID.levels - 1  # fine item k (1..fine-1) stands at FINE_BASE + k
VOCABULARY: tuple[str, ...] = (
    *(f"<cad:{name}>" for name in COMMANDS),
    *(f"<cad:{level}>" for level in range(GRID.levels)),
    *(f"<cad:+{fine}>" for fine in range(1, GRID.fine)),
)
INDEX: dict[str, int] = {name: index for index, name in enumerate(COMMANDS)}
END = INDEX["end"]


@dataclass(frozen=True, slots=True)
class Instruction:
    """A command and its numbers, in steps (for `size`: mantissa, thousandths, exponent as they stand)."""

    command: str
    numbers: tuple[int, ...] = ()
