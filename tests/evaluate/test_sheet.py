"""The sheet: which answers are on it, and that nothing stands outside of its place."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh
from hypothesis import given
from hypothesis import strategies as st

from cadmllm.cad.kernel import Verdict
from cadmllm.cad.mesh import Mesh
from cadmllm.cad.omnicad import read_json
from cadmllm.corpus.paper import BLUE, WIDTH
from cadmllm.corpus.types import Sample
from cadmllm.evaluate.shape import Shape
from cadmllm.evaluate.sheet import Panel, choose, draw_sheet
from cadmllm.places import bundled

LONG = "a very long caption " * 40


def row(id_: str, iou: float | None, verdict: str = "OK") -> dict:
    return {
        "id": id_,
        "combination": "text",
        "verdict": verdict,
        "reason": "",
        "extrudes": 2,
        "iou": iou,
        "prompt": LONG,
        "cd": 1.0,
    }


@given(st.lists(st.none() | st.floats(0.0, 1.0), max_size=40))
def test_each_answer_at_most_once_and_in_order(values):
    rows = [row(f"{k:03d}", value, "OK" if value is not None else "BUILD") for k, value in enumerate(values)]
    found = choose(rows)
    drawn = [item["id"] for part in found.values() for item in part]
    assert len(drawn) == len(set(drawn))
    ious = [[item["iou"] for item in found.get(name, [])] for name in ("Best", "Median", "Worst")]
    flat = [value for part in ious for value in part]
    assert flat == sorted(flat, reverse=True)
    known = sorted((value for value in values if value is not None), reverse=True)
    assert len(flat) == min(12, len(known))
    assert ious[0] == known[: len(ious[0])]
    assert ious[2] == known[len(known) - len(ious[2]) :]
    assert len(found.get("No solid", [])) == min(4, values.count(None))


def test_the_median_is_in_the_middle():
    found = choose([row(f"{k:03d}", k / 100.0) for k in range(101)])
    assert 0.5 in [item["iou"] for item in found["Median"]]


def test_kinds_of_failures_take_turns():
    rows = [row(f"{k}", None, "BUILD") for k in range(9)] + [row("x", None, "PARSE"), row("y", None, "TIMEOUT")]
    assert sorted(item["verdict"] for item in choose(rows)["No solid"]) == ["BUILD", "BUILD", "PARSE", "TIMEOUT"]


def test_nothing_is_chosen_of_nothing():
    assert choose([]) == {}


def solid(*sides: float) -> Shape:
    box = trimesh.creation.box(sides)
    none = np.zeros(len(box.faces), np.int32)
    return Shape(Verdict.OK, mesh=Mesh(np.asarray(box.vertices), box.faces.astype(np.int32), none, none), kind="mesh")


@pytest.fixture(scope="module")
def panels() -> dict[str, list[Panel]]:
    program = read_json(next(iter(sorted((bundled("data") / "json" / "0000").glob("*.json")))))
    view = np.full((224, 224, 3), 200, np.uint8)
    shown = Sample("x" * 90, "text+image", LONG, None, images=(view, view))
    answer = solid(3, 2, 1)
    answer.program, answer.kind = program, "program"
    broken = Shape(Verdict.BUILD, "extrude 1: the kernel found no common volume and says so in many more words " * 4)
    return {
        "Best": [Panel(row("0000/" + "1" * 80, 0.99), solid(3, 2, 1), answer, shown)],
        "No solid": [Panel(row("b", None, "BUILD"), solid(1, 1, 1), broken), Panel(row("c", None, "PARSE"), broken, broken)],
    }


def test_all_text_stands_on_the_page_and_none_on_another(panels):
    paper = draw_sheet(panels, [("2 of 3 answers are valid solids", BLUE)], "a checkpoint", "cadmllm eval; data " + "x" * 300)
    assert paper.image.width == WIDTH
    texts = [text for text, _ in paper.written]
    for expected in ("Best", "No solid", "IoU 99.0 %", "BUILD", "no overlay", "shown: view (1 of 2)", "overlay"):
        assert expected in texts, expected
    boxes = [box for text, box in paper.written if text.strip()]
    assert all(box.left >= 0 and box.right <= WIDTH and box.bottom <= paper.image.height for box in boxes)
    for k, one in enumerate(boxes):
        for other in boxes[k + 1 :]:
            across = min(one.right, other.right) - max(one.left, other.left)
            down = min(one.bottom, other.bottom) - max(one.top, other.top)
            assert across <= 1 or down <= 6, (paper.written[k], other)  # lines are higher than their letters


def test_the_same_sheet_has_the_same_bytes(panels):
    assert draw_sheet(panels, [], "t", "f").png() == draw_sheet(panels, [], "t", "f").png()
