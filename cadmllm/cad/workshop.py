"""Programs to solids in worker processes (`cad.workers`), so that neither a crash nor an endless build reaches the caller."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from cadmllm.cad.kernel import BuildResult, Drafts, Job, Verdict, build_into
from cadmllm.cad.program import Program
from cadmllm.cad.workers import AHEAD, Crew, Task, note

__all__ = ["AHEAD", "Job", "Workshop"]


class Workshop(Crew[BuildResult]):
    """A pool of kernel processes; use it as a context manager.

    Args:
        workers: processes, >= 1; they start when the first job comes.
        timeout: seconds a build may take before it is killed (verdict TIMEOUT), > 0.
        recycle: jobs after which a worker is replaced, >= 1: what large parts leave behind in memory goes with it.
        memory: MiB that a build may take before it is killed (verdict BUILD, 'more than N MiB of memory'); 0: no limit. Linux.

    A crash is verdict BUILD with the signal's name. Results come in the order of the jobs. Where a worker fell, `where` is the
    extrude that was under way.
    """

    def __init__(self, workers: int, timeout: float, recycle: int = 200, memory: int = 0) -> None:
        super().__init__(workers, timeout, recycle, preload=("cadmllm.cad.workshop", "trimesh"), memory=memory)

    def __enter__(self) -> Workshop:
        return self

    def build(
        self,
        program: Program,
        *,
        step: str | Path | None = None,
        stl: str | Path | None = None,
        glb: str | Path | None = None,
        mesh: bool = False,
        unit: str = "mm",
    ) -> BuildResult:
        """Build one program and wait for it; arguments as `Job`, errors as `map`."""
        return next(self.map([Job(program, step, stl, glb, mesh, unit)]))

    def fallen(self, task: Task[BuildResult], result: BuildResult, noted: int) -> BuildResult:
        """Say which extrude was under way."""
        assert isinstance(task, _Build)
        count = len(task.job.program.extrudes)
        if noted < 0:
            return result
        if noted >= count:
            return replace(result, reason=f"{result.reason}, after its last extrude")
        return replace(result, reason=f"{result.reason}, at extrude {noted + 1} of {count}", where=(noted,))

    def map(self, jobs: Iterable[Job]) -> Iterator[BuildResult]:
        """Build programs; yields a result a job, in order. Jobs are drawn as they are needed, a few ahead of the results.

        Raises:
            CadmllmError: E301 (the kernel cannot be loaded), E303 (an output file cannot be written).
        """
        yield from self.run(_Build(job) for job in jobs)


class _Build:
    """A job and its half-written files."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.drafts: Drafts | None = None

    def open(self) -> _Builder:
        self.drafts = Drafts(self.job)
        return _Builder(self.job.program, self.drafts.files, self.job.mesh, self.job.unit)

    def fail(self, verdict: Verdict, reason: str, seconds: float) -> BuildResult:
        return BuildResult(verdict, reason, seconds=seconds)

    def close(self, pid: int, result: BuildResult | None) -> None:
        drafts, self.drafts = self.drafts, None
        if drafts is not None:
            drafts.settle(result is not None and result.ok)


@dataclass(frozen=True, slots=True)
class _Builder:
    """What goes to the worker of a job."""

    program: Program
    files: dict[str, tuple[Path, str]]
    mesh: bool
    unit: str

    def run(self) -> BuildResult:
        return build_into(self.program, self.files, self.mesh, self.unit, note)
