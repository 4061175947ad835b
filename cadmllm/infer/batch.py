"""Many requests from a file to a folder a part: OUT/<id>/ and a record a line in OUT/results.jsonl; resumable at any moment.

A line is done when its record is there for the same request, the same contents of its files, the same checkpoint and the same
settings, and its files are there, too. Whatever else is in the folder is answered anew, and it is said why.
"""

from __future__ import annotations

import itertools
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cadmllm.cad.kernel import Verdict
from cadmllm.cad.workshop import Workshop
from cadmllm.errors import CadmllmError, Exit
from cadmllm.infer.batchfile import RESULTS, BatchFile, Line, check_batch
from cadmllm.infer.results import Results
from cadmllm.models.stages import sha256

if TYPE_CHECKING:
    from cadmllm.console import Console, Progress
    from cadmllm.infer.api import CadModel
    from cadmllm.infer.part import Part

SAID = 10  # errors that are said one by one while it runs; all of them are in the results
ERROR = "error"
ONES_OWN = ("E102", "E408", "E704")  # may be one request's fault: its prompt is too long, its scores are not finite


class State(IntEnum):
    """What there is of a line before the run."""

    MISSING = 0
    DONE = 1
    FAILED = 2  # its inputs could not be used: they are tried again
    CHANGED = 3  # the line, or the contents of a file that it names
    OTHER = 4  # answered by another checkpoint or with other settings
    LOST = 5  # files of the answer are gone


_WHY = {
    State.FAILED: "could not be answered before and are tried again",
    State.CHANGED: "have changed since and are answered anew",
    State.OTHER: "were answered by another checkpoint or with other settings and are answered anew",
    State.LOST: "lack files in their folder and are answered anew",
}


@dataclass(slots=True)
class BatchReport:
    """What became of a batch file.

    Attributes:
        file, out, results: the file, the folder, the records.
        requests: lines of the file.
        answered: of them in this run.
        kept: done before.
        verdicts: how many of all lines have each verdict; 'error' where the inputs could not be used.
        errors: how many of all lines have each error code.
        seconds: of this run, the loading of the model aside.
        solids_per_second: of this run.
    """

    file: Path
    out: Path
    results: Path
    requests: int
    answered: int = 0
    kept: int = 0
    verdicts: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    solids_per_second: float = 0.0

    @property
    def exit_code(self) -> Exit:
        """0 when every line has a solid, else 1."""
        return Exit.DONE if self.verdicts[Verdict.OK.value] == self.requests else Exit.USER


def run_batch(cad: CadModel, file: Path | BatchFile, out: Path, console: Console) -> BatchReport:
    """Answer what is missing of a batch file.

    Args:
        cad: an open model; `infer` of its settings holds for every line, but for its own size and seed.
        file: JSON Lines (`batchfile`); checked here unless it has been.
        out: gets a folder an id and the results.
        console: progress, and what deserves to be said.

    Returns:
        Counts over all lines, those that were done before included.

    Raises:
        CadmllmError: E706 (before anything is answered), E303; what concerns all lines: E102, E704. What is done is kept.
    """
    batch = file if isinstance(file, BatchFile) else check_batch(Path(file), cad.settings.infer.units)
    report = BatchReport(batch.path, out, out / RESULTS, batch.count)
    if batch.commented:
        console.note(f"{batch.path}: lines that begin with '#' and are left out: {batch.commented}")
    with Results(out / RESULTS) as results:
        _sweep(out)
        states = _states(cad, batch, out, results, report, console)
        _say_before(states, results, batch, console)
        results.put_in_order(line.id for line in batch)
        began, solids_before = time.perf_counter(), report.verdicts[Verdict.OK.value]
        try:
            with console.progress(batch.count, "answering") as bar:
                if report.kept:
                    bar.advance(report.kept, _tally(report))
                _Run(cad, batch, out, results, report, console, bar).go(states)
        except KeyboardInterrupt:
            console.note(f"{report.answered + report.kept} of {batch.count} are done: the same command goes on there")
            raise
        results.put_in_order(line.id for line in batch)
        report.seconds = time.perf_counter() - began
        report.solids_per_second = (report.verdicts[Verdict.OK.value] - solids_before) / max(report.seconds, 1e-9)
    return report


def _sweep(out: Path) -> None:
    """Remove what a killed run had begun to write; the results are held, so that no other batch is writing here."""
    for pattern in (".cadmllm-*", "*/.cadmllm-*", "*/*/.cadmllm-*"):
        for folder in out.glob(pattern):
            shutil.rmtree(folder, ignore_errors=True)
    for draft in out.glob(f".{Path(RESULTS).stem}.*{Path(RESULTS).suffix}"):
        draft.unlink(missing_ok=True)


def _states(cad: CadModel, batch: BatchFile, out: Path, results: Results, report: BatchReport, console: Console) -> bytearray:
    """A `State` a line; what is done is counted in the report."""
    states = bytearray()
    if not len(results):
        return bytearray(batch.count)
    with console.progress(batch.count, "looking at what is done") as bar:
        for line in batch:
            record = results.get(line.id)
            states.append(State.MISSING if record is None else _state(cad, line, record, out))
            if states[-1] == State.DONE:
                assert record is not None
                report.kept += 1
                report.verdicts[record["verdict"]] += 1
            bar.advance()
    return states


