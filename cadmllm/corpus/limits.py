"""How much of a point or mesh file is read. What a header claims is held against it before any memory is asked for."""

from __future__ import annotations

LARGEST_FILE = 2**30  # bytes
LARGEST_TEXT = 2**28  # bytes of a file that is numbers as text: its words take ten times that
MOST_POINTS = 20_000_000  # their positions and normals take 1 GB while they are read
MOST_TRIANGLES = 5_000_000
MOST_ENTRIES = 10_000  # files in an archive: a table of contents is read as a whole, and takes 20 times its size


class TooMany(ValueError):
    """A file holds, or claims to hold, more than is read."""


def at_most_points(count: int) -> int:
    """`count`, or `TooMany` where it is above `MOST_POINTS`."""
    if count > MOST_POINTS:
        raise TooMany(f"it has {count:,} points, more than the {MOST_POINTS:,} that are read")
    return count


def at_most_triangles(count: int) -> int:
    """`count`, or `TooMany` where it is above `MOST_TRIANGLES`."""
    if count > MOST_TRIANGLES:
        raise TooMany(f"it has {count:,} triangles, more than the {MOST_TRIANGLES:,} that are read")
    return count


def at_most_text(size: int) -> int:
    """`size` of a text in bytes, or `ValueError` where it is above `LARGEST_TEXT`."""
    if size > LARGEST_TEXT:
        raise ValueError(f"it has {size:,} bytes of text, more than the {LARGEST_TEXT:,} that are read: save it as a binary file")
    return size
