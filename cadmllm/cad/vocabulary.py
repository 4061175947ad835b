"""The added vocabulary: one item per command and per level. Its order is part of every checkpoint."""

from __future__ import annotations

LEVELS = 1537  # coarse numbers 0..1536; as a coordinate, level 768 is 0 and 512 levels are half the longest side
ZERO = LEVELS // 2
HALF = 512
FINE = 16  # a fine token 1..15 adds that many sixteenths of a level; no fine token adds none

PLANES = ("plane_x", "plane_y", "plane_z", "plane_tilted")
LOOPS = ("rect", "circle", "loop", "hole_rect", "hole_circle", "hole")
CURVES = ("line", "hline", "vline", "arc", "arcw", "close", "close_arc", "close_arcw")
OPERATIONS = ("new", "join", "cut", "intersect")
EXTENTS = ("up", "down", "both", "two")
EXTRUDES = tuple(f"{operation}_{extent}" for operation in OPERATIONS for extent in EXTENTS)
EXPONENTS = tuple(f"e{k}" for k in range(-6, 6))
COMMANDS = ("end", "size", *EXPONENTS, *PLANES, *LOOPS, *CURVES, *EXTRUDES)

NUMBER_BASE = len(COMMANDS)
FINE_BASE = NUMBER_BASE + LEVELS
VOCABULARY: tuple[str, ...] = (
    *(f"<cad:{name}>" for name in COMMANDS),
    *(f"<cad:{level}>" for level in range(LEVELS)),
    *(f"<cad:+{fine}>" for fine in range(1, FINE)),
)
END = 0
