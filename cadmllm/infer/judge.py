"""What the kernel says of answers: tokens to programs, programs to solids, and shares over many."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cadmllm.cad.kernel import BuildResult, Verdict
from cadmllm.cad.program import Program
from cadmllm.cad.tokens import decode
from cadmllm.cad.workshop import Job, Workshop
from cadmllm.errors import CadmllmError
from cadmllm.infer.generate import Answer

if TYPE_CHECKING:
    from cadmllm.cad.frame import Transform


@dataclass(frozen=True, slots=True)
class Judged:
    """An answer to a sample of a data set, and what became of it."""

    id: str
    combination: str
    caption: str
    answer: Answer
    result: BuildResult


def program_of(answer: Answer, transform: Transform | None = None) -> Program | BuildResult:
    """The program that an answer spells, or the verdict when it spells none.

    Args:
        answer: finished or not.
        transform: puts the part into the coordinates of the input; by default it is centred, in the size that the answer states.

    Returns:
        The program; or a result PARSE (unfinished, or outside the grammar) or INVALID (numbers that make no curve).
    """
    if not answer.finished:
        return BuildResult(Verdict.PARSE, f"no end after {len(answer.tokens)} tokens")
    try:
        return decode(answer.tokens, transform)
    except CadmllmError as error:
        return BuildResult(Verdict.PARSE if error.code == "E211" else Verdict.INVALID, error.message)


def judge(
    answers: Sequence[Answer], workshop: Workshop, transforms: Sequence[Transform | None] | None = None, *, mesh: bool = False
) -> list[tuple[Program | None, BuildResult]]:
    """Build every answer.

    Args:
        answers: any number.
        workshop: an open one; its workers and its limits are used.
        transforms: one an answer, as for `program_of`; None: all centred.
        mesh: also bring the triangles back.

    Returns:
        A program (None where the answer spells none) and a result an answer, in order.
    """
    frames = transforms if transforms is not None else [None] * len(answers)
    read = [program_of(answer, frame) for answer, frame in zip(answers, frames, strict=True)]
    built = iter(list(workshop.map([Job(program, mesh=mesh) for program in read if isinstance(program, Program)])))
    return [(item, next(built)) if isinstance(item, Program) else (None, item) for item in read]


def shares(judged: Iterable[Judged]) -> dict[str, dict[str, float]]:
    """By combination and over 'all': {'count', 'valid' (share of verdict OK, 0..1), the count of each verdict}."""
    groups: dict[str, Counter[str]] = {}
    for item in judged:
        for name in (item.combination, "all"):
            groups.setdefault(name, Counter())[item.result.verdict.value] += 1
    return {
        name: {"count": verdicts.total(), "valid": verdicts[Verdict.OK.value] / verdicts.total(), **verdicts}
        for name, verdicts in sorted(groups.items())
    }
