"""Builds in worker processes that may crash, hang or leak: killed, replaced, and told of in the result.

The kernel holds the GIL and can take the process down with it, so threads do not help and nothing a model wrote is built in
this process. Workers are forked from a server process that has loaded the kernel once (multiprocessing "forkserver"): a
replacement costs milliseconds. As with every such pool, a script that uses it guards its start with
`if __name__ == "__main__":`.
"""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import signal
import time
from collections.abc import Iterable, Iterator
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from cadmllm.cad.kernel import BuildResult, Drafts, Job, Verdict, build_into, load_kernel
from cadmllm.cad.program import Program
from cadmllm.errors import CadmllmError

START_LIMIT = 120.0  # s for a worker to load the kernel: a cold disk takes 10 s and more
GRACE = 5.0  # s after the limit when a worker whose parent is gone ends itself
AHEAD = 4  # jobs a worker may be ahead of the one whose result is waited for: bounds what is held in memory
PRELOAD = ["cadmllm.cad.occt.output", "cadmllm.cad.workshop", "trimesh"]


class Workshop:
    """A pool of kernel processes; use it as a context manager.

    Args:
        workers: processes, >= 1; they start when the first job comes.
        timeout: seconds a build may take before it is killed (verdict TIMEOUT), > 0.
        recycle: jobs after which a worker is replaced, >= 1: what large parts leave behind in memory goes with it.

    A crash is verdict BUILD with the signal's name. Results come in the order of the jobs.
    """

    def __init__(self, workers: int, timeout: float, recycle: int = 200) -> None:
        if workers < 1 or not timeout > 0.0 or recycle < 1:
            raise ValueError(f"workers {workers}, timeout {timeout}, recycle {recycle}: each must be above zero")
        self.timeout = timeout
        self.recycle = recycle
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(PRELOAD)
        self._idle: list[_Worker] = []
        self._busy: list[_Worker] = []
        self._workers = workers

    def __enter__(self) -> Workshop:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Kill every worker and remove what they had begun to write. Results not yet taken are lost."""
        for worker in self._idle + self._busy:
            worker.kill()
        self._idle, self._busy = [], []

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
        if self._busy:
            raise RuntimeError("this workshop is busy with another map: take all of its results first, or open a second workshop")
        source = enumerate(jobs)
        done: dict[int, BuildResult] = {}
        wanted = drawn = 0
        exhausted = False
        try:
            while True:
                while not exhausted and len(self._busy) < self._workers and drawn - wanted < AHEAD * self._workers:
                    number, job = next(source, (-1, None))
                    if job is None:
                        exhausted = True
                    else:
                        drawn = number + 1
                        self._start(number, job)
                if wanted in done:
                    wanted += 1
                    yield done.pop(wanted - 1)
                elif exhausted and wanted == drawn:
                    return
                else:
                    self._collect(done)
        finally:
            for worker in self._busy:  # the caller stopped early, or an error goes on: nobody wants these results
                worker.kill()
            self._busy = []

    def _start(self, number: int, job: Job) -> None:
        drafts = Drafts(job)  # before a worker is taken: this is where an output folder that cannot be written is met
        while self._idle:
            worker = self._idle.pop()
            if worker.process.is_alive():
                break
            worker.kill()  # it died while idle, of nothing that this job did
        else:
            worker = _Worker(self._context)
        self._busy.append(worker)
        worker.take(number, job, drafts, self.timeout)

    def _collect(self, done: dict[int, BuildResult]) -> None:
        """Wait until a worker answers, dies or runs out of time, and take its result."""
        wait([worker.pipe for worker in self._busy], max(0.0, min(worker.deadline for worker in self._busy) - time.monotonic()))
        for worker in list(self._busy):
            result = worker.result()
            if result is None:
                continue
            done[worker.number] = result
            self._busy.remove(worker)
            if not worker.alive or worker.jobs >= self.recycle:
                worker.kill()
            else:
                self._idle.append(worker)


class _Worker:
    """One process, its pipe, and the job it has."""

    def __init__(self, context: Any) -> None:
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs,), daemon=True, name="cadmllm-kernel")
        self.process.start()
        theirs.close()
        self.alive, self.ready, self.jobs = True, False, 0
        self.number, self.limit, self.deadline = -1, 0.0, time.monotonic() + START_LIMIT
        self.job: Job | None = None
        self.drafts: Drafts | None = None

    def take(self, number: int, job: Job, drafts: Drafts, limit: float) -> None:
        """Give it a job; the time runs from when it is ready."""
        self.number, self.job, self.drafts, self.limit = number, job, drafts, limit
        if self.ready:
            self._begin()

    def _begin(self) -> None:
        self.ready = True
        self.jobs += 1
        self.deadline = time.monotonic() + self.limit
        try:
            assert self.job is not None
            assert self.drafts is not None
            self.pipe.send((self.job.program, self.drafts.files, self.job.mesh, self.limit))
        except OSError:  # it died this moment: its closed pipe is met when the result is read
            self.deadline = time.monotonic() + GRACE

    def result(self) -> BuildResult | None:
        """The outcome if there is one by now. Raises what the worker sent as an error."""
        try:
            while self.pipe.poll():
                answer = self.pipe.recv()
                if isinstance(answer, BuildResult):
                    self._settle(answer.ok)
                    return answer
                if isinstance(answer, BaseException):
                    raise answer
                self._begin()
        except (EOFError, ConnectionError):
            return self._died()
        if time.monotonic() < self.deadline:
            return None
        self.kill()
        if not self.ready:
            raise CadmllmError(
                "E301", f"the CAD kernel did not start within {START_LIMIT:g} s", "run again on a less busy machine"
            )
        return BuildResult(Verdict.TIMEOUT, f"not built within {self.limit:g} s", seconds=self.limit)

    def _died(self) -> BuildResult:
        self.kill()
        code = self.process.exitcode or 0
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        if not self.ready:
            raise CadmllmError("E301", f"the CAD kernel died while it was loaded ({how})", "cadmllm doctor")
        return BuildResult(Verdict.BUILD, f"the kernel crashed ({how})", seconds=self.limit - (self.deadline - time.monotonic()))

    def kill(self) -> None:
        """End the process if it still runs, and remove its half-written files."""
        if not self.alive:
            return
        self.alive = False
        self.pipe.close()
        if self.process.is_alive():
            self.process.kill()
        self.process.join()
        self._settle(False)

    def _settle(self, keep: bool) -> None:
        drafts, self.drafts = self.drafts, None
        if drafts is not None:
            drafts.settle(keep)


def _serve(pipe: Connection) -> None:
    """The worker: takes jobs until the pipe is closed, by the parent or by its death."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGIO, signal.SIG_IGN)
    fcntl.fcntl(pipe.fileno(), fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(pipe.fileno(), fcntl.F_SETFL, fcntl.fcntl(pipe.fileno(), fcntl.F_GETFL) | os.O_ASYNC)
    os.dup2(2, 1)  # the kernel's chatter: standard output belongs to results
    try:
        load_kernel()
        pipe.send("ready")
        while True:
            program, files, mesh, limit = pipe.recv()
            pipe.send(_guarded(pipe, program, files, mesh, limit))
    except CadmllmError as error:
        pipe.send(error)
    except (EOFError, ConnectionError):
        return


def _guarded(
    pipe: Connection, program: Program, files: dict[str, tuple[Path, str]], mesh: bool, limit: float
) -> BuildResult | CadmllmError:
    """Build; meanwhile the death of the parent ends this process, which holds the GIL and sees no closed pipe.

    Nothing comes through the pipe during a build but its end, which the system tells by SIGIO (Linux; elsewhere the alarm does).
    """
    signal.signal(signal.SIGIO, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, limit + GRACE)
    try:
        if pipe.poll():  # it died before the signal was armed
            raise EOFError
        return build_into(program, files, mesh)
    except CadmllmError as error:
        return error
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGIO, signal.SIG_IGN)
