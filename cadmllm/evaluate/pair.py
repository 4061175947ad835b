"""One answer against one truth: a row of a report."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator
from typing import Any

from cadmllm.evaluate.geometry import POINTS, geometry
from cadmllm.evaluate.metrics import KEYS
from cadmllm.evaluate.sequence import sequence
from cadmllm.evaluate.shape import Shape
from cadmllm.evaluate.topology import reported

Row = dict[str, Any]

MEASURES = ("geometry", "topology", "sequence")
FLOOR = "floor"  # in the place of a combination: a truth against itself


def score(
    answer: Shape,
    truth: Shape,
    *,
    id: str = "",
    combination: str = "",
    points: int = POINTS,
    seed: int = 0,
    floor: bool = False,
    left_out: Collection[str] = (),
    begin: Callable[[str], None] = lambda measure: None,
) -> Row:
    """Everything that can be measured of a pair.

    Measures of solids are None where the answer is none; measures of the program are None where either side is not meant to be
    one, and count an answer that could not be read as wrong throughout.

    Args:
        answer: with its verdict.
        truth: where it is not OK, nothing is measured of solids, and the reason says so.
        id, combination: of the row.
        points: drawn from each surface.
        seed: of the draws.
        floor: the truth against itself with other points, in the place of the answer (which is not looked at).
        left_out: of `MEASURES`.
        begin: called with the name of each measure before it is taken.

    Returns:
        {"id", "combination", "verdict" and "reason" of the answer, "extrudes" of the truth, "scored" (False where a measure is
        missing that should be there; `reason` then says why), "iou_method", and every key of `metrics.METRICS`: a finite
        number, or None}.
    """
    if floor:
        answer = truth
    row: Row = {"id": id, "combination": FLOOR if floor else combination, "verdict": str(answer.verdict), "reason": answer.reason}
    row |= {"extrudes": truth.extrudes, "scored": True, "iou_method": None, **dict.fromkeys(KEYS)}
    if answer.ok and not truth.ok:
        unscored(row, f"the truth is no solid: {truth.verdict}: {truth.reason}")
    for measure, take in _measures(answer, truth, points, seed):
        if measure in left_out:
            continue
        begin(measure)
        try:
            row |= take()
        except MemoryError:
            raise  # the limit that is set for this process: the crew tells of it
        except Exception as error:  # the edge of a worker: what one odd shape brings to light must not cost its row
            unscored(row, f"{measure}: {type(error).__name__}: {error}")
    return {key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in row.items()}


def unscored(row: Row, why: str) -> None:
    """Note that a measure is missing which should be there."""
    row["scored"] = False
    row["reason"] = "; ".join(filter(None, (row["reason"], why)))


def _measures(answer: Shape, truth: Shape, points: int, seed: int) -> Iterator[tuple[str, Callable[[], Row]]]:
    """What there is to be taken of this pair."""
    if answer.mesh is not None and truth.mesh is not None:
        one, two = answer.mesh, truth.mesh
        yield "geometry", lambda: geometry(one, two, points=points, seed=seed)
        yield "topology", lambda: reported(one, two)
    if truth.program is not None and answer.kind == "program":
        program = truth.program
        yield "sequence", lambda: sequence(answer.program, program)
