"""Many pairs, scored in worker processes: what builds, hangs, crashes or fills memory is one row's matter.

A worker builds the answer, builds the truth and takes the measures in one go, so that no triangles travel and this process
keeps nothing but the row it hands on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from cadmllm.cad.convert import read_program
from cadmllm.cad.kernel import Verdict
from cadmllm.cad.program import Program
from cadmllm.cad.workers import Crew, note
from cadmllm.errors import CadmllmError
from cadmllm.evaluate.geometry import POINTS
from cadmllm.evaluate.pair import MEASURES, Row, score, unscored
from cadmllm.evaluate.shape import Shape, build_program, kind_by_name, read_shape

PRELOAD = ("cadmllm.evaluate.scoring", "cadmllm.cad.deepcad_vec", "trimesh", "manifold3d", "scipy.spatial")
SHARE = 4  # pairs a worker is handed at once
STEPS = ("answer", "truth", *MEASURES)  # what a worker does in turn; it notes which, in case it falls

KEPT = 2  # truths that a worker remembers

Source = Path | Program | Shape


_kept: dict[Path | Program, Shape] = {}


@dataclass(frozen=True, slots=True)
class ScoreJob:
    """A pair to be scored.

    Attributes:
        id, combination: of the row.
        answer: a file, a program, or a `Shape` without triangles: one with a verdict other than OK is taken at its word, one
            that is OK is built. None only with `floor`.
        truth: likewise.
        floor: score the truth against itself; the row's combination is then 'floor'.
    """

    id: str
    answer: Source | None
    truth: Source
    combination: str = ""
    floor: bool = False


def score_all(
    jobs: Iterable[ScoreJob],
    *,
    workers: int,
    timeout: float,
    memory: int = 0,
    points: int = POINTS,
    seed: int = 0,
) -> Iterator[Row]:
    """A row a job, in their order, as they come (`pair.score`). Jobs are drawn a few ahead of the rows.

    Where a worker runs out of time or memory or crashes, the job is done again without the step at which it fell: an answer's
    build gives the verdict; a truth's build or a measure leaves the verdict as it is and its own columns empty, with `scored`
    False and the reason.

    Args:
        jobs: any number.
        workers: processes, >= 1.
        timeout: seconds a pair may take, > 0; each step, when it is done again.
        memory: MiB that a pair may take; 0: no limit.
        points, seed: as for `pair.score`.

    Raises:
        CadmllmError: E301 (the kernel cannot be loaded).
    """
    with _Crew(workers, timeout, memory) as crew, _Crew(1, timeout, memory) as second:  # none of them starts before it is needed
        for result in crew.run(_Task(_Work(job, points, seed)) for job in jobs):
            while isinstance(result, _Fallen):
                done = result.next.tries > len(STEPS)  # it falls whatever is left out: nothing more is tried
                result = result.next.bare() if done else next(second.run([_Task(result.next)]))
            yield result


def shapes(jobs: Iterable[ScoreJob], *, workers: int, timeout: float, memory: int = 0) -> Iterator[tuple[Shape | None, Shape]]:
    """Answer (None of a floor) and truth of each job with their triangles, in order: to draw a few of those that were scored.

    One that crashes or takes too long is a `Shape` that says so. Arguments and errors as `score_all`.
    """
    with Crew[Shape](workers, timeout, memory=memory, preload=PRELOAD) as crew:
        wanted = list(jobs)
        built = crew.run(_Look(source) for job in wanted for source in (job.answer, job.truth) if source is not None)
        for job in wanted:
            answer = next(built) if job.answer is not None else None
            yield answer, next(built)


def shape_of(source: Source) -> Shape:
    """Read or build what a job names, in this process. Raises `CadmllmError` E301."""
    if isinstance(source, Program):
        return build_program(source)
    if isinstance(source, Shape):
        building = source.ok and source.mesh is None and source.program is not None
        return build_program(source.program, source.source) if building and source.program is not None else _read_again(source)
    return read_shape(source)


def _truth(source: Source) -> Shape:
    """As `shape_of`; the last ones are kept, as rows of one id come close to each other, its floor among them."""
    if isinstance(source, Shape):
        return shape_of(source)
    if source not in _kept:
        while len(_kept) >= KEPT:
            del _kept[next(iter(_kept))]
        _kept[source] = shape_of(source)
    return _kept[source]


def _read_again(told: Shape) -> Shape:
    """A shape without a solid; where its build took a worker down, its program is still in the file."""
    if told.ok or told.program is not None or told.kind != "program" or not told.source:
        return told
    try:
        return replace(told, program=read_program(Path(told.source))[0])
    except CadmllmError:
        return told


@dataclass(frozen=True, slots=True)
class _Work:
    """What goes to a worker, `left_out` being measures that took an earlier one down and `why` what became of it."""

    job: ScoreJob
    points: int
    seed: int
    left_out: tuple[str, ...] = ()
    why: tuple[str, ...] = ()
    tries: int = 0

    def run(self) -> Row:
        job = self.job
        note(STEPS.index("truth"))
        truth = _truth(job.truth)
        note(STEPS.index("answer"))
        answer = truth if job.floor or job.answer is None else shape_of(job.answer)
        row = score(
            answer,
            truth,
            id=job.id,
            combination=job.combination,
            points=self.points,
            seed=self.seed,
            floor=job.floor,
            left_out=self.left_out,
            begin=lambda measure: note(STEPS.index(measure)),
        )
        for why in self.why:
            unscored(row, why)
        return row

    def bare(self) -> Row:
        """The row without any measure, made here."""
        truth = _told(self.job.truth, Verdict.BUILD, "it takes its worker down")
        told = self.job.answer if isinstance(self.job.answer, Shape) else None
        answer = told or Shape(Verdict.BUILD, "it takes its worker down", kind="none")
        return score(answer, truth, id=self.job.id, combination=self.job.combination, floor=self.job.floor, left_out=MEASURES)

    def without(self, step: str, verdict: Verdict, reason: str) -> _Work:
        """The same work but for the step at which a worker fell."""
        if step in MEASURES:
            return replace(self, left_out=(*self.left_out, step), why=(*self.why, f"{step}: {reason}"), tries=self.tries + 1)
        source = self.job.answer if step == "answer" else self.job.truth
        told = _told(source, verdict, reason) if source is not None else None
        return replace(self, job=replace(self.job, **{step: told}), tries=self.tries + 1)


def _told(source: Source, verdict: Verdict, reason: str) -> Shape:
    """What is known of something that cannot be built."""
    if isinstance(source, Program):
        return Shape(verdict, reason, program=source)
    if isinstance(source, Shape):
        return replace(source, verdict=verdict, reason=reason, mesh=None)
    return Shape(verdict, reason, source=str(source), kind=kind_by_name(source))


@dataclass(frozen=True, slots=True)
class _Fallen:
    """A worker that fell: what is to be done next in its place."""

    next: _Work


class _Crew(Crew["Row | _Fallen"]):
    def __init__(self, workers: int, timeout: float, memory: int) -> None:
        super().__init__(workers, timeout, share=SHARE, memory=memory, preload=PRELOAD)

    def fallen(self, task, result, noted: int):
        assert isinstance(task, _Task)
        # before the first step there was only what names the job: the truth is what every job has
        return _Fallen(task.work.without(STEPS[noted] if noted >= 0 else "truth", *task.fell))


class _Task:
    """What the parent keeps of a pair."""

    def __init__(self, work: _Work) -> None:
        self.work = work
        self.fell = Verdict.BUILD, ""

    def open(self) -> _Work:
        return self.work

    def fail(self, verdict: Verdict, reason: str, seconds: float) -> Row | _Fallen:
        self.fell = verdict, reason
        return _Fallen(self.work)

    def close(self, pid: int, result: Row | _Fallen | None) -> None:
        """Nothing was begun that is left behind."""


class _Look:
    """A shape to be read or built, and come back with its triangles."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def open(self) -> _Looking:
        return _Looking(self.source)

    def fail(self, verdict: Verdict, reason: str, seconds: float) -> Shape:
        return _told(self.source, verdict, reason)

    def close(self, pid: int, result: Shape | None) -> None:
        """Nothing was begun that is left behind."""


@dataclass(frozen=True, slots=True)
class _Looking:
    source: Source

    def run(self) -> Shape:
        return shape_of(self.source)
