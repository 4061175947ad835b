"""Train, val and test ids without near-duplicates across them.

Ids that share a signature (`corpus/duplicates`) form groups, and a group stands on one side. Which one follows from a hash of the
seed and the group's smallest signature: from what the parts are, not from their names or from what else is there. So an id
changes sides when the data set grows only where a new part joins its group, with a smaller signature or another group behind it.

Simple shapes are a continuum: in a large data set a chain of near-duplicates runs through all plain discs. Such a **dense** group
(more than `DENSE` of all ids) on one side would make that side a collection of discs. It is divided by the next narrower meaning
of near, where two discs are the same part only if they agree to a fraction of a percent. What is dense even among copies trains;
the shares of val and test are then taken from the others. `Rules.strict` divides no dense group: all of it trains.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from cadmllm.corpus.duplicates import LEVELS, connect
from cadmllm.corpus.facts import Kind
from cadmllm.corpus.splitfiles import MARK, SIDES, Official
from cadmllm.errors import CadmllmError

if TYPE_CHECKING:
    from cadmllm.corpus.index import Index

TRAIN, VAL, TEST, NOWHERE = range(4)
DENSE = 0.002  # of all ids: a larger group is dense
FEW = 32  # ids: so small a group never is
NAMES = tuple(LEVELS)  # narrowest first
_OWN = tuple(zip((0, *LEVELS.values()), LEVELS.values(), strict=False))  # columns of signatures that are a level's own


@dataclass(frozen=True, slots=True)
class Rules:
    """How to divide.

    Attributes:
        near: what counts as a near-duplicate, one of `duplicates.LEVELS`.
        val, test: shares of the ids, 0 .. 0.45 each; 0: no such list.
        seed: another seed, other lists.
        strict: dense groups train as a whole.
        keep_duplicates: of official lists alone: near-duplicates stay in training, and are counted.
    """

    near: str = "drawing"
    val: float = 0.05
    test: float = 0.05
    seed: int = 0
    strict: bool = False
    keep_duplicates: bool = False


@dataclass(slots=True)
class Groups:
    """Groups of near-duplicates.

    Attributes:
        numbers: int32 [N], each id's group, 0..
        levels: int8 [G], by which of `NAMES` the group's ids are near.
        dense: bool [G], groups that are never held out.
    """

    numbers: np.ndarray
    levels: np.ndarray
    dense: np.ndarray

    @property
    def sizes(self) -> np.ndarray:
        """Ids of each group, int64 [G]."""
        return np.bincount(self.numbers, minlength=len(self.levels))


@dataclass(slots=True)
class Division:
    """Every id's side.

    Attributes:
        ids: sorted.
        marks: uint64 [N, 10], their signatures.
        rules: how they were divided.
        sides: int8 [N], TRAIN, VAL, TEST or NOWHERE.
        groups: which of them are near-duplicates.
        twins: (id, side it stood on, id it duplicates) of what official lists lose.
        official: published lists that were kept to, else None.
        unknown: side -> ids of official lists that are not in the data set.
        unlisted: ids of the data set that no official list names.
    """

    ids: list[str]
    marks: np.ndarray
    rules: Rules
    sides: np.ndarray
    groups: Groups
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
        also = ", strict" * rules.strict + ", duplicates kept" * rules.keep_duplicates
        return f"near {rules.near}, val {rules.val:g}, test {rules.test:g}, seed {rules.seed}{source}{also}, of {len(self.ids):,}"

    def report(self) -> dict[str, Any]:
        """What split.json holds."""
        groups, rules, sizes = self.groups, self.rules, self.groups.sizes
        dense = [int(g) for g in np.argsort(-sizes, kind="stable") if groups.dense[g]]
        return {
            "made_by": MARK.removeprefix("# "),
            "near": rules.near,
            "val": rules.val,
            "test": rules.test,
            "seed": rules.seed,
            "strict": rules.strict,
            "official": self.official.files if self.official else None,
            "keep_duplicates": rules.keep_duplicates,
            "ids": len(self.ids),
            "counts": {name: int((self.sides == side).sum()) for side, name in enumerate(SIDES)} | {"left_out": len(self.twins)},
            "unknown": self.unknown,
            "unlisted": self.unlisted,
            "refused": self.official.refused if self.official else 0,
            "groups": {
                "number": len(sizes),
                "ids_in_several": int(sizes[sizes > 1].sum()),
                "largest": int(sizes.max(initial=0)),
                "ids_by_level": {name: int(sizes[groups.levels == level].sum()) for level, name in enumerate(NAMES)},
            },
            "dense": [{"ids": int(sizes[g]), "first": self.ids[int(np.argmax(groups.numbers == g))]} for g in dense],
            "overlap": overlap(self.marks, self.sides),
        }


def signatures_of(index: Index, every: bool) -> Iterator[tuple[str, list[str]]]:
    """(id, signatures) of the usable programs of a data set, ordered by id; `every`: those without a caption, too."""
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
        CadmllmError: E406 when there are too few groups.
    """
    groups = find_groups(marks, rules)
    return Division(ids, marks, rules, draw(marks, groups, np.ones(len(ids), bool), rules, (VAL, TEST)), groups)


