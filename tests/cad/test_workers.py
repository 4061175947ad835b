"""The crew as such: portions, results out of order, and what becomes of the tasks behind one that takes its worker down."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass

import pytest

from cadmllm.cad.kernel import Verdict
from cadmllm.cad.workers import Crew
from cadmllm.errors import CadmllmError


@dataclass(frozen=True)
class Chore:
    """A number and what the worker does before it gives it back."""

    number: int
    what: str = ""

    def run(self) -> int:
        if self.what == "die":
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
