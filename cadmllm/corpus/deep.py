"""What only the kernel can tell of a data set: does each program build, has it its recorded size, is its cloud its own?

The outcome of every program is a row of the index (`Kind.DEEP`) that is valid as long as program and cloud do not change, so a
second deep check builds what changed, and one that was interrupted goes on.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cadmllm.cad.kernel import Verdict, build_into
from cadmllm.cad.workers import Crew
from cadmllm.corpus.facts import Facts, Flaw, Kind, Value
from cadmllm.errors import CadmllmError

if TYPE_CHECKING:
    from cadmllm.cad.kernel import BuildResult
    from cadmllm.cad.program import Point3
    from cadmllm.console import Console
    from cadmllm.corpus.index import Index

RULES = "2"  # to be changed whenever a program or cloud would be judged differently
OFF = 1e-3  # of the recorded box's diagonal: a larger difference is no rounding
EVERY = 1.0  # s between two writes: what an interruption may cost
SHARE = 8  # programs a worker is handed at once
PAGE = 1000
PRELOAD = ("cadmllm.corpus.deep",)

# an outcome is valid for the program and the usable cloud it was made of
_STAMP = "? || ' ' || p.stamp || ' ' || COALESCE(c.stamp, '-')"
_JOINED = f"items p LEFT JOIN items c ON c.kind = {int(Kind.CLOUD)} AND c.id = p.id AND c.code IS NULL"
_WANTED = f"p.kind = {int(Kind.PROGRAM)} AND p.code IS NULL AND p.examined = 1"
_INTERSECTS = "COALESCE(json_extract(p.facts, '$.operations.intersect'), 0) > 0"
_ROWS = f"SELECT p.id, p.place, c.place, json_extract(p.facts, '$.box'), {_INTERSECTS}, {_STAMP} FROM {_JOINED}"
_UNKNOWN = f"NOT EXISTS(SELECT 1 FROM items d WHERE d.kind = {int(Kind.DEEP)} AND d.id = p.id)"


@dataclass(slots=True)
class DeepReport:
    """Outcome of a deep check.

    Attributes:
        built: programs built now.
        known: programs whose outcome was known from before.
        verdicts: of all of them, by name.
        compared: clouds that were compared with their program.
    """

    built: int
    known: int
    verdicts: dict[str, int]
    compared: int


@dataclass(frozen=True, slots=True)
class Look:
    """One program, in a worker: build it, measure it, compare its cloud.

    Attributes:
        path, cloud: files; None without a cloud that can be used.
        box: recorded bounding box, mm, low then high corner, or None.
        limit: s that the parent allows.
        bound: the recorded box may be larger than the part. Writers without a kernel, ours too, record the box of the material
            that is added, which an intersection makes smaller.
    """

    path: str
    cloud: str | None
    box: list[float] | None
    limit: float
    bound: bool = False

    def run(self) -> Facts:
        """What was found; nothing that a file holds raises."""
        from cadmllm.cad import omnicad

        try:
            program = omnicad.read_json(Path(self.path))
        except CadmllmError as error:  # changed since it was examined
            return Facts({"verdict": str(Verdict.PARSE)}, (Flaw(error.code, "fail", self.path, error.message),))
        return self.judge(build_into(program, {}, mesh=True))

    def judge(self, result: BuildResult) -> Facts:
        """What a build, with its mesh, tells of the files."""
        if not result.ok or result.mesh is None or result.box is None:
            return failed(self, result.verdict, result.reason, result.seconds)
        values: dict[str, Value] = {
            "verdict": str(result.verdict),
            "seconds": round(result.seconds, 4),
            "volume": result.volume,
            "solids": result.solids,
            "box": [*result.box[0], *result.box[1]],
        }
        flaws = [flaw for flaw in (_other_box(self, result.box, values),) if flaw]
        if self.cloud is not None:
            flaws += _other_cloud(self, self.cloud, result.mesh, values)
        return Facts(values, tuple(flaws))


def failed(look: Look, verdict: Verdict, reason: str, seconds: float) -> Facts:
    """The kernel made no solid: of no use for training. What took too long may still be a part: it is suspect."""
    level = "warn" if verdict is Verdict.TIMEOUT else "fail"
    flaw = Flaw("E302", level, look.path, f"{look.path}: {verdict}: {reason}")
    return Facts({"verdict": str(verdict), "limit": look.limit, "seconds": round(seconds, 4)}, (flaw,))


def _other_box(look: Look, built: tuple[Point3, Point3], values: dict[str, Value]) -> Flaw | None:
    if look.box is None:
        return None
    corners = [*built[0], *built[1]]
    diagonal = math.dist(look.box[:3], look.box[3:])
    outside = [*(a - b for a, b in zip(look.box[:3], corners[:3], strict=True))]
    outside += [b - a for a, b in zip(look.box[3:], corners[3:], strict=True)]
    off = max(outside if look.bound else map(abs, outside))
    if not diagonal > 0.0:
        return Flaw("E461", "warn", look.path, f"{look.path}: the recorded bounding box has no extent")
    values["box_off"] = off / diagonal
    if off <= OFF * diagonal:
        return None
    sizes = [" x ".join(f"{box[k + 3] - box[k]:.4g}" for k in range(3)) for box in (look.box, corners)]
    share = f"{off / diagonal:.1%} of its diagonal"
    return Flaw("E461", "warn", look.path, f"{look.path}: {sizes[0]} mm are recorded, {sizes[1]} mm were built (off by {share})")


def _other_cloud(look: Look, cloud: str, mesh, values: dict[str, Value]) -> list[Flaw]:
    from cadmllm.corpus.likeness import likeness
    from cadmllm.corpus.points import read_cloud

    try:
        found = likeness(mesh, read_cloud(Path(cloud)))
    except CadmllmError as error:  # changed since it was examined
        return [Flaw(error.code, "fail", cloud, error.message)]
    values |= {"chamfer": found.chamfer, "ratio": found.ratio, "farthest": found.farthest, "local": found.local}
    if found.alike:
        return []
    what = "is the cloud of another part" if found.foreign else "is not quite the cloud of its program"
    message = (
        f"{cloud} {what}: its chamfer distance is {_times(found.ratio)} times that of a true one,"
        f" and it is up to {found.farthest / 2:.1%} of the longest side away"
    )
    return [Flaw("E462", "fail" if found.foreign else "warn", cloud, message)]


def _times(ratio: float) -> str:
    return f"{ratio:.3g}" if ratio < 1000.0 else f"{ratio:,.0f}"


class _Task:
    """What the parent keeps of a look."""

    def __init__(self, id_: str, stamp: str, look: Look) -> None:
        self.id, self.stamp, self.look = id_, stamp, look

    def open(self) -> _Sent:
        return _Sent(self.id, self.stamp, self.look)

    def fail(self, verdict: Verdict, reason: str, seconds: float) -> tuple[str, str, Facts]:
        return self.id, self.stamp, failed(self.look, verdict, reason, seconds)

    def close(self, pid: int, result: object) -> None:
        """Nothing was begun that is left behind."""


@dataclass(frozen=True, slots=True)
class _Sent:
    """A look on its way to a worker."""

    id: str
    stamp: str
    look: Look

    def run(self) -> tuple[str, str, Facts]:
        return self.id, self.stamp, self.look.run()


def forget_outdated(index: Index, limit: float | None = None) -> None:
    """Drop outcomes of programs or clouds that changed, or are gone.

    Args:
        index: of the data set, up to date.
        limit: s; what took longer under a lower limit is dropped, too.
    """
    current = f"SELECT {_STAMP} FROM {_JOINED} WHERE {_WANTED} AND p.id = items.id"
    with index.writing() as db:
        db.execute(f"DELETE FROM items WHERE kind = ? AND stamp IS NOT ({current})", (Kind.DEEP, RULES))
        if limit is not None:
            slow = "json_extract(facts, '$.verdict') = 'TIMEOUT' AND json_extract(facts, '$.limit') < ?"
            db.execute(f"DELETE FROM items WHERE kind = ? AND {slow}", (Kind.DEEP, limit))
        gone = "NOT EXISTS(SELECT 1 FROM items d WHERE d.kind = flaws.kind AND d.id = flaws.owner)"
        db.execute(f"DELETE FROM flaws WHERE kind = ? AND {gone}", (Kind.DEEP,))


def deep_check(index: Index, *, workers: int, timeout: float, memory: int = 0, console: Console) -> DeepReport:
    """Build every program that has not been built since it or its cloud changed.

    Args:
        index: of the data set, with contents examined.
        workers: kernel processes.
        timeout: s a program may take.
        memory: MiB it may take; 0: no limit.
        console: for the progress bar.

    Raises:
        CadmllmError: E301 without a kernel, E482 when the index cannot be written.
    """
    forget_outdated(index, timeout)
    total = index.db.execute(f"SELECT COUNT(*) FROM items p WHERE {_WANTED}").fetchone()[0]
    todo = index.db.execute(f"SELECT COUNT(*) FROM items p WHERE {_WANTED} AND {_UNKNOWN}").fetchone()[0]
    if todo:
        with Crew[tuple[str, str, Facts]](workers, timeout, share=SHARE, preload=PRELOAD, memory=memory) as crew:
            _store(index, crew.run(_tasks(index, timeout), ordered=False), todo, console)
    verdicts = "SELECT json_extract(facts, '$.verdict') v, COUNT(*) FROM items WHERE kind = ? GROUP BY v ORDER BY v"
    compared = "SELECT COUNT(*) FROM items WHERE kind = ? AND json_extract(facts, '$.chamfer') IS NOT NULL"
    found = dict(index.db.execute(verdicts, (Kind.DEEP,)))
    return DeepReport(todo, total - todo, found, index.db.execute(compared, (Kind.DEEP,)).fetchone()[0])


def look_at(
    index: Index, ids: Iterable[str], *, clouds: bool, workers: int, timeout: float, memory: int = 0
) -> Iterator[tuple[str, Facts]]:
    """(id, what the kernel found) of some ids, in no order; nothing is kept. Whoever stops asking ends the work.

    Args:
        index: up to date.
        ids: of programs that can be used; others are passed over.
        clouds: compare them with what was built.
        workers: kernel processes.
        timeout: s a program may take.
        memory: MiB it may take; 0: no limit.

    Raises:
        CadmllmError: E301 without a kernel.
    """
    rows = (row for id_ in ids for row in index.db.execute(f"{_ROWS} WHERE {_WANTED} AND p.id = ?", (RULES, id_)))
    tasks = (_task(row if clouds else (*row[:2], None, *row[3:]), timeout) for row in rows)
    with Crew[tuple[str, str, Facts]](workers, timeout, preload=PRELOAD, memory=memory) as crew:
        for id_, _, facts in crew.run(tasks, ordered=False):
            yield id_, facts


def _tasks(index: Index, timeout: float) -> Iterator[_Task]:
    """The programs that are to be built, a page at a time (they leave the query's result while it runs)."""
    sql = f"{_ROWS} WHERE {_WANTED} AND {_UNKNOWN} AND p.id > ? ORDER BY p.id LIMIT {PAGE}"
    after = ""
    while page := index.db.execute(sql, (RULES, after)).fetchall():
        yield from (_task(row, timeout) for row in page)
        after = page[-1][0]


def _task(row: tuple, timeout: float) -> _Task:
    """Of a row of `_ROWS`."""
    id_, program, cloud, box, bound, stamp = row
    return _Task(id_, stamp, Look(program, cloud, json.loads(box) if box else None, timeout, bool(bound)))


def _store(index: Index, results: Iterable[tuple[str, str, Facts]], total: int, console: Console) -> None:
    """Keep results as they come; an interruption keeps what came up to a second before."""
    done: list[tuple[str, str, Facts]] = []
    began = last = time.monotonic()
    number = failures = 0
    with console.progress(total, "programs built") as bar:
        try:
            for result in results:
                done.append(result)
                number += 1
                failures += result[2].code is not None
                now = time.monotonic()
                rate = number / max(now - began, 1e-3)
                left = (total - number) / rate
                bar.advance(1, f"{rate:.1f} a second, {left:.0f} s left, {failures} not usable")
                if now - last > EVERY:
                    index.store(Kind.DEEP, done)
                    done, last = [], now
        finally:
            index.store(Kind.DEEP, done)
