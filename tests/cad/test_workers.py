"""The crew as such: portions, results out of order, and what becomes of the tasks behind one that takes its worker down."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass

import pytest

from cadmllm.cad.kernel import Verdict
from cadmllm.cad.workers import Crew, note
from cadmllm.errors import CadmllmError


@dataclass(frozen=True)
class Chore:
    """A number and what the worker does before it gives it back."""

    number: int
    what: str = ""

    def run(self) -> int:
        if self.what == "die":
            os.kill(os.getpid(), signal.SIGSEGV)
        if self.what == "grow":
            held = [bytearray(b"x" * 2**24)]
            while True:
                held.append(bytearray(held[0]))
                time.sleep(0.002)
        if self.what == "refused":
            raise MemoryError
        if self.what == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.what == "noted":
            note(42)
            os.kill(os.getpid(), signal.SIGSEGV)
        if self.what == "sleep":
            time.sleep(60.0)
        if self.what == "refuse":
            raise CadmllmError("E303", "no room", "make some")
        return self.number


class Errand:
    """A chore with a record of what happened to it here."""

    def __init__(self, number: int, what: str = "") -> None:
        self.chore = Chore(number, what)
        self.log: list[object] = []

    def open(self) -> Chore:
        self.log.append("open")
        return self.chore

    def fail(self, verdict: Verdict, reason: str, seconds: float) -> int:
        self.log.append(reason)
        return -self.chore.number

    def close(self, pid: int, result: int | None) -> None:
        self.log.append(result)


def test_a_portion_survives_the_death_of_one_of_its_tasks():
    errands = [Errand(k, "die" if k == 5 else "") for k in range(1, 25)]
    with Crew[int](1, 60.0, share=8) as crew:
        crew._pace = 0.01
        found = list(crew.run(errands))
        assert len(crew.pids) == 1
    assert found == [-k if k == 5 else k for k in range(1, 25)]
    assert "SIGSEGV" in str(errands[4].log)
    assert all(errand.log[-1] == errand.chore.number for errand in errands if errand.chore.number != 5)
    assert errands[5].log == ["open", None, "open", 6]  # it was in the same portion: handed out again


def test_a_slow_task_does_not_hold_up_the_others():
    errands = [Errand(1, "sleep"), *(Errand(k) for k in range(2, 40))]
    with Crew[int](2, 1.5, share=4) as crew:
        list(crew.run([Errand(k) for k in range(8)]))  # both are ready
        found = list(crew.run(errands, ordered=False))
    assert sorted(found) == [-1, *range(2, 40)]
    assert found.index(-1) > 30
    assert "1.5 s" in str(errands[0].log)


def test_time_limits_are_a_tasks_own():
    with Crew[int](1, 1.0, share=4) as crew:
        crew._pace = 0.01
        errands = [Errand(1), Errand(2, "sleep"), Errand(3), Errand(4)]
        assert list(crew.run(errands)) == [1, -2, 3, 4]
    assert errands[2].log == ["open", None, "open", 3]


def test_an_error_of_a_task_ends_the_map_and_closes_every_task():
    errands = [Errand(k, "refuse" if k == 3 else "") for k in range(1, 9)]
    with Crew[int](1, 60.0, share=8) as crew:
        crew._pace = 0.01
        with pytest.raises(CadmllmError, match="no room"):
            list(crew.run(errands))
        assert [errand.log.count("open") for errand in errands] == [len(errand.log) / 2 for errand in errands]
        assert list(crew.run([Errand(7)])) == [7]


def test_portions_shrink_where_tasks_are_slow():
    crew = Crew[int](1, 1.0, share=16)
    crew._pace = 0.001
    assert crew._portion() == 16
    crew._pace = 0.1
    assert crew._portion() == 5
    crew._pace = 3.0
    assert crew._portion() == 1


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="only Linux tells what a process holds")
def test_a_task_that_takes_too_much_memory_falls_and_the_others_do_not():
    errands = [Errand(k, "grow" if k == 3 else "") for k in range(1, 9)]
    with Crew[int](2, 60.0, share=4, memory=200) as crew:
        list(crew.run([Errand(k) for k in range(8)]))  # both are ready
        crew._pace = 0.01
        before = set(crew.pids)
        assert list(crew.run(errands)) == [-k if k == 3 else k for k in range(1, 9)]
        assert len(before & set(crew.pids)) <= 1  # the one that grew is gone
    assert "more than 200 MiB of memory" in errands[2].log
    assert all(errand.log[-1] == errand.chore.number for errand in errands if errand.chore.number != 3)


def test_memory_without_a_limit_is_not_watched():
    with Crew[int](1, 60.0) as crew:
        assert list(crew.run([Errand(1)])) == [1]
        assert crew._watch._thread is None


@pytest.mark.parametrize(("what", "reason"), [("refused", "refused it more memory"), ("killed", "memory ran out")])
def test_what_looks_like_memory_is_called_so(what: str, reason: str, capfd: pytest.CaptureFixture[str]):
    errand = Errand(1, what)
    with Crew[int](1, 60.0) as crew:
        assert list(crew.run([errand])) == [-1]
    assert reason in str(errand.log)
    assert "Traceback" not in capfd.readouterr().err


def test_the_worker_killed_for_a_task_that_had_just_answered_fails_no_other():
    first, second = Errand(1), Errand(2, "sleep")
    with Crew[int](1, 60.0, share=4) as crew:
        crew._pace = 0.01
        found = crew.run([first, second])
        assert next(found) == 1
        (worker,) = crew._busy
        second.chore = Chore(2)  # what it does when it is handed out again
        worker.outgrown = 0
        worker.process.kill()
        assert next(found) == 2
    assert second.log == ["open", None, "open", 2]


def test_a_crew_is_told_what_a_fallen_worker_noted():
    class Asking(Crew[int]):
        def fallen(self, task, result, noted):
            return 1000 * result + noted

    with Asking(1, 60.0) as crew:
        assert list(crew.run([Errand(1, "noted"), Errand(2, "die")])) == [-1000 + 42, -2000 - 1]


def test_a_negative_limit_is_refused():
    with pytest.raises(ValueError, match="memory -1"):
        Crew(1, 1.0, memory=-1)
