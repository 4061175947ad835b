"""Distributions: the figures against hand-made data."""

from __future__ import annotations

import json
from array import array
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cadmllm.cad import omnicad
from cadmllm.corpus.charts import draw_histogram, draw_stats, percent, short, table
from cadmllm.corpus.paper import Box, Paper
from cadmllm.corpus.parts import generate
from cadmllm.corpus.scan import open_index
from cadmllm.corpus.stats import R10, Measure, fits, gather, histogram, preferred, rows_of, summary
from cadmllm.settings import Settings

SCALES = ("whole", "share", "log")


def test_the_figures_of_a_hand_made_list():
    found = summary(np.arange(1.0, 102.0))
    assert found is not None
    assert (found.count, found.min, found.p5, found.median, found.mean, found.p95, found.max) == (101, 1, 6, 51, 51, 96, 101)
    assert summary(np.zeros(0)) is None
    assert histogram(np.zeros(0), "log") is None


def test_whole_numbers_have_a_bar_each_and_the_rest_one():
    found = histogram(np.array([1.0, 1.0, 2.0, 4.0]), "whole")
    assert found is not None
    assert (found.edges, found.counts, found.open_ended) == ([1, 2, 3, 4, 5], [2, 1, 0, 1], False)
    for most, is_open in ((25.0, False), (26.0, True)):
        found = histogram(np.array([1.0, most]), "whole")
        assert found is not None
        assert (found.edges, found.counts[-1], found.open_ended) == (list(range(1, 27)), 1, is_open)
    found = histogram(np.array([0.0] * 5 + [23.0, 24.0, 900.0]), "whole")
    assert found is not None
    assert found.open_ended
    assert found.edges[-2:] == [24, 900]
    assert found.counts[0] == 5
    assert found.counts[-2:] == [1, 2]


@given(st.lists(st.floats(0, 1e7), min_size=1, max_size=60), st.sampled_from(SCALES))
def test_every_value_is_counted_once(values, scale):
    numbers = np.array(values)
    numbers = np.floor(numbers**0.3) if scale == "whole" else numbers / 1e7 if scale == "share" else numbers
    found = histogram(numbers, scale)
    assert found is not None
    assert sum(found.counts) == len(values)
    assert len(found.edges) == len(found.counts) + 1
    assert all(a < b for a, b in zip(found.edges, found.edges[1:], strict=False))


@given(st.floats(1e-8, 1e8), st.floats(1.0, 1e4))
def test_preferred_numbers_enclose(low, ratio):
    edges = preferred(low, low * ratio)
    assert edges[0] <= low <= low * ratio < edges[-1]
    assert len(edges) == 2 or edges[1] > low
    assert edges[-2] <= low * ratio
    assert {float(f"{edge:.3e}".split("e")[0]) for edge in edges} <= {float(f"{step:.3e}".split("e")[0]) for step in R10}


def test_what_fits_is_counted_at_the_border():
    settings = Settings()
    settings.model.point_tokens = 100
    rows = fits(np.array([64.0, 65.0, 1000.0]), settings, (128, 300))
    assert [(length, stage, longest, number) for length, stage, longest, number, _ in rows[:2]] == [
        (128, 1, 64, 1),
        (128, 2, 0, 0),
    ]
    assert rows[4][2:4] == (136, 2)
    assert rows[4][4] == pytest.approx(2 / 3)
    assert fits(np.zeros(0), settings, (128,))[0][3:] == (0, 0.0)


@pytest.fixture
def data(tmp_path: Path) -> Settings:
    """Six programs: two the same, one broken, one without a caption; one has two captions and three views."""
    root = tmp_path / "set"
    for name in ("json/0000", "img/0000", "txt", "pcd/0000"):
        (root / name).mkdir(parents=True)
    parts = [part.program for part in generate(4, 3)]
    for name, program in zip("abcde", [*parts, parts[0]], strict=True):
        omnicad.write_json(program, root / "json" / "0000" / f"{name}.json")
    (root / "json" / "0000" / "f.json").write_text("{}")
    captions = [{"id": f"0000/{name}", "text caption": "a part of steel"} for name in "abcef"]
    captions[0]["text caption short"] = "part"
    (root / "txt" / "0000.json").write_text(json.dumps(captions))
    for k in range(3):
        (root / "img" / "0000" / f"a_00{k}.png").write_bytes(b"")
    np.savez(root / "pcd" / "0000" / "a.npz", points=np.random.default_rng(0).normal(size=(50, 3)))
    settings = Settings()
    settings.data.root = root
    return settings


