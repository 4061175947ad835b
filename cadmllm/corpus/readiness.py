"""What each stage can train on, and what its ids still wait for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import TYPE_CHECKING

import numpy as np

from cadmllm.corpus import fit, roster
from cadmllm.corpus.captionfiles import read_ids
from cadmllm.corpus.facts import Kind
from cadmllm.corpus.roster import CLOUD, PROGRAM, VIEWS, Ids
from cadmllm.errors import CadmllmError

if TYPE_CHECKING:
    from cadmllm.corpus.index import Index, Row
    from cadmllm.corpus.layout import DataSet
    from cadmllm.settings import Settings

STAGES = (1, 2, 3)
FIRST = 5  # ids that are named
WORDS = {"text": "text", "point_cloud": "points", "image": "views"}
_FLAGS = {"text": PROGRAM, "point_cloud": CLOUD, "image": VIEWS}
_KINDS = {"point_cloud": Kind.CLOUD, "image": Kind.VIEWS}


@dataclass(frozen=True, slots=True)
class Lack:
    """How many ids wait for a modality, and the first of them."""

    count: int
    ids: list[str]


@dataclass(slots=True)
class StageReport:
    """What a stage can train on.

    Attributes:
        ids: that have all that the stage shows, and whose target fits.
        of: ids that are known, by a caption or by a program; those for evaluation and those that are excluded do not count.
        train: of `ids`, those that are trained on (not held out, and on the list of training ids if there is one).
        needs: the modalities that it shows.
        have: by modality, of `of`; text means a caption and a program, each of them fit for use.
        lacks: by modality of `needs`, the rest of `of`.
        longest: tokens that a target may have.
        too_long: ids whose target has more.
        ready: whether there is anything to train on.
    """

    ids: int
    of: int
    train: int
    needs: list[str]
    have: dict[str, int]
    lacks: dict[str, Lack]
    longest: int
    too_long: int
    ready: bool
    long_ids: list[str] = field(default_factory=list)

    def sentence(self) -> str:
        """'812 of 1,200 ids have text and points'."""
        *others, last = [WORDS[need] for need in self.needs]
        return f"{self.ids:,} of {self.of:,} ids have {', '.join(others)}{' and ' if others else ''}{last}"


@dataclass(frozen=True, slots=True)
class Pool:
    """Which of the roster's ids count.

    Attributes:
        counted: bool [N], neither for evaluation nor excluded.
        train: bool [N], trained on.
        left_out: every id for evaluation or excluded, known or not.
    """

    counted: np.ndarray
    train: np.ndarray
    left_out: frozenset[str]


def pool_of(dataset: DataSet) -> Pool:
    """Who trains, by the lists of the settings and of the data set.

    Raises:
        CadmllmError: E407 when a list is unreadable or none of its ids is in the data set.
    """
    train, _ = dataset.split()
    data = dataset.data
    left_out = set(dataset.test_ids())
    for path in (data.exclude, data.test):
        if path is not None:
            left_out |= read_ids(path).ids
    names = dataset.ids.names
    trained = np.zeros(len(names), dtype=bool)
    trained[np.searchsorted(names, train.names)] = True
    return Pool(~dataset.ids.mask(left_out), trained, frozenset(left_out))


def nobody(dataset: DataSet) -> Pool:
    """Where the lists cannot be read, nobody trains."""
    count = len(dataset.ids)
    return Pool(np.ones(count, dtype=bool), np.zeros(count, dtype=bool), frozenset())


def stage_reports(settings: Settings, dataset: DataSet, pool: Pool) -> dict[int, StageReport]:
    """The report of every stage.

    Args:
        settings: what the stages show, and how long sequences may be.
        dataset: with its index up to date.
        pool: from `pool_of`.
    """
    index, known = dataset.index, roster.read(dataset.index)
    of = _known(index, len(known.ids)) - _known_among(index, pool.left_out)
    usable = pool.counted & (known.lengths > 0)
    have = {name: usable & (known.flags & flag > 0) for name, flag in _FLAGS.items()}
    counts = {"text": int(usable.sum())} | {name: _having(index, kind, pool) for name, kind in _KINDS.items()}
    lacks = {name: Lack(of - counts[name], list(islice(_without(index, name, pool), FIRST))) for name in counts}
    reports = {}
    for stage in STAGES:
        shares = settings.stages[stage].probabilities
        needs, longest = fit.shown(shares), fit.longest_target(settings, shares)
        long = usable & (known.lengths > longest)
        full = np.logical_and.reduce([~long, *(have[need] for need in needs)])
        train = int((full & pool.train).sum())
        long_ids = list(islice(iter(Ids(known.ids.names[long])), FIRST))
        lacking = {need: lacks[need] for need in needs}
        numbers = (int(full.sum()), of, train, list(needs), counts, lacking, longest, int(long.sum()))
        reports[stage] = StageReport(*numbers, ready=train > 0, long_ids=long_ids)
    return reports


def _known(index: Index, both: int) -> int:
    """Ids that have a usable caption or a program file, `both` having the two of them."""
    return index.count(Kind.CAPTIONS) + index.count(Kind.PROGRAM) - both


def _known_among(index: Index, ids: Iterable[str]) -> int:
    return sum(_is_known(index, id_) for id_ in ids)


def _having(index: Index, kind: Kind, pool: Pool) -> int:
    """Known ids that have a cloud (or views) fit for use."""
    sql = f"""SELECT COUNT(*) FROM items m WHERE m.kind = ? AND m.code IS NULL AND (
              EXISTS(SELECT 1 FROM items p WHERE p.kind = {int(Kind.PROGRAM)} AND p.id = m.id)
              OR EXISTS(SELECT 1 FROM captions c WHERE c.id = m.id))"""
    left_out = sum(_is_known(index, id_) and _is_usable(index.row(kind, id_)) for id_ in pool.left_out)
    return index.db.execute(sql, (kind,)).fetchone()[0] - left_out


def _without(index: Index, modality: str, pool: Pool) -> Iterator[str]:
    """Known ids that lack a modality, first those of which no file is there, then those whose file cannot be used."""
    kind = _KINDS.get(modality, Kind.PROGRAM)
    known = (Kind.CAPTIONS, Kind.PROGRAM) if modality != "text" else (Kind.CAPTIONS,)
    sources: list[Iterator[str]] = [index.lacking(have, [kind]) for have in known]
    broken = index.db.execute("SELECT id FROM items WHERE kind = ? AND code IS NOT NULL ORDER BY id", (kind,))
    sources.append(id_ for (id_,) in broken if _is_known(index, id_))
    if modality == "text":
        sources.append(index.lacking(Kind.PROGRAM, [Kind.CAPTIONS]))
    named: set[str] = set()  # grows by what the caller takes
    for id_ in chain.from_iterable(sources):
        if id_ not in pool.left_out and id_ not in named:
            named.add(id_)
            yield id_


def _is_known(index: Index, id_: str) -> bool:
    return index.row(Kind.PROGRAM, id_) is not None or bool(index.captions(id_))


def _is_usable(row: Row | None) -> bool:
    return row is not None and row.code is None


def read_pool(dataset: DataSet) -> tuple[Pool, CadmllmError | None]:
    """`pool_of`, or nobody and the reason."""
    try:
        return pool_of(dataset), None
    except CadmllmError as error:
        return nobody(dataset), error
