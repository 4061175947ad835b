"""A line of the memory table."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table.

    Attributes:
        name: of what.
        bytes: how many.
        place: 'card', 'ram', or 'saved' (what is not there at all, as nothing needs it).
        why: how the number comes about.
    """

    name: str
    bytes: int
    place: str
    why: str
