"""An evaluation from settings to its folder: of a checkpoint on held-out ids, or of anyone's files."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cadmllm import __version__
from cadmllm.cad.kernel import Verdict
from cadmllm.corpus.layout import open_dataset
from cadmllm.evaluate.finish import Evaluation, finish
from cadmllm.evaluate.held_out import Asked, Case, LeftOut, Side, answers, choose_side, combinations_of, plan_cases
from cadmllm.evaluate.ledger import Key, Ledger, key_of
from cadmllm.evaluate.pair import FLOOR
from cadmllm.evaluate.pairing import Pair, pairing
from cadmllm.evaluate.panels import FILES, of_data, of_files, prediction
from cadmllm.evaluate.report import percent
from cadmllm.evaluate.scoring import ScoreJob, score_all
from cadmllm.evaluate.shape import Shape
from cadmllm.infer.checkpoint import shown

if TYPE_CHECKING:
    from cadmllm.console import Console
    from cadmllm.corpus.layout import DataSet
    from cadmllm.infer.api import CadModel
    from cadmllm.settings import Settings

INFER = ("max_new_tokens", "temperature", "top_p", "seed", "grammar", "candidates", "repair")  # what decides an answer
EVAL = ("points", "seed")  # what decides its measures


def evaluate_checkpoint(settings: Settings, console: Console) -> dict[str, Any]:
    """Answer the held-out ids of a split and measure the answers, in `eval.out`.

    Args:
        settings: `infer`, `eval`, `kernel`, `data`, `run` and `model` are read.
        console: progress, and what deserves to be said.

    Returns:
        The report, as in `report.json`.

    Raises:
        CadmllmError: E713 (nothing to evaluate), E714 (another evaluation is there), E701, E102, E303, E401 to E407 (data), E501
            to E504 (checkpoint), E704, E301.
    """
    from cadmllm.infer.api import load

    combinations_of(settings.eval.modalities)  # a slip of the pen costs no loading
    dataset = open_dataset(settings.data, console=console, workers=settings.kernel.workers)
    side = choose_side(dataset, settings.eval)
    left = LeftOut()
    with load(settings=settings, console=console) as cad:
        cases = plan_cases(dataset, side, cad, settings.eval, left)
        for note in side.notes:
            console.note(note)
        ran = Evaluation(sources_of(cad, dataset, side), identity_of(cad, dataset, side, cases, settings), list(side.notes), left)
        with Ledger(settings.eval.out, ran.identity) as ledger:
            fill(ledger, cad, dataset, cases, settings, ran, console)
            return finish(ledger, settings, ran, of_data(cad, dataset, cases, settings), console)


def evaluate_files(predictions: Path, truth: Path, settings: Settings, console: Console) -> dict[str, Any]:
    """Measure the shapes in files against those of the same name, in `eval.out`.

    Args:
        predictions, truth: folders, or two files; see `pairing`.
        settings: `eval` and `kernel` are read.
        console: as above.

    Raises:
        CadmllmError: E711, E201, E712 (no truth can be used), E714, E303, E301.
    """
    found = pairing(predictions, truth)
    for note in found.notes:
        console.warn(note)
    chosen = found.pairs[: settings.eval.samples or None]
    there = sum(pair.prediction is not None for pair in chosen)
    sources = [
        {"what": "predictions", "is": f"{shown(predictions)} ({there:,} files)"},
        {"what": "truth", "is": f"{shown(truth)} ({len(chosen):,} files)"},
    ]
    identity = {
        "version": __version__,
        "files": {"pairs": len(chosen), "sha256": _stamp(chosen)},
        "settings": _settings_of(settings, infer=False),
    }
    ran = Evaluation(sources, identity, list(found.notes), LeftOut())
    with Ledger(settings.eval.out, identity) as ledger:
        left = [pair for pair in chosen if not {(FILES, pair.id), (FLOOR, pair.id)} <= ledger.done]
        _say_found(ledger, console)
        with console.progress(len(chosen), "scoring") as bar:
            bar.advance(len(chosen) - len(left))
            for row in _scored(_file_jobs(left, ledger.done), settings):
                ledger.add(row)
                bar.advance(row["combination"] != FLOOR)
        return finish(ledger, settings, ran, of_files(chosen, settings), console)


def _file_jobs(chosen: Iterable[Pair], done: set[Key]) -> Iterator[ScoreJob]:
    for pair in chosen:
        if (FLOOR, pair.id) not in done:
            yield ScoreJob(pair.id, None, pair.truth, floor=True)
        if (FILES, pair.id) not in done:
            yield ScoreJob(pair.id, prediction(pair), pair.truth, FILES)


def _stamp(chosen: Sequence[Pair]) -> str:
    """SHA-256 of names, sizes and times of all files: those of yesterday's rows are those of today."""
    found = hashlib.sha256()
    for pair in chosen:
        for path in (pair.prediction, pair.truth):
            state = path.stat() if path is not None else None
            found.update(json.dumps([pair.id, str(path), state and [state.st_size, state.st_mtime_ns]]).encode())
    return found.hexdigest()


