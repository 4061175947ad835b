"""STEP files, clouds and views of a data set's programs: what is missing or changed is made, the rest is left as it is.

A program goes through one function (`derive`) in a killable process. What was made stands in a manifest (`manifest`), so a run
may be killed at any moment and started again: files and manifest are those of a run that nothing disturbed. The parent holds no
outcome: its memory does not depend on the size of the data set but for the list of ids.
"""

from __future__ import annotations

import functools
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cadmllm.cad.kernel import Verdict
from cadmllm.cad.workers import Crew
from cadmllm.corpus.derive import (
    POINT_COUNT,
    PRODUCTS,
    Outcome,
    Piece,
    Product,
    Recipe,
    aside_file,
    digest,
)
from cadmllm.corpus.manifest import Line, Workplace
from cadmllm.corpus.shelves import Shelves
from cadmllm.errors import CadmllmError

__all__ = ["POINT_COUNT", "Recipe", "Report", "crew", "prepare"]

SHARE = 16  # programs a worker is handed at once, where they are small
RECYCLE = 500  # programs after which a worker is replaced
SHOWN = 20  # failures of each verdict that a report carries; the manifest has all of them
PRELOAD = ("cadmllm.corpus.derive", "cadmllm.cad.render", "cadmllm.cad.omnicad", "PIL.PngImagePlugin", "scipy.sparse.csgraph")


@dataclass(slots=True)
class Report:
    """Outcome of a preparation.

    Attributes:
        total: programs in all.
        made: something was made now.
        kept: everything wanted was there, made by an earlier run.
        others: nothing was to be made as all that is wanted is someone else's.
        failed: nothing could be made, now or before.
        skipped: of those, failed before and not tried again.
        foreign: ids of which a product is someone else's and was kept, by product.
        stale: files of changed programs that were not wanted now and were removed.
        verdicts: of all programs as they stand in the manifest.
        failures: the first of each verdict: id, verdict, code, reason.
        seconds: of the workers, by stage.
        wall: seconds from the first program to the last.
    """

    total: int = 0
    made: int = 0
    kept: int = 0
    others: int = 0
    failed: int = 0
    skipped: int = 0
    stale: int = 0
    foreign: Counter[str] = field(default_factory=Counter)
    verdicts: Counter[str] = field(default_factory=Counter)
    failures: list[dict[str, str]] = field(default_factory=list)
    seconds: Counter[str] = field(default_factory=Counter)
    wall: float = 0.0

    def fail(self, line: Line) -> None:
        """Count a program of which not everything could be made."""
        verdict = str(line.get("verdict"))
        self.failed += 1
        self.verdicts[verdict] += 1
        if self.verdicts[verdict] <= SHOWN:
            self.failures.append({key: str(line.get(key, "")) for key in ("id", "verdict", "code", "reason")})

    def as_dict(self) -> dict[str, object]:
        """The shape under `--json`."""
        return {
            "total": self.total,
            "made": self.made,
            "kept": self.kept,
            "others": self.others,
            "failed": self.failed,
            "skipped": self.skipped,
            "foreign": dict(sorted(self.foreign.items())),
            "stale": self.stale,
            "verdicts": dict(sorted(self.verdicts.items())),
            "failures": self.failures,
            "seconds": {stage: round(spent, 3) for stage, spent in self.seconds.items()},
            "wall": round(self.wall, 3),
        }


Engine = Callable[[Iterable["Commission"]], Generator[Outcome]]  # does the pieces, in any order; `crew` and `ray_engine.cluster`
Told = Callable[[int, Report], None]  # how many programs are over, and the report so far


