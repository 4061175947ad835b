"""The best of several answers: what the kernel builds, then what fits the given cloud, views and dimensions, then what is likely.

The criteria are asked in this order, and each only of those that the one before left: a difference within its noise is a tie.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cadmllm.cad.frame import Transform
from cadmllm.cad.kernel import BuildResult, Verdict
from cadmllm.cad.program import Program
from cadmllm.cad.tokens import parse
from cadmllm.infer.agreement import agreement as dimensions_agreement
from cadmllm.infer.closeness import Closeness, CloudDistance
from cadmllm.infer.dimensions import Dimension
from cadmllm.infer.silhouette import Silhouette, part_silhouettes, silhouette_of
from cadmllm.infer.silhouette import agreement as views_agreement

if TYPE_CHECKING:
    from cadmllm.cad.mesh import Mesh
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
        scores: a candidate each: verdict; distance (`closeness`, by which clouds rank) and chamfer (mean squared distances, both
            ways), in the cloud's normalised frame; silhouette and dimensions (0..1, 1 is best); log_likelihood_per_token, seed,
            temperature, chosen. None where a criterion does not apply.
        notes: pictures that could not be compared, and why.
    """

    place: int
    by: str
    scores: list[dict[str, Any]]
    notes: tuple[str, ...] = ()


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
    criteria, notes = _criteria(sample, dimensions, centred)
    first: dict[Program, int] = {}
    for k, candidate in enumerate(candidates):
        if candidate.result.ok and candidate.program is not None:
            first.setdefault(candidate.program, k)
    left = sorted(first.values())
    by = ONLY if left else NONE
    for criterion in criteria:
        for k in first.values():
            criterion.measure(k, candidates[k])
        kept = criterion.best(left) if left else left
        by, left = (criterion.name, kept) if len(kept) < len(left) else (by, left)
    by = LIKELIHOOD if len(left) > 1 else by
    place = max(left or _furthest(candidates), key=lambda k: (_likelihood(candidates[k]), -k))
    scores = []
    for k, candidate in enumerate(candidates):
        same = first.get(candidate.program) if candidate.result.ok and candidate.program is not None else None
        scores.append(
            {
                "verdict": candidate.result.verdict.value,
                **dict.fromkeys(("distance", "chamfer", "silhouette", "dimensions")),
                **{name: value for criterion in criteria for name, value in criterion.told(same).items()},
                "log_likelihood_per_token": _likelihood(candidate),
                "seed": candidate.seed,
                "temperature": candidate.temperature,
                "chosen": k == place,
            }
        )
    return Choice(place, by, scores, notes if len(candidates) > 1 else ())


class _Criterion:
    """Values of candidates by their places, and which of them are as good as the best."""

    def __init__(self, name: str, key: str, measure: Callable[[Candidate], float], noise: float) -> None:
        self.name, self.key, self.noise = name, key, noise
        self._measure = measure
        self.values: dict[int, float] = {}

    def measure(self, place: int, candidate: Candidate) -> None:
        self.values[place] = self._measure(candidate)

    def best(self, places: Sequence[int]) -> list[int]:
        top = max(self.values[k] for k in places)
        return [k for k in places if top - self.values[k] <= self.noise]

    def told(self, place: int | None) -> dict[str, float]:
        return {} if place is None else {self.key: self.values[place]}


class _ToClouds:
    """The same for distances to clouds, where noise is a matter of the candidates."""

    name = CLOUD

    def __init__(self, sample: Sample, centred: bool) -> None:
        self.centred = centred
        self.clouds = [(CloudDistance(cloud.points, cloud.normals), cloud.transform) for cloud in sample.clouds]
        self.values: dict[int, list[Closeness]] = {}

    def measure(self, place: int, candidate: Candidate) -> None:
        own = own_frame(candidate.answer) if self.centred else None
        self.values[place] = [cloud.of(_mesh(candidate), own or frame) for cloud, frame in self.clouds]

    def best(self, places: Sequence[int]) -> list[int]:
        top = min(places, key=lambda k: sum(one.distance for one in self.values[k]))
        pairs = {k: list(zip(self.values[k], self.values[top], strict=True)) for k in places}
        return [k for k in places if k == top or not any(one.tells_from(best) for one, best in pairs[k])]

    def told(self, place: int | None) -> dict[str, float]:
        if place is None:
            return {}
        found = self.values[place]
        mean = 1.0 / len(found)
        return {"distance": mean * sum(one.distance for one in found), "chamfer": mean * sum(one.chamfer for one in found)}


def _criteria(
    sample: Sample, dimensions: Sequence[Dimension], centred: bool
) -> tuple[list[_Criterion | _ToClouds], tuple[str, ...]]:
    """What can be measured with what was shown, in the order in which it decides; and what of it cannot, and why."""
    criteria: list[_Criterion | _ToClouds] = []
    if sample.clouds:
        criteria.append(_ToClouds(sample, centred))
    seen = [silhouette_of(image) for image in sample.images]
    shown = [one for one in seen if isinstance(one, Silhouette)]
    if shown:
        criteria.append(
            _Criterion(VIEWS, "silhouette", lambda one: views_agreement(shown, part_silhouettes(_mesh(one))), SAME_OUTLINE)
        )
    stated = [item for item in dimensions if item.kind != "distance"]
    if stated:
        criteria.append(_Criterion(DIMENSIONS, "dimensions", lambda one: _lengths(stated, one), SAME_DIMENSIONS))
    notes = (f"image {k} is not compared with the candidates: {why}" for k, why in enumerate(seen, 1) if isinstance(why, str))
    return criteria, tuple(notes)


def _outlines(shown: Sequence[Silhouette], candidate: Candidate) -> float:
    return views_agreement(shown, part_silhouettes(_mesh(candidate)))


def _lengths(stated: Sequence[Dimension], candidate: Candidate) -> float:
    assert candidate.program is not None
    agreed = dimensions_agreement(stated, candidate.program, candidate.result.box)
    assert agreed is not None
    return agreed


def _mesh(candidate: Candidate) -> Mesh:
    mesh = candidate.result.mesh
    assert mesh is not None, "a candidate that is OK comes with its mesh"
    return mesh


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
