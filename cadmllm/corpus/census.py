"""Which id has what: one walk over all rows of the index, side by side in the order of ids, whatever their number."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING

from cadmllm.corpus.facts import Kind

if TYPE_CHECKING:
    from cadmllm.corpus.index import Index

FIRST = 5  # ids that are named
KINDS = (Kind.CAPTIONS, Kind.PROGRAM, Kind.CLOUD, Kind.VIEWS)
MODALITIES = ("text", "point_cloud", "image")
_CAPTION, _PROGRAM, _CLOUD, _VIEWS = (1 << kind for kind in KINDS)
_TEXT = _CAPTION | _PROGRAM

Entry = tuple[str, int, int]  # id, what it has, what of that can be used: sums of the bits above


@dataclass(frozen=True, slots=True)
class Lack:
    """How many ids wait for a modality, and the first of them."""

    count: int
    ids: list[str]


@dataclass(slots=True)
class Census:
    """Counts over the ids that are known by a caption or a program, those that are left out not counted.

    Attributes:
        known: ids.
        having: of them, by modality; text means a caption and a program, each fit for use.
        without: the first ids that lack a modality.
    """

    known: int = 0
    having: dict[str, int] = field(default_factory=lambda: dict.fromkeys(MODALITIES, 0))
    without: dict[str, list[str]] = field(default_factory=lambda: {name: [] for name in MODALITIES})

    def lack(self, modality: str) -> Lack:
        """The ids that wait for a modality."""
        return Lack(self.known - self.having[modality], list(self.without[modality]))


def take(entries: Iterable[Entry], left_out: frozenset[str]) -> Census:
    """Count.

    Args:
        entries: from `walk`.
        left_out: ids for evaluation, or excluded.
    """
    out = Census()
    for id_, there, usable in entries:
        if not there & _TEXT or id_ in left_out:
            continue
        out.known += 1
        missing = lacks(usable)
        for name in MODALITIES:
            if name not in missing:
                out.having[name] += 1
            elif len(out.without[name]) < FIRST:
                out.without[name].append(id_)
    return out


def lacks(usable: int) -> tuple[str, ...]:
    """The modalities that an id lacks, by what of it can be used."""
    have = (usable & _TEXT == _TEXT, usable & _CLOUD, usable & _VIEWS)
    return tuple(name for name, has in zip(MODALITIES, have, strict=True) if not has)


def incomplete(entries: Iterable[Entry]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """(id, modalities that it lacks) of every id that is known by a caption or a program and lacks any."""
    for id_, there, usable in entries:
        if there & _TEXT and (missing := lacks(usable)):
            yield id_, missing


def orphan(there: int) -> tuple[tuple[str, str], ...]:
    """(code, what to say) of an id, by what it has: E411 to E414."""
    if there & _TEXT == _TEXT:
        return ()
    if there & _CAPTION:
        return (("E411", "has a caption and no program"),)
    if there & _PROGRAM:
        return (("E412", "has a program and no caption"),)
    points = (("E413", "has points, and neither a caption nor a program"),) if there & _CLOUD else ()
    return points + ((("E414", "has views, and neither a caption nor a program"),) if there & _VIEWS else ())


def walk(index: Index) -> Iterator[Entry]:
    """Every id once, in order."""
    for id_, rows in groupby(heapq.merge(*(_stream(index, kind) for kind in KINDS)), itemgetter(0)):
        there = usable = 0
        for _, bit, fit in rows:
            there |= bit
            usable |= bit * fit
        yield id_, there, usable


def _stream(index: Index, kind: Kind) -> Iterator[tuple[str, int, int]]:
    """(id, bit, 1 if it can be used); a caption that cannot be used is not in the index."""
    bit = 1 << kind
    if kind is Kind.CAPTIONS:
        for (id_,) in index.db.execute("SELECT DISTINCT id FROM captions ORDER BY id"):
            yield id_, bit, 1
    else:
        for id_, fit in index.db.execute("SELECT id, code IS NULL FROM items WHERE kind = ? ORDER BY id", (kind,)):
            yield id_, bit, fit
