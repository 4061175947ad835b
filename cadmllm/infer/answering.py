"""From requests to parts: read, write candidates, build them in parallel, mend, choose, bring to size, and say all of it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cadmllm import __version__
from cadmllm.cad.program import Program
from cadmllm.corpus.types import Sample
from cadmllm.errors import CadmllmError
from cadmllm.infer.choose import Candidate, Choice, choose
from cadmllm.infer.dimensions import Dimension, dimensions_in
from cadmllm.infer.generate import check_room, generate
from cadmllm.infer.inputs import Shown, check_modalities
from cadmllm.infer.judge import judge
from cadmllm.infer.lengths import Size, parse_size
from cadmllm.infer.part import Part, measures

if TYPE_CHECKING:
    from cadmllm.cad.frame import Transform
    from cadmllm.infer.api import CadModel, Watch
    from cadmllm.infer.request import Request
    from cadmllm.settings import InferSettings

RETRY_TEMPERATURE = 0.7  # least temperature of answers beside the first: a greedy one would only repeat itself


@dataclass(slots=True)
class Work:
    """A request under way."""

    request: Request
    shown: Shown
    size: Size | None
    dimensions: tuple[Dimension, ...]
    candidates: list[Candidate] = field(default_factory=list)
    choice: Choice | None = None
    tried: list[dict[str, Any]] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=lambda: {"generate": 0.0, "build": 0.0})

    @property
    def sample(self) -> Sample:
        return self.shown.sample

    @property
    def transform(self) -> Transform | None:
        """Of the cloud, whose coordinates are the answer's."""
        return self.sample.clouds[0].transform if self.sample.clouds else None

    @property
    def chosen(self) -> Candidate:
        assert self.choice is not None
        return self.candidates[self.choice.place]


def answer_together(
    cad: CadModel, requests: Sequence[Request], asked: InferSettings, watch: Watch | None
) -> list[Part | CadmllmError]:
    """Answer requests of one seed side by side.

    The first candidate is drawn as asked for, further ones at `RETRY_TEMPERATURE` at least. Where none of them gives a solid,
    others are drawn with the next seed, `infer.attempts` times in all.

    Returns:
        A part a request, or the error where its inputs cannot be used.
    """
    works = [_read(cad, request, asked) for request in requests]
    pending = [work for work in works if isinstance(work, Work)]
    for attempt in range(asked.attempts):
        if not pending:
            break
        _draw(cad, pending, asked, attempt, watch)
        pending = [work for work in pending if not work.chosen.result.ok]
    return [work if isinstance(work, CadmllmError) else _part(cad, work, asked, len(works)) for work in works]


def _read(cad: CadModel, request: Request, asked: InferSettings) -> Work | CadmllmError:
    settings = cad.model.settings.model_copy(update={"infer": asked})
    try:
        size = parse_size(request.size, asked.units) if request.size else None
        shown = request.read(settings).drawn(settings.model.point_count, asked.seed, settings.model.point_sampling)
        check_modalities(shown.sample, cad.model, cad.name)
        check_room(cad.model, shown.sample, asked.max_new_tokens)
    except CadmllmError as error:
        return error
    # a cloud has the real coordinates: what the text says of lengths is for the model alone
    dimensions = dimensions_in(request.text or "", asked.units) if not shown.sample.clouds else ()
    return Work(request, shown, size, dimensions)


def _draw(cad: CadModel, works: Sequence[Work], asked: InferSettings, attempt: int, watch: Watch | None) -> None:
    """Candidates for each work, built and chosen from."""
    count, seed = asked.candidates, asked.seed + attempt
    warm = max(asked.temperature, RETRY_TEMPERATURE)
    temperatures = [asked.temperature if attempt == 0 else warm, *[warm] * (count - 1)]
    began = time.perf_counter()
    answers = generate(
        cad.model,
        [work.sample for work in works],
        max_new_tokens=asked.max_new_tokens,
        temperature=temperatures,
        top_p=asked.top_p,
        seed=seed,
        grammar=asked.grammar,
        batch_size=asked.batch_size,
        copies=count,
        watch=watch,
        note=cad.console.note,
    )
    written = time.perf_counter()
    frames = [work.transform for work in works for _ in range(count)]
    found = judge(answers, cad.workshop, frames, mesh=True)
    for place, work in enumerate(works):
        own = range(place * count, (place + 1) * count)
        candidates = [Candidate(answers[k], *found[k], seed, heat) for k, heat in zip(own, temperatures, strict=True)]
        if asked.repair and not any(candidate.result.ok for candidate in candidates):
            candidates = [_mended(cad, candidate) for candidate in candidates]
        work.candidates = candidates
        work.choice = choose(candidates, work.sample, work.dimensions)
        work.tried += [{"attempt": attempt + 1, **score} for score in work.choice.scores]
        work.seconds["generate"] += written - began
        work.seconds["build"] += time.perf_counter() - written


