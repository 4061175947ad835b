"""The report's tables and files from rows that are written out."""

from __future__ import annotations

import csv
import io
import json

import pytest

from cadmllm.evaluate.metrics import KEYS
from cadmllm.evaluate.report import csv_of, everything, groups_of, invalid, overview, page, plain, shown, table, write_report
from cadmllm.evaluate.report import metric_of as metric
from cadmllm.evaluate.summary import summarise

ROWS = [
    {"id": "b", "combination": "text", "verdict": "OK", "reason": "", "extrudes": 1, "iou": 0.5, "cd": 0.00123456, "tokens": 7},
    {"id": "a", "combination": "text+image", "verdict": "OK", "reason": "", "extrudes": 2, "iou": 0.25, "cd": 0.002},
    {"id": "a", "combination": "text", "verdict": "BUILD", "reason": 'says "no", twice\nand more', "extrudes": 2},
    {"id": "a", "combination": "floor", "verdict": "OK", "reason": "", "extrudes": 2, "iou": 1.0},
]


def report(rows=ROWS) -> dict:
    answers = [row for row in rows if row["combination"] != "floor"]
    floor = [row for row in rows if row["combination"] == "floor"]
    return {
        "sources": [{"what": "checkpoint", "is": "run/stage3 | odd"}],
        "left_out": {"text+image": {"no image": 3}},
        "notes": ["a note"],
        "settings": {"eval": {"bootstrap": 100}, "infer": {"seed": 1}, "dtype": "float32"},
        "versions": {"cadmllm": "0"},
        "summary": summarise(answers, floor, resamples=100),
    }


def test_the_csv_has_raw_values_in_an_order_that_is_always_the_same():
    lines = list(csv.DictReader(io.StringIO(csv_of(ROWS))))
    assert [(line["id"], line["combination"]) for line in lines] == [("a", "text"), ("b", "text"), ("a", "text+image")]
    assert float(lines[1]["cd"]) == 0.00123456
    assert lines[1]["tokens"] == "7"
    assert lines[0]["iou"] == ""
    assert lines[0]["reason"] == 'says "no", twice\nand more'
    assert set(KEYS) <= set(lines[0])
    assert csv_of(ROWS[::-1]) == csv_of(ROWS)


def test_tables_show_scaled_values():
    groups = groups_of(report()["summary"])
    assert list(groups) == ["text", "text+image", "all", "floor"]
    head, text, *_ = overview(groups)
    cells = dict(zip(head, text, strict=True))
    assert cells["answers"] == "2"
    assert cells["IR %"] == "50.0"
    assert cells["IoU %"].startswith("50.0 [")
    assert cells["IoU %, invalid as 0"] == "25.0"
    assert cells["CD x1000 median"] == "1.235"
    assert cells["NC %"] == "-"
    head, text, *rest = invalid(groups)
    assert dict(zip(head, text, strict=True))["build %"] == "50.0"
    assert [line[0] for line in rest] == ["text + image", "all"]  # a truth is no answer
    names = [line[0] for line in everything(groups)]
    assert "CD x1000 (cadrille)" in names
    assert "SegE" not in names  # nobody has it


def test_the_page_is_whole():
    text = page(report())
    for expected in (
        "# Evaluation",
        "left out of text + image: 3 (no image)",
        "* a note",
        "## By number of extrudes",
        "infer.seed",
    ):
        assert expected in text
    for block in text.split("\n\n"):
        rows = [line for line in block.splitlines() if line.startswith("|")]
        assert len({line.replace("\\|", "").count("|") for line in rows}) <= 1, block  # every line has every column
    assert text == page(report())


def test_one_combination_has_one_table_of_extrudes():
    one = page(report([row for row in ROWS if row["combination"] != "text+image"]))
    assert "### " not in one
    assert one.count("| extrudes |") == 1
    assert page(report()).count("| extrudes |") == 3


def test_no_answer_is_valid():
    rows = [{"id": "a", "combination": "text", "verdict": "PARSE", "reason": "?", "extrudes": 1}]
    text = page(report(rows))
    assert "| text | 1 | 100.0 | - | 0.0 | - |" in text


def test_files_are_written(tmp_path):
    write_report(report(), ROWS, tmp_path)
    assert json.loads((tmp_path / "report.json").read_text())["summary"]["all"]["count"] == 3
    assert (tmp_path / "rows.csv").read_bytes().count(b"\r\n") == 4
    assert (tmp_path / "report.md").read_text().startswith("# Evaluation")


@pytest.mark.parametrize(("key", "value", "text"), [("iou", 0.1234, "12.3"), ("cd", 0.000160, "0.160"), ("iou", None, "-")])
def test_values_as_papers_print_them(key, value, text):
    assert shown(value, metric(key)) == text


def test_markdown_is_safe():
    assert table([["a|b"], ["c\nd"]]) == "| a\\|b |\n| --- |\n| c d |"
    assert plain("text+point_cloud") == "text + point cloud"
    assert plain("floor") == "truth against itself"
