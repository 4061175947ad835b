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
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from typing import Any, Generic, Protocol, TypeVar

from cadmllm.cad.kernel import Verdict, load_kernel
from cadmllm.cad.memwatch import MIB, MemoryWatch, held
from cadmllm.errors import CadmllmError

START_LIMIT = 120.0  # s for a worker to load the kernel: a cold disk takes 10 s and more
GRACE = 5.0  # s after the limit when a worker whose parent is gone ends itself
AHEAD = 4  # tasks a worker may be ahead of the one whose result is waited for: bounds what is held in memory
PORTION = 0.5  # s of work that a worker is handed at once: it need not wait for the parent between small tasks
READY = "ready"
NO_MEMORY = 12  # exit code (ENOMEM) of a worker whose allocation was refused

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
        memory: MiB that a task may take above what its worker held before (Linux); 0: no limit.

    A crash is verdict BUILD with the signal's name, more memory than allowed is BUILD with the limit.
    """

    def __init__(
        self,
        workers: int,
        timeout: float,
        recycle: int = 200,
        *,
        share: int = 1,
        preload: Sequence[str] = (),
        memory: int = 0,
    ) -> None:
        if workers < 1 or not timeout > 0.0 or recycle < 1 or share < 1:
            raise ValueError(f"workers {workers}, timeout {timeout}, recycle {recycle}, share {share}: each must be above zero")
        if memory < 0:
            raise ValueError(f"memory {memory} MiB: give 0 (no limit) or more")
        self.timeout = timeout
        self.recycle = recycle
        self.memory = memory
        self.share = share
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["cadmllm.cad.occt.output", "cadmllm.cad.workers", *preload])
        self._idle: list[_Worker[R]] = []
        self._busy: list[_Worker[R]] = []
        self._workers = workers
        self._running = False
        self._pace = PORTION  # s a task, a moving mean
        self._watch = MemoryWatch(lambda: self._busy)

    def __enter__(self):
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def warm(self) -> None:
        """Start the process that workers are forked from; it loads the kernel, which takes seconds, while the caller goes on."""
        forkserver.ensure_running()

    @property
    def pids(self) -> list[int]:
        """The processes there are at the moment."""
        return [worker.process.pid for worker in self._idle + self._busy]

    def close(self) -> None:
        """Kill every worker and remove what they had begun to write. Results not yet taken are lost."""
        self._watch.stop()
        for worker in self._idle + self._busy:
            worker.kill()
        self._idle, self._busy = [], []

    def fallen(self, task: Task[R], result: R, noted: int) -> R:
        """What becomes of the result `task.fail` gave for a worker that was killed or died, `noted` being what it last noted."""
        return result

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
            worker = _Worker(self._context, self.timeout, self.memory, self.fallen)
        self._busy.append(worker)
        if self.memory:
            self._watch.start()
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

    def __init__(self, context: Any, limit: float, memory: int, fallen: Callable[[Task[R], R, int], R]) -> None:
        self.pipe, theirs = context.Pipe()
        self.noted = context.RawValue("i", -1)  # shared with the process
        self.process = context.Process(target=_serve, args=(theirs, self.noted), daemon=True, name="cadmllm-kernel")
        self.process.start()
        theirs.close()
        self.alive, self.ready, self.jobs = True, False, 0
        self.limit, self.deadline = limit, time.monotonic() + START_LIMIT
        self.tasks: deque[tuple[int, Task[R], Work[R]]] = deque()
        self.began, self.spent, self.count = 0.0, 0.0, 0
        self.memory, self.fallen = memory, fallen
        self.base = 0  # bytes held before the task under way
        self.outgrown: int | None = None  # number of the task that was killed for its memory
        self.lock = threading.Lock()  # between the one who waits and the one who watches memory: both may kill

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
        self._weigh()
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
            self._fail(found, Verdict.TIMEOUT, f"not done within {self.limit:g} s", self.limit)
        return found

    def _weigh(self) -> None:
        if self.memory:
            self.base = held(self.process.pid)

    def check_memory(self) -> None:
        """Kill the process if its task took more memory than it may; called by the watch, from another thread."""
        with self.lock:
            number = self.number
            if not self.alive or not self.ready or number < 0 or self.outgrown is not None:
                return
            if held(self.process.pid) - self.base > self.memory * MIB:
                self.outgrown = number
                self.process.kill()

    def _fail(self, found: dict[int, R], verdict: Verdict, reason: str, seconds: float) -> None:
        task = self.tasks[0][1]
        self._finish(found, self.fallen(task, task.fail(verdict, reason, seconds), self.noted.value), None)

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
        if self.alive:
            self._weigh()

    def _died(self, found: dict[int, R]) -> None:
        self.kill()
        code = self.process.exitcode or 0
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        if self.outgrown not in (None, self.number):
            return  # the task it was killed for had just answered: those behind it are handed out again
        if not self.ready:
            raise CadmllmError("E301", f"the CAD kernel died while it was loaded ({how})", "cadmllm doctor")
        seconds = self.limit - (self.deadline - time.monotonic())
        reason = f"the kernel crashed ({how})"
        if self.outgrown is not None:
            reason = f"more than {self.memory:,} MiB of memory"
        elif code == NO_MEMORY:
            reason = "the system refused it more memory"
        elif code == -signal.SIGKILL:
            reason = "the system killed it (SIGKILL), most likely because memory ran out"
        self._fail(found, Verdict.BUILD, reason, seconds)

    def kill(self) -> None:
        """End the process if it still runs, and let its tasks remove what they half wrote."""
        with self.lock:
            if not self.alive:
                return
            self.alive = False
        self.pipe.close()
        if self.process.is_alive():
            self.process.kill()
        self.process.join()
        for _, task, _ in self.tasks:
            task.close(self.process.pid, None)


_noted: Any = None  # in a worker: the number that its parent sees


def note(number: int) -> None:
    """In a worker: leave a number (how far the task is, say) for `Crew.fallen`, in case the worker falls."""
    if _noted is not None:
        _noted.value = number


def _serve(pipe: Connection, noted: Any) -> None:
    """The worker: takes tasks until the pipe is closed, by the parent or by its death."""
    global _noted  # noqa: PLW0603 - one worker a process
    _noted = noted
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
        note(-1)
        return work.run()
    except CadmllmError as error:
        return error
    except MemoryError:
        os._exit(NO_MEMORY)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGIO, signal.SIG_IGN)