def test_a_data_set_is_counted(data):
    index, steps = open_index(data.data, contents=False), []
    found = gather(index, data, steps.append).as_dict()
    assert sum(steps) == rows_of(index) == 13
    assert found["counts"] == {
        "captions": 5, "programs": 6, "clouds": 1, "views": 1, "usable_programs": 5, "trainable": 4,
        "examined_clouds": 0, "examined_views": 0,
    }  # fmt: skip
    measures = found["measures"]
    assert measures["tokens"]["count"] == 5
    assert (measures["captions"]["count"], measures["captions"]["max"]) == (5, 2)
    assert (measures["caption_words"]["count"], measures["caption_words"]["min"]) == (6, 1)
    assert (measures["caption_characters"]["median"], measures["views"]["max"]) == (15, 3)
    assert measures["points"] == {"title": "Points", "unit": "a cloud", "of": "cloud", "count": 0, "histogram": {"count": 0}}
    programs = [omnicad.read_json(data.data.root / "json" / "0000" / f"{name}.json") for name in "abcde"]
    assert measures["extrudes"]["mean"] == pytest.approx(np.mean([len(p.extrudes) for p in programs]))
    sketches = [sketch for program in programs for extrude in program.extrudes for sketch in extrude.sketches]
    loops = [loop for sketch in sketches for profile in sketch.profiles for loop in (profile.outer, *profile.inner)]
    total = sum(len(loop.curves) for loop in loops)
    assert sum(kind["count"] for kind in found["categories"]["curves"].values()) == total
    assert found["categories"]["operations"]["new_body"]["programs"] == 5
    exact = found["duplicates"]["exact"]
    assert (exact["groups"], exact["ids"], exact["surplus"]) == (1, 2, 1)
    assert exact["largest"] == [{"size": 2, "ids": ["0000/a", "0000/e"]}]
    assert found["duplicates"]["near"]["ids"] >= 2
    json.dumps(found, allow_nan=False)


def test_points_are_counted_once_they_were_read(data):
    found = gather(open_index(data.data, contents=True), data)
    assert found.counts["examined_clouds"] == 1
    assert list(found.measures["points"].values) == [50]


def test_an_empty_data_set_has_no_figures(tmp_path):
    (tmp_path / "json").mkdir()
    settings = Settings()
    settings.data.root = tmp_path
    found = gather(open_index(settings.data, contents=False), settings)
    assert table(found) == []
    paper = draw_stats(found, "empty")
    assert sum(text == "nothing to count" for text, _ in paper.written) == 15


def test_the_page_says_the_figures_inside_its_panels(data):
    found = gather(open_index(data.data, contents=False), data)
    paper = draw_stats(found, str(data.data.root))
    assert paper.image.width == 1600
    said = [text for text, _ in paper.written]
    assert {"Length of the target", "Operations", "Targets that fit", "Duplicates"} <= set(said)
    assert any(text.startswith(f"median {short(np.median(found.measures['tokens'].numbers()))}") for text in said)
    assert "1 were not read yet: cadmllm data check reads them." in said
    for text, box in paper.written:
        assert box.left >= 0, text
        assert box.right <= paper.image.width, text
        assert box.bottom <= paper.image.height, text
    assert draw_stats(found, str(data.data.root)).png() == paper.png()


def test_axes_are_labelled_to_their_ends():
    for values, scale, ends in (
        ([20.0, 60.0, 499.0], "log", ("20", "500")),
        ([1.0, 2.0, 40.0], "whole", ("1", "25+")),
        ([0.1, 0.2], "share", ("0", "1")),
        ([1024.0], "log", ("500", "1,000", "2,000")),
    ):
        measure, paper = Measure("x", "title", "unit", scale, "id", array("d", values)), Paper(400)
        draw_histogram(paper, Box(0, 0, 500, 300), measure)
        said = [text for text, _ in paper.written]
        assert set(ends) <= set(said), (values, said)
        assert all(Box(0, 0, 500, 300).holds(box) for _, box in paper.written)


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0"), (0.1234, "0.123"), (35.0, "35"), (1543.4, "1,543"), (12_500.0, "12.5k"), (4.53e6, "4.53M")]
)
def test_numbers_are_short(value, text):
    assert short(value) == text


def test_a_share_is_never_rounded_to_all_or_nothing():
    assert [percent(*pair) for pair in ((0, 0.0), (1, 1e-7), (999_999, 0.999999), (3, 1.0))] == [
        "0 %",
        "0.01 %",
        "99.99 %",
        "100 %",
    ]
