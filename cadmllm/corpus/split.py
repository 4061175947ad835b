"""Train, val and test ids without near-duplicates across them.

Ids that share a signature (`corpus/duplicates`) form groups, and a group stands on one side. Which one follows from a hash of the
seed and the group's smallest signature: from what the parts are, not from their names or from what else is there. So an id
changes sides when the data set grows only where a new part joins its group, with a smaller signature or another group behind it.

Simple shapes are a continuum: in a large data set a chain of near-duplicates runs through all plain discs. Such a **dense** group
(more than `DENSE` of all ids) cannot stand on a side without making it a collection of discs, nor be cut without near-duplicates
on both sides of the cut. It trains; the shares of val and test are taken from the others.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from cadmllm.corpus.duplicates import LEVELS, connect, pack
from cadmllm.corpus.facts import Kind
from cadmllm.corpus.folders import locate
from cadmllm.corpus.scan import open_index
from cadmllm.corpus.splitfiles import MARK, SIDES, Official
from cadmllm.errors import CadmllmError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cadmllm.console import Console
    from cadmllm.corpus.index import Index
    from cadmllm.settings import DataSettings

TRAIN, VAL, TEST, NOWHERE = range(4)
DENSE = 0.002  # of all ids: a larger group is never held out
FEW = 32  # ids: so small a group always may be
_OWN = dict(zip(LEVELS, zip((0, *LEVELS.values()), LEVELS.values(), strict=False), strict=True))  # columns that are a level's own


@dataclass(frozen=True, slots=True)
class Rules:
    """How to divide.

    Attributes:
        near: what counts as a near-duplicate, one of `duplicates.LEVELS`.
        val, test: shares of the ids, 0 .. 0.5 each; 0: no such list.
        seed: another seed, other lists.
        keep_duplicates: official lists alone: near-duplicates stay in training, and are counted.
    """

    near: str = "drawing"
    val: float = 0.05
    test: float = 0.05
    seed: int = 0
    keep_duplicates: bool = False

    @property
    def width(self) -> int:
        """How many of an id's first signatures count."""
        return LEVELS[self.near]


@dataclass(slots=True)
class Division:
    """Every id's side.

    Attributes:
        ids: sorted.
        marks: uint64 [N, 10], their signatures.
        rules: how they were divided.
        sides: int8 [N], TRAIN, VAL, TEST or NOWHERE.
        groups: int32 [N].
        dense: numbers of the groups that are never held out.
        twins: (id, side it stood on, id it duplicates) of what official lists lose.
        official: published lists that were kept to, else None.
        unknown: side -> ids of official lists that are not in the data set.
        unlisted: ids of the data set that no official list names.
    """

    ids: list[str]
    marks: np.ndarray
    rules: Rules
    sides: np.ndarray
    groups: np.ndarray
    dense: list[int] = field(default_factory=list)
    twins: list[tuple[str, str, str]] = field(default_factory=list)
    official: Official | None = None
    unknown: dict[str, int] = field(default_factory=dict)
    unlisted: int = 0

    def lists(self) -> dict[str, list[str]]:
        """side -> its ids, sorted."""
        return {name: [self.ids[k] for k in np.flatnonzero(self.sides == side)] for side, name in enumerate(SIDES)}

    def how(self) -> str:
        """The rules in a line; no paths, so that the same data gives the same bytes anywhere."""
        rules, source = self.rules, f", official {' '.join(self.official.files)}" if self.official else ""
        kept = ", duplicates kept" if rules.keep_duplicates else ""
        return f"near {rules.near}, val {rules.val:g}, test {rules.test:g}, seed {rules.seed}{source}{kept}, of {len(self.ids):,}"

    def report(self) -> dict[str, object]:
        """What split.json holds."""
        sizes, rules = np.bincount(self.groups), self.rules
        several = sizes[sizes > 1]
        return {
            "made_by": MARK.removeprefix("# "),
            "near": rules.near,
            "val": rules.val,
            "test": rules.test,
            "seed": rules.seed,
            "official": self.official.files if self.official else None,
            "keep_duplicates": rules.keep_duplicates,
            "ids": len(self.ids),
            "counts": {name: int((self.sides == side).sum()) for side, name in enumerate(SIDES)} | {"left_out": len(self.twins)},
            "unknown": self.unknown,
            "unlisted": self.unlisted,
            "refused": self.official.refused if self.official else 0,
            "groups": {"number": len(sizes), "ids_in_several": int(several.sum()), "largest": int(sizes.max(initial=0))},
            "dense": [{"ids": int(sizes[g]), "first": self.ids[int(np.argmax(self.groups == g))]} for g in self.dense],
            "overlap": overlap(self.marks, self.sides),
        }


