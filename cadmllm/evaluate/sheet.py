"""The picture sheet: best, median and worst answers by IoU, with what was shown, the truth, the answer and both in one picture.

1600 px wide, an answer a panel, all parts seen from the same side. Overlay: grey is common, red is missing, blue is too much.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cadmllm.cad.dots import render_points
from cadmllm.cad.kernel import Verdict
from cadmllm.cad.mesh import Mesh
from cadmllm.cad.render import render
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
    PAD,
    PANEL,
    RED,
    SMALL,
    TINY,
    WIDTH,
    Box,
    Paper,
)
from cadmllm.corpus.types import Sample
from cadmllm.evaluate.overlay import draw_overlay, drawable
from cadmllm.evaluate.report import metric_of, plain, shown
from cadmllm.evaluate.shape import Shape
from cadmllm.evaluate.summary import Row
from cadmllm.infer.gallery import draw_listing

EACH = 4  # answers of a kind
SIDE, BETWEEN = 220, 12  # px of a picture, and between two
LABEL, UNDER = 22, 22  # px above and below a picture
CARD = PAD + LABEL + SIDE + UNDER + PAD - 6
PICTURES = 5
WORDS = WIDTH - 2 * MARGIN - 2 * PAD - PICTURES * (SIDE + BETWEEN) - 6  # px for text
HEAD, SECTION = 104, 42
COLOURS = {Verdict.OK: GREEN, Verdict.TIMEOUT: AMBER, Verdict.EMPTY: AMBER}
FIGURES = ("iou", "f_score_0.02", "cd", "normal_consistency")
NAMES = {"f_score_0.02": "F 0.02 %", "cd": "CD x1000", "normal_consistency": "NC %"}


@dataclass(frozen=True, slots=True)
class Panel:
    """An answer to be drawn.

    Attributes:
        row: of the evaluation.
        truth, answer: built or read again; the answer's is that of the row where it did not come out again.
        sample: what was shown; None of files.
    """

    row: Row
    truth: Shape
    answer: Shape
    sample: Sample | None = None


def choose(rows: Sequence[Row], each: int = EACH) -> dict[str, list[Row]]:
    """The rows to be drawn: {"Best": ..., "Median": ..., "Worst": ..., "No solid": ...}; no row twice.

    Best, median and worst are of the answers whose IoU is known; where there are few, each gets a third of them.
    """
    keyed = sorted(
        (row for row in rows if row["verdict"] == Verdict.OK and row.get("iou") is not None),
        key=lambda row: (-row["iou"], str(row["combination"]), str(row["id"])),
    )
    count = len(keyed)
    best = min(each, -(-count // 3))
    worst = min(each, (count - best + 1) // 2)
    middle = min(each, count - best - worst)
    first = min(max(best, (count - middle) // 2), count - worst - middle)
    found = {"Best": keyed[:best], "Median": keyed[first : first + middle], "Worst": keyed[count - worst :]}
    found["No solid"] = _different(rows, each)
    return {name: chosen for name, chosen in found.items() if chosen}


def _different(rows: Sequence[Row], most: int) -> list[Row]:
    """Answers that are no solid, one a verdict before a second of any."""
    by: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda row: (str(row["combination"]), str(row["id"]))):
        if row["verdict"] != Verdict.OK:
            by.setdefault(str(row["verdict"]), []).append(row)
    found: list[Row] = []
    while by and len(found) < most:
        for verdict in sorted(by):
            found.append(by[verdict].pop(0))
            if not by[verdict]:
                del by[verdict]
    return found[:most]


def draw_sheet(sections: Mapping[str, Sequence[Panel]], facts: Sequence[tuple[str, str]], title: str, foot: str) -> Paper:
    """The sheet.

    Args:
        sections: panels by the name of their section.
        facts: (text, colour) of the badges under the title.
        title: of the sheet.
        foot: where it is from.
    """
    height = HEAD + sum(SECTION + len(panels) * (CARD + GAP) for panels in sections.values())
    paper = Paper(MARGIN + height + 24)
    paper.text(MARGIN, MARGIN - 10, title, 30, INK, bold=True)
    x = float(MARGIN)
    for text, colour in facts:
        x = paper.badge(x, MARGIN + 36, text, colour) + 4
    y = MARGIN + HEAD - 12
    for name, panels in sections.items():
        paper.text(MARGIN, y, name, 21, INK, bold=True)
        y += SECTION
        for panel in panels:
            _card(paper, Box(MARGIN, y, WIDTH - MARGIN, y + CARD), panel)
            y += CARD + GAP
    note = "overlay: grey in both, red missing, blue too much, faint where thin; each solid centred, longest side 1, as for IoU"
    width = paper.text(WIDTH - MARGIN, y - 2, note, TINY, FAINT, align="right")
    paper.text(MARGIN, y - 2, Lettering(TINY).cut(foot, WIDTH - 2 * MARGIN - width - 40), TINY, FAINT)
    return paper


def _card(paper: Paper, box: Box, panel: Panel) -> None:
    paper.pen.rounded_rectangle((box.left, box.top, box.right - 1, box.bottom - 1), 8, PANEL, "#d8dee7")
    room = box.inset(PAD)
    _words(paper, Box(room.left, room.top, room.left + WORDS, room.bottom), panel)
    lefts = [room.right - (PICTURES - k) * SIDE - (PICTURES - 1 - k) * BETWEEN for k in range(PICTURES)]
    cells = [Box(x, room.top + LABEL, x + SIDE, room.top + LABEL + SIDE) for x in lefts]
    used = _inputs(paper, cells[:2], panel)
    if used < 2:
        draw_listing(paper, cells[used]._replace(right=cells[1].right), panel.answer.program)
    verdict = Verdict(panel.row["verdict"])
    _part(paper, cells[2], "truth", panel.truth)
    _part(paper, cells[3], "answer", panel.answer, COLOURS.get(verdict, RED))
    _overlay(paper, cells[4], panel)


def _words(paper: Paper, box: Box, panel: Panel) -> None:
    """Verdict, figures, caption, id."""
    row, verdict = panel.row, Verdict(panel.row["verdict"])
    name = f"IoU {shown(row['iou'], metric_of('iou'))} %" if row.get("iou") is not None else verdict.value.lower()
    paper.badge(box.left, box.top - 2, name, COLOURS.get(verdict, RED))
    y = box.top + 34
    for line in _figures(row):
        paper.text(box.left, y, line, TINY, MUTED)
        y += 18
    letters, foot = Lettering(SMALL), Lettering(TINY)
    floor = box.bottom - 2 * foot.height
    lines, left = letters.wrap(str(row.get("prompt") or ""), box.width, max(1, (floor - y - 10) // letters.height))
    if left:
        lines[-1] = letters.cut(lines[-1] + " …", box.width)
    y += 6
    for line in lines:
        paper.text(box.left, y, line, SMALL, INK)
        y += letters.height
    paper.text(box.left, floor, foot.cut(f"shown: {plain(str(row['combination']))}", box.width), TINY, BLUE)
    paper.text(box.left, floor + foot.height, foot.cut(str(row["id"]), box.width), TINY, FAINT)


def _figures(row: Row) -> list[str]:
    """Two figures a line; those that there are."""
    told = [f"{NAMES[key]} {shown(row[key], metric_of(key))}" for key in FIGURES if key in NAMES and row.get(key) is not None]
    if row.get("extrudes"):
        told.append(f"extrudes {row['extrudes']}")
    return ["   ".join(told[k : k + 2]) for k in range(0, len(told), 2)]


def _inputs(paper: Paper, cells: Sequence[Box], panel: Panel) -> int:
    """The cloud and the first view that were shown. Returns how many cells they took."""
    sample = panel.sample
    found: list[tuple[str, np.ndarray]] = []
    if sample is not None and sample.clouds:
        cloud = sample.clouds[0]
        found.append((f"shown: {len(cloud.points):,} points", render_points(cloud.points, cloud.normals, 0, SIDE - 2)))
    if sample is not None and sample.images:
        more = f" (1 of {len(sample.images)})" if len(sample.images) > 1 else ""
        found.append((f"shown: view{more}", sample.images[0]))
    for cell, (label, pixels) in zip(cells, found, strict=False):
        _picture(paper, cell, label, pixels)
    return len(found)


def _picture(paper: Paper, cell: Box, label: str, pixels: np.ndarray, edge: str = "#e3e8ef") -> None:
    paper.text(cell.left, cell.top - LABEL, label, SMALL, MUTED)
    paper.pen.rectangle((cell.left, cell.top, cell.right - 1, cell.bottom - 1), "#ffffff", edge)
    paper.picture(cell.inset(1), pixels)


def _part(paper: Paper, cell: Box, label: str, shape: Shape, edge: str = "#e3e8ef") -> None:
    if shape.mesh is None:
        paper.text(cell.left, cell.top - LABEL, label, SMALL, MUTED)
        paper.empty(cell, str(shape.verdict) if label == "answer" else "No solid", shape.reason, broken=True)
        return
    _picture(paper, cell, label, render(drawable(shape.mesh), 0, SIDE - 2), edge)
    low, high = shape.mesh.box
    size = " x ".join(f"{b - a:.4g}" for a, b in zip(low, high, strict=True))
    middle = (cell.left + cell.right) / 2.0
    paper.text(middle, cell.bottom + 2, Lettering(TINY).cut(f"{size} mm", SIDE), TINY, MUTED, align="center")


def _overlay(paper: Paper, cell: Box, panel: Panel) -> None:
    pixels = _both(panel.truth.mesh, panel.answer.mesh)
    if pixels is not None:
        _picture(paper, cell, "overlay", pixels)
        return
    paper.text(cell.left, cell.top - LABEL, "overlay", SMALL, MUTED)
    lacking = panel.truth.mesh is None or panel.answer.mesh is None
    paper.empty(cell, "no overlay", "" if lacking else "one of the meshes is not closed: it bounds no volume")


def _both(truth: Mesh | None, answer: Mesh | None) -> np.ndarray | None:
    return draw_overlay(truth, answer, SIDE - 2) if truth is not None and answer is not None else None
