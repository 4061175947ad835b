"""What training asks of every id at its start, as columns: 453,000 ids are there in milliseconds and a few megabytes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, overload

import numpy as np

from cadmllm.corpus import order
from cadmllm.corpus.facts import Kind

if TYPE_CHECKING:
    from cadmllm.corpus.index import Index

PROGRAM, CLOUD, VIEWS = 1, 2, 4  # flags: a program that can be used; a cloud, views that are there
BAD_CLOUD, BAD_VIEWS = 8, 16  # of these, known to be of no use, which only `data check` finds out


class Ids(Sequence[str]):
    """Sorted, different ids; a part of them is a view of the same memory.

    Args:
        names: UTF-8 text, sorted, bytes [N] (numpy 'S').
    """

    def __init__(self, names: np.ndarray) -> None:
        self.names = names

    def __len__(self) -> int:
        return len(self.names)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Ids: ...
    def __getitem__(self, index: int | slice) -> str | Ids:
        return Ids(self.names[index]) if isinstance(index, slice) else bytes(self.names[index]).decode()

    def __iter__(self) -> Iterator[str]:
        return (bytes(name).decode() for name in self.names)

    def __contains__(self, id_: object) -> bool:
        return isinstance(id_, str) and self.place(id_) is not None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Ids({list(self[:3])}{'...' if len(self) > 3 else ''}, {len(self)})"

    def place(self, id_: str) -> int | None:
        """Where an id stands, None if it does not."""
        name = id_.encode("utf-8", "surrogatepass")
        at = int(np.searchsorted(self.names, np.bytes_(name)))
        return at if at < len(self.names) and self.names[at] == name else None

    def mask(self, wanted: set[str]) -> np.ndarray:
        """bool [N], true where an id is one of `wanted`."""
        chosen = np.zeros(len(self.names), dtype=bool)
        if wanted and len(self.names):
            # numpy ends its bytes at a NUL, which no id holds
            asked = np.array(sorted(id_.encode("utf-8", "surrogatepass") for id_ in wanted if "\0" not in id_), dtype=np.bytes_)
            at = np.minimum(np.searchsorted(self.names, asked), len(self.names) - 1)
            chosen[at[self.names[at] == asked]] = True
        return chosen


class Roster:
    """The ids that have a caption and a program, and what is known of them.

    Attributes:
        ids: sorted.
        lengths: int32 [N], tokens of the target; 0 where the program cannot be used.
        flags: uint8 [N], a sum of PROGRAM, CLOUD, VIEWS, BAD_CLOUD, BAD_VIEWS.
        fractions: float64 [N] in [0, 1), `order.fraction` of the id.
        counts: captions, programs, clouds and sets of views that were found, with or without the rest.
    """

    def __init__(
        self, names: np.ndarray, lengths: np.ndarray, flags: np.ndarray, fractions: np.ndarray, counts: dict[str, int]
    ) -> None:
        self.ids = Ids(names)
        self.lengths, self.flags, self.fractions, self.counts = lengths, flags, fractions, counts

    def can_show(self, modality: str) -> np.ndarray:
        """bool [N], what has 'text', 'point_cloud' or 'image' and is not known to be broken."""
        there, bad = {"text": (PROGRAM, 0), "point_cloud": (CLOUD, BAD_CLOUD), "image": (VIEWS, BAD_VIEWS)}[modality]
        return (self.flags & (there | bad)) == there


def is_there(index: Index) -> bool:
    """Whether the roster's columns tell what the rows do: whoever changes a row removes them."""
    names = {name.split()[0] for (name,) in index.db.execute("SELECT name FROM columns")}
    return names == {"ids", "lengths", "flags", "fractions", "counts"}


def make(index: Index) -> None:
    """Make the columns from the rows."""
    with index.writing() as db:
        names, lengths, flags = _gather(index)
        fractions = np.array([order.fraction(bytes(name).decode()) for name in names], dtype=np.float64)
        width = f"S{max(1, names.dtype.itemsize)}"
        columns = {f"ids {width}": names, "lengths int32": lengths, "flags uint8": flags, "fractions float64": fractions}
        kinds = {"captions": Kind.CAPTIONS, "programs": Kind.PROGRAM, "clouds": Kind.CLOUD, "views": Kind.VIEWS}
        counts = json.dumps({name: index.count(kind) for name, kind in kinds.items()}).encode()
        db.execute("DELETE FROM columns")
        stored = [*((name, column.tobytes()) for name, column in columns.items()), ("counts json", counts)]
        db.executemany("INSERT INTO columns VALUES(?, ?)", stored)


def _gather(index: Index) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """ids, lengths and flags, a page at a time."""
    there = "EXISTS(SELECT 1 FROM items o WHERE o.kind = {} AND o.id = p.id{})"
    bad = " AND o.code IS NOT NULL"
    flags_of = [
        f"{PROGRAM} * (p.code IS NULL)",
        *(f"{flag} * {there.format(int(kind), '')}" for flag, kind in ((CLOUD, Kind.CLOUD), (VIEWS, Kind.VIEWS))),
        *(f"{flag} * {there.format(int(kind), bad)}" for flag, kind in ((BAD_CLOUD, Kind.CLOUD), (BAD_VIEWS, Kind.VIEWS))),
    ]
    sql = f"""SELECT p.id, p.length, {" + ".join(flags_of)} FROM items p
              WHERE p.kind = {int(Kind.PROGRAM)} AND EXISTS(SELECT 1 FROM captions t WHERE t.id = p.id) ORDER BY p.id"""
    cursor = index.db.execute(sql)
    names: list[np.ndarray] = []
    lengths: list[np.ndarray] = []
    flags: list[np.ndarray] = []
    while page := cursor.fetchmany(20_000):
        names.append(np.array([row[0].encode() for row in page], dtype=np.bytes_))
        lengths.append(np.array([row[1] or 0 for row in page], dtype=np.int32))
        flags.append(np.array([row[2] for row in page], dtype=np.uint8))
    if not names:
        return np.zeros(0, "S1"), np.zeros(0, np.int32), np.zeros(0, np.uint8)
    return np.concatenate(names), np.concatenate(lengths), np.concatenate(flags)


def read(index: Index) -> Roster:
    """The roster of an index on which `make` was called."""
    found = dict(index.db.execute("SELECT name, data FROM columns"))
    counts = json.loads(found.pop("counts json"))
    columns = {name.split()[0]: np.frombuffer(data, dtype=name.split()[1]) for name, data in found.items()}
    return Roster(columns["ids"], columns["lengths"], columns["flags"], columns["fractions"], counts)