def split_dataset(
    data: DataSettings, rules: Rules, official: Official | None, every: bool, workers: int, console: Console
) -> Division:
    """Divide the usable programs of a data set; nothing is written.

    Args:
        data: which data set.
        rules: what counts as near, shares, seed.
        official: published lists to keep to.
        every: programs without a caption, too. Without any caption file all are taken anyway.
        workers: processes that examine programs that the index does not know.
        console: for progress.

    Raises:
        CadmllmError: E401 when there is no usable program, E406 and E490 as for `divide` and `adopt`.
    """
    folders = locate(data)
    if folders.json is None:
        why = folders.flaws[0].message if folders.flaws else f"{data.root} has no json/ folder"
        raise CadmllmError("E401", why, "give the root of a data set in the Omni-CAD layout")
    index = open_index(data, contents=False, workers=workers, console=console)
    ids, marks = pack(_signatures(index, every or folders.txt is None))
    if not ids:
        raise CadmllmError(
            "E401",
            f"{data.root}: no id has {'a usable program' if every else 'a caption and a usable program'}",
            f"see why: cadmllm data check {data.root}; take programs without a caption: --all",
        )
    return adopt(ids, marks, rules, official) if official else divide(ids, marks, rules)


def _signatures(index: Index, every: bool) -> Iterator[tuple[str, list[str]]]:
    """(id, signatures) of the usable programs, ordered by id."""
    without = set() if every else set(index.lacking(Kind.PROGRAM, [Kind.CAPTIONS]))
    for row in index.rows(Kind.PROGRAM):
        if row.code is None and row.id not in without and "near" in row.values:
            yield row.id, row.values["near"]


def divide(ids: list[str], marks: np.ndarray, rules: Rules) -> Division:
    """Divide ids into train, val and test so that no group has ids on two sides.

    The shares hold as far as whole groups allow; a side that is asked for has at least one group.

    Args:
        ids: sorted.
        marks: uint64 [N, 10] of `duplicates.pack`.
        rules: what counts as near, shares, seed.

    Raises:
        CadmllmError: E406 when there are fewer groups than sides.
    """
    groups = connect(marks[:, : rules.width])
    sides, dense = _draw(marks, groups, np.ones(len(ids), bool), rules, (VAL, TEST))
    return Division(ids, marks, rules, sides, groups, dense)


def _draw(
    marks: np.ndarray, groups: np.ndarray, free: np.ndarray, rules: Rules, wanted: tuple[int, ...]
) -> tuple[np.ndarray, list[int]]:
    """Sides (int8 [N]) of whole groups of `free` ids, the others TRAIN; and the dense groups."""
    sizes = np.bincount(groups)
    first, last = _OWN[rules.near]
    smallest = np.full(len(sizes), np.iinfo(np.uint64).max)
    np.minimum.at(smallest, groups, marks[:, first:last].min(axis=1))
    largest = max(FEW, int(DENSE * len(groups)))
    dense = [int(g) for g in np.argsort(-sizes, kind="stable") if sizes[g] > largest]
    can = np.ones(len(sizes), bool)
    can[groups[~free]] = False
    can[dense] = False
    candidates = np.flatnonzero(can)
    shares = {side: share for side, share in ((TEST, rules.test), (VAL, rules.val)) if share > 0.0 and side in wanted}
    if len(sizes) < len(shares) + 1 or len(candidates) < len(shares):
        raise CadmllmError(
            "E406",
            f"{len(groups)} ids are {len(sizes)} groups of near-duplicates: too few for {len(shares) + 1} sides",
            "give more data, a narrower meaning of near (--near copy), or fewer sides (--test 0)",
        )
    place = np.array([_fraction(rules.seed, int(smallest[g])) for g in candidates])
    chosen = _thresholds(place, shares, len(groups) / max(1, int(sizes[candidates].sum())))
    side_of = np.zeros(len(sizes), np.int8)
    side_of[candidates] = chosen
    return side_of[groups], dense


def _thresholds(place: np.ndarray, shares: Mapping[int, float], more: float) -> np.ndarray:
    """The side of each group by its place in [0, 1): test lowest, then val; `more`: what dense groups leave to the others."""
    more = min(more, max(1.0, 0.5 / max(sum(shares.values()), 1e-9)))
    chosen = np.full(len(place), TRAIN, np.int8)
    below = 0.0
    for side, share in shares.items():
        chosen[(place >= below) & (place < below + share * more)] = side
        below += share * more
    order = np.argsort(place, kind="stable")
    for side in shares:  # so few groups that none fell on a side: those that come nearest to it
        if not (chosen == side).any():
            there = [k for k in order if chosen[k] == TRAIN] or [k for k in order if (chosen == chosen[k]).sum() > 1]
            chosen[there[0]] = side
    return chosen


