"""The best of several answers: what the kernel builds, then what fits the given cloud, views and dimensions, then what is likely.

The criteria are asked in this order, and each only of those that the one before left: a difference within its noise is a tie.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cadmllm.cad.frame import Transform
from cadmllm.cad.kernel import BuildResult, Verdict
from cadmllm.cad.program import Program
from cadmllm.cad.tokens import parse
from cadmllm.infer.agreement import agreement as dimensions_agreement
from cadmllm.infer.closeness import CloudDistance
from cadmllm.infer.dimensions import Dimension
from cadmllm.infer.silhouette import Silhouette, silhouette_of
from cadmllm.infer.silhouette import agreement as views_agreement

if TYPE_CHECKING:
    from cadmllm.corpus.types import Sample
    from cadmllm.infer.generate import Answer

SAME_OUTLINE = 0.005  # of the intersection over union: what resampling does to a silhouette
SAME_DIMENSIONS = 1e-3
CLOUD, VIEWS, DIMENSIONS, LIKELIHOOD = "point cloud", "views", "dimensions", "likelihood"
ONLY, NONE = "only one", "none is valid"


@dataclass(frozen=True, slots=True)
class Candidate:
    """One answer to a sample and what the kernel made of it.

    Attributes:
        answer: what the model wrote.
        program: what was built: the answer's, or a mended one; None where it spells none.
        result: with its mesh where the verdict is OK.
        seed, temperature: it was drawn with.
        repairs: what was done to it, in words.
    """

    answer: Answer
    program: Program | None
    result: BuildResult
    seed: int
    temperature: float
    repairs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Choice:
    """Which candidate was chosen, by what, and how each did.

    Attributes:
        place: index into the candidates.
        by: the criterion that decided: 'point cloud', 'views', 'dimensions', 'likelihood'; 'only one' where one valid program is
            there (however often), 'none is valid' where there is none: then the likeliest that came furthest is named.
        scores: a candidate each: verdict, chamfer (mean squared distances in the cloud's normalised frame, both ways),
            silhouette and dimensions (0..1, 1 is best), log_likelihood_per_token, seed, temperature, chosen; None where a
            criterion does not apply.
    """

    place: int
    by: str
    scores: list[dict[str, Any]]


def choose(
    candidates: Sequence[Candidate], sample: Sample, dimensions: Sequence[Dimension] = (), *, centred: bool = False
) -> Choice:
    """Pick one. Same candidates, same choice; identical programs are measured once.

    Args:
        candidates: one or more; those with verdict OK bring their mesh.
        sample: what was shown: its clouds and images are what they are held against.
        dimensions: of the prompt (`dimensions_in`).
        centred: programs stand in the answer's own frame (`program_of` without a transform), not in the cloud's coordinates.
    """
    if not candidates:
        raise ValueError("no candidate to choose from")
    measures = _measures(sample, dimensions, centred)
    found: dict[str, list[float | None]] = {name: [None] * len(candidates) for name in (CLOUD, VIEWS, DIMENSIONS)}
    first: dict[Program, int] = {}
    for k, candidate in enumerate(candidates):
        if candidate.result.ok and candidate.program is not None:
            same = first.setdefault(candidate.program, k)
            for name, (measure, _) in measures.items():
                found[name][k] = measure(candidate) if same == k else found[name][same]
    left = sorted(first.values())
    by = NONE if not left else ONLY
    if not left:
        left = _furthest(candidates)
    else:
        for name, (_, alike) in measures.items():
            values = found[name]
            best = min(left, key=lambda k: (-_rank(name, values[k]), k))  # noqa: B023
            kept = [k for k in left if alike(values[best], values[k])]
            by, left = (name, kept) if len(kept) < len(left) else (by, left)
        by = LIKELIHOOD if len(left) > 1 else by
    # of equal programs the likeliest was drawn as often as the others: they are one
    place = max(left, key=lambda k: (_likelihood(candidates[k]), -k))
    scores = [
        {
            "verdict": candidate.result.verdict.value,
            "chamfer": found[CLOUD][k],
            "silhouette": found[VIEWS][k],
            "dimensions": found[DIMENSIONS][k],
            "log_likelihood_per_token": _likelihood(candidate),
            "seed": candidate.seed,
            "temperature": candidate.temperature,
            "chosen": k == place,
        }
        for k, candidate in enumerate(candidates)
    ]
    return Choice(place, by, scores)


Measure = Callable[[Candidate], float | None]
Alike = Callable[[float | None, float | None], bool]


def _measures(sample: Sample, dimensions: Sequence[Dimension], centred: bool) -> dict[str, tuple[Measure, Alike]]:
    """What can be measured with what was shown, in the order in which it decides, and when two values are a tie."""
    measures: dict[str, tuple[Measure, Alike]] = {}
    if sample.clouds:
        clouds = [CloudDistance(cloud.points) for cloud in sample.clouds]
        frames = [cloud.transform for cloud in sample.clouds]

        def closeness(candidate: Candidate) -> float:
            mesh = candidate.result.mesh
            assert mesh is not None, "a candidate that is OK comes with its mesh"
            own = own_frame(candidate.answer) if centred else None
            return float(np.mean([cloud.of(mesh, own or frame) for cloud, frame in zip(clouds, frames, strict=True)]))

        noise = min(cloud.noise for cloud in clouds)
        measures[CLOUD] = closeness, lambda best, other: _value(other) - _value(best) <= noise
    shown = [one for one in map(silhouette_of, sample.images) if isinstance(one, Silhouette)]
    if shown:

        def outlines(candidate: Candidate) -> float:
            assert candidate.result.mesh is not None, "a candidate that is OK comes with its mesh"
            return views_agreement(shown, candidate.result.mesh)

        measures[VIEWS] = outlines, lambda best, other: _value(best) - _value(other) <= SAME_OUTLINE
    if any(item.kind != "distance" for item in dimensions):

        def lengths(candidate: Candidate) -> float | None:
            assert candidate.program is not None
            return dimensions_agreement(dimensions, candidate.program, candidate.result.box)

        measures[DIMENSIONS] = lengths, lambda best, other: _value(best) - _value(other) <= SAME_DIMENSIONS
    return measures


def _value(score: float | None) -> float:
    assert score is not None
    return score


def _rank(name: str, score: float | None) -> float:
    """Greater is better."""
    return -_value(score) if name == CLOUD else _value(score)


def own_frame(answer: Answer) -> Transform:
    """The normalising transform of an answer's own frame: centred, in the size that it states.

    Raises:
        CadmllmError: E211 when it does not follow the grammar.
    """
    mantissa, thousandths, exponent = parse(answer.tokens)[0].numbers
    return Transform((0.0, 0.0, 0.0), 2.0 / ((mantissa + thousandths / 1000.0) * 10.0**exponent))


def _likelihood(candidate: Candidate) -> float:
    return candidate.answer.log_likelihood / max(1, len(candidate.answer.tokens))


def _furthest(candidates: Sequence[Candidate]) -> list[int]:
    """Of candidates without a solid: those with a program, if there are any."""
    read = [k for k, candidate in enumerate(candidates) if candidate.result.verdict is not Verdict.PARSE]
    return read or list(range(len(candidates)))