def _state(cad: CadModel, line: Line, record: dict[str, Any], out: Path) -> State:
    """Whether a record answers a line as it would be answered now."""
    if ERROR in record:
        return State.FAILED
    if record.get("request") != line.given or not {"verdict", "inputs", "files"} <= record.keys():
        return State.CHANGED
    asked = cad.settings.infer.model_dump(mode="json")
    asked["seed"] = asked["seed"] if line.request.seed is None else line.request.seed
    settings, by = record.get("settings", {}), record.get("checkpoint", {})
    same_settings = all(name in asked and asked[name] == value for name, value in settings.items())
    if not same_settings or any(by.get(name) != cad.described.get(name) for name in ("sha256", "base")):
        return State.OTHER
    if record["verdict"] != Verdict.OK.value and record.get("kernel") != _limits(cad):
        return State.OTHER  # more time or memory may make a solid of it
    if not all((out / line.id / name).is_file() for name in record["files"]):
        return State.LOST
    try:
        hashes = sorted(sha256(path) for path in line.files)
    except OSError:  # it has gone since: reading it says so
        return State.CHANGED
    return State.DONE if hashes == sorted(str(item.get("sha256")) for item in record["inputs"]) else State.CHANGED


def _limits(cad: CadModel) -> dict[str, Any]:
    """The limits that may have kept a solid from being built."""
    return cad.settings.kernel.model_dump(mode="json", exclude={"workers"})


def _say_before(states: bytearray, results: Results, batch: BatchFile, console: Console) -> None:
    counts = Counter(states)
    if results.torn:
        console.note(f"{results.path}: the last record was half-written and is made anew")
    if results.unread:
        console.warn(f"{results.path}: lines that were no records and are left out: {results.unread}")
    if counts[State.DONE]:
        console.note(f"{counts[State.DONE]} of {batch.count} are done already")
    for state, why in _WHY.items():
        if counts[state]:
            console.note(f"{counts[state]} {why}")
    if len(results) and (others := len(results) - sum(line.id in results for line in batch)):
        console.note(f"{results.path.name} keeps records of ids that {batch.path.name} does not have, at its end: {others}")


def _tally(report: BatchReport) -> str:
    return ", ".join(f"{count} {name}" for name, count in report.verdicts.most_common())


class _Run:
    """The lines that are answered in this run."""

    def __init__(
        self, cad: CadModel, batch: BatchFile, out: Path, results: Results, report: BatchReport, console: Console, bar: Progress
    ) -> None:
        self.cad, self.batch, self.out, self.results = cad, batch, out, results
        self.report, self.console, self.bar = report, console, bar
        self.answers = report.kept > 0  # whether the model has ever answered
        self.side_by_side = max(1, cad.settings.infer.batch_size // cad.settings.infer.candidates)

    def go(self, states: bytearray) -> None:
        """Answer group after group; while one is written, the files of the one before are made in a thread of their own."""
        kernel = self.cad.settings.kernel
        with Workshop(1, kernel.timeout, memory=kernel.memory) as workshop, ThreadPoolExecutor(1, "cadmllm-files") as files:
            saving: Future[None] | None = None
            try:
                for group, wanted in self._groups(states):
                    answers = self._answers(group)
                    if saving is not None:
                        saving.result()
                    saving = files.submit(self._save, group, answers, wanted, workshop)
            finally:  # also when interrupted: what has been answered is kept
                if saving is not None:
                    saving.result()

    def _groups(self, states: bytearray) -> Iterator[tuple[list[Line], set[str]]]:
        """Lines that are answered side by side, and the ids of those that are wanted.

        Groups are cut at the same places of the file in every run. One that a kill has left half-done is answered as a whole
        again, and what is done is thrown away: in 16 bit, what is beside a request may turn a choice between two tokens that
        are all but equally likely, and a resumed run must give what an uninterrupted one gives.
        """
        lines = zip(self.batch, states, strict=True)
        while group := list(itertools.islice(lines, self.side_by_side)):
            wanted = [line for line, state in group if state != State.DONE]
            if wanted:
                cut = any(state in (State.MISSING, State.OTHER, State.LOST) for _, state in group)
                yield [line for line, _ in group] if cut else wanted, {line.id for line in wanted}

    def _answers(self, group: list[Line]) -> list[Part | CadmllmError]:
        """An answer a line. What is wrong with one of them stops neither its neighbours nor the run."""
        try:
            answers = list(self.cad.answer(line.request for line in group))
        except CadmllmError as error:
            if error.code not in ONES_OWN:
                raise
            answers = [self._alone(line) for line in group]
            if not self.answers and all(isinstance(answer, CadmllmError) for answer in answers):
                raise  # before anything has come out, it is taken for what concerns all lines
        self.answers |= not all(isinstance(answer, CadmllmError) for answer in answers)
        return answers

    def _alone(self, line: Line) -> Part | CadmllmError:
        try:
            (answer,) = self.cad.answer([line.request])
        except CadmllmError as error:
            if error.code not in ONES_OWN:
                raise
            return error
        return answer

    def _save(self, group: list[Line], answers: list[Part | CadmllmError], wanted: set[str], workshop: Workshop) -> None:
        for line, answer in zip(group, answers, strict=True):
            if line.id not in wanted:
                continue
            row: dict[str, Any] = {"id": line.id, "request": line.given}
            if isinstance(answer, CadmllmError):
                row[ERROR] = answer.as_dict()
                self._say_error(line, answer)
                self.report.errors[answer.code] += 1
            else:
                answer.workshop = workshop  # the model's own is building the next group
                answer.save(self.out / line.id)
                row |= {"kernel": _limits(self.cad), **answer.record}
            self.results.append(row)
            self.report.verdicts[row.get("verdict", ERROR)] += 1
            self.report.answered += 1
            self.bar.advance(1, _tally(self.report))

    def _say_error(self, line: Line, error: CadmllmError) -> None:
        said = self.report.errors.total()
        if said < SAID:
            self.console.warn(f"line {line.number} ({line.id}): {error.code} {error.message}")
        elif said == SAID:
            self.console.warn(f"further lines that cannot be answered are in {self.results.path}")
