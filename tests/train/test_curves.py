"""The picture of a run: every chart that has something to show, every other one says why not; nothing lies over anything."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cadmllm.corpus.paper import Box, Paper
from cadmllm.errors import CadmllmError
from cadmllm.train.curves import Run, draw_run
from cadmllm.train.history import Stage, load
from cadmllm.train.runpage import cells, facts, held_out, page, remarks


def stage(number: int, steps: int, total: int | None = None, gpu: bool = True, **more: object) -> Stage:
    """A stage of made-up records."""
    made = Stage(number)
    for step in range(1, steps + 1):
        record: dict[str, object] = {
            "stage": number,
            "step": step,
            "total_steps": total or steps,
            "loss": 1.0 + 1.0 / step,
            "lr": 1e-4 / step,
        }
        record |= {"grad_norm": 1.0 + 0.5 * math.sin(step), "updated": True, "mix": {"text": 3, "text+point_cloud": 1}}
        record |= {"tokens_per_s": 900.0, "samples_per_s": 4.0, "seconds": 2.0, "waited": 0.1, "tokens": 900, "computed": 1000}
        record |= {"samples": 8, "supervised": 300, "rates": {"llm": 1e-4 / step, "rows": 1e-4 / step, "points": 5e-4 / step}}
        if gpu:
            record |= {"peak_gib": 11.0, "gpu_memory_gib": 13.0, "gpu_memory_total_gib": 15.9, "gpu_utilisation": 97}
        if step % 10 == 0:
            record["val_loss"] = {"text": 1.4, "text+point_cloud": 1.2, "all": 1.3}
        made.add({**record, **more})
    made.finished = steps == (total or steps)
    return made


def words(paper: Paper, box: Box) -> list[str]:
    return [text for text, where in paper.written if box.holds(where)]


def apart(paper: Paper) -> None:
    """No line of text lies over another, and all are on the page."""
    whole = Box(0, 0, paper.image.width, paper.image.height)
    places = paper.written
    for k, (text, a) in enumerate(places):
        assert whole.holds(a), text
        for other, b in places[:k]:
            across = min(a.right, b.right) - max(a.left, b.left)
            down = min(a.bottom, b.bottom) - max(a.top, b.top)
            assert across <= 1 or down <= 4, f"{text!r} lies over {other!r}"  # lines of text have air above and below


@pytest.mark.parametrize("lengths", [(1,), (2, 1), (30, 25, 40), (1000, 5)])
def test_the_page_has_every_chart_and_its_words_are_apart(lengths: tuple[int, ...]) -> None:
    stages = [stage(number, steps) for number, steps in enumerate(lengths, 1)]
    paper, places = draw_run(stages, "Training run x", facts(stages))
    apart(paper)
    named = ("loss", "rate", "gradient", "tokens", "samples", "shares", "shown", "memory", "gpu", "table")
    assert tuple(places) == named
    assert {"training", "training, smoothed"} & set(words(paper, places["loss"]))
    assert "llm, rows" in words(paper, places["rate"])  # one line for what is the same
    assert "points" in words(paper, places["rate"])
    assert {"text 75%", "text + points 25%"} <= set(words(paper, places["shown"]))
    assert "the card has" in words(paper, places["memory"])
    assert "stage1_text" in words(paper, places["table"])
    assert not any("not recorded" in words(paper, box) for box in places.values())
    assert Image.open(io.BytesIO(paper.part(places["loss"]))).size == (places["loss"].width, places["loss"].height)


def test_held_out_losses_are_drawn_by_combination() -> None:
    one, many = stage(1, 30), stage(2, 30)
    paper, places = draw_run([one, many], "x", [])
    assert {"held out, text", "held out, text + points", "held out, all"} <= set(words(paper, places["loss"]))


def test_without_a_gpu_the_page_says_so() -> None:
    paper, places = draw_run([stage(1, 30, gpu=False)], "x", [])
    assert "gpu" not in places
    assert "not recorded" in words(paper, places["memory"])


def test_records_of_an_older_version_make_a_page() -> None:
    bare = Stage(1)
    for step in range(1, 4):
        bare.add({"stage": 1, "step": step, "loss": None if step == 2 else 1.0, "grad_norm": None})
    empty = Stage(2)
    empty.add({"stage": 2, "step": 7, "loss": math.nan})
    paper, places = draw_run([bare, empty], "x", facts([bare, empty]))
    assert "not recorded" in words(paper, places["shown"])
    apart(paper)
    assert "no loss" in words(*_loss_alone(empty))


def _loss_alone(only: Stage) -> tuple[Paper, Box]:
    paper, places = draw_run([only], "x", facts([only]))
    return paper, places["loss"]


def test_overflows_are_marked() -> None:
    made = stage(1, 30, grad_norm=None, updated=False)
    made.columns["grad_norm"][3] = 2.0
    paper, places = draw_run([made], "x", [])
    assert "overflow, no update (30)" in words(paper, places["gradient"])


def test_stages_follow_one_another_and_no_line_joins_them() -> None:
    run = Run.of([stage(1, 3), stage(3, 2)])
    assert run.x.tolist() == [1, 2, 3, 4, 5]
    assert run.parts == [(0, 3), (3, 5)]
    curve = run.curve("loss", np.array([5.0, 5.0, 5.0, 1.0, 1.0]), "#000000")
    assert curve.line().tolist() == [5.0, 5.0, 5.0, 1.0, 1.0]


def test_the_page_in_words() -> None:
    stages = [stage(1, 30), stage(2, 12, total=40, waited=1.0, gpu_throttled=True)]
    text = page(stages, Path("/tmp/x/metrics.jsonl"), "report.png")
    assert "| stage1_text | 30 | 1.6111 | 1.0345 | 1.3000 |" in text
    assert "| stage2_text_pc | 12 of 40 |" in text
    assert "![curves](report.png)" in text
    assert "stage2_text_pc is not finished: 12 of 40 steps (cadmllm train stage2 --resume" in text
    assert "waited 50% of its time" in text
    assert "slowed itself down in 12 steps" in text
    rows = [one.row() for one in stages]
    assert held_out(rows)[0] == ("stage", "text", "text + points", "all")
    assert remarks(rows[:1]) == []
    assert cells(Stage(1).row() | {"steps": 0})[2] == "-"


NUMBERS = st.sampled_from([0, 1, -1, 3, 1e308, 5e-324, math.nan, math.inf, 10**400, None, True, "x", [1]])
KEYS = ("loss", "grad_norm", "tokens", "computed", "supervised", "seconds", "waited", "total_steps", "epoch", "peak_gib", "time")
PARTS = st.dictionaries(st.sampled_from(["text", "ü"]), NUMBERS)


@settings(max_examples=10, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([1, 2, 7, -1]),
            st.integers(-1, 2**60),
            st.dictionaries(st.sampled_from(KEYS), NUMBERS),
            st.dictionaries(
                st.sampled_from(["mix", "rates", "val_loss"]), st.dictionaries(st.sampled_from(["text", "ü"]), NUMBERS)
            ),
        ),
        max_size=8,
    )
)
def test_whatever_a_file_says_a_page_is_drawn_or_e611_said(tmp_path_factory, lines) -> None:
    path = tmp_path_factory.mktemp("run") / "metrics.jsonl"
    records = [{"stage": number, "step": step, **figures, **groups} for number, step, figures, groups in lines]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    try:
        stages = load(path)
    except CadmllmError as error:
        assert error.code == "E611"
        return
    paper, _ = draw_run(stages, "x", facts(stages))
    apart(paper)
    assert page(stages, path, "report.png").startswith("# Training run")
