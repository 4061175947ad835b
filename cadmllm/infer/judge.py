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
from cadmllm.corpus.features import FeatureStore
from cadmllm.corpus.sample import load_sample
from cadmllm.errors import CadmllmError
from cadmllm.infer.generate import Answer, generate

if TYPE_CHECKING:
    from cadmllm.cad.frame import Transform
    from cadmllm.corpus.layout import DataSet
    from cadmllm.models.fusion import CadMLLM


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
) -> list[BuildResult]:
    """Build every answer.

    Args:
        answers: any number.
        workshop: an open one; its workers and its time limit are used.
        transforms: one an answer, as for `program_of`; None: all centred.
        mesh: also bring the triangles back.

    Returns:
        A result an answer, in order.
    """
    frames = transforms if transforms is not None else [None] * len(answers)
    programs = [program_of(answer, frame) for answer, frame in zip(answers, frames, strict=True)]
    built = iter(list(workshop.map([Job(program, mesh=mesh) for program in programs if isinstance(program, Program)])))
    return [next(built) if isinstance(program, Program) else program for program in programs]


def sample_and_judge(
    model: CadMLLM,
    dataset: DataSet,
    ids: Sequence[str],
    combinations: Sequence[str],
    workshop: Workshop,
    *,
    max_new_tokens: int = 512,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    grammar: bool = True,
    mesh: bool = False,
    features: FeatureStore | None = None,
) -> list[Judged]:
    """Answer held-out samples and build the answers.

    Args:
        model: of a stage that has the encoders for `combinations`.
        dataset: where the ids are from.
        ids: samples to show.
        combinations: what to show of each, one an id ('text+point_cloud', ...); where a sample lacks a modality it is shown
            without, and `Judged.combination` says what was shown.
        workshop: an open one.
        max_new_tokens, temperature, top_p, seed, grammar: as for `generate`; the seed also picks captions, points and views.
        mesh: also bring the triangles back.
        features: where those of the encoders that the model was put together without are read.
    """
    settings = model.settings.model
    samples = [
        load_sample(
            dataset,
            name,
            combination,
            seed=seed,
            stage=0,
            epoch=0,
            position=position,
            point_count=settings.point_count,
            views=settings.image_views,
            draws=model.settings.data.draws,
            features=features,
        )
        for position, (name, combination) in enumerate(zip(ids, combinations, strict=True))
    ]
    answers = generate(
        model, samples, max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, seed=seed, grammar=grammar
    )
    results = judge(answers, workshop, mesh=mesh)
    return [
        Judged(sample.id, sample.combination, sample.caption, answer, result)
        for sample, answer, result in zip(samples, answers, results, strict=True)
    ]


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


def in_turn(ids: Sequence[str], combinations: Sequence[str], dataset: DataSet) -> list[str]:
    """A combination an id: the one that was given out least among those that the id can show (text, when it can show none)."""
    given: Counter[str] = Counter()
    out = []
    for name in ids:
        have = dataset.modalities(name) | {"text"}
        able = [combination for combination in combinations if set(combination.split("+")) <= have] or ["text"]
        out.append(min(able, key=lambda combination: given[combination]))
        given[out[-1]] += 1
    return out
