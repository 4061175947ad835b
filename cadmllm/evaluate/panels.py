"""What a few rows are about, found again with triangles, to be drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cadmllm.cad.kernel import Verdict
from cadmllm.cad.tokens import decode, from_text
from cadmllm.errors import CadmllmError
from cadmllm.evaluate.held_out import Case, load_shown
from cadmllm.evaluate.pairing import Pair
from cadmllm.evaluate.scoring import ScoreJob, shapes
from cadmllm.evaluate.shape import Shape
from cadmllm.evaluate.sheet import Panel
from cadmllm.evaluate.summary import Row

if TYPE_CHECKING:
    from cadmllm.corpus.layout import DataSet
    from cadmllm.infer.api import CadModel
    from cadmllm.settings import Settings

FILES = "files"  # in the place of a combination: answers that stand in files


def of_data(cad: CadModel, dataset: DataSet, cases: Sequence[Case], settings: Settings) -> Callable[[Sequence[Row]], list[Panel]]:
    """Panels of answers to ids of a data set: answers are built from the rows' programs, truths from the data set's."""
    named = {case.name: case for case in cases}

    def panels(rows: Sequence[Row]) -> list[Panel]:
        jobs = [ScoreJob(row["id"], _answer(row), dataset.program(row["id"]), row["combination"]) for row in rows]
        samples = [load_shown(dataset, cad.model, named[row["combination"]], row["id"], settings.eval.seed) for row in rows]
        built = _built(jobs, settings)
        return [Panel(row, truth, answer, sample) for row, (answer, truth), sample in zip(rows, built, samples, strict=True)]

    return panels


def _answer(row: Row) -> Shape:
    """The answer of a row, still to be built where it was a solid."""
    told = Shape(Verdict(row["verdict"]), row["reason"])
    if row.get("program") is None:
        return told
    try:
        told.program = decode(from_text(row["program"]))
    except CadmllmError:
        return told
    return told


def of_files(chosen: Sequence[Pair], settings: Settings) -> Callable[[Sequence[Row]], list[Panel]]:
    """Panels of files, which are read again."""
    named = {pair.id: pair for pair in chosen}

    def panels(rows: Sequence[Row]) -> list[Panel]:
        wanted = [named[row["id"]] for row in rows]
        built = _built([ScoreJob(pair.id, prediction(pair), pair.truth, FILES) for pair in wanted], settings)
        return [Panel(row, truth, answer) for row, (answer, truth) in zip(rows, built, strict=True)]

    return panels


def prediction(pair: Pair) -> Path | Shape:
    """What a pair has to be measured: no file is an answer that is no solid."""
    return pair.prediction or Shape(Verdict.EMPTY, "there is no prediction", kind="none")


def _built(jobs: Sequence[ScoreJob], settings: Settings) -> list[tuple[Shape, Shape]]:
    kernel = settings.kernel
    found = shapes(jobs, workers=kernel.workers, timeout=kernel.timeout, memory=kernel.memory)
    return [(answer or truth, truth) for answer, truth in found]
