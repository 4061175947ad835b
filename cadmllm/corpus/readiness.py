"""What each stage can train on, and what its ids still wait for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cadmllm.corpus import fit, roster
from cadmllm.corpus.captionfiles import read_ids
from cadmllm.corpus.census import Census, Lack
from cadmllm.errors import CadmllmError

if TYPE_CHECKING:
    from cadmllm.corpus.layout import DataSet
    from cadmllm.settings import Settings

STAGES = (1, 2, 3)
WORDS = {"text": "text", "point_cloud": "points", "image": "views"}


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

    def sentence(self) -> str:
        """'812 of 1,200 ids have text and points'."""
        *others, last = [WORDS[need] for need in self.needs]
        return f"{self.ids:,} of {self.of:,} ids have {', '.join(others)}{' and ' if others else ''}{last}"


@dataclass(frozen=True, slots=True)
class Stock:
    """What the roster tells of the training ids of a stage: columns, no walk over the index.

    Attributes:
        needs: the modalities that the stage shows.
        longest: tokens that a target may have; below 1 where features and frame leave no room for one.
        lengths: int32 [M], tokens of the target of each training id; 0 where its program cannot be used.
        shows: by modality of `needs` but text, bool [M]: what is there and not known to be broken.
    """

    needs: tuple[str, ...]
    longest: int
    lengths: np.ndarray
    shows: dict[str, np.ndarray]

    @property
    def fits(self) -> np.ndarray:
        """bool [M], what is trained on: a program that can be used and a target that is not too long."""
        return (self.lengths > 0) & (self.lengths <= self.longest)

    @property
    def too_long(self) -> int:
        """Training ids whose target is too long."""
        return int((self.lengths > self.longest).sum())


def stocks_of(settings: Settings, dataset: DataSet) -> dict[int, Stock]:
    """What each stage can train on, by number; under 0 that of a stage that would show everything, as stage 1 sees lengths.

    Raises:
        CadmllmError: E407 when a list of ids is unreadable or none of its ids is in the data set.
    """
    train = dataset.split()[0]
    lengths, shows = dataset.lengths(train), dataset.shows(train)
    stocks = {}
    for stage in STAGES:
        shares = settings.stages[stage].reached
        needs = fit.shown(shares)
        seen = {need: there for need, there in shows.items() if need in needs}
        stocks[stage] = Stock(needs, fit.longest_target(settings, shares), lengths, seen)
    return {0: Stock(("text", *shows), stocks[1].longest, lengths, shows), **stocks}


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


def stage_reports(settings: Settings, dataset: DataSet, pool: Pool, census: Census) -> dict[int, StageReport]:
    """The report of every stage.

    Args:
        settings: what the stages show, and how long sequences may be.
        dataset: with its index up to date.
        pool: from `pool_of`.
        census: of the same index, without `pool.left_out`.
    """
    known = roster.read(dataset.index)
    usable = pool.counted & (known.lengths > 0)
    reports = {}
    for stage in STAGES:
        shares = settings.stages[stage].reached
        needs, longest = fit.shown(shares), fit.longest_target(settings, shares)
        long = usable & (known.lengths > longest)
        full = np.logical_and.reduce([usable & ~long, *(known.can_show(need) for need in needs)])
        train = int((full & pool.train).sum())
        reports[stage] = StageReport(
            ids=int(full.sum()),
            of=census.known,
            train=train,
            needs=list(needs),
            have=dict(census.having),
            lacks={need: census.lack(need) for need in needs},
            longest=longest,
            too_long=int(long.sum()),
            ready=train > 0,
        )
    return reports


def read_pool(dataset: DataSet) -> tuple[Pool, CadmllmError | None]:
    """`pool_of`, or nobody and the reason."""
    try:
        return pool_of(dataset), None
    except CadmllmError as error:
        return nobody(dataset), error