@dataclass(slots=True)
class Commission:
    """A piece and the place that keeps book of it: what an engine is given."""

    piece: Piece
    workplace: Workplace | None

    def open(self) -> Piece:
        """Claim the files, then hand out the piece."""
        if self.workplace is not None:  # None on another machine: the one that keeps book has claimed them
            self.workplace.claim(self.piece.id, self.piece.products)
        return self.piece

    def fail(self, verdict: Verdict, reason: str, seconds: float) -> Outcome:
        """The outcome when the worker crashed or ran out of time."""
        return Outcome(self.piece.id, "", verdict, "E302", reason)

    def close(self, pid: int, result: Outcome | None) -> None:
        """Remove what a worker that was killed had half written."""
        if result is None and pid:
            aside_file(self.piece.aside, pid).unlink(missing_ok=True)


def crew(workers: int, timeout: float, recycle: int = RECYCLE, share: int = SHARE, memory: int = 0) -> Crew[Outcome]:
    """Worker processes of this machine that do pieces."""
    return Crew(workers, timeout, recycle, share=share, preload=PRELOAD, memory=memory)


def local(
    commissions: Iterable[Commission], workers: int, timeout: float, recycle: int = RECYCLE, memory: int = 0
) -> Generator[Outcome]:
    """The engine of one machine."""
    with crew(workers, timeout, recycle, memory=memory) as hands:
        yield from hands.run(commissions, ordered=False)


def prepare(
    ids: Sequence[str],
    folder: Path,
    out: Path,
    recipe: Recipe,
    *,
    workers: int = 2,
    timeout: float = 30.0,
    memory: int = 0,
    retry: bool = False,
    own: bool = False,
    engine: Engine | None = None,
    told: Told = lambda count, report: None,
    warn: Callable[[str], None] = lambda text: None,
) -> Report:
    """Make what is missing or changed of every program.

    Args:
        ids: of the programs, sorted, each once, safe to be made a path of.
        folder: where the programs are: FOLDER/ID.json.
        out: folder that gets pcd/, img/, step/ and the manifest.
        recipe: what to make.
        workers: processes of the local engine.
        timeout: seconds a program may take, all stages together.
        memory: MiB it may take; 0: no limit. As `timeout`, the local engine's: another has its own.
        retry: try those again that failed before and have not changed.
        own: files that the manifest does not know are not someone else's: whole products are kept, others are made.
        engine: who does the work; None: `workers` processes here.
        told: called as programs are dealt with.
        warn: told of what could not be done and does no harm.

    Raises:
        CadmllmError: E303 when a file cannot be written, E301 without a kernel, E409, E419 and E480 as `Workplace`.
    """
    work = engine or functools.partial(local, workers=workers, timeout=timeout, memory=memory)
    report = Report(total=len(ids))
    with Workplace(out, warn) as workplace:
        ledger = Ledger(workplace, Shelves(out, own), recipe, report, timeout, retry, told)
        began = time.monotonic()
        try:
            with closing(work(ledger.commissions(ids, folder))) as outcomes:  # workers end before the books are closed
                for outcome in outcomes:
                    ledger.settle(outcome)
        finally:
            report.wall = time.monotonic() - began
    return report


