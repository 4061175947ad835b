"""The picture of robustness: IoU, valid share and chamfer distance by level, a row of charts a quantity; bars for modalities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cadmllm.corpus.lettering import Lettering
from cadmllm.corpus.paper import (
    BLUE,
    FAINT,
    GAP,
    GREEN,
    INK,
    LINE,
    MARGIN,
    MUTED,
    ORANGE,
    SMALL,
    TINY,
    VIOLET,
    WIDTH,
    Box,
    Paper,
)
from cadmllm.corpus.plot import Curve, Plot, Scale, linear, pale
from cadmllm.evaluate.report import metric_of, percent, plain, shown
from cadmllm.evaluate.summary import IOU_ALL

HEAD, SECTION, HEIGHT, ROW = 78, 40, 270, 34  # px: above the rows, of a title, of a chart, of a bar
COLOURS = (BLUE, GREEN, ORANGE, VIOLET)
SHARE = Scale(0.0, 104.0, False, (0.0, 20.0, 40.0, 60.0, 80.0, 100.0))  # room for a dot at 100
AIR = 0.25  # levels of room at both ends of an axis
WHOLE = {"noise": "Noise on points", "points": "Fewer points", "views": "Views dropped", "modalities": "Modalities dropped"}
WHOLE |= {"missing half": "Missing parts: one side cut away", "missing ball": "Missing parts: a ball cut away"}


@dataclass(frozen=True)
class Levels(Scale):
    """An axis of named levels, one beside the other; made by `levels`."""

    names: tuple[str, ...] = ()

    def label(self, value: float) -> str:
        return self.names[round(value)]


def levels(names: Sequence[str]) -> Levels:
    """The axis of levels 0, 1, ..."""
    return Levels(-AIR, len(names) - 1 + AIR, False, tuple(float(k) for k in range(len(names))), tuple(names))


def draw_curves(report: Mapping[str, Any]) -> Paper:
    """The page of a robustness report (`robustness.json`)."""
    by: dict[str, list[Mapping[str, Any]]] = {}
    for curve in report["curves"]:
        by.setdefault(curve["name"], []).append(curve)
    heights = [
        SECTION + (ROW * (len(curves[0]["levels"]) + 1) + 28 if name == "modalities" else HEIGHT) for name, curves in by.items()
    ]
    paper = Paper(MARGIN + HEAD + sum(heights) + GAP * len(by) + 24)
    paper.text(MARGIN, MARGIN - 10, "Robustness", 30, INK, bold=True)
    words = "; ".join(f"{source['what']} {source['is']}" for source in report["sources"])
    paper.text(MARGIN, MARGIN + 34, Lettering(SMALL).cut(words, WIDTH - 2 * MARGIN), SMALL, MUTED)
    y = MARGIN + HEAD
    for (name, curves), height in zip(by.items(), heights, strict=True):
        paper.text(MARGIN, y - 4, WHOLE[name], 21, INK, bold=True)
        box = Box(MARGIN, y + SECTION, WIDTH - MARGIN, y + height)
        if name == "modalities":
            _bars(paper, box, curves[0])
        else:
            _charts(paper, box, curves)
        y += height + GAP
    paper.text(MARGIN, y - 4, _foot(report), TINY, FAINT)
    return paper


def _foot(report: Mapping[str, Any]) -> str:
    count = report["settings"]["eval"]["bootstrap"]
    dashed = any(curve["as_it_is"] for curve in report["curves"])
    said = ["dashed: clouds with the normals of their files; all other levels have estimated normals"] if dashed else []
    return "; ".join([*said, *([f"pale: 95 % interval of the mean ({count:,} resamples of ids)"] if count else [])])


def _charts(paper: Paper, box: Box, curves: Sequence[Mapping[str, Any]]) -> None:
    """IoU with invalid answers as 0, share of valid answers, chamfer distance of these."""
    width = (box.width - 2 * GAP) // 3
    cells = [Box(box.left + k * (width + GAP), box.top, box.left + k * (width + GAP) + width, box.bottom) for k in range(3)]
    note = curves[0]["title"]
    _chart(paper, cells[0], "IoU %, invalid as 0", note, curves, IOU_ALL, "mean", 100.0)
    _chart(paper, cells[1], "Valid %", note, curves, "valid", "mean", 100.0)
    _chart(paper, cells[2], "CD x1000, median", note, curves, "cd", "median", 1000.0)


def _chart(
    paper: Paper, box: Box, title: str, note: str, curves: Sequence[Mapping[str, Any]], key: str, which: str, scale: float
) -> None:
    lines = [(curve, *_values(curve["levels"], key, which, scale)) for curve in curves]
    found = np.concatenate([np.concatenate([mean, low, high]) for _, mean, low, high in lines])
    found = found[np.isfinite(found)]
    if not len(found):
        paper.empty(paper.panel(box, title, note), "nothing was measured", "no answer is a valid solid")
        return
    up = SHARE if key == "valid" or found.max() > 80.0 and scale == 100.0 else linear(0.0, float(found.max()) * 1.02)
    plot = Plot(paper, box, title, note, levels([level["label"] for level in curves[0]["levels"]]), up, [])
    for (_, mean, low, high), colour in zip(lines, COLOURS, strict=False):
        plot.band(np.arange(len(mean)), low, high, colour)
    for (curve, mean, _, _), colour in zip(lines, COLOURS, strict=False):
        reference = curve["as_it_is"] and _one(curve["as_it_is"], key, which, scale)
        if reference is not None:
            ends = np.array([-AIR, len(mean) - 1 + AIR])
            plot.curve(Curve("", ends, np.full(2, reference), pale(colour, 0.35), dashed=True))
        plot.curve(Curve(plain(curve["shown"]), np.arange(len(mean)).astype(float), mean, colour, dots=True))
    plot.finish()


def _values(groups: Sequence[Mapping[str, Any]], key: str, which: str, scale: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A figure by level with the ends of its interval; NaN where there is none."""
    told = [(_one(group, key, which, scale), *_ends(group, key, which)) for group in groups]
    values = np.array([[np.nan if value is None else value for value in line] for line in told], dtype=float)
    return values[:, 0], values[:, 1] * scale, values[:, 2] * scale


