"""Which samples share a micro-batch: packed by tokens, or padded with others of their length. Pure functions of the lengths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

OVERHEAD = 256  # what a padded micro-batch costs beside its tokens, in tokens (kernel launches, Python)


@dataclass(frozen=True, slots=True)
class Room:
    """How much a micro-batch may hold.

    Attributes:
        tokens: of a packed row; 0: micro-batches are padded.
        samples: of a padded micro-batch.
    """

    tokens: int
    samples: int

    @property
    def packed(self) -> bool:
        """Whether samples share a row."""
        return self.tokens > 0

    def halved(self) -> Room:
        """Half of it, rounded up."""
        if self.packed:
            return replace(self, tokens=-(-self.tokens // 2))
        return replace(self, samples=-(-self.samples // 2))

    def __str__(self) -> str:
        return f"{self.tokens} packed tokens" if self.packed else f"{self.samples} padded samples"


def arrange(lengths: Sequence[int], room: Room) -> list[list[int]]:
    """Indices of samples by micro-batch.

    Packed: first-fit decreasing (Johnson 1973: at most 11/9 of the fewest rows possible, plus a fraction of one), a sample
    longer than the room alone. Padded: of similar lengths, cut as `cut` says. Ties keep the given order.
    """
    order = sorted(range(len(lengths)), key=lambda k: (-lengths[k], k))
    if not room.packed:
        ascending = order[::-1]
        cuts = cut([lengths[k] for k in ascending], room.samples)
        return [ascending[a:b] for a, b in zip(cuts, cuts[1:], strict=False)]
    rows: list[list[int]] = []
    left: list[int] = []
    for k in order:
        row = next((r for r, free in enumerate(left) if free >= lengths[k]), None)
        if row is None:
            rows.append([k])
            left.append(room.tokens - lengths[k])
        else:
            rows[row].append(k)
            left[row] -= lengths[k]
    return rows


def heads(lengths: Sequence[int], room: Room) -> list[int]:
    """How many samples each part gets, in order, when a micro-batch that is there already is cut to a smaller room."""
    if not room.packed:
        whole, rest = divmod(len(lengths), room.samples)
        return [room.samples] * whole + ([rest] if rest else [])
    parts, filled = [0], 0
    for length in lengths:
        if parts[-1] and filled + length > room.tokens:
            parts.append(0)
            filled = 0
        parts[-1] += 1
        filled += length
    return parts


def cut(lengths: Sequence[int], largest: int) -> list[int]:
    """Where to cut samples, sorted by length, into padded micro-batches so that they compute fastest.

    A micro-batch costs what it computes, padding included (samples x longest), and `OVERHEAD` tokens for being one. The sum
    over the window, and with it the gradient, does not depend on how it is cut.

    Args:
        lengths: tokens, ascending.
        largest: samples a micro-batch may have.

    Returns:
        Ascending indices from 0 to len(lengths); micro-batch k is [cuts[k], cuts[k + 1]).
    """
    best: list[tuple[int, int]] = [(0, 0)]  # (cost of the first `end` samples, where their last micro-batch begins)
    for end in range(1, len(lengths) + 1):
        begins = range(max(0, end - largest), end)
        best.append(min((best[at][0] + (end - at) * lengths[end - 1] + OVERHEAD, at) for at in begins))
    cuts = [len(lengths)]
    while cuts[-1] > 0:
        cuts.append(best[cuts[-1]][1])
    return cuts[::-1]