class Ledger:
    """Compares programs with the manifest: what is to be made, and what is noted of it."""

    def __init__(
        self, workplace: Workplace, shelves: Shelves, recipe: Recipe, report: Report, timeout: float, retry: bool, told: Told
    ) -> None:
        self.workplace, self.shelves, self.recipe, self.report = workplace, shelves, recipe, report
        self.timeout, self.retry, self.told = timeout, retry, told
        self.wanted: dict[Product, dict[str, Any]] = {product: recipe.parameters(product) for product in recipe.products}
        self._open: dict[str, tuple[Piece, Line]] = {}  # what is under way

    def commissions(self, ids: Sequence[str], folder: Path) -> Iterator[Commission]:
        """What is to be made, in the order of ids; what needs nothing is counted on the way."""
        lines = self.workplace.lines()
        line = next(lines, None)
        for id_ in ids:
            path = folder / f"{id_}.json"
            while line is not None and line["id"] < id_:
                line = next(lines, None)
            known = line if line is not None and line["id"] == id_ else {}
            products = self._lacking(id_, path, known)
            if not products:
                self.told(1, self.report)
                continue
            for product in products:
                self.shelves.make_room(id_, product)
            piece = Piece(id_, path, self.workplace.out, self.workplace.aside, products, self.recipe)
            self._open[id_] = (piece, known)
            yield Commission(piece, self.workplace)

    def _lacking(self, id_: str, path: Path, line: Line) -> tuple[Product, ...]:
        """The products to make; () when the program is dealt with."""
        changed = bool(line) and self._digest(path) != line.get("program")
        foreign = failed = 0
        lacking: list[Product] = []
        for product, parameters in self.wanted.items():
            entry = line.get(product)
            ours = entry is not None and "files" in entry
            if not ours and self.shelves.own and self.shelves.whole(id_, product):
                continue
            if not ours and self.shelves.has(id_, product):
                foreign += 1
                self.report.foreign[product] += 1
            elif changed or entry is None or _parameters(entry) != parameters or self._again(id_, product, line, entry):
                lacking.append(product)
            else:
                failed += not ours
        if changed and not lacking:
            self._drop_stale(line, path)
        if lacking:
            return tuple(lacking)
        if failed:
            self.report.skipped += 1
            self.report.fail(line)
        elif foreign == len(self.wanted):
            self.report.others += 1
        else:
            self.report.kept += 1
            self.report.verdicts["OK"] += 1
        return ()

    def _again(self, id_: str, product: Product, line: Line, entry: Line) -> bool:
        """Whether files are gone or altered, or a failure is worth another try."""
        if "files" in entry:
            return not self.shelves.intact(id_, product, entry)
        return self.retry or line.get("limit", self.timeout) < self.timeout

    def _digest(self, path: Path) -> str:
        try:
            return digest(path)
        except CadmllmError:
            return ""  # unreadable now: it is tried, and its verdict says why not

    def _drop_stale(self, line: Line, path: Path) -> None:
        """The program has changed and nothing is to be made of it now: what was made of the old one goes."""
        for product in PRODUCTS:
            if "files" in line.get(product, {}):
                self.report.stale += self.workplace.remove(line["id"], product)
        self.workplace.finish({"id": line["id"], "program": self._digest(path), "verdict": str(Verdict.OK)})

    def settle(self, outcome: Outcome) -> None:
        """Note an outcome; the files of a failure, and those of a program that has changed since, are removed."""
        piece, before = self._open.pop(outcome.id)
        program = outcome.program or self._digest(piece.program)
        kept = before if before.get("program") == program else {}
        line: Line = {"id": outcome.id, "program": program, "verdict": str(outcome.verdict)}
        if not outcome.ok:
            line |= {"code": outcome.code, "reason": outcome.reason}
            if outcome.verdict is Verdict.TIMEOUT:
                line["limit"] = self.timeout
        transform = outcome.transform
        if transform is not None:
            line |= {"center": list(transform[:3]), "scale": transform[3]}
        else:
            line |= {key: kept[key] for key in ("center", "scale") if key in kept}
        for product in PRODUCTS:
            if product in piece.products:
                line[product] = dict(self.wanted[product])
                if outcome.ok:
                    line[product]["files"] = [[made.size, made.sha256] for made in outcome.files[product]]
                else:
                    self.workplace.remove(outcome.id, product)
            elif product in kept:
                line[product] = kept[product]
            elif "files" in before.get(product, {}):
                self.report.stale += self.workplace.remove(outcome.id, product)
        self.workplace.finish(line)
        self.report.seconds.update(outcome.seconds)
        if outcome.ok:
            self.report.made += 1
            self.report.verdicts["OK"] += 1
        else:
            self.report.fail(line)
        self.told(1, self.report)


def _parameters(entry: Line) -> Line:
    return {key: value for key, value in entry.items() if key != "files"}
