"""A crew of worker processes that may crash, hang or leak: killed, replaced, and told of in the result.

The kernel holds the GIL and can take the process down with it, so threads do not help and nothing a model wrote is built in
this process. Workers are forked from a server process that has loaded the kernel once (multiprocessing "forkserver"): a
replacement costs milliseconds. As with every such pool, a script that uses it guards its start with
`if __name__ == "__main__":`.
"""

from __future__ import annotations

import fcntl
import itertools
import multiprocessing
import os
import signal
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any, Generic, Protocol, TypeVar

from cadmllm.cad.kernel import Verdict, load_kernel
from cadmllm.errors import CadmllmError

START_LIMIT = 120.0  # s for a worker to load the kernel: a cold disk takes 10 s and more
GRACE = 5.0  # s after the limit when a worker whose parent is gone ends itself
AHEAD = 4  # tasks a worker may be ahead of the one whose result is waited for: bounds what is held in memory
PORTION = 0.5  # s of work that a worker is handed at once: it need not wait for the parent between small tasks
READY = "ready"

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class Work(Protocol[R_co]):
    """What goes to a worker; it is pickled on the way."""

    def run(self) -> R_co:
        """Do it, in the worker. A `CadmllmError` ends the whole map; any other exception is a crash of this task."""
        ...


class Task(Protocol[R]):
    """What the parent keeps of a piece of work."""

    def open(self) -> Work[R]:
        """The work, ready to go. Raises what is wrong with the place its results go to; called again after a crash of another."""
        ...

    def fail(self, verdict: Verdict, reason: str, seconds: float) -> R:
        """The result when the worker crashed (BUILD) or ran out of time (TIMEOUT)."""
        ...

    def close(self, pid: int, result: R | None) -> None:
        """Called once for every `open`: with the result, or with None when the worker `pid` (0: none yet) ended without one."""
        ...


class Crew(Generic[R]):
    """A pool of killable processes that have loaded the kernel; use it as a context manager.

    Args:
        workers: processes, >= 1; they start when the first task comes.
        timeout: seconds a task may take before its worker is killed (verdict TIMEOUT), > 0.
        recycle: tasks after which a worker is replaced, >= 1: what large parts leave behind in memory goes with it.
        share: tasks a worker is handed at once, at most; fewer where they are slow (`PORTION`). Time limits stay a task's own.
        preload: modules that workers start with.

    A crash is verdict BUILD with the signal's name.
    """

    def __init__(self, workers: int, timeout: float, recycle: int = 200, *, share: int = 1, preload: Sequence[str] = ()) -> None:
        if workers < 1 or not timeout > 0.0 or recycle < 1 or share < 1:
            raise ValueError(f"workers {workers}, timeout {timeout}, recycle {recycle}, share {share}: each must be above zero")
        self.timeout = timeout
        self.recycle = recycle
        self.share = share
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["cadmllm.cad.occt.output", "cadmllm.cad.workers", *preload])
        self._idle: list[_Worker[R]] = []
        self._busy: list[_Worker[R]] = []
        self._workers = workers
        self._running = False
        self._pace = PORTION  # s a task, a moving mean

    def __enter__(self):
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def pids(self) -> list[int]:
        """The processes there are at the moment."""
        return [worker.process.pid for worker in self._idle + self._busy]

    def close(self) -> None:
        """Kill every worker and remove what they had begun to write. Results not yet taken are lost."""
        for worker in self._idle + self._busy:
            worker.kill()
        self._idle, self._busy = [], []

    def run(self, tasks: Iterable[Task[R]], *, ordered: bool = True) -> Iterator[R]:
        """Do the tasks; yields a result each. They are drawn as they are needed, a few ahead of the results.

        Args:
            tasks: any number of them.
            ordered: results in the order of the tasks (a slow one then holds up the others); else as they come.

        Raises:
            CadmllmError: E301 (the kernel cannot be loaded), and what a task raises.
        """
        if self._running:
            raise RuntimeError("this workshop is busy with another map: take all of its results first, or open a second workshop")
        self._running = True
        source = enumerate(tasks)
        waiting: deque[tuple[int, Task[R]]] = deque()  # handed out before, to a worker that died of another task
        done: dict[int, R] = {}
        wanted = drawn = 0
        exhausted = False
        try:
            while True:
                while len(self._busy) < self._workers and (waiting or not exhausted):
                    if ordered and not waiting and drawn - wanted >= AHEAD * self._workers:
                        break
                    count = self._portion()
                    batch = [waiting.popleft() for _ in range(min(count, len(waiting)))] or list(itertools.islice(source, count))
                    exhausted = exhausted or not batch
                    if batch:
                        drawn = max(drawn, batch[-1][0] + 1)
                        self._start(batch)
                if not ordered and done:
                    wanted += 1
                    yield done.pop(next(iter(done)))
                elif wanted in done:
                    wanted += 1
                    yield done.pop(wanted - 1)
                elif exhausted and wanted == drawn:
                    return
                else:
                    self._collect(done, waiting)
        finally:
            for worker in self._busy:  # the caller stopped early, or an error goes on: nobody wants these results
                worker.kill()
            self._busy, self._running = [], False

    def _portion(self) -> int:
        return max(1, min(self.share, int(PORTION / self._pace)))

    def _start(self, batch: list[tuple[int, Task[R]]]) -> None:
        opened: list[tuple[int, Task[R], Work[R]]] = []
        try:  # before a worker is taken: this is where an output folder that cannot be written is met
            for number, task in batch:
                opened.append((number, task, task.open()))
        except BaseException:
            for _, task, _ in opened:
                task.close(0, None)
            raise
        while self._idle:
            worker = self._idle.pop()
            if worker.process.is_alive():
                break
            worker.kill()  # it died while idle, of nothing that these tasks did
        else:
            worker = _Worker(self._context, self.timeout)
        self._busy.append(worker)
        worker.take(opened)

    def _collect(self, done: dict[int, R], waiting: deque[tuple[int, Task[R]]]) -> None:
        """Wait until a worker answers, dies or runs out of time, and take its results."""
        wait([worker.pipe for worker in self._busy], max(0.0, min(worker.deadline for worker in self._busy) - time.monotonic()))
        for worker in list(self._busy):
            done.update(worker.results())
            if worker.alive and worker.tasks:
                continue
            if worker.count:
                self._pace += 0.2 * (worker.spent / worker.count - self._pace)
            waiting.extend((number, task) for number, task, _ in worker.tasks)
            self._busy.remove(worker)
            if not worker.alive or worker.jobs >= self.recycle:
                worker.kill()
            else:
                self._idle.append(worker)