def _fraction(seed: int, signature: int) -> float:
    digest = hashlib.blake2b(f"{seed} {signature:016x}".encode(), digest_size=7).digest()
    return int.from_bytes(digest, "big") / 2.0**56


def adopt(ids: list[str], marks: np.ndarray, rules: Rules, official: Official) -> Division:
    """Keep to published lists; what shares a signature with a test id leaves val and train, with a val id, train.

    Sides that the lists do not name are drawn from what remains, as `divide` does; without a list of training ids, all others
    train. Ids of the data set that no list names are on no side otherwise.

    Raises:
        CadmllmError: E490 when no id of the lists is in the data set, E406 as for `divide`.
    """
    row = {id_: number for number, id_ in enumerate(ids)}
    named = [official.lists.get(name) for name in SIDES]
    sides = np.full(len(ids), NOWHERE, np.int8)
    unknown = {}
    for side, wanted in enumerate(named):
        if wanted is not None:
            sides[[row[id_] for id_ in wanted if id_ in row]] = side
            unknown[SIDES[side]] = sum(id_ not in row for id_ in wanted)
    if not (sides != NOWHERE).any():
        listed = sum(len(wanted) for wanted in named if wanted)
        example = min(id_ for wanted in named if wanted for id_ in wanted)
        raise CadmllmError(
            "E490",
            f"none of the {listed:,} ids of the official lists ({example}, ...) is in the data set ({ids[0]}, ...)",
            "give the split of this data set, or --all when its programs have no captions",
        )
    unlisted = int((sides == NOWHERE).sum())
    if named[TRAIN] is None:
        sides[sides == NOWHERE] = TRAIN
        unlisted = 0
    groups = connect(marks[:, : rules.width])
    out = Division(ids, marks, rules, sides, groups, official=official, unknown=unknown, unlisted=unlisted)
    if not rules.keep_duplicates:
        for strong, weaker in ((TEST, (VAL, TRAIN)), (VAL, (TRAIN,))):
            _leave_out(out, strong, weaker)
    lacking = tuple(side for side in (VAL, TEST) if named[side] is None and (rules.val, rules.test)[side - VAL] > 0.0)
    if lacking and (sides == TRAIN).any():
        held = np.isin(groups, groups[(sides == VAL) | (sides == TEST) | (sides == NOWHERE)])
        drawn, out.dense = _draw(marks, groups, (sides == TRAIN) & ~held, rules, lacking)
        sides[(sides == TRAIN) & (drawn != TRAIN)] = drawn[(sides == TRAIN) & (drawn != TRAIN)]
    return out


def _leave_out(out: Division, strong: int, weaker: tuple[int, ...]) -> None:
    """Take ids of the weaker sides that share a signature with one of the strong side off their lists."""
    width = out.rules.width
    rows = np.flatnonzero(out.sides == strong)
    near = near_rows(out.marks[:, :width], rows)
    first: dict[int, int] = {}
    for number in reversed(rows.tolist()):
        first.update((mark, number) for mark in out.marks[number, :width].tolist())
    for side in weaker:
        for number in np.flatnonzero(near & (out.sides == side)).tolist():
            twin = next(first[mark] for mark in out.marks[number, :width].tolist() if mark in first)
            out.twins.append((out.ids[number], SIDES[side], out.ids[twin]))
            out.sides[number] = NOWHERE
    out.twins.sort()


def near_rows(marks: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """bool [N]: which rows of `marks` (uint64 [N, S]) share a number with one of `rows`; those themselves, too."""
    return np.asarray(np.isin(marks, marks[rows]).any(axis=1))


def overlap(marks: np.ndarray, sides: np.ndarray) -> dict[str, dict[str, int]]:
    """'train in test' -> level -> how many training ids have a near-duplicate among the test ids; likewise of val."""
    out = {}
    for strong, weak in ((TEST, TRAIN), (TEST, VAL), (VAL, TRAIN)):
        rows = np.flatnonzero(sides == strong)
        out[f"{SIDES[weak]} in {SIDES[strong]}"] = {
            level: int((near_rows(marks[:, :width], rows) & (sides == weak)).sum()) for level, width in LEVELS.items()
        }
    return out
