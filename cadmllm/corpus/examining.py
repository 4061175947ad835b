"""Examine the files of an index that are new or changed, in this process or in several, and keep what is found."""

from __future__ import annotations

import signal
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

from cadmllm.corpus.examine import examine_cloud, examine_program, examine_views
from cadmllm.corpus.facts import Facts, Flaw, Kind

if TYPE_CHECKING:
    from cadmllm.console import Console
    from cadmllm.corpus.folders import Folders
    from cadmllm.corpus.index import Index

KINDS = (Kind.PROGRAM, Kind.CLOUD, Kind.VIEWS)
FEW = 400  # files that are examined before a pool of processes would have started
SOON = 3000  # files that are examined in seconds: no progress bar
CHUNK = 16  # files a process examines at a time
EVERY = 1.0  # s between two writes of what was examined: what an interruption may cost
FATAL = {Kind.PROGRAM: "E201", Kind.CLOUD: "E404", Kind.VIEWS: "E405"}  # of a file that takes the process down

Work = tuple[str, str, str]  # id, place, stamp
Outcome = tuple[str, str, Facts]  # id, stamp, what was found
Mapper = Callable[[Kind, Path | None, Iterable[Work]], Iterator[Outcome]]


def examine(index: Index, folders: Folders, kinds: Iterable[Kind], workers: int, console: Console | None) -> None:
    """Examine what is new or changed. An interruption keeps what was examined up to a second before.

    Args:
        index: its rows that were not examined since they changed.
        folders: where the files lie.
        kinds: of `KINDS`.
        workers: processes, >= 1.
        console: for a progress bar where it takes a while.
    """
    kinds = tuple(kinds)
    number = sum(index.pending(kind) for kind in kinds)
    if not number:
        return
    with _progress(console if number > SOON else None, number) as advance, _mapper(workers if number > FEW else 1) as mapped:
        for kind in kinds:
            _examine_kind(index, folders, kind, mapped, advance)


def _examine_kind(index: Index, folders: Folders, kind: Kind, mapped: Mapper, advance: Callable[[int], None]) -> None:
    done: list[Outcome] = []
    last = time.monotonic()
    try:
        for result in mapped(kind, folders.img, _pending(index, kind)):
            done.append(result)
            advance(1)
            if time.monotonic() - last > EVERY:
                index.store(kind, done)
                done, last = [], time.monotonic()
    finally:
        if done:
            index.store(kind, done)


def _pending(index: Index, kind: Kind) -> Iterator[Work]:
    """What is to be examined, ordered by id, a page at a time (rows leave the query's result while it runs)."""
    after = ""
    sql = (
        "SELECT id, place, stamp FROM items INDEXED BY pending WHERE kind = ? AND examined = 0 AND id > ? ORDER BY id LIMIT 2000"
    )
    while page := index.db.execute(sql, (kind, after)).fetchall():
        yield from page
        after = page[-1][0]


@contextmanager
def _mapper(workers: int) -> Generator[Mapper]:
    if workers == 1:
        yield lambda kind, img, work: ((id_, stamp, look(kind, img, id_, place)) for id_, place, stamp in work)
        return
    crew = _Crew(workers)
    try:
        yield crew.examine
    finally:
        crew.close()


class _Crew:
    """Processes that examine. A file that takes one of them down (by its demand for memory) is found and named."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._pool = _pool(workers)

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def examine(self, kind: Kind, img: Path | None, work: Iterable[Work]) -> Iterator[Outcome]:
        """Outcomes in order. A few chunks are under way at a time: memory stays bounded whatever the size of the data set."""
        source = iter(work)
        waiting: deque[tuple[list[Work], Future[list[Outcome]]]] = deque()
        while chunk := list(islice(source, CHUNK)):
            waiting.append((chunk, self._pool.submit(_look_at_all, kind, img, chunk)))
            if len(waiting) >= 4 * self.workers:
                yield from self._taken(kind, img, waiting)
        while waiting:
            yield from self._taken(kind, img, waiting)

    def _taken(self, kind: Kind, img: Path | None, waiting: deque[tuple[list[Work], Future[list[Outcome]]]]) -> list[Outcome]:
        """The outcomes of the oldest chunk; when a process died, those of all chunks, each file in a process of its own."""
        chunk, future = waiting.popleft()
        try:
            return future.result()
        except BrokenProcessPool:
            suspects = [*chunk, *(item for others, _ in waiting for item in others)]
            waiting.clear()
            self.close()
            outcomes = [_alone(kind, img, item) for item in suspects]
            self._pool = _pool(self.workers)
            return outcomes


def _alone(kind: Kind, img: Path | None, item: Work) -> Outcome:
    id_, place, stamp = item
    with _pool(1) as pool:
        try:
            return pool.submit(_look_at_all, kind, img, [item]).result()[0]
        except BrokenProcessPool:
            path = place if kind is not Kind.VIEWS or img is None else str(view_paths(img, id_, place)[0])
            message = f"{path}: examining it ended the process, most likely for want of memory"
            return id_, stamp, Facts({}, (Flaw(FATAL[kind], "fail", path, message),))


def _pool(workers: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(workers, get_context("forkserver"), initializer=_deaf)


def _deaf() -> None:
    """Ctrl-C is the parent's to answer."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _look_at_all(kind: Kind, img: Path | None, chunk: Sequence[Work]) -> list[Outcome]:
    return [(id_, stamp, look(kind, img, id_, place)) for id_, place, stamp in chunk]


def look(kind: Kind, img: Path | None, id_: str, place: str) -> Facts:
    """Examine one row's file or files."""
    if kind is Kind.PROGRAM:
        return examine_program(Path(place))
    if kind is Kind.CLOUD:
        return examine_cloud(Path(place))
    return examine_views(view_paths(img, id_, place)) if img is not None else Facts()


def view_paths(img: Path, id_: str, place: str) -> list[Path]:
    """The views of a row: its place holds the ends of their names."""
    return [img / f"{id_}{end}" for end in place.split("|")]


@contextmanager
def _progress(console: Console | None, number: int) -> Generator[Callable[[int], None]]:
    if console is None:
        yield lambda n: None
        return
    with console.progress(number, "files examined") as bar:
        yield bar.advance
