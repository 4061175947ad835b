"""A plan's memory as a bar of one line, the width of the card, and what its marks stand for. Arithmetic only, no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cadmllm.plan.sizes import GIB

WIDTH = 60  # cells
LETTERS = {
    "linear layers": "W",
    "embedding": "E",
    "language model": "M",
    "LoRA": "L",
    "added rows": "R",
    "encoders and projectors": "P",
    "layer inputs": "I",
    "layer at work": "A",
    "the rest": "+",
    "CUDA": "C",
}
SHADES = dict(zip(LETTERS, "█▓▙▒▚▞░▄▪▌", strict=True))


@dataclass(frozen=True, slots=True)
class Bar:
    """Lines of text: the bar, and its legend."""

    line: str
    legend: str

    def __str__(self) -> str:
        return f"{self.line}\n{self.legend}"


def bar(parts: Mapping[str, float], total: float | None, *, width: int = WIDTH, unicode: bool = True) -> Bar:
    """Blocks as long as their shares of the card.

    Args:
        parts: bytes by group (`plan.table.GROUPS`), in order.
        total: bytes of the card; None: the bar is as long as the parts together.
        width: cells of the card. What does not fit stands behind its end, at the same scale, at most as long again.
        unicode: false: ASCII alone, for terminals that have nothing else.
    """
    marks = SHADES if unicode else LETTERS
    needed = sum(parts.values())
    scale = width / max(total or needed, 1.0)
    cells = "".join(marks[name] * count for name, count in _cells(parts, scale).items())
    inside, beyond = cells[:width], cells[width : 2 * width]
    empty = "·" if unicode else "."
    more = ">" if len(cells) > 2 * width else ""
    line = f"[{inside.ljust(width, empty)}]{beyond}{more}"
    said = f"{needed / GIB:.1f} GiB" if total is None else f"{needed / GIB:.1f} of {total / GIB:.1f} GiB"
    legend = "  ".join(f"{marks[name]} {name} {size / GIB:.2f}" for name, size in parts.items() if size)
    return Bar(f"{line} {said}", legend)


def _cells(parts: Mapping[str, float], scale: float) -> dict[str, int]:
    """Whole cells by part; rounded so that their sum is that of the parts, to the nearest cell."""
    found: dict[str, int] = {}
    at = 0.0
    done = 0
    for name, size in parts.items():
        at += size * scale
        found[name] = round(at) - done
        done += found[name]
    return found


def speaks_unicode(encoding: str | None) -> bool:
    """Whether a stream of this encoding has the bar's marks."""
    try:
        "".join([*SHADES.values(), "·"]).encode(encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
