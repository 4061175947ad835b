"""Workers crash, hang and go; results come in order, and nothing is left behind."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import trimesh

from cadmllm.cad import workshop as room
from cadmllm.cad.kernel import BuildFailure, Verdict
from cadmllm.cad.omnicad import write_json
from cadmllm.cad.program import Operation, Profile, Program
from cadmllm.cad.workers import Crew
from cadmllm.cad.workshop import Job, Workshop
from cadmllm.cli import main
from cadmllm.errors import CadmllmError
from tests.cad.parts import BOW, BOX, PLATE, circle, extrude, program, rectangle

ROOT = Path(__file__).resolve().parents[2]


def slow() -> Program:
    """Hundreds of booleans: far more work than the time limits used here."""
    holes = [extrude(circle(3 * (k % 30), 3 * (k // 30), 2), operation=Operation.CUT, one=5.0) for k in range(600)]
    return program(extrude(rectangle(-5, -5, 100, 100), one=5.0), *holes)


@pytest.fixture(scope="module")
def workshop():
    with Workshop(2, 60.0) as pool:
        yield pool


def box(width: float) -> Program:
    return program(extrude(rectangle(0, 0, width, 1), one=1.0))


def test_results_come_in_order_and_carry_what_was_asked_for(workshop, tmp_path: Path):
    jobs = [Job(box(k + 1.0), mesh=k % 2 == 0) for k in range(12)]
    results = list(workshop.map(iter(jobs)))
    assert [result.volume for result in results] == pytest.approx([k + 1.0 for k in range(12)])
    assert [result.mesh is not None for result in results] == [k % 2 == 0 for k in range(12)]
    one = workshop.build(PLATE, step=tmp_path / "p.step", stl=tmp_path / "p.stl", glb=tmp_path / "p.glb")
    assert one.ok
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p.glb", "p.step", "p.stl"]


def test_a_refused_program_says_why_and_writes_nothing(workshop, tmp_path: Path):
    result = workshop.build(BOW, step=tmp_path / "p.step")
    assert (result.verdict, result.reason) == (Verdict.INVALID, "extrude 1, profile 1, loop 1 crosses itself")
    assert result.where == (0, 0, 0)
    assert list(tmp_path.iterdir()) == []


def test_files_have_the_unit_asked_for(workshop, tmp_path: Path):
    part = program(extrude(rectangle(0, 0, 25.4, 50.8), one=25.4))
    result = workshop.build(part, step=tmp_path / "p.step", stl=tmp_path / "p.stl", glb=tmp_path / "p.glb", unit="in")
    assert result.box == (pytest.approx((0, 0, 0)), pytest.approx((25.4, 50.8, 25.4)))  # results are in mm
    assert "CONVERSION_BASED_UNIT('INCH'" in (tmp_path / "p.step").read_text()
    assert trimesh.load(tmp_path / "p.stl").extents == pytest.approx([1, 2, 1])
    assert trimesh.load(tmp_path / "p.glb").extents == pytest.approx([0.0254, 0.0254, 0.0508])


def test_jobs_are_drawn_lazily(workshop):
    drawn = 0

    def jobs():
        nonlocal drawn
        for k in range(1000):
            drawn += 1
            yield Job(box(k + 1.0))

    results = workshop.map(jobs())
    for _ in range(5):
        next(results)
    assert drawn <= 5 + room.AHEAD * 2
    results.close()
    assert workshop.build(BOX).ok


def test_a_crash_is_a_verdict_and_the_others_go_on(workshop, tmp_path: Path):
    assert all(result.ok for result in workshop.map([Job(BOX)] * 8))  # both workers are ready
    results = workshop.map([Job(box(1.0)), Job(slow(), step=tmp_path / "s.step"), Job(box(2.0)), Job(box(3.0))])
    assert next(results).ok
    (victim,) = (worker for worker in workshop._busy if worker.number == 1)
    os.kill(victim.process.pid, signal.SIGSEGV)
    crashed, *others = results
    assert crashed.verdict is Verdict.BUILD
    assert crashed.where is not None
    assert "SIGSEGV" in crashed.reason
    assert [result.volume for result in others] == pytest.approx([2.0, 3.0])
    assert list(tmp_path.iterdir()) == []


def test_a_worker_that_died_idle_is_replaced_unseen(workshop):
    assert workshop.build(BOX).ok
    for worker in workshop._idle:
        os.kill(worker.process.pid, signal.SIGKILL)
        worker.process.join()
    assert [result.ok for result in workshop.map([Job(BOX)] * 4)] == [True] * 4


def test_a_build_beyond_the_limit_is_killed_and_leaves_no_file(tmp_path: Path):
    with Workshop(1, 1.0) as pool:
        began = time.monotonic()
        results = list(pool.map([Job(slow(), step=tmp_path / "slow.step"), Job(BOX, step=tmp_path / "box.step")]))
        assert time.monotonic() - began < 60.0
    assert [result.verdict for result in results] == [Verdict.TIMEOUT, Verdict.OK]
    assert results[0].reason.startswith("not done within 1 s, at extrude ")
    assert results[0].where is not None
    assert 0 < results[0].where[0] < 601
    assert f"at extrude {results[0].where[0] + 1} of 601" in results[0].reason
    assert [path.name for path in tmp_path.iterdir()] == ["box.step"]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells what a process holds")
def test_a_build_that_takes_too_much_memory_is_killed_and_says_so(tmp_path: Path):
    with Workshop(1, 60.0, memory=20) as pool:
        big = Profile(rectangle(-5, -5, 100, 100), tuple(circle(3 * (k % 30), 3 * (k // 30), 1) for k in range(900)))
        result = pool.build(program(extrude(big)), step=tmp_path / "big.step")
        assert (result.verdict, result.reason[:29]) == (Verdict.BUILD, "more than 20 MiB of memory, a")
        assert pool.build(BOX, step=tmp_path / "box.step").ok
    assert [path.name for path in tmp_path.iterdir()] == ["box.step"]


def test_workers_are_replaced_after_their_share_of_jobs():
    with Workshop(1, 60.0, recycle=2) as pool:
        pids = []
        for _ in range(4):
            assert pool.build(BOX).ok
            pids.append(pool._idle[0].process.pid if pool._idle else None)
        assert pids[0] is not None
        assert pids[1] is None
        assert pids[2] not in (None, pids[0])


def test_leaving_the_workshop_ends_its_workers(tmp_path: Path):
    with Workshop(2, 60.0) as pool:
        results = pool.map([Job(BOX), Job(slow(), step=tmp_path / "s.step"), Job(slow())])
        next(results)
        pids = [worker.process.pid for worker in pool._busy]
        assert pids
        assert all(_runs(pid) for pid in pids)
        assert list(tmp_path.iterdir()) != []  # its draft
    del results
    assert not any(_runs(pid) for pid in pids)
    assert list(tmp_path.iterdir()) == []


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


CHILD = """
import sys, time
from cadmllm.cad.workshop import Job, Workshop
from tests.cad.test_workshop import slow
from tests.cad.parts import BOX

