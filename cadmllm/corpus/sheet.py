"""One id on one page: views, the built part, the cloud, the program and the captions beside each other.

1600 px wide, made to be read at 100 %. What is missing has a place that says so; flaws are red; what does not fit is counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cadmllm.cad.files import write_whole
from cadmllm.cad.workshop import Workshop
from cadmllm.corpus.exhibit import Exhibit, gather
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
    PALE,
    RED,
    SHADE,
    SMALL,
    TEXT,
    TINY,
    TITLE_HEIGHT,
    WIDTH,
    Box,
    Paper,
)
from cadmllm.corpus.sheet_pictures import CELL, SEEN_FROM, SQUARE, THIRD, draw_cloud, draw_no_cloud, draw_part, draw_views
from cadmllm.corpus.sheet_text import STEP, WIDE, draw_figures, draw_listing, draw_tokens, program_lines
from cadmllm.errors import CadmllmError

if TYPE_CHECKING:
    from cadmllm.corpus.layout import DataSet

LEVELS = {"fail": RED, "warn": AMBER, "info": MUTED}
COLUMN = 16  # lines of token text that stand in one column, at least
FLAWS, CAPTIONS = 6, 4  # shown at most
SIDES = {"train": BLUE, "val": AMBER, "test": AMBER, "not used": MUTED}


def write_sheets(dataset: DataSet, ids: Sequence[str], out: Path, timeout: float, memory: int = 0) -> Iterator[dict[str, Any]]:
    """Write a sheet per id and yield `Exhibit.as_dict` with the key 'sheet', the file's path.

    Args:
        dataset: from `exhibit.open_any`.
        ids: of the data set.
        out: a .png file for one id, else a folder that gets '0000_ID.png'; it is made.
        timeout: seconds that a program may take to build.
        memory: MiB that it may take; 0: no limit.

    Raises:
        CadmllmError: E303 when a file cannot be written.
    """
    single = out.suffix.lower() == ".png"
    folder = out.parent if single else out
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CadmllmError(
            "E303", f"cannot make {folder}: {error.strerror}", "give a folder that can be written: --out DIR"
        ) from error
    with Workshop(1, timeout, memory=memory) as workshop:
        for id_ in ids:
            exhibit = gather(dataset, id_, workshop)
            path = out if single else out / f"{id_.replace('/', '_')}.png"
            write_whole(path, draw_sheet(exhibit).png())
            yield {"sheet": str(path), **exhibit.as_dict()}


def draw_sheet(exhibit: Exhibit) -> Paper:
    """The page of an id.

    Args:
        exhibit: from `exhibit.gather`.
    """
    views_height = TITLE_HEIGHT + 2 * CELL + 8 + PAD
    picture_height = TITLE_HEIGHT + SQUARE + PAD
    captions, captions_height = _caption_lines(exhibit)
    flaws, flaws_height = _flaw_lines(exhibit)
    code = program_lines(exhibit)
    code_height = TITLE_HEIGHT + max(6, len(code[0]), min(len(code[1]), COLUMN), -(-len(code[1]) // 2)) * STEP + PAD
    tops = [MARGIN + 50]
    for height in (captions_height, flaws_height, views_height, picture_height, code_height):
        tops.append(tops[-1] + (height + GAP if height else 0))
    paper = Paper(tops[-1] + 20)
    left, right = MARGIN, WIDTH - MARGIN
    _head(paper, exhibit)
    _captions(paper, Box(left, tops[0], right, tops[0] + captions_height), exhibit, captions)
    if flaws:
        _flaws(paper, Box(left, tops[1], right, tops[1] + flaws_height), exhibit, flaws)
    draw_views(paper, Box(left, tops[2], left + WIDE, tops[2] + views_height), exhibit)
    draw_figures(paper, Box(left + WIDE + GAP, tops[2], right, tops[2] + views_height), exhibit)
    thirds = [Box(x, tops[3], x + THIRD, tops[3] + picture_height) for x in (left, left + THIRD + GAP, right - THIRD)]
    draw_part(paper, thirds[0], exhibit)
    if exhibit.cloud is None:
        draw_no_cloud(paper, thirds[1]._replace(right=right), exhibit)
    else:
        draw_cloud(paper, thirds[1], exhibit.cloud, SEEN_FROM[0], "Point cloud")
        draw_cloud(paper, thirds[2], exhibit.cloud, SEEN_FROM[1], "Point cloud from behind, below")
    draw_listing(paper, Box(left, tops[4], left + WIDE, tops[4] + code_height), exhibit, *code[0::2])
    draw_tokens(paper, Box(left + WIDE + GAP, tops[4], right, tops[4] + code_height), exhibit, code[1])
    _foot(paper, tops[-1] - 8, exhibit)
    return paper


def _head(paper: Paper, exhibit: Exhibit) -> None:
    letters = Lettering(30, True)
    width = paper.text(MARGIN, MARGIN - 10, letters.cut(exhibit.id, 760), 30, INK, bold=True)
    x = paper.badge(MARGIN + width + 20, MARGIN + 1, exhibit.side, SIDES[exhibit.side])
    parts = {"caption": bool(exhibit.captions), "program": exhibit.program is not None, "cloud": exhibit.cloud is not None}
    parts["views"] = any(view.pixels is not None for view in exhibit.views)
    x = WIDTH - MARGIN
    for name in reversed(parts):
        there = parts[name]
        known = name in exhibit.paths
        colour = GREEN if there else RED if known else MUTED
        text = name if there else f"{name}: {'broken' if known else 'none'}"
        x -= round(Lettering(SMALL, True).width(text)) + 28
        paper.badge(x + 8, MARGIN + 1, text, colour)


# captions and flaws


def _caption_lines(exhibit: Exhibit) -> tuple[list[tuple[str, int, str]], int]:
    """(line, size, colour) of the captions, and the height of their panel."""
    lines: list[tuple[str, int, str]] = []
    room = WIDTH - 2 * MARGIN - 2 * PAD
    for place, caption in enumerate(exhibit.captions[:CAPTIONS]):
        size, colour, most = (19, INK, 5) if place == 0 else (TEXT, MUTED, 2)
        wrapped, left = Lettering(size).wrap(caption, room - (0 if place == 0 else 26), most)
        lines += [(("" if place == 0 or k else f"{place + 1}  ") + line, size, colour) for k, line in enumerate(wrapped)]
        if left:
            lines.append((f"… {left:,} more characters", TINY, FAINT))
    if len(exhibit.captions) > CAPTIONS:
        lines.append((f"… {len(exhibit.captions) - CAPTIONS:,} more captions", TINY, FAINT))
    if not lines:
        lines.append(("This id has no caption: it cannot be trained on.", TEXT, MUTED))
    return lines, sum(Lettering(size).height for _, size, _ in lines) + 2 * PAD - 4


def _captions(paper: Paper, box: Box, exhibit: Exhibit, lines: list[tuple[str, int, str]]) -> None:
    fill, edge = (PALE[BLUE], "#c9d9ec") if exhibit.captions else (SHADE, "#d8dee7")
    paper.pen.rounded_rectangle((box.left, box.top, box.right - 1, box.bottom - 1), 8, fill, edge)
    y = box.top + PAD - 2
    for line, size, colour in lines:
        paper.text(box.left + PAD, y, line, size, colour)
        y += Lettering(size).height


def _flaw_lines(exhibit: Exhibit) -> tuple[list[tuple[str, str, str]], int]:
    """(code or '', line, level) and the height of the panel, 0 without flaws."""
    lines: list[tuple[str, str, str]] = []
    order = sorted(exhibit.flaws, key=lambda flaw: ("fail", "warn", "info").index(flaw.level))
    for flaw in order[:FLAWS]:
        message = exhibit.short(flaw.message)
        wrapped, left = Lettering(TEXT).wrap(message, WIDTH - 2 * MARGIN - 2 * PAD - 130, 2)
        wrapped[-1:] = [wrapped[-1] + (" …" if left else "")] if wrapped else []
        lines += [(f"{flaw.code} {flaw.level}" if not k else "", line, flaw.level) for k, line in enumerate(wrapped)]
    if len(order) > FLAWS:
        lines.append(("", f"… {len(order) - FLAWS} more", "info"))
    return lines, (len(lines) * Lettering(TEXT).height + 2 * PAD - 8) if lines else 0


def _flaws(paper: Paper, box: Box, exhibit: Exhibit, lines: list[tuple[str, str, str]]) -> None:
    worst = next(LEVELS[level] for level in LEVELS if any(line[2] == level for line in lines))
    paper.pen.rounded_rectangle((box.left, box.top, box.right - 1, box.bottom - 1), 8, PALE[worst], worst)
    y = box.top + PAD - 4
    for code, line, level in lines:
        paper.text(box.left + PAD, y, code, TEXT, LEVELS[level], bold=True)
        paper.text(box.left + PAD + 116, y, line, TEXT, RED if level == "fail" else INK)
        y += Lettering(TEXT).height


def _foot(paper: Paper, y: int, exhibit: Exhibit) -> None:
    text = "lengths in mm; the large pictures look along (-1, -1, -1), and back along (1, 1, 1)"
    width = paper.text(WIDTH - MARGIN, y, text, TINY, FAINT, align="right")
    paper.text(MARGIN, y, Lettering(TINY).cut(f"cadmllm data show, {exhibit.root}", WIDTH - 2 * MARGIN - width - 40), TINY, FAINT)
