"""The page of `data stats`: histograms, bars and a table of what fits, each in a panel of one size."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from cadmllm.corpus.lettering import Lettering
from cadmllm.corpus.paper import (
    AMBER,
    BLUE,
    FAINT,
    GAP,
    GREEN,
    INK,
    MARGIN,
    MUTED,
    ORANGE,
    RED,
    SMALL,
    TINY,
    VIOLET,
    WIDTH,
    Box,
    Paper,
)
from cadmllm.corpus.stats import EXAMPLES, Category, Histogram, Measure, Stats, doubles, histogram, summary

THIRD = (WIDTH - 2 * MARGIN - 2 * GAP) // 3
HEIGHT = 292  # px, of a panel
HEAD = 118  # px, above the panels
BAR, TRACK, GRID = "#7ea6d3", "#eef1f5", "#e6eaf0"
BELOW, BESIDE = 40, 46  # px, room for the labels of the axes
FEWEST = 9  # places on an axis of whole numbers: one bar alone would fill its panel
COLOURS = {"new_body": BLUE, "join": GREEN, "cut": ORANGE, "intersect": VIOLET}
NAMES = {"new_body": "new body", "one_side": "one side", "two_sides": "two sides"}


class Axis(NamedTuple):
    """A map from values to pixels; `ticks` are values and their labels."""

    place: Callable[[float], float]
    ticks: list[tuple[float, str]]


def draw_stats(stats: Stats, title: str) -> Paper:
    """The page.

    Args:
        stats: from `stats.gather`.
        title: the data set.
    """
    measures, categories = stats.measures, stats.categories
    panels: list[Callable[[Paper, Box], None]] = [
        *(_of(measures[name], stats) for name in ("tokens", "extrudes", "curves", "size", "flatness", "profiles", "loops")),
        *(_bars(categories[name]) for name in ("operations", "extents", "curves")),
        *(_of(measures[name], stats) for name in ("caption_words", "captions", "points", "views")),
        lambda paper, box: _fits(paper, box, stats),
    ]
    rows = -(-len(panels) // 3)
    paper = Paper(HEAD + rows * (HEIGHT + GAP) + 130 + GAP)
    _head(paper, stats, title)
    for place, panel in enumerate(panels):
        left, top = MARGIN + (place % 3) * (THIRD + GAP), HEAD + (place // 3) * (HEIGHT + GAP)
        panel(paper, Box(left, top, left + THIRD, top + HEIGHT))
    top = HEAD + rows * (HEIGHT + GAP)
    _doubles(paper, Box(MARGIN, top, WIDTH - MARGIN, top + 130), stats)
    return paper


def _head(paper: Paper, stats: Stats, title: str) -> None:
    letters = Lettering(30, True)
    paper.text(MARGIN, MARGIN - 10, letters.cut(title, WIDTH - 2 * MARGIN), 30, INK, bold=True)
    counts = stats.counts
    said = [
        (counts["trainable"], "ids with caption and program"),
        (counts["captions"], "with a caption"),
        (counts["programs"], f"programs, {counts['programs'] - counts['usable_programs']:,} not usable"),
        (counts["clouds"], "clouds"),
        (counts["views"], "ids with views"),
    ]
    x = float(MARGIN)
    for number, what in said:
        x += paper.text(x, MARGIN + 38, f"{number:,}", 19, BLUE, bold=True) + 8
        x += paper.text(x, MARGIN + 42, what, 15, MUTED) + 34


def _of(measure: Measure, stats: Stats) -> Callable[[Paper, Box], None]:
    """What draws the panel of a measure, or says why there is nothing to draw."""
    counts = stats.counts
    unread = {"points": counts["clouds"] - counts["examined_clouds"]}.get(measure.name, 0)
    why = f"{unread:,} were not read yet: cadmllm data check reads them." if unread else "The data set has none."
    return lambda paper, box: draw_histogram(paper, box, measure, why)


def draw_histogram(paper: Paper, box: Box, measure: Measure, why: str = "") -> None:
    """A histogram with its axes, the median, and the span that holds nine tenths of the values.

    Args:
        paper, box: where.
        measure: what.
        why: said in place of the bars when there is no value.
    """
    numbers = measure.numbers()
    figures, bars = summary(numbers), histogram(numbers, measure.scale)
    room = paper.panel(box, measure.title, measure.unit)
    if figures is None or bars is None:
        paper.empty(room, "nothing to count", why)
        return
    text = f"median {short(figures.median)}   ·   5 to 95 %: {short(figures.p5)} to {short(figures.p95)}"
    text += f"   ·   min {short(figures.min)}, max {short(figures.max)}"
    paper.text(room.left, room.top - 8, text, TINY, MUTED)
    plot = Box(room.left + BESIDE, room.top + 26, room.right - 8, room.bottom - BELOW + 16)
    across = _across(bars, measure, plot)
    up = _up(max(bars.counts), plot)
    for value, label in up.ticks:
        y = up.place(value)
        paper.pen.line((plot.left, y, plot.right, y), GRID if value else "#b8c2cf")
        paper.text(plot.left - 8, y - 9, label, TINY, MUTED, align="right")
    _span(paper, plot, across, bars, figures.p5, figures.p95)
    places = _edges(bars, measure, across)
    for k, count in enumerate(bars.counts):
        if count:
            left, right = places[k], max(places[k + 1] - 1.0, places[k] + 1.0)
            fill = "#a9b8ca" if bars.open_ended and k == len(bars.counts) - 1 else BAR
            paper.pen.rectangle((left, min(up.place(count), plot.bottom - 1), right, plot.bottom - 1), fill)
    for value, label in across.ticks:
        x = across.place(value)
        if measure.scale != "whole":
            paper.pen.line((x, plot.bottom, x, plot.bottom + 4), "#b8c2cf")
        paper.text(x, plot.bottom + 5, label, TINY, MUTED, align="center")
    x = across.place(min(figures.median, bars.edges[-2]) if measure.scale == "whole" else figures.median)
    paper.pen.line((x, plot.top - 6, x, plot.bottom), AMBER, 2)


def _span(paper: Paper, plot: Box, across: Axis, bars: Histogram, p5: float, p95: float) -> None:
    """A line over the bars from the 5 % to the 95 % quantile."""
    left, right = (across.place(min(max(value, bars.edges[0]), bars.edges[-2 if bars.open_ended else -1])) for value in (p5, p95))
    y = plot.top - 6
    paper.pen.line((left, y, max(right, left + 2), y), AMBER, 2)
    for x in (left, right):
        paper.pen.line((x, y - 3, x, y + 3), AMBER, 2)


def _edges(bars: Histogram, measure: Measure, across: Axis) -> list[float]:
    """Where the bars begin and end, px; whole numbers stand in the middle of theirs."""
    if measure.scale != "whole":
        return [across.place(edge) for edge in bars.edges]
    wholes = [*bars.edges[:-1], bars.edges[-2] + 1.0]
    return [across.place(edge - 0.5) for edge in wholes]


def _across(bars: Histogram, measure: Measure, plot: Box) -> Axis:
    """The axis of values."""
    low, high = bars.edges[0], bars.edges[-1]
    if measure.scale == "log":
        a, b = math.log10(low), math.log10(high)
        spare = max(0.0, 1.0 - (b - a)) / 2.0  # a decade at least: one bar alone would fill its panel
        a, b = a - spare, b + spare
        ticks = [(value, short(value)) for value in _decades(10.0**a, 10.0**b, plot.width / (b - a))]
        return Axis(lambda value: plot.left + (math.log10(max(value, 1e-12)) - a) / (b - a) * plot.width, ticks)
    if measure.scale == "share":
        ticks = [(k / 5.0, f"{k / 5.0:g}") for k in range(6)]
        return Axis(lambda value: plot.left + value * plot.width, ticks)
    last = bars.edges[-2]  # the last whole number that has a bar
    count = max(last - low + 1.0, FEWEST)
    low = max(min(low, 1.0), low - (count - (last - low + 1.0)) // 2.0)
    step = _nice(count / 12.0, whole=True)
    ticks = [(value, f"{value:,.0f}") for value in _range(math.ceil(low / step) * step, low + count - 1.0, step)]
    if bars.open_ended:
        ticks = [*[tick for tick in ticks if last - tick[0] > 1.2 * step], (last, f"{last:,.0f}+")]
    return Axis(lambda value: plot.left + (value - low + 0.5) / count * plot.width, ticks)


def _range(low: float, high: float, step: float) -> list[float]:
    return [low + k * step for k in range(int((high - low) / step + 1e-9) + 1)]


def _decades(low: float, high: float, decade: float) -> list[float]:
    """Ticks of a logarithmic axis: powers of ten, with 2 and 5 between them where a decade has the room (px)."""
    steps = (1, 2, 5) if decade > 110 else (1, 3) if decade > 70 else (1,)
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    every = max(1, math.ceil(42.0 / decade))
    found = [float(f"{step}e{k}") for k in range(first, last + 1) if k % every == 0 for step in steps]
    return [value for value in found if low * (1.0 - 1e-9) <= value <= high * (1.0 + 1e-9)]


def _up(most: float, plot: Box) -> Axis:
    """The axis of counts, from 0."""
    step = _nice(most / 4.0, whole=True)
    top = max(step, math.ceil(most / step) * step)
    ticks = [(value, short(value)) for value in _range(0.0, top, step)]
    return Axis(lambda value: plot.bottom - value / top * plot.height, ticks)


def _nice(step: float, *, whole: bool = False) -> float:
    """The next of 1, 2, 5 times a power of ten."""
    step = max(step, 1.0 if whole else 1e-12)
    power = 10.0 ** math.floor(math.log10(step) + 1e-9)
    return next(factor * power for factor in (1.0, 2.0, 5.0, 10.0) if factor * power >= step - 1e-9)


def short(value: float) -> str:
    """A number in few characters: 0.13, 35, 1,543, 12.5k, 4.53M."""
    for limit, unit in ((1e6, "M"), (1e4, "k")):
        if abs(value) >= limit:
            return f"{value / (1e6 if unit == 'M' else 1e3):.3g}{unit}"
    return f"{value:,.0f}" if abs(value) >= 1000.0 or value == round(value) else f"{value:.3g}"


def _bars(category: Category) -> Callable[[Paper, Box], None]:
    return lambda paper, box: draw_bars(paper, box, category)


def draw_bars(paper: Paper, box: Box, category: Category) -> None:
    """A bar a kind: how many there are, in how many programs."""
    room = paper.panel(box, category.title, "in all, and in how many programs")
    total = sum(category.total.values())
    if not total:
        paper.empty(room, "nothing to count", "The data set has no usable program.")
        return
    most = max(category.total.values())
    step = room.height / len(category.total)
    for k, (kind, number) in enumerate(category.total.items()):
        y = room.top + k * step + step / 2.0 - 20
        paper.text(room.left, y - 3, NAMES.get(kind, kind), SMALL, INK)
        said = f"{number:,}  ({100.0 * number / total:.3g} %)  in {category.programs[kind]:,}"
        paper.text(room.right, y - 3, said, TINY, MUTED, align="right")
        paper.pen.rounded_rectangle((room.left, y + 18, room.right - 1, y + 30), 3, TRACK)
        if number:
            end = room.left + max(3.0, number / most * room.width) - 1
            paper.pen.rounded_rectangle((room.left, y + 18, end, y + 30), 3, COLOURS.get(kind, BAR))


def _fits(paper: Paper, box: Box, stats: Stats) -> None:
    """Share of the targets that fit, by max_seq_length and stage."""
    room = paper.panel(box, "Targets that fit", "by train.max_seq_length and stage")
    if not len(stats.measures["tokens"].values):
        paper.empty(room, "nothing to count", "The data set has no usable program.")
        return
    lengths = list(dict.fromkeys(row[0] for row in stats.fits))
    step = (room.height - 6) / (len(lengths) + 1)
    columns = [room.left + 150 + k * (room.width - 150) / 3.0 + (room.width - 150) / 3.0 for k in range(3)]
    paper.text(room.left + 52, room.top - 2, "length", TINY, MUTED, align="right")
    for stage, x in enumerate(columns, 1):
        paper.text(x, room.top - 2, f"stage {stage}", TINY, MUTED, align="right")
    for k, length in enumerate(lengths, 1):
        y = room.top - 2 + k * step
        paper.pen.line((room.left, y - 2, room.right, y - 2), GRID)
        paper.text(room.left + 52, y, f"{length:,}", SMALL, INK, align="right")
        for (_, _, _, number, share), x in zip([row for row in stats.fits if row[0] == length], columns, strict=True):
            colour = GREEN if share == 1.0 else INK if share > 0.9 else RED
            paper.text(x, y, percent(number, share), SMALL, colour, align="right")


def percent(number: int, share: float) -> str:
    """'99.98 %': never 100 where one is missing, never 0 where there is one."""
    if share == 1.0 or not number:
        return f"{100.0 * share:.0f} %"
    return f"{min(99.99, max(0.01, math.floor(share * 1e4 + 0.5) / 100.0)):.2f} %"


def _doubles(paper: Paper, box: Box, stats: Stats) -> None:
    room = paper.panel(box, "Duplicates", "programs alike; data split keeps them on one side")
    rows = (("the same token sequence", doubles(stats.exact)), ("nearly the same part", doubles(stats.near)))
    for k, (name, found) in enumerate(rows):
        y = room.top + k * 32
        paper.text(room.left, y, name, SMALL, INK, bold=True)
        said = f"{found['groups']:,} groups with {found['ids']:,} ids; {found['surplus']:,} would go if one of each stayed"
        width = paper.text(room.left + 210, y, said, SMALL, INK)
        named = [f"{one['ids'][0]} x {one['size']}" for one in found["largest"][:EXAMPLES]]
        if named:
            left = room.left + 210 + width + 24
            text = "largest: " + ", ".join(named)
            paper.text(left, y + 1, Lettering(TINY).cut(text, room.right - left), TINY, FAINT)


def table(stats: Stats) -> list[Sequence[str]]:
    """Rows (what, unit, count, min, 5 %, median, mean, 95 %, max) as text, for a terminal."""
    rows = []
    for measure in stats.measures.values():
        figures = summary(measure.numbers())
        if figures is not None:
            values = (figures.min, figures.p5, figures.median, figures.mean, figures.p95, figures.max)
            rows.append((measure.title, measure.unit, f"{figures.count:,}", *map(short, values)))
    return rows
