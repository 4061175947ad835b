"""A published split, kept to: what in training duplicates its val and test is found and left out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cadmllm.corpus.duplicates import LEVELS, pack
from cadmllm.corpus.folders import locate
from cadmllm.corpus.scan import open_index
from cadmllm.corpus.split import (
    NAMES,
    NOWHERE,
    TEST,
    TRAIN,
    VAL,
    Division,
    Groups,
    Rules,
    divide,
    draw,
    find_groups,
    near_rows,
    signatures_of,
)
from cadmllm.corpus.splitfiles import SIDES, Official
from cadmllm.errors import CadmllmError

if TYPE_CHECKING:
    from cadmllm.console import Console
    from cadmllm.settings import DataSettings


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
    ids, marks = pack(signatures_of(index, every or folders.txt is None))
    if not ids:
        raise CadmllmError(
            "E401",
            f"{data.root}: no id has {'a usable program' if every else 'a caption and a usable program'}",
            f"see why: cadmllm data check {data.root}; take programs without a caption: --all",
        )
    return adopt(ids, marks, rules, official) if official else divide(ids, marks, rules)


def adopt(ids: list[str], marks: np.ndarray, rules: Rules, official: Official) -> Division:
    """Keep to published lists; what shares a signature with a test id leaves val and train, with a val id, train.

    Sides that the lists do not name are drawn from what remains, as `divide` does. Without a list of training ids all others
    train; so do new ids where the lists are our own: that is how a data set grows and its val and test stay. Else, ids of the
    data set that no list names are on no side.

    Args:
        ids: sorted.
        marks: uint64 [N, 10] of `duplicates.pack`.
        rules: as for `divide`; the shares matter for sides that the lists do not name.
        official: the lists.

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
    if named[TRAIN] is None or official.ours:
        sides[sides == NOWHERE] = TRAIN
    unlisted = int((sides == NOWHERE).sum())
    groups = find_groups(marks, rules)
    out = Division(ids, marks, rules, sides, groups, official=official, unknown=unknown, unlisted=unlisted)
    if not rules.keep_duplicates:
        counting = _counting(marks, groups, rules)
        for strong, weaker in ((TEST, (VAL, TRAIN)), (VAL, (TRAIN,))):
            _leave_out(out, counting, strong, weaker)
    lacking = tuple(side for side in (VAL, TEST) if named[side] is None and (rules.val, rules.test)[side - VAL] > 0.0)
    if lacking:
        taken = np.isin(groups.numbers, groups.numbers[(sides == VAL) | (sides == TEST)])
        drawn = draw(marks, groups, (sides == TRAIN) & ~taken, rules, lacking)
        sides[drawn != TRAIN] = drawn[drawn != TRAIN]
    return out


def _counting(marks: np.ndarray, groups: Groups, rules: Rules) -> np.ndarray:
    """The signatures that count, uint64 [N, S]: in place of those wider than the id's group goes by stand its first."""
    out = marks[:, : LEVELS[rules.near]].copy()
    level_of = groups.levels[groups.numbers]
    for level, name in enumerate(NAMES):
        rows = level_of == level
        out[rows, LEVELS[name] :] = out[rows, :1]
    return out


def _leave_out(out: Division, counting: np.ndarray, strong: int, weaker: tuple[int, ...]) -> None:
    """Take ids of the weaker sides that share a signature with one of the strong side off their lists."""
    rows = np.flatnonzero(out.sides == strong)
    near = near_rows(counting, rows)
    first: dict[int, int] = {}
    for number in reversed(rows.tolist()):
        first.update((mark, number) for mark in counting[number].tolist())
    for side in weaker:
        for number in np.flatnonzero(near & (out.sides == side)).tolist():
            twin = next(first[mark] for mark in counting[number].tolist() if mark in first)
            out.twins.append((out.ids[number], SIDES[side], out.ids[twin]))
            out.sides[number] = NOWHERE
    out.twins.sort()
