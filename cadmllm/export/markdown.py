"""Markdown that says what is meant, whatever a name or a note holds."""

from __future__ import annotations

import re
from collections.abc import Sequence

_ACTIVE = re.compile(r"([\\`*_{}\[\]<>#~$!&])")
_LEADING = re.compile(r"^([-+=]|\d+(?=[.)](?:\s|$)))")  # what opens a list or underlines a heading at the beginning of a line
_BLANKS = re.compile(r"\s+")


def plain(text: object) -> str:
    """Text in a paragraph, a list or a cell: nothing in it is markup, and it stays in its line."""
    line = _ACTIVE.sub(r"\\\1", _line(text))
    return _LEADING.sub(lambda found: found[0] + "\\" if found[0].isdigit() else "\\" + found[0], line)


def code(text: object) -> str:
    """A code span."""
    line = _line(text)
    fence = "`" * (max((len(run) for run in re.findall("`+", line)), default=0) + 1)
    space = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{space}{line}{space}{fence}"


def fenced(text: str, language: str = "") -> str:
    """A block of code that ends where it should."""
    fence = "`" * max(3, max((len(run) for run in re.findall("`+", text)), default=0) + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of cells that are Markdown already; cells are split before their spans are looked for, so every pipe is escaped."""
    safe = [" | ".join(cell.replace("|", "\\|") for cell in row) for row in (head, *rows)]
    return "\n".join([f"| {safe[0]} |", f"|{'---|' * len(head)}", *(f"| {row} |" for row in safe[1:])])


def _line(text: object) -> str:
    return _BLANKS.sub(" ", "".join(c if c.isprintable() else " " for c in str(text))).strip()