if __name__ == "__main__":
    with Workshop(2, 300.0) as pool:
        pool.build(BOX)
        stream = pool.map([Job(BOX), Job(slow()), Job(slow()), Job(BOX)])
        next(stream)
        print(*[worker.process.pid for worker in pool._busy], flush=True)
        next(stream)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_their_parent(tmp_path: Path, how: signal.Signals):
    script = tmp_path / "child.py"
    script.write_text(CHILD)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    child = subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=ROOT,
        # a test run in the background of a shell inherits SIGINT ignored, and would hand that on
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert child.stdout is not None
    pids = [int(word) for word in child.stdout.readline().split()]
    assert pids
    assert all(_runs(pid) for pid in pids)
    child.send_signal(how)
    child.wait(30)
    deadline = time.monotonic() + 10.0
    while any(_runs(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(_runs(pid) for pid in pids)
    child.communicate()


def test_an_output_that_cannot_be_written_is_an_error_and_the_workshop_lives(workshop, tmp_path: Path):
    with pytest.raises(CadmllmError) as caught:
        workshop.build(BOX, step=tmp_path / "no" / "a.step")
    assert caught.value.code == "E303"
    running = [worker.process.pid for worker in workshop._idle]
    assert workshop.build(BOX).ok
    assert [worker.process.pid for worker in workshop._idle] == running  # none was lost


def test_two_maps_at_once_are_refused(workshop):
    first = workshop.map([Job(box(1.0)), Job(box(2.0)), Job(box(3.0))])
    next(first)
    with pytest.raises(RuntimeError, match="busy"):
        workshop.build(BOX)
    assert len(list(first)) == 2


def test_senseless_numbers_are_refused():
    for workers, timeout, recycle in ((0, 1.0, 1), (1, 0.0, 1), (1, float("nan"), 1), (1, 1.0, 0)):
        with pytest.raises(ValueError, match="above zero"):
            Workshop(workers, timeout, recycle)


def test_what_goes_between_processes_pickles(workshop):
    job = Job(program(extrude(Profile(rectangle(0, 0, 1, 1)))), step="a.step")
    assert pickle.loads(pickle.dumps(job)) == job
    for where in (None, (1, 0)):
        failure = pickle.loads(pickle.dumps(BuildFailure(Verdict.EMPTY, "nothing", where)))
        assert (failure.verdict, failure.reason, failure.where) == (Verdict.EMPTY, "nothing", where)


def test_a_kernel_that_cannot_be_loaded_is_the_callers_error(tmp_path: Path):
    broken = tmp_path / "OCP"
    broken.mkdir()
    (broken / "__init__.py").write_text("raise ImportError('libGL.so.1: cannot open shared object file')")
    code = (
        "from cadmllm.cad.workshop import Workshop\n"
        "from cadmllm.errors import CadmllmError\n"
        "from tests.cad.parts import BOX\n"
        "if __name__ == '__main__':\n"
        "    try:\n"
        "        with Workshop(1, 9.0) as pool: pool.build(BOX)\n"
        "    except CadmllmError as error: print(error.code, error.remedy)\n"
    )
    (tmp_path / "go.py").write_text(code)
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    done = subprocess.run(
        [sys.executable, str(tmp_path / "go.py")], capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=120
    )
    assert done.stdout.startswith("E301 sudo apt-get"), done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("convert", "{root}/json", "{out}", "--to", "step"),
        ("data", "prepare", "{root}", "--out", "{out}", "--step", "--all"),
        ("data", "check", "{root}", "--deep"),
        ("data", "show", "0000/00000000", "--set", "data.root={root}", "--out", "{out}"),
    ],
)
def test_every_command_that_builds_programs_keeps_to_the_settings(tmp_path: Path, monkeypatch, words: tuple[str, ...]):
    root = tmp_path / "set"
    (root / "json" / "0000").mkdir(parents=True)
    (root / "txt").mkdir()
    write_json(BOX, root / "json" / "0000" / "00000000.json")
    (root / "txt" / "0000.json").write_text('[{"id": "0000/00000000", "text caption": "a box"}]')
    asked = []

    def refuse(self, workers, timeout, recycle=200, *, share=1, preload=(), memory=0):
        asked.append((timeout, memory))
        raise CadmllmError("E301", "no kernel in this test", "none")

    monkeypatch.setattr(Crew, "__init__", refuse)
    line = [word.format(root=root, out=tmp_path / "out") for word in words]
    main([*line, "--set", "kernel.memory=77", "--set", "kernel.timeout=5"])
    assert asked == [(5.0, 77)]
