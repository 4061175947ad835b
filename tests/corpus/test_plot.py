"""Axes that enclose, lines that keep their extremes at any number of steps."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cadmllm.corpus.paper import Box, Paper
from cadmllm.corpus.plot import Curve, Plot, Scale, fitted, linear, logarithmic, runs, smooth, thinned

FINITE = st.floats(-1e6, 1e6)


@given(FINITE, FINITE)
def test_a_linear_axis_encloses_its_values_with_few_round_ticks(a: float, b: float) -> None:
    low, high = sorted((a, b))
    scale = linear(low, high)
    slack = 1e-8 * max(1.0, high - low)
    assert scale.low <= low + slack
    assert scale.high >= high - slack
    assert 2 <= len(scale.ticks) <= 9
    assert len({scale.label(tick) for tick in scale.ticks}) == len(scale.ticks)


@given(st.floats(1e-12, 1e12), st.floats(1.0, 1e12))
def test_a_logarithmic_axis_has_labelled_ticks(low: float, ratio: float) -> None:
    scale = logarithmic(low, low * ratio)
    assert scale.low <= low * (1 + 1e-9)
    assert scale.high >= low * ratio * (1 - 1e-9)
    assert 1 <= len(scale.ticks) <= 10
    assert len({scale.label(tick) for tick in scale.ticks}) == len(scale.ticks)
    assert -1e-9 <= float(scale.place(np.array([low]))[0]) <= 1.0


@pytest.mark.parametrize(
    ("value", "text"), [(2e-5, "2e-5"), (1e-4, "1e-4"), (0.001, "1e-3"), (0.02, "0.02"), (0.5, "0.5"), (20.0, "20"), (1e5, "1e5")]
)
def test_labels_of_a_logarithmic_axis_are_short(value: float, text: str) -> None:
    assert Scale(1e-6, 1e6, True).label(value) == text


def test_labels_of_a_linear_axis_have_the_digits_that_tell_them_apart() -> None:
    assert [linear(0.4, 0.6).label(tick) for tick in linear(0.4, 0.6).ticks] == ["0.40", "0.45", "0.50", "0.55", "0.60"]
    assert linear(0, 200_000).label(40_000) == "40k"


def test_what_a_logarithm_does_not_have_is_a_gap() -> None:
    places = logarithmic(0.1, 10.0).place(np.array([0.0, -1.0, np.nan, 1.0]))
    assert np.isnan(places[:3]).all()
    assert places[3] == pytest.approx(0.5)


@given(st.lists(st.one_of(FINITE, st.just(math.nan)), min_size=1, max_size=60), st.floats(1.0, 30.0))
def test_a_smoothed_line_stays_among_its_values(values: list[float], span: float) -> None:
    line = smooth(np.array(values), span)
    assert np.array_equal(np.isnan(line), np.isnan(values))
    there = [value for value in values if value == value]
    if there:
        assert np.nanmin(line) >= min(there) - 1e-6
        assert np.nanmax(line) <= max(there) + 1e-6
        assert line[np.isfinite(line)][0] == there[0]


@settings(deadline=None)
@given(st.integers(1, 3000), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_thinning_keeps_ends_and_extremes_of_every_column_of_pixels(count: int, width: int, seed: int) -> None:
    x = np.linspace(0.0, width - 1.0, count)
    y = np.random.default_rng(seed).normal(size=count)
    tx, ty = thinned(x, y)
    assert len(tx) <= max(4 * width, 1)
    assert (tx[0], ty[0], tx[-1], ty[-1]) == (x[0], y[0], x[-1], y[-1])
    assert np.all(np.diff(tx) >= 0)
    for column in np.unique(np.floor(x)):
        inside, kept = y[np.floor(x) == column], ty[np.floor(tx) == column]
        assert (inside.min(), inside.max()) == (kept.min(), kept.max())


def test_runs_are_what_lies_between_gaps() -> None:
    assert runs(np.array([False, True, True, False, True])) == [(1, 3), (4, 5)]
    assert runs(np.array([False])) == []


def test_one_wild_step_does_not_flatten_the_others() -> None:
    y = np.full(1000, 1.0)
    y[500] = 1e6
    scale, above, largest = fitted([Curve("loss", np.arange(1000), y, "#000000", 20.0)])
    assert scale.high < 100.0
    assert (above, largest) == (1, 1e6)


def test_a_part_by_itself_is_smoothed_by_itself() -> None:
    curve = Curve("loss", np.arange(4), np.array([9.0, 9.0, 1.0, 1.0]), "#000000", 50.0, parts=[(0, 2), (2, 4)])
    assert curve.line().tolist() == [9.0, 9.0, 1.0, 1.0]


def _paint(curve: Curve) -> np.ndarray:
    """The pixels of a plot of 0..1 over 0..100, RGB."""
    paper = Paper(300)
    across, up = Scale(0.0, 100.0, False, (0.0, 100.0)), Scale(0.0, 1.0, False, (0.0, 1.0))
    plot = Plot(paper, Box(0, 0, 600, 300), "Loss", "", across, up, [(0.0, "stage 1")])
    plot.curve(curve)
    plot.finish("remark")
    box = plot.plot
    return np.asarray(paper.image)[box.top : box.bottom, box.left : box.right]


def _red(pixels: np.ndarray) -> np.ndarray:
    return (pixels[..., 0] > 180) & (pixels[..., 1] < 90)


def test_a_line_is_where_its_values_are_and_breaks_at_gaps() -> None:
    y = np.full(101, 0.5)
    y[40:61] = np.nan
    red = _red(_paint(Curve("loss", np.arange(101), y, "#ff0000")))
    rows, columns = np.nonzero(red)
    assert abs(rows.mean() / red.shape[0] - 0.5) < 0.02
    at = columns / red.shape[1]
    assert not ((at > 0.41) & (at < 0.59)).any()
    assert at.min() < 0.02
    assert at.max() > 0.98


def test_one_value_alone_is_a_dot() -> None:
    assert 9 < _red(_paint(Curve("loss", np.array([50]), np.array([0.5]), "#ff0000"))).sum() < 200