class _Worker(Generic[R]):
    """One process, its pipe, and the tasks it has: the first of them is under way."""

    def __init__(self, context: Any, limit: float) -> None:
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs,), daemon=True, name="cadmllm-kernel")
        self.process.start()
        theirs.close()
        self.alive, self.ready, self.jobs = True, False, 0
        self.limit, self.deadline = limit, time.monotonic() + START_LIMIT
        self.tasks: deque[tuple[int, Task[R], Work[R]]] = deque()
        self.began, self.spent, self.count = 0.0, 0.0, 0

    @property
    def number(self) -> int:
        """Of the task under way, -1 while there is none."""
        return self.tasks[0][0] if self.tasks else -1

    def take(self, batch: list[tuple[int, Task[R], Work[R]]]) -> None:
        """Give it tasks; the time of the first runs from when it is ready."""
        self.tasks.extend(batch)
        self.spent, self.count = 0.0, 0
        if self.ready:
            self._begin()

    def _begin(self) -> None:
        self.ready = True
        self.began = time.monotonic()
        self.deadline = self.began + self.limit
        try:
            self.pipe.send((self.limit, [work for _, _, work in self.tasks]))
        except OSError:  # it died this moment: its closed pipe is met when the result is read
            self.deadline = time.monotonic() + GRACE

    def results(self) -> dict[int, R]:
        """What is done by now. Raises what the worker sent as an error."""
        found: dict[int, R] = {}
        try:
            while self.tasks and self.pipe.poll():
                answer = self.pipe.recv()
                if isinstance(answer, BaseException):
                    raise answer
                if isinstance(answer, str) and answer == READY:
                    self._begin()
                else:
                    self._finish(found, answer, answer)
        except (EOFError, ConnectionError):
            self._died(found)
        if self.alive and self.tasks and time.monotonic() >= self.deadline:
            self.kill()
            if not self.ready:
                raise CadmllmError(
                    "E301", f"the CAD kernel did not start within {START_LIMIT:g} s", "run again on a less busy machine"
                )
            reason = f"not done within {self.limit:g} s"
            self._finish(found, self.tasks[0][1].fail(Verdict.TIMEOUT, reason, self.limit), None)
        return found

    def _finish(self, found: dict[int, R], result: R, kept: R | None) -> None:
        """The first task is over; the time of the next runs from now."""
        now = time.monotonic()
        number, task, _ = self.tasks.popleft()
        if self.alive:
            task.close(self.process.pid, kept)
        found[number] = result
        self.jobs += 1
        self.count += 1
        self.spent += now - self.began
        self.began, self.deadline = now, now + self.limit

    def _died(self, found: dict[int, R]) -> None:
        self.kill()
        code = self.process.exitcode or 0
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        if not self.ready:
            raise CadmllmError("E301", f"the CAD kernel died while it was loaded ({how})", "cadmllm doctor")
        seconds = self.limit - (self.deadline - time.monotonic())
        self._finish(found, self.tasks[0][1].fail(Verdict.BUILD, f"the kernel crashed ({how})", seconds), None)

    def kill(self) -> None:
        """End the process if it still runs, and let its tasks remove what they half wrote."""
        if not self.alive:
            return
        self.alive = False
        self.pipe.close()
        if self.process.is_alive():
            self.process.kill()
        self.process.join()
        for _, task, _ in self.tasks:
            task.close(self.process.pid, None)


def _serve(pipe: Connection) -> None:
    """The worker: takes tasks until the pipe is closed, by the parent or by its death."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGIO, signal.SIG_IGN)
    fcntl.fcntl(pipe.fileno(), fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(pipe.fileno(), fcntl.F_SETFL, fcntl.fcntl(pipe.fileno(), fcntl.F_GETFL) | os.O_ASYNC)
    os.dup2(2, 1)  # the kernel's chatter: standard output belongs to results
    try:
        load_kernel()
        pipe.send(READY)
        while True:
            limit, batch = pipe.recv()
            for work in batch:
                pipe.send(_guarded(pipe, work, limit))
    except CadmllmError as error:
        pipe.send(error)
    except (EOFError, ConnectionError):
        return


def _guarded(pipe: Connection, work: Work[Any], limit: float) -> Any:
    """Run; meanwhile the death of the parent ends this process, which holds the GIL and sees no closed pipe.

    Nothing comes through the pipe during a batch but its end, which the system tells by SIGIO (Linux; elsewhere the alarm does).
    """
    signal.signal(signal.SIGIO, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, limit + GRACE)
    try:
        if pipe.poll():  # it died before the signal was armed
            raise EOFError
        return work.run()
    except CadmllmError as error:
        return error
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGIO, signal.SIG_IGN)