def _mended(cad: CadModel, candidate: Candidate) -> Candidate:
    from cadmllm.cad.repair import repair

    if candidate.program is None:
        return candidate
    done = repair(candidate.program, candidate.result, lambda program: cad.workshop.build(program, mesh=True))
    if not done.result.ok:
        return candidate
    return Candidate(candidate.answer, done.program, done.result, candidate.seed, candidate.temperature, done.steps)


def _part(cad: CadModel, work: Work, asked: InferSettings, together: int) -> Part:
    """The chosen candidate in its final size, with the record of how it came about."""
    chosen = work.chosen
    program, result = chosen.program, chosen.result
    notes = [*work.shown.notes, *_drawn_again(work), *(work.choice.notes if work.choice else ())]
    if program is not None and result.ok and (work.size or work.dimensions):
        from cadmllm.infer.fitting import fit

        assert result.box is not None
        fitted = fit(program, result.box, work.size, work.dimensions)
        notes += fitted.notes
        if fitted.program != program:
            sized = cad.workshop.build(fitted.program, mesh=True)
            if sized.ok:
                program, result = fitted.program, sized
            else:
                notes.append(f"not brought to size, as the kernel does not build it then: {sized.verdict}: {sized.reason}")
    answer = chosen.answer
    record = {
        **_asked_for(cad, work, asked),
        **measures(program, result),
        "tokens": len(answer.tokens),
        "prompt_tokens": answer.prompt_tokens,
        "log_likelihood": answer.log_likelihood,
        "frame": "point cloud" if work.transform else "centred",
        "chosen": {"by": work.choice.by if work.choice else "", "seed": chosen.seed, "temperature": chosen.temperature},
        "candidates": work.tried,
        "repairs": list(chosen.repairs),
        "notes": notes,
        "generate_seconds": round(work.seconds["generate"], 4),
        "build_seconds": round(work.seconds["build"], 4),
        "answered_together": together,
    }
    altered = work.transform is not None or program is not answer_program(chosen)
    return Part(work.request.name, program, result, answer.tokens, record, cad.workshop, asked.units, altered)


def _drawn_again(work: Work) -> list[str]:
    """That the first answers were no solids, where it is so."""
    last = work.tried[-1]["attempt"]
    failed = Counter(row["verdict"] for row in work.tried if row["attempt"] < last)
    verdicts = ", ".join(f"{count} {verdict}" for verdict, count in failed.items())
    return [f"drawn {last} times: the answers before gave no solid ({verdicts})"] if failed else []


def answer_program(candidate: Candidate) -> Program | None:
    """The candidate's own program, None where it was mended."""
    return None if candidate.repairs else candidate.program


def _points_of(cad: CadModel, work: Work) -> dict[str, Any]:
    """What the encoder saw of a cloud: how many points, and which (`model.point_sampling` of the checkpoint)."""
    model = cad.model.settings.model
    return {"points": {"count": model.point_count, "sampling": model.point_sampling}} if work.shown.sample.clouds else {}


def _asked_for(cad: CadModel, work: Work, asked: InferSettings) -> dict[str, Any]:
    kept = ("seed", "temperature", "top_p", "max_new_tokens", "grammar", "candidates", "attempts", "repair", "units", "clean")
    return {
        "name": work.request.name,
        "prompt": work.sample.caption,
        "inputs": work.shown.described,
        **_points_of(cad, work),
        "size": work.request.size,
        "dimensions": [{"kind": item.kind, "mm": item.mm, "of": item.of, "words": item.words} for item in work.dimensions],
        "checkpoint": cad.described,
        "settings": {name: getattr(asked, name) for name in kept},
        "version": __version__,
    }