def _one(group: Mapping[str, Any], key: str, which: str, scale: float) -> float | None:
    value = group["valid"] if key == "valid" else group["metrics"].get(key, {}).get(which)
    return None if value is None else value * scale


def _ends(group: Mapping[str, Any], key: str, which: str) -> tuple[float | None, float | None]:
    found = group["valid_95"] if key == "valid" else group["metrics"].get(key, {}).get(f"{which}_95")
    return (found[0], found[1]) if found else (None, None)


def _bars(paper: Paper, box: Box, curve: Mapping[str, Any]) -> None:
    """A line a combination: IoU and valid share as bars, chamfer distance as a number."""
    room = paper.pen
    room.rounded_rectangle((box.left, box.top, box.right - 1, box.bottom - 1), 8, "#ffffff", LINE)
    left, first, width, gap = box.left + 16, box.left + 300, 430, 120
    for place, text in enumerate(("IoU %, invalid as 0", "Valid %")):
        paper.text(first + place * (width + gap), box.top + 14, text, SMALL, MUTED)
    paper.text(box.right - 24, box.top + 14, "CD x1000, median", SMALL, MUTED, align="right")
    for number, level in enumerate(curve["levels"]):
        y = box.top + 14 + ROW * (number + 1)
        paper.text(left, y + 3, Lettering(SMALL).cut(plain(level["label"]), first - left - 16), SMALL, INK)
        for place, (key, colour) in enumerate(((IOU_ALL, BLUE), ("valid", GREEN))):
            value = _one(level, key, "mean", 1.0)
            _bar(paper, first + place * (width + gap), y, width, value, _ends(level, key, "mean"), colour)
        cd = _one(level, "cd", "median", 1.0)
        paper.text(box.right - 24, y + 3, shown(cd, metric_of("cd")), SMALL, INK, align="right")


def _bar(
    paper: Paper, x: int, y: int, width: int, value: float | None, ends: tuple[float | None, float | None], colour: str
) -> None:
    paper.pen.rectangle((x, y + 4, x + width, y + 22), "#eef1f5")
    if value is not None:
        paper.pen.rectangle((x, y + 4, x + round(width * value), y + 22), pale(colour, 0.45))
    low, high = ends
    if low is not None and high is not None:
        paper.pen.line((x + width * low, y + 13, x + width * high, y + 13), colour, 2)
        for end in (low, high):
            paper.pen.line((x + width * end, y + 8, x + width * end, y + 18), colour, 2)
    paper.text(x + width + 10, y + 3, percent(value), SMALL, INK)