def sources_of(cad: CadModel, dataset: DataSet, side: Side) -> list[dict[str, str]]:
    """What is evaluated on what, for people."""
    return [
        {"what": "checkpoint", "is": f"{cad.name} (stage {cad.model.stage})"},
        {"what": "data", "is": f"{shown(dataset.data.root)}, split {side.split} ({len(side.ids):,} usable ids)"},
        {"what": "computed on", "is": f"{cad.model.device} in {cad.settings.dtype}"},
    ]


def identity_of(cad: CadModel, dataset: DataSet, side: Side, cases: Sequence[Case], settings: Settings) -> dict[str, Any]:
    """Everything that decides the rows: where it is the same, so are they."""
    asked = {case.name: hashlib.sha256("\n".join(case.ids).encode("utf-8", "surrogatepass")).hexdigest() for case in cases}
    model = cad.model.settings.model
    return {
        "version": __version__,
        "checkpoint": {name: cad.described[name] for name in ("stage", "sha256", "base")},  # wherever it lies
        "data": {"fingerprint": dataset.fingerprint(), "split": side.split},
        "cases": {case.name: {"ids": len(case.ids), "sha256": asked[case.name]} for case in cases},
        "settings": {
            "model": {
                "point_count": model.point_count,
                "image_views": model.image_views,
                **({} if model.point_sampling == "uniform" else {"point_sampling": model.point_sampling}),
            },
            **_settings_of(settings, infer=True),
            "dtype": settings.dtype,
        },
    }


def _settings_of(settings: Settings, *, infer: bool) -> dict[str, Any]:
    found: dict[str, Any] = {"infer": {name: getattr(settings.infer, name) for name in INFER}} if infer else {}
    found["eval"] = {name: getattr(settings.eval, name) for name in EVAL}
    found["kernel"] = {"timeout": settings.kernel.timeout, "memory": settings.kernel.memory}
    return found


def fill(
    ledger: Ledger, cad: CadModel, dataset: DataSet, cases: Sequence[Case], settings: Settings, ran: Evaluation, console: Console
) -> None:
    """Add every row that is not there: of answers, and of each truth against itself."""
    columns: dict[Key, dict[str, Any]] = {}
    total = sum(len(case.ids) for case in cases)
    there = sum((case.name, id_) in ledger.done for case in cases for id_ in case.ids)
    began, valid = time.monotonic(), 0
    _say_found(ledger, console)
    with console.progress(total, "evaluating") as bar:
        bar.advance(there)
        source = answers(cad, dataset, cases, ledger.done, settings, ran.left, console)
        count = 0
        for row in _scored(_jobs(source, ledger.done, columns), settings):
            ledger.add({**row, **columns.pop(key_of(row), {})})
            if row["combination"] != FLOOR:
                count, valid = count + 1, valid + (row["verdict"] == Verdict.OK)
                bar.advance(1, f"valid {percent(valid / count)} %")
    ran.seconds["answering and scoring"] = round(time.monotonic() - began, 1)


def _say_found(ledger: Ledger, console: Console) -> None:
    if ledger.found:
        console.note(f"{ledger.found:,} rows are there already: going on in {ledger.folder}")


def _jobs(source: Iterable[Asked], done: set[Key], columns: dict[Key, dict[str, Any]]) -> Iterator[ScoreJob]:
    """A job an answer, and before the first of an id its truth against itself."""
    floors = {id_ for combination, id_ in done if combination == FLOOR}
    for asked in source:
        if asked.id not in floors:
            floors.add(asked.id)
            yield ScoreJob(asked.id, None, asked.truth, floor=True)
        part = asked.part
        columns[asked.case, asked.id] = asked.columns()
        answer = Shape(part.verdict, part.reason, program=part.program)
        yield ScoreJob(asked.id, answer, asked.truth, asked.case)


def _scored(jobs: Iterable[ScoreJob], settings: Settings) -> Iterator[dict[str, Any]]:
    kernel, asked = settings.kernel, settings.eval
    return score_all(
        jobs, workers=kernel.workers, timeout=kernel.timeout, memory=kernel.memory, points=asked.points, seed=asked.seed
    )
