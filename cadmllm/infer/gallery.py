"""The sheet of a look at held-out prompts: what was shown, the truth and the answer beside each other, and the verdict.

1600 px wide, a prompt a panel. Cloud, view, truth and answer are seen from the same side; each part fills its picture.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from cadmllm.cad.dots import render_points
from cadmllm.cad.kernel import BuildResult, Verdict
from cadmllm.cad.listing import listing
from cadmllm.cad.program import Program
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
    SHADE,
    SMALL,
    TINY,
    WIDTH,
    Box,
    Paper,
)

if TYPE_CHECKING:
    from cadmllm.infer.sampling import Reply

SIDE = 252  # px of a picture
BETWEEN = 12
LABEL, UNDER = 22, 24  # px above and below a picture
CARD = PAD + LABEL + SIDE + UNDER + PAD - 6
TEXT_WIDTH = WIDTH - 2 * MARGIN - 2 * PAD - 4 * (SIDE + BETWEEN) - 8
HEAD = 104
SHOWN = 16  # prompts on a sheet; the .jsonl has all of them
NAMES = {"point_cloud": "point cloud", "image": "view"}
COLOURS = {Verdict.OK: GREEN, Verdict.TIMEOUT: AMBER, Verdict.EMPTY: AMBER}


def draw_gallery(replies: Sequence[Reply], shares: Mapping[str, float], title: str, run: str) -> Paper:
    """The sheet of all replies (the first `SHOWN` are drawn, the others counted).

    Args:
        replies: in the order of their prompts.
        shares: of valid solids by combination, and over 'all'.
        title: of the sheet: 'Stage 2, step 100'.
        run: where the run lives, for the foot.
    """
    drawn = list(replies[:SHOWN])
    paper = Paper(MARGIN + HEAD + len(drawn) * (CARD + GAP) + 30)
    _head(paper, replies, shares, title)
    y = MARGIN + HEAD - 12
    for reply in drawn:
        _card(paper, Box(MARGIN, y, WIDTH - MARGIN, y + CARD), reply)
        y += CARD + GAP
    more = f"{len(replies) - len(drawn)} more prompts in the .jsonl beside this picture; " if len(replies) > len(drawn) else ""
    note = f"{more}CD: chamfer distance x 1000 between the surfaces, longest side 1; lengths in mm"
    width = paper.text(WIDTH - MARGIN, y - 6, note, TINY, FAINT, align="right")
    paper.text(MARGIN, y - 6, Lettering(TINY).cut(f"cadmllm train, {run}", WIDTH - 2 * MARGIN - width - 40), TINY, FAINT)
    return paper


def _head(paper: Paper, replies: Sequence[Reply], shares: Mapping[str, float], title: str) -> None:
    paper.text(MARGIN, MARGIN - 10, title, 30, INK, bold=True)
    count = Counter(reply.prompt.sample.combination for reply in replies)
    good = sum(reply.result.ok for reply in replies)
    x = paper.badge(MARGIN, MARGIN + 36, f"{good} of {len(replies)} answers are valid solids", _traffic(shares.get("all", 0.0)))
    for name, number in sorted(count.items(), key=lambda item: (item[0].count("+"), item[0])):
        ok = sum(reply.result.ok for reply in replies if reply.prompt.sample.combination == name)
        x = paper.badge(x + 4, MARGIN + 36, f"{_plain(name)}  {ok} / {number}", MUTED)


def _traffic(share: float) -> str:
    return GREEN if share >= 0.9 else AMBER if share >= 0.5 else RED


def _plain(combination: str) -> str:
    return " + ".join(NAMES.get(part, part) for part in combination.split("+"))


def _card(paper: Paper, box: Box, reply: Reply) -> None:
    paper.pen.rounded_rectangle((box.left, box.top, box.right - 1, box.bottom - 1), 8, PANEL, "#d8dee7")
    room = box.inset(PAD)
    _words(paper, Box(room.left, room.top, room.left + TEXT_WIDTH, room.bottom), reply)
    columns = [room.left + TEXT_WIDTH + 8 + BETWEEN + k * (SIDE + BETWEEN) for k in range(4)]
    cells = [Box(x, room.top + LABEL, x + SIDE, room.top + LABEL + SIDE) for x in columns]
    used = _inputs(paper, cells[:2], reply)
    if used < 2:
        draw_listing(paper, cells[used]._replace(right=cells[1].right), reply.program)
    truth, answer = reply.prompt.truth, reply.result
    _part(paper, cells[2], "truth", truth, "No solid")
    _part(paper, cells[3], "answer", answer, str(answer.verdict), edge=COLOURS.get(answer.verdict, RED))
    if reply.chamfer is not None:
        cell = cells[3]
        paper.text(cell.right, cell.top - LABEL, f"CD {reply.chamfer:.3g}", SMALL, MUTED, align="right")


def _words(paper: Paper, box: Box, reply: Reply) -> None:
    """Verdict, what was shown, the caption, the id."""
    sample, verdict = reply.prompt.sample, reply.result.verdict
    name = "valid solid" if verdict is Verdict.OK else verdict.value.lower()
    x = paper.badge(box.left, box.top - 2, name, COLOURS.get(verdict, RED))
    paper.badge(x, box.top - 2, _plain(sample.combination), BLUE)
    letters = Lettering(17)
    lines, left = letters.wrap(sample.caption, box.width, 8)
    if left:
        lines[-1] = letters.cut(lines[-1] + " …", box.width)
    y = box.top + 38
    for line in lines:
        paper.text(box.left, y, line, 17, INK)
        y += letters.height
    foot = Lettering(TINY)
    tokens = f"{len(reply.answer.tokens)} tokens"
    width = paper.text(box.right, box.bottom - foot.height, tokens, TINY, MUTED, align="right")
    paper.text(box.left, box.bottom - foot.height, foot.cut(sample.id, box.width - width - 12), TINY, FAINT)


def _inputs(paper: Paper, cells: Sequence[Box], reply: Reply) -> int:
    """The cloud and the first view that were shown. Returns how many cells they took."""
    picture = reply.prompt.picture
    found: list[tuple[str, np.ndarray]] = []
    if picture.clouds:
        cloud = picture.clouds[0]
        found.append((f"shown: {len(cloud.points):,} points", render_points(cloud.points, cloud.normals, 0, SIDE - 2)))
    if picture.images:
        more = f" (1 of {len(picture.images)})" if len(picture.images) > 1 else ""
        found.append((f"shown: view{more}", picture.images[0]))
    for cell, (label, pixels) in zip(cells, found, strict=False):
        _label(paper, cell, label)
        paper.pen.rectangle((cell.left, cell.top, cell.right - 1, cell.bottom - 1), "#ffffff", "#e3e8ef")
        paper.picture(cell.inset(1), pixels)
    return len(found)


def draw_listing(paper: Paper, cell: Box, program: Program | None) -> None:
    """The program of an answer, as far as it has room; None: there is none."""
    _label(paper, cell, "the program that was written")
    paper.pen.rounded_rectangle((cell.left, cell.top, cell.right - 1, cell.bottom - 1), 6, SHADE, SHADE)
    room = cell.inset(10)
    letters = Lettering(TINY)
    if program is None:
        paper.text(room.left, room.top, letters.cut("no program", room.width), TINY, RED)
        return
    lines: list[tuple[int, bool, str]] = []  # indent, whether a feature begins, text
    for entry in listing(program):
        text = f"{entry.label}  {entry.text}" if entry.label else entry.text
        indent = 10 * entry.level
        wrapped, _ = letters.wrap(text, room.width - indent - 8, 3)
        lines += [(indent + (8 if k else 0), entry.level == 0, line) for k, line in enumerate(wrapped)]
    most = room.height // letters.height
    if len(lines) > most:
        lines[most - 1 :] = [(0, False, f"… {len(lines) - most + 1} more lines")]
    for place, (indent, begins, line) in enumerate(lines):
        colour = FAINT if line.startswith("…") else BLUE if begins else INK
        paper.text(room.left + indent, room.top + place * letters.height, line, TINY, colour, bold=begins)


def _part(paper: Paper, cell: Box, label: str, result: BuildResult, failed: str, edge: str = "#e3e8ef") -> None:
    _label(paper, cell, label)
    if result.mesh is None or result.box is None:
        paper.empty(cell, failed, result.reason, broken=True)
        return
    paper.pen.rectangle((cell.left, cell.top, cell.right - 1, cell.bottom - 1), "#ffffff", edge)
    paper.picture(cell.inset(1), render(result.mesh, 0, SIDE - 2))
    low, high = result.box
    size = " x ".join(f"{b - a:.4g}" for a, b in zip(low, high, strict=True))
    solids = f", {result.solids} solids" if result.solids > 1 else ""
    text = Lettering(TINY).cut(f"{size}{solids}", SIDE)
    paper.text((cell.left + cell.right) / 2.0, cell.bottom + 3, text, TINY, MUTED, align="center")


def _label(paper: Paper, cell: Box, text: str) -> None:
    paper.text(cell.left, cell.top - LABEL, text, SMALL, MUTED)
