"""Statistics against numpy on samples that are written out."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cadmllm.evaluate.summary import Bootstrap, _Column, columns_of, group, percentile, summarise


def row(id_: str, combination: str = "text", verdict: str = "OK", extrudes: int | None = 1, **metrics: float | None) -> dict:
    return {"id": id_, "combination": combination, "verdict": verdict, "reason": "", "extrudes": extrudes, **metrics}


def test_invalid_answers_count_as_zero_and_only_there():
    rows = [row("a", iou=0.8), row("b", iou=0.4), row("c", verdict="BUILD", iou=None), row("d", verdict="PARSE")]
    found = summarise(rows, resamples=0)["all"]
    assert found["metrics"]["iou"]["mean"] == pytest.approx(0.6)
    assert found["metrics"]["iou_all"]["mean"] == pytest.approx(0.3)
    assert found["metrics"]["iou_all"]["count"] == 4
    assert found["valid"] == 0.5
    assert found["reasons"] == {"PARSE": 0.25, "BUILD": 0.25, "TIMEOUT": 0.0, "EMPTY": 0.0, "INVALID": 0.0}
    assert found["invalid_rate"] == sum(found["reasons"].values())


def test_a_solid_that_could_not_be_measured_is_no_zero():
    columns = columns_of([row("a", iou=0.5), row("b", iou=None)])
    assert columns["iou_all"].tolist()[0] == 0.5
    assert math.isnan(columns["iou_all"][1])


def test_metrics_of_programs_count_where_there_is_no_solid():
    rows = [row("a", acc_cmd=1.0, iou=1.0), row("b", verdict="BUILD", acc_cmd=0.5, iou=0.9)]
    columns = columns_of(rows)
    assert columns["acc_cmd"].tolist() == [1.0, 0.5]
    assert math.isnan(columns["iou"][1])


def test_all_invalid_still_has_a_mean_of_zero():
    found = group([row("a", verdict="EMPTY")], Bootstrap(10, 0))
    assert found["metrics"]["iou_all"]["mean"] == 0.0
    assert "iou" not in found["metrics"]


def test_groups_by_combination_and_by_extrudes():
    rows = [row("a", extrudes=1, iou=0.1), row("a", "text+image", extrudes=1, iou=0.3)]
    rows += [row("b", "text+point_cloud", extrudes=9, iou=0.7), row("c", "files", extrudes=None, iou=0.2)]
    found = summarise(rows, [row("a", "floor", iou=1.0)], resamples=0)
    assert list(found["combinations"]) == ["text", "text+point_cloud", "text+image", "files"]
    assert {key: value["count"] for key, value in found["by_extrudes"]["all"].items()} == {"1": 2, "6+": 1}
    assert found["by_extrudes"]["files"] == {}
    assert found["floor"]["metrics"]["iou"]["mean"] == 1.0


@given(
    st.lists(st.tuples(st.integers(0, 5), st.floats(-1e3, 1e3) | st.just(math.nan)), min_size=1, max_size=40),
    st.integers(0, 2**31),
)
def test_a_resample_is_what_writing_it_out_gives(pairs, seed):
    """Weighted means and medians against numpy on the rows repeated as often as their ids were drawn."""
    owners, values = np.array([owner for owner, _ in pairs]), np.array([value for _, value in pairs])
    weights = np.random.default_rng(seed).integers(0, 4, (8, 6)).astype(np.float32)
    column = _Column(values, owners, 6)
    if not len(column.values):
        return
    means, medians = column.means(weights), column.medians(weights)
    for k in range(len(weights)):
        written = np.repeat(column.values, weights[k, column.owners].astype(int))
        if len(written):
            assert means[k] == pytest.approx(written.mean(), abs=1e-9)
            assert medians[k] == np.median(written)
        else:
            assert math.isnan(means[k])
            assert math.isnan(medians[k])


def test_a_median_outside_the_first_window_is_found():
    """Weights that lie on one end alone: the middle of the rows says nothing about their median."""
    values, owners = np.arange(50_000.0), np.arange(50_000)
    weights = np.zeros((2, 50_000), np.float32)
    weights[0, :3], weights[1, -3:] = 1.0, 1.0
    assert _Column(values, owners, 50_000).medians(weights).tolist() == [1.0, 49_998.0]


def test_the_interval_is_that_of_the_mean():
    """Of 400 normal numbers: the interval's half width is 1.96 standard errors, as theory has it for a sample this large."""
    values = np.random.default_rng(1).normal(10.0, 2.0, 400)
    found = Bootstrap(4000, 0).intervals({"x": values}, np.arange(400), 400)["x"]
    low, high = found["mean_95"]
    half = 1.96 * values.std() / 20.0
    assert low == pytest.approx(values.mean() - half, abs=0.05 * half)
    assert high == pytest.approx(values.mean() + half, abs=0.05 * half)
    low, high = found["median_95"]
    assert low < np.median(values) < high
    assert high - low == pytest.approx(2.0 * 1.2533 * half, rel=0.25)  # the median of normal numbers is 25 % less sure


def test_rows_of_one_id_are_drawn_together():
    """Each row four times under the same id says nothing new, and the interval stays as wide; as other ids it shrinks."""
    rows = [row(f"{k}", iou=float(k % 7) / 7.0) for k in range(60)]
    again = [row(f"{k}", f"c{c}", iou=float(k % 7) / 7.0) for c in range(4) for k in range(60)]
    apart = [row(f"{c}/{k}", iou=float(k % 7) / 7.0) for c in range(4) for k in range(60)]
    widths = []
    for given_rows in (rows, again, apart):
        low, high = group(given_rows, Bootstrap(2000, 0))["metrics"]["iou"]["mean_95"]
        widths.append(high - low)
    assert widths[1] == pytest.approx(widths[0], rel=1e-6)
    assert widths[2] == pytest.approx(widths[0] / 2.0, rel=0.1)


def test_one_combination_more_moves_no_other_interval():
    one = [row(f"{k}", iou=k / 20.0) for k in range(20)]
    two = [row(f"{k}", "text+image", iou=k / 40.0) for k in range(20)]
    assert summarise(one)["combinations"]["text"] == summarise(one + two)["combinations"]["text"]
    assert summarise(two + one[::-1])["combinations"] == summarise(one + two)["combinations"]


def test_portions_do_not_change_the_draws_of_others(monkeypatch):
    values, owners = np.arange(30.0), np.arange(30)
    whole = Bootstrap(50, 3).intervals({"x": values}, owners, 30)
    monkeypatch.setattr("cadmllm.evaluate.summary.AT_ONCE", 100)  # three resamples at a time
    assert Bootstrap(50, 3).intervals({"x": values}, owners, 30) == whole


def test_no_rows_and_no_resamples():
    found = summarise([], resamples=100)
    assert found["all"]["count"] == 0
    assert found["all"]["valid"] is None
    assert found["floor"] is None
    assert summarise([row("a", iou=0.5)], resamples=0)["all"]["metrics"]["iou"]["mean_95"] is None
    assert percentile([np.array([np.nan])]) is None
