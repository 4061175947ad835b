"""Many pairs in workers: a row each, in order, whatever becomes of one of them."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from cadmllm.cad.kernel import Verdict
from cadmllm.cad.mesh import Mesh, stl_bytes
from cadmllm.cad.program import Operation, Program
from cadmllm.evaluate import pair, scoring
from cadmllm.evaluate.metrics import KEYS, METRICS
from cadmllm.evaluate.pair import score
from cadmllm.evaluate.scoring import ScoreJob, score_all, shape_of, shapes
from cadmllm.evaluate.shape import Shape, build_program, of_triangles
from tests.cad.parts import BOW, BOX, PLATE, circle, extrude, program, rectangle
from tests.evaluate.solids import box, without

SOLID = [metric.key for metric in METRICS if metric.solid]
OF_PROGRAM = [metric.key for metric in METRICS if not metric.solid]
ROUND = program(extrude(circle(0, 0, 10), one=20.0))
TWO = program(extrude(rectangle(0, 0, 10, 20), one=30.0), extrude(circle(5, 5, 2), one=30.0, operation=Operation.CUT))


def shape(program_: Program) -> Shape:
    return build_program(program_)


def test_a_perfect_answer_and_a_wrong_one():
    good = score(shape(BOX), shape(BOX), id="a", combination="text")
    assert (good["id"], good["combination"], good["verdict"], good["reason"], good["extrudes"]) == ("a", "text", "OK", "", 1)
    assert good["scored"]
    assert good["iou"] == pytest.approx(1.0)
    assert (good["seg_e"], good["dang_el"], good["sir"]) == (0.0, 0.0, 0.0)
    assert good["flux_ee"] == pytest.approx(0.0, abs=1e-9)
    assert (good["acc_cmd"], good["acc_param"]) == (1.0, 1.0)
    assert set(KEYS) <= good.keys()
    bad = score(shape(ROUND), shape(BOX))
    assert bad["iou"] < good["iou"]
    assert bad["cd"] > good["cd"]
    assert bad["acc_cmd"] < 1.0


def test_an_answer_that_is_no_solid_has_measures_of_its_program_alone():
    row = score(shape(BOW), shape(BOX))
    assert row["verdict"] == "INVALID"
    assert "crosses itself" in row["reason"]
    assert row["scored"]
    assert [row[key] for key in SOLID] == [None] * len(SOLID)
    assert row["acc_cmd"] > 0.5


def test_an_answer_that_could_not_be_read_is_wrong_throughout():
    row = score(Shape(Verdict.PARSE, "nonsense"), shape(BOX))
    assert row["acc_cmd"] == 0.0
    assert row["iou"] is None


def test_meshes_have_no_measures_of_programs():
    solid = of_triangles(box((1, 2, 3)).vertices, box((1, 2, 3)).faces)
    row = score(solid, shape(BOX))
    assert row["iou"] == pytest.approx(1.0)
    assert [row[key] for key in OF_PROGRAM] == [None] * len(OF_PROGRAM)
    assert score(shape(BOX), solid)["extrudes"] is None


def test_the_floor_is_the_truth_against_itself():
    row = score(Shape(Verdict.PARSE, "not looked at"), shape(TWO), id="a", floor=True)
    assert (row["verdict"], row["combination"], row["extrudes"]) == ("OK", "floor", 2)
    assert 0.0 < row["cd"] < 1e-3
    assert row["iou"] == pytest.approx(1.0)


def test_a_truth_that_is_no_solid_leaves_the_verdict():
    row = score(shape(BOX), shape(BOW))
    assert (row["verdict"], row["scored"], row["iou"]) == ("OK", False, None)
    assert "the truth is no solid: INVALID" in row["reason"]
    assert row["acc_cmd"] is not None


def test_a_measure_that_fails_costs_no_other(monkeypatch):
    def fail(*shapes):
        raise ZeroDivisionError("odd")

    monkeypatch.setattr(pair, "reported", fail)
    row = score(shape(BOX), shape(BOX))
    assert (row["scored"], row["sir"]) == (False, None)
    assert row["iou"] == pytest.approx(1.0)
    assert row["reason"] == "topology: ZeroDivisionError: odd"


def test_open_meshes_are_measured_and_nothing_is_nan():
    broken = without(box((2, 2, 2)), 0)
    row = score(of_triangles(broken.vertices, broken.faces), shape(BOX))
    assert row["iou_method"] == "sampled"
    assert row["dang_el"] > 0.0
    assert not any(isinstance(value, float) and math.isnan(value) for value in row.values())


def jobs(count: int) -> list[ScoreJob]:
    answers = [BOX, ROUND, PLATE, BOW, TWO]
    return [ScoreJob(str(k), answers[k % 5], answers[k % 3], "text") for k in range(count)]


def test_rows_come_in_the_order_of_the_jobs_and_are_the_same_each_time(tmp_path):
    (tmp_path / "a.stl").write_bytes(stl_bytes(box((10, 20, 30))))
    asked = [*jobs(10), ScoreJob("file", tmp_path / "a.stl", BOX, "files"), ScoreJob("f", None, PLATE, floor=True)]
    asked.append(ScoreJob("told", Shape(Verdict.TIMEOUT, "took too long"), BOX))
    asked.append(ScoreJob("again", Shape(Verdict.OK, program=BOX), BOX))
    one = list(score_all(asked, workers=2, timeout=60.0, points=2000))
    assert [row["id"] for row in one] == [job.id for job in asked]
    assert [row["verdict"] for row in one[:5]] == ["OK", "OK", "OK", "INVALID", "OK"]
    assert one[0]["iou"] == pytest.approx(1.0)
    assert one[10]["iou"] == pytest.approx(1.0)
    assert one[11]["combination"] == "floor"
    assert (one[12]["verdict"], one[12]["reason"]) == ("TIMEOUT", "took too long")
    assert one[13]["acc_param"] == 1.0
    assert one == list(score_all(asked, workers=1, timeout=60.0, points=2000))


def in_a_worker(what: str) -> None:
    """Fall, but not here."""
    if multiprocessing.parent_process() is None:
        return
    if what == "sleep":
        time.sleep(60.0)
    if what == "eat":
        kept = [bytearray(b"x" * 2**20) for _ in range(4000)]
        time.sleep(len(kept))
    os.kill(os.getpid(), signal.SIGSEGV)


class Trap(type(Path())):
    """A file that takes the worker down that looks at it."""

    what = "die"

    @property
    def suffix(self) -> str:
        in_a_worker(self.what)
        return ".json"


class Swamp(Trap):
    what = "sleep"


class Feast(Trap):
    what = "eat"


class Cursed(Mesh):
    """Triangles that take the worker down that looks at them."""

    what = "die"

    def __getattribute__(self, name: str):
        if name == "vertices":
            in_a_worker(object.__getattribute__(self, "what"))
        return super().__getattribute__(name)


class Tar(Cursed):
    what = "sleep"


def cursed(kind: type[Cursed]) -> Shape:
    mesh = box()
    return Shape(Verdict.OK, mesh=kind(mesh.vertices, mesh.faces, mesh.face_ids, mesh.solid_ids), program=BOX)


@pytest.mark.parametrize(
    ("trap", "verdict", "reason", "options"),
    [
        (Trap, "BUILD", "SIGSEGV", {}),
        (Swamp, "TIMEOUT", "6 s", {"timeout": 6.0}),  # long enough for the others on a busy machine
        (Feast, "BUILD", "400 MiB", {"memory": 400}),
    ],
)
def test_an_answer_that_takes_its_worker_down_has_its_verdict(trap, verdict, reason, options):
    asked = [*jobs(2), ScoreJob("trap", trap("/nowhere/a.json"), BOX, "text"), *jobs(3)]
    rows = list(score_all(asked, **{"workers": 1, "timeout": 60.0, "points": 500, **options}))
    assert [row["id"] for row in rows] == [job.id for job in asked]
    assert (rows[2]["verdict"], rows[2]["combination"], rows[2]["extrudes"]) == (verdict, "text", 1)
    assert reason in rows[2]["reason"]
    assert rows[2]["scored"]
    assert [row["verdict"] for row in rows[:2] + rows[3:]] == ["OK"] * 5


def test_a_truth_that_takes_its_worker_down_leaves_the_answers_verdict():
    (row,) = score_all([ScoreJob("t", BOX, Trap("/nowhere/a.json"))], workers=1, timeout=60.0)
    assert (row["verdict"], row["scored"], row["iou"]) == ("OK", False, None)
    assert "the truth is no solid: BUILD" in row["reason"]
    (row,) = score_all([ScoreJob("t", None, Trap("/nowhere/a.json"), floor=True)], workers=1, timeout=60.0)
    assert (row["verdict"], row["combination"]) == ("BUILD", "floor")


@pytest.mark.parametrize(
    ("kind", "reason", "timeout"),
    [(Cursed, "SIGSEGV", 60.0), pytest.param(Tar, "not done within 6 s", 6.0, marks=pytest.mark.long)],
)
def test_measures_that_take_their_worker_down_cost_no_verdict_and_no_other_measure(kind, reason, timeout):
    rows = list(score_all([ScoreJob("c", cursed(kind), BOX), ScoreJob("d", BOX, BOX)], workers=1, timeout=timeout, points=500))
    assert (rows[0]["verdict"], rows[0]["scored"], rows[0]["iou"], rows[0]["sir"]) == ("OK", False, None, None)
    assert f"geometry: {'the kernel crashed' if kind is Cursed else reason}" in rows[0]["reason"]
    assert "topology: " in rows[0]["reason"]
    assert rows[0]["acc_cmd"] == 1.0
    assert rows[1]["iou"] == pytest.approx(1.0)


def test_what_cannot_even_be_told_is_a_row():
    """Its program takes down whoever reads it again for the measures of the program, too."""
    work = scoring._Work(ScoreJob("x", Shape(Verdict.OK, source="/x.json"), BOX, "text"), 500, 0)
    for _ in range(7):
        work = work.without("answer", Verdict.BUILD, "the kernel crashed")
    row = work.bare()
    assert (row["id"], row["verdict"], row["combination"], row["iou"]) == ("x", "BUILD", "text", None)


def test_shapes_to_be_drawn_come_with_their_triangles():
    asked = [ScoreJob("a", PLATE, BOX), ScoreJob("b", None, BOX, floor=True), ScoreJob("c", Trap("/n/c.json"), BOX)]
    found = list(shapes(asked, workers=2, timeout=60.0))
    assert found[0][0].mesh is not None
    assert found[0][0].mesh.edges
    assert found[1][0] is None
    assert (found[2][0].verdict, found[2][0].mesh) == (Verdict.BUILD, None)
    assert [len(truth.mesh.faces) for _, truth in found] == [12] * 3


def test_jobs_are_drawn_as_they_are_needed():
    drawn = []

    def endless():
        while True:
            drawn.append(len(drawn))
            yield ScoreJob(str(len(drawn)), BOX, BOX)

    rows = score_all(endless(), workers=1, timeout=60.0, points=200)
    assert [next(rows)["id"] for _ in range(3)] == ["1", "2", "3"]
    rows.close()
    assert len(drawn) < 40


def test_a_truth_is_built_once_for_the_rows_that_follow_each_other(monkeypatch):
    built = []

    def counting(source):
        built.append(source)
        return shape_of(source)

    monkeypatch.setattr(scoring, "shape_of", counting)
    monkeypatch.setattr(scoring, "_kept", {})
    for job in (
        ScoreJob("a", None, BOX, floor=True),
        ScoreJob("a", ROUND, BOX),
        ScoreJob("b", BOX, PLATE),
        ScoreJob("c", BOW, BOX),
    ):
        scoring._Work(job, 200, 0).run()
    assert built == [BOX, ROUND, PLATE, BOX, BOW]
    assert len(scoring._kept) == scoring.KEPT
