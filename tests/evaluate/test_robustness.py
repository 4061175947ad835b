"""Which curves there are, and how they are told and drawn."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cadmllm.corpus.layout import DataSet, open_dataset
from cadmllm.corpus.paper import WIDTH
from cadmllm.errors import CadmllmError
from cadmllm.evaluate import ladder
from cadmllm.evaluate.curves import draw_curves
from cadmllm.evaluate.robustness import cases_of, plan_curves
from cadmllm.evaluate.spoil import Spoilt
from cadmllm.evaluate.summary import Bootstrap, group
from cadmllm.settings import DataSettings, Settings


@pytest.fixture(scope="module")
def dataset(made: Path) -> DataSet:
    return open_dataset(DataSettings(root=made))


def model(*, points: bool = True, images: bool = True, views: int = 4, count: int = 4096) -> Any:
    shape = SimpleNamespace(point_count=count, image_views=views)
    settings = SimpleNamespace(model=shape)
    network = SimpleNamespace(points=object() if points else None, images=object() if images else None, settings=settings)
    return SimpleNamespace(model=network, name="a model")


def settings(modalities: str = "all", samples: int = 0) -> Settings:
    found = Settings()
    found.eval.modalities, found.eval.samples = modalities, samples
    return found


def test_all_curves_of_a_whole_model(dataset):
    notes: list[str] = []
    curves = {c.name: c for c in plan_curves(dataset, list(dataset.ids), model(), settings(), notes)}
    assert not notes
    assert list(curves) == ["noise", "missing half", "missing ball", "points", "views", "modalities"]
    assert [level.label for level in curves["noise"].levels] == ["0 %", "0.5 %", "1 %", "2 %", "5 %"]
    assert [level.label for level in curves["missing ball"].levels] == ["0 %", "10 %", "20 %", "40 %", "60 %"]
    assert [level.label for level in curves["points"].levels] == ["4,096", "1,024", "256", "64"]
    assert [level.label for level in curves["views"].levels] == ["4", "2", "1", "0"]
    assert [level.case.shows for level in curves["modalities"].levels][0] == "text+point_cloud+image"
    assert len(curves["modalities"].levels) == 7
    clean = {curve.levels[0].case.name for curve in list(curves.values())[:4]}
    assert len(clean) == 1  # measured once
    cases = cases_of(list(curves.values()))
    assert len({case.name for case in cases}) == len(cases) == 1 + 1 + 4 + 4 + 4 + 3 + 4 + 7
    spoilt = [case.cloud for case in cases if case.cloud is not None]
    assert len(set(spoilt)) == len(spoilt)
    assert spoilt[0] == Spoilt()


def test_a_model_without_images(dataset):
    notes: list[str] = []
    curves = plan_curves(dataset, list(dataset.ids), model(images=False), settings(samples=2), notes)
    assert {curve.name for curve in curves} == {"noise", "missing half", "missing ball", "points", "modalities"}
    assert "no encoder for image" in notes[0]
    assert all(len(level.case.ids) == 2 for curve in curves for level in curve.levels)


def test_named_combinations_are_shown(dataset):
    chosen = settings("point_cloud,text+point_cloud+image")
    curves = plan_curves(dataset, list(dataset.ids), model(views=1), chosen, [])
    assert {curve.shows for curve in curves if curve.name == "noise"} == {"point_cloud", "text+point_cloud+image"}
    (views,) = [curve for curve in curves if curve.name == "views"]
    assert [level.case.shows for level in views.levels] == ["text+point_cloud+image", "text+point_cloud"]


def test_text_alone_has_nothing_to_take_away(dataset):
    with pytest.raises(CadmllmError) as caught:
        plan_curves(dataset, list(dataset.ids), model(points=False, images=False), settings(), [])
    assert caught.value.code == "E713"


def told(*ious: float | None) -> dict[str, Any]:
    rows = [
        {"id": f"{k}", "combination": "x", "verdict": "OK" if iou is not None else "BUILD", "iou": iou, "cd": iou}
        for k, iou in enumerate(ious)
    ]
    return group(rows, Bootstrap(20, 0))


@pytest.fixture
def report() -> dict[str, Any]:
    def curve(name: str, labels: list[str], shown: str = "text+point_cloud", reference: Any = None) -> dict[str, Any]:
        levels = [
            {"label": label, "value": None, "case": label, **told(0.9 - k / 10, 0.5, None)} for k, label in enumerate(labels)
        ]
        return {"name": name, "title": f"Title of {name}, %", "shown": shown, "levels": levels, "as_it_is": reference}

    return {
        "sources": [{"what": "checkpoint", "is": "run/stage3 " + "x" * 300}],
        "notes": [],
        "left_out": {},
        "settings": {"eval": {"bootstrap": 20}},
        "curves": [
            curve("noise", ["0 %", "1 %"], reference=told(0.95, 0.6)),
            curve("noise", ["0 %", "1 %"], "point_cloud"),
            curve("views", ["2", "1", "0"], "text+image"),
            curve("modalities", ["text+point_cloud+image", "point_cloud+image", "text"]),
        ],
    }


def test_tables_and_csv(report):
    titles = [title for title, _ in ladder.tables(report)]
    assert titles[0] == "Title of noise, % (shown: text + point cloud)"
    head, reference, clean, worse = ladder.tables(report)[0][1]
    assert reference[0] == ladder.AS_IT_IS
    assert dict(zip(head, clean, strict=True))["valid %"] == "66.7"
    assert clean[3].startswith("46.7 [")  # (0.9 + 0.5 + 0) / 3
    assert clean[4] == "70.0"
    assert worse[4] == "65.0"
    lines = list(csv.DictReader(io.StringIO(ladder.csv_of(report))))
    assert len(lines) == 1 + 2 + 2 + 3 + 3
    assert float(lines[1]["iou_all_mean"]) == pytest.approx(1.4 / 3)
    page = ladder.page(report)
    assert page.count("## ") == 4
    assert "| point cloud + image |" in page


def test_the_picture_holds_all_its_text(report):
    paper = draw_curves(report)
    texts = [text for text, _ in paper.written]
    for expected in (
        "Noise on points",
        "Views dropped",
        "Modalities dropped",
        "IoU %, invalid as 0",
        "text + image",
        "1 %",
        "46.7",
    ):
        assert expected in texts, expected
    assert all(box.left >= 0 and box.right <= WIDTH and box.bottom <= paper.image.height for text, box in paper.written if text)


def test_a_curve_without_a_solid_says_so(report):
    for level in report["curves"][2]["levels"]:
        level |= told(None, None)
    texts = [text for text, _ in draw_curves(report).written]
    assert "nothing was measured" in texts
