"""Programs to solids in worker processes (`cad.workers`), so that neither a crash nor an endless build reaches the caller."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cadmllm.cad.kernel import BuildResult, Drafts, Job, Verdict, build_into
from cadmllm.cad.program import Program
from cadmllm.cad.workers import AHEAD, Crew

__all__ = ["AHEAD", "Job", "Workshop"]


class Workshop(Crew[BuildResult]):
    """A pool of kernel processes; use it as a context manager.

    Args:
        workers: processes, >= 1; they start when the first job comes.
        timeout: seconds a build may take before it is killed (verdict TIMEOUT), > 0.
        recycle: jobs after which a worker is replaced, >= 1: what large parts leave behind in memory goes with it.

    A crash is verdict BUILD with the signal's name. Results come in the order of the jobs.
    """

    def __init__(self, workers: int, timeout: float, recycle: int = 200) -> None:
        super().__init__(workers, timeout, recycle, preload=("cadmllm.cad.workshop", "trimesh"))

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
    ) -> BuildResult:
        """Build one program and wait for it; arguments and errors as `map`."""
        return next(self.map([Job(program, step, stl, glb, mesh)]))

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
        return _Builder(self.job.program, self.drafts.files, self.job.mesh)

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

    def run(self) -> BuildResult:
        return build_into(self.program, self.files, self.mesh)