def find_groups(marks: np.ndarray, rules: Rules) -> Groups:
    """Groups by `rules.near`; in place of a dense one, those it is made of by the next narrower level."""
    limit = max(FEW, int(DENSE * len(marks)))
    numbers = np.zeros(len(marks), np.int32)
    levels: list[int] = []
    dense: list[bool] = []
    rest = np.arange(len(marks))
    first = NAMES.index(rules.near)
    last = first if rules.strict else 0
    for level in range(first, last - 1, -1):
        found = connect(marks[rest, : LEVELS[NAMES[level]]])
        large = np.bincount(found) > limit
        kept = np.ones_like(large) if level == last else ~large
        place = np.cumsum(kept) - 1 + len(levels)
        stays = kept[found]
        numbers[rest[stays]] = place[found[stays]]
        dense += large[kept].tolist()
        levels += [level] * int(kept.sum())
        rest = rest[~stays]
    return Groups(numbers, np.array(levels, np.int8), np.array(dense, bool))


def draw(marks: np.ndarray, groups: Groups, free: np.ndarray, rules: Rules, wanted: tuple[int, ...]) -> np.ndarray:
    """Draw the sides `wanted` among the groups that have `free` ids alone; all others are TRAIN: int8 [N]."""
    sizes = groups.sizes
    smallest = np.full(len(sizes), np.iinfo(np.uint64).max)
    level_of = groups.levels[groups.numbers]
    for level, (first, last) in enumerate(_OWN):
        rows = np.flatnonzero(level_of == level)
        np.minimum.at(smallest, groups.numbers[rows], marks[rows, first:last].min(axis=1, initial=np.iinfo(np.uint64).max))
    can = ~groups.dense
    can[groups.numbers[~free]] = False
    candidates = np.flatnonzero(can)
    shares = {side: share for side, share in ((TEST, rules.test), (VAL, rules.val)) if share > 0.0 and side in wanted}
    if len(sizes) < len(shares) + 1 or len(candidates) < len(shares):
        raise CadmllmError(
            "E406",
            f"{len(marks)} ids are {len(sizes)} groups of near-duplicates: too few for {len(shares) + 1} sides",
            "give more data, a narrower meaning of near (--near copy), or fewer sides (--test 0)",
        )
    place = np.array([_fraction(rules.seed, int(smallest[g])) for g in candidates])
    side_of = np.zeros(len(sizes), np.int8)
    side_of[candidates] = _by_place(
        place, shares, len(marks) / max(1, int(sizes[candidates].sum())), spare=not groups.dense.any()
    )
    return side_of[groups.numbers]


def _by_place(place: np.ndarray, shares: Mapping[int, float], more: float, *, spare: bool) -> np.ndarray:
    """The side of each group by its place in [0, 1): test lowest, then val.

    Args:
        more: how much larger the shares are of these groups than of all ids.
        spare: one of these groups at least must train.
    """
    more = min(more, max(1.0, 0.5 / max(sum(shares.values()), 1e-9)))
    chosen = np.full(len(place), TRAIN, np.int8)
    below = 0.0
    for side, share in shares.items():
        chosen[(place >= below) & (place < below + share * more)] = side
        below += share * more
    order = np.argsort(place, kind="stable")
    for side in (*shares, *([TRAIN] if spare else [])):  # so few groups that none fell on a side: one from the fullest side
        if not (chosen == side).any():
            fullest = np.bincount(chosen, minlength=3).argmax()
            chosen[next(k for k in order if chosen[k] == fullest)] = side
    return chosen


def _fraction(seed: int, signature: int) -> float:
    digest = hashlib.blake2b(f"{seed} {signature:016x}".encode(), digest_size=7).digest()
    return int.from_bytes(digest, "big") / 2.0**56


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
