"""Markdown that says what is meant, whatever a name or a note holds."""

from __future__ import annotations

import re
from collections.abc import Sequence

_ACTIVE = re.compile(r"([\\`*_{}\[\]<>#|~$!])")
_BLANKS = re.compile(r"\s+")


def plain(text: object) -> str:
    """Text in a paragraph, a list or a cell: nothing in it is markup, and it stays in its line."""
    return _ACTIVE.sub(r"\\\1", _line(text))


def code(text: object) -> str:
    """A code span; a pipe in it is escaped, as tables split cells before they look for spans."""
    line = _line(text)
    fence = "`" * (max((len(run) for run in re.findall("`+", line)), default=0) + 1)
    space = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{space}{line}{space}{fence}".replace("|", "\\|")


def fenced(text: str, language: str = "") -> str:
    """A block of code that ends where it should."""
    fence = "`" * max(3, max((len(run) for run in re.findall("`+", text)), default=0) + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of cells that are Markdown already."""
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join(lines)


def _line(text: object) -> str:
    return _BLANKS.sub(" ", "".join(c if c.isprintable() else " " for c in str(text))).strip()
