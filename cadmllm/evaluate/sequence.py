"""How far an answer's program is the truth's program: DeepCAD's accuracies, and Text2CAD's precision and recall of curves.

Both compare programs, not shapes: a part drawn in another order or on another plane is wrong here and right for IoU.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING

from cadmllm.cad.deepcad_vec import ARC, END, EXTRUDE, START, USED, to_vec
from cadmllm.cad.program import Arc, Circle, Curve, Extrude, Program
from cadmllm.errors import CadmllmError

if TYPE_CHECKING:
    import numpy as np

TOLERANCE = 3  # of 256 levels; an argument is right if it differs by less
EXACT = {ARC: (4,), EXTRUDE: (15, 16)}  # the arc's direction; the boolean and the kind of extent
CURVES = ("line", "arc", "circle")
LEVELS = 255  # the longer side of a sketch, as Text2CAD quantises it before matching
NAN = float("nan")

Drawn = tuple[str, tuple[float, float, float, float]]  # the curve's type and the box of its start, middle and end


def sequence(answer: Program | None, truth: Program) -> dict[str, float]:
    """All measures of programs, by the keys of `metrics.METRICS`: 0..1, NaN where there is nothing to measure.

    * `acc_cmd`, `acc_param`: `accuracies` of the DeepCAD vectors of both, each scaled by its own box, without DeepCAD's limits
      of length. NaN where the truth cannot be a vector (E212); an answer that cannot be one counts as none.
    * `line_precision` ... `extrude_f1`: `matches`.

    Args:
        answer: None where it could not be read: acc_cmd 0, acc_param NaN (no command is right), and 0 for each type of curve
            that the truth has.
        truth: a valid program.
    """
    return {**_accuracies(answer, truth), **matches(answer, truth)}


def _accuracies(answer: Program | None, truth: Program) -> dict[str, float]:
    import numpy as np

    expected = _vector(truth)
    if expected is None:
        return {"acc_cmd": NAN, "acc_param": NAN}
    given = None if answer is None else _vector(answer)
    command, parameter = accuracies(np.zeros((0, expected.shape[1]), np.int64) if given is None else given, expected)
    return {"acc_cmd": command, "acc_param": parameter}


def _vector(program: Program) -> np.ndarray | None:
    """The DeepCAD vectors, or None where they cannot carry the program."""
    try:
        return to_vec(program, limits=False)
    except CadmllmError as error:
        if error.code != "E212":
            raise
        return None


def accuracies(answer: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """DeepCAD's accuracies (Wu et al., ICCV 2021, eq. 5 and 6) of two tables of vectors.

    ACC_cmd = 1/T sum [t_i = t'_i] over the T rows of the truth before its end; ACC_param = 1/K sum over the rows whose command
    is right and over the arguments that this command uses of [|p - p'| < 3], K their number. The arc's direction, the boolean
    and the kind of extent must be equal. A row that the answer lacks is wrong; rows that it has beyond T are not looked at.

    Args:
        answer: [N, 17] whole numbers, with or without the END row.
        truth: [T', 17].

    Returns:
        (ACC_cmd, ACC_param), 0..1; NaN for a truth without rows and where no command with arguments is right.
    """
    ends = [k for k, command in enumerate(truth[:, 0].tolist()) if command == END]
    rows = truth[: ends[0] if ends else len(truth)].tolist()
    given = answer[: len(rows)].tolist()
    right = parameters = good = 0
    for mine, true in zip(given, rows, strict=False):
        command = true[0]
        if mine[0] != command:
            continue
        right += 1
        if command == START:
            continue
        exact = EXACT.get(command, ())
        parameters += len(USED[command])
        good += sum(abs(mine[k] - true[k]) < (1 if k in exact else TOLERANCE) for k in USED[command])
    return right / len(rows) if rows else NAN, good / parameters if parameters else NAN


def matches(answer: Program | None, truth: Program) -> dict[str, float]:
    """Precision, recall and F1 of lines, arcs, circles and extrusions (Khan et al., Text2CAD, NeurIPS 2024, sec. 5).

    Extrusions are compared in order. Of each pair, sketches are scaled to 0..255 (longer side, from their lowest corner); the
    loops, then the curves of matched loops, are matched one to one at the least sum of distances of their boxes (Hungarian
    method; a box is its lowest and highest corner, as one point of four numbers). A match of curves is right if they are of
    one type; what finds no partner is missed (truth) or made up (answer). Of extrusions min(n, n') are right.

    Returns:
        `{type}_precision`, `_recall`, `_f1`, 0..1. NaN for a type of curve that the truth does not have, which Text2CAD leaves
        out of its means, whatever the answer has.
    """
    right: Counter[str] = Counter()
    there: Counter[str] = Counter()
    given: Counter[str] = Counter()
    answers = [_loops(extrude) for extrude in answer.extrudes] if answer else []
    truths = [_loops(extrude) for extrude in truth.extrudes]
    for counter, sketches in ((there, truths), (given, answers)):
        counter.update(kind for sketch in sketches for loop in sketch for kind, _ in loop)
    for mine, true in zip(answers, truths, strict=False):
        for one, two in _assigned([_box(loop) for loop in mine], [_box(loop) for loop in true]):
            own, other = mine[one], true[two]
            for i, j in _assigned([box for _, box in own], [box for _, box in other]):
                if own[i][0] == other[j][0]:
                    right[own[i][0]] += 1
    there["extrude"], given["extrude"] = len(truths), len(answers)
    right["extrude"] = min(len(truths), len(answers))
    values: dict[str, float] = {}
    for kind in (*CURVES, "extrude"):
        found = _scores(right[kind], given[kind], there[kind])
        values |= {f"{kind}_{name}": value for name, value in zip(("precision", "recall", "f1"), found, strict=True)}
    return values


def _scores(right: int, given: int, there: int) -> tuple[float, float, float]:
    """Precision, recall and their harmonic mean; 0 where nothing is given, NaN where nothing is there."""
    if not there:
        return NAN, NAN, NAN
    precision, recall = right / given if given else 0.0, right / there
    return precision, recall, 2.0 * precision * recall / (precision + recall) if right else 0.0


def _loops(extrude: Extrude) -> list[list[Drawn]]:
    """All loops of an extrusion, in levels of its sketch."""
    loops = [
        [_drawn(curve) for curve in loop.curves]
        for sketch in extrude.sketches
        for profile in sketch.profiles
        for loop in (profile.outer, *profile.inner)
    ]
    low_u, low_v, high_u, high_v = _box([drawn for loop in loops for drawn in loop])
    scale = LEVELS / max(high_u - low_u, high_v - low_v)
    lows = (low_u, low_v, low_u, low_v)

    def level(box: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
        a, b, c, d = (round((value - low) * scale) for value, low in zip(box, lows, strict=True))
        return a, b, c, d

    return [[(kind, level(box)) for kind, box in loop] for loop in loops]


def _drawn(curve: Curve) -> Drawn:
    if isinstance(curve, Circle):
        (u, v), r = curve.center, curve.radius
        return "circle", (u - r, v - r, u + r, v + r)
    points = [curve.start, curve.end]
    if isinstance(curve, Arc):
        points.append(curve.mid)
    us, vs = zip(*points, strict=True)
    return "arc" if isinstance(curve, Arc) else "line", (min(us), min(vs), max(us), max(vs))


def _box(loop: list[Drawn]) -> tuple[float, float, float, float]:
    a, b, c, d = zip(*(box for _, box in loop), strict=True)
    return min(a), min(b), max(c), max(d)


def _assigned(
    one: list[tuple[float, float, float, float]], two: list[tuple[float, float, float, float]]
) -> list[tuple[int, int]]:
    """Pairs of places whose boxes have the least sum of distances; the larger side keeps some for itself."""
    from scipy.optimize import linear_sum_assignment

    costs = [[math.dist(a, b) for b in two] for a in one]
    rows, columns = linear_sum_assignment(costs)
    return list(zip(rows.tolist(), columns.tolist(), strict=True))
