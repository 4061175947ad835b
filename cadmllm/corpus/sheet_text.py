"""The texts of a sheet: figures, the program as a listing, the token text that is learned."""

from __future__ import annotations

import numpy as np

from cadmllm.corpus.exhibit import Exhibit
from cadmllm.corpus.lettering import Lettering
from cadmllm.corpus.paper import AMBER, BLUE, FAINT, GAP, GREEN, INK, MUTED, ORANGE, PAD, RED, SMALL, TINY, VIOLET, Box, Paper
from cadmllm.corpus.sheet_pictures import THIRD

WIDE = 2 * THIRD + GAP  # a panel over two thirds of the page
LINES = 34  # of a program, at most
STEP = 20  # px between two lines of a program
OPERATION_COLOURS = {"New": BLUE, "Join": GREEN, "Cut": ORANGE, "Intersect": VIOLET}


def figures(exhibit: Exhibit) -> list[tuple[str, str, str]]:
    """(what, how much, colour) in the order of the panel; ('', heading, '') begins a group."""
    program, cloud, build = exhibit.values.get("program"), exhibit.values.get("cloud"), exhibit.build
    rows: list[tuple[str, str, str]] = [("", "Program", "")]
    if program:
        rows.append(("target", f"{program['length']:,} tokens", INK))
        rows.append(("features", _counts(program["operations"], {"new_body": "new"}), INK))
        extents = _counts(program["extents"], {"one_side": "one side", "two_sides": "two sides"})
        rows.append(("extents", extents, INK))
        rows.append(("profiles, loops", f"{program['sketches']:,}, {program['loops']:,}", INK))
        rows.append(("curves", _counts(program["curves"], {}, plural=True), INK))
        rows.append(("drawn box", f"{_by(program['size'])} mm", INK))
    else:
        rows.append(
            ("", "not usable" if exhibit.paths.get("program") else "none", RED if exhibit.paths.get("program") else MUTED)
        )
    rows.append(("", "Solid", ""))
    if build is not None and build.ok and build.box is not None:
        rows.append(("size", f"{_by([b - a for a, b in zip(*build.box, strict=True)])} mm", INK))
        rows.append(("volume, area", f"{_volume(build.volume)}, {_area(build.area)}", INK))
        rows.append(
            ("solids, faces, edges", f"{build.solids:,}, {build.faces:,}, {build.edges:,}", INK if build.solids == 1 else AMBER)
        )
    else:
        rows.append(("", build.verdict.value if build is not None else "not built", RED if build is not None else MUTED))
    rows.append(("", "Cloud", ""))
    if cloud and exhibit.cloud is not None:
        has = exhibit.cloud.normals is not None
        rows.append(("points", f"{len(exhibit.cloud.points):,}, {'with' if has else 'without'} normals", INK))
        known = exhibit.cloud.transform is not None
        rows.append(("way back to mm", "stored in the file" if known else "unknown", INK if known else MUTED))
        if exhibit.distances is not None:
            off = float(np.quantile(exhibit.distances, 0.95))
            share = "below 0.01" if off < 1e-4 else f"{100.0 * off:.2g}" if off < 0.1 else f"{100.0 * off:,.0f}"
            rows.append(("off the solid, 95 %", f"{share} % of the longest side", RED if off > 0.02 else INK))
    else:
        rows.append(_nothing("cloud" in exhibit.paths))
    rows.append(("", "Files", ""))
    names = [exhibit.place(path) for name in ("program", "cloud") for path in exhibit.paths.get(name, [])]
    views = exhibit.paths.get("views", [])
    names += [exhibit.place(views[0]) + (f"  and {len(views) - 1} more" if len(views) > 1 else "")] if views else []
    return rows + [("", name, MUTED) for name in names or ["none"]]


def _nothing(broken: bool) -> tuple[str, str, str]:
    return ("", "not usable", RED) if broken else ("", "none", MUTED)


def _counts(values: dict[str, int], names: dict[str, str], *, plural: bool = False) -> str:
    parts = [f"{n:,} {names.get(k, k)}{'s' if plural and n != 1 else ''}" for k, n in values.items() if n]
    return ", ".join(parts) or "none"


def _by(size: list[float]) -> str:
    return " x ".join(f"{value:.4g}" if value < 1e4 else f"{value:,.0f}" for value in size)


def _volume(mm3: float) -> str:
    return f"{mm3 / 1000.0:,.4g} cm³" if 100.0 <= mm3 < 1e9 else f"{mm3 / 1e9:,.4g} m³" if mm3 >= 1e9 else f"{mm3:.4g} mm³"


def _area(mm2: float) -> str:
    return f"{mm2 / 100.0:,.4g} cm²" if 100.0 <= mm2 < 1e8 else f"{mm2 / 1e6:,.4g} m²" if mm2 >= 1e8 else f"{mm2:.4g} mm²"


def draw_figures(paper: Paper, box: Box, exhibit: Exhibit) -> None:
    room = paper.panel(box, "Figures")
    y = room.top - 4
    letters = Lettering(SMALL)
    for name, value, colour in figures(exhibit):
        if not colour:
            y += 8
            paper.text(room.left, y, value, SMALL, BLUE, bold=True)
            paper.pen.line((room.left + 76, y + 11, room.right, y + 11), "#e3e8ef")
        elif name:
            paper.text(room.left, y, name, SMALL, MUTED)
            paper.text(room.left + 152, y, letters.cut(value, room.width - 152), SMALL, colour)
        else:
            paper.text(room.left, y, _cut_middle(value, room.width, TINY if colour == MUTED else SMALL), TINY, colour)
        y += 22


def _cut_middle(path: str, width: float, size: int) -> str:
    """A path that keeps its end."""
    letters = Lettering(size)
    if letters.width(path) <= width:
        return path
    keep = len(path)
    while keep and letters.width("…" + path[-keep:]) > width:
        keep -= 1
    return "…" + path[len(path) - keep :]


def program_lines(exhibit: Exhibit) -> tuple[list[tuple[int, str, str]], list[str], int]:
    """(level, label, text) of the listing, the lines of token text, and how many lines of the listing are left over."""
    rows: list[tuple[int, str, str]] = []
    left = 0
    for place, entry in enumerate(exhibit.entries):
        wrapped = _wrapped(entry.text, WIDE - 2 * PAD - _indent(entry.level) - 8)
        if len(rows) + len(wrapped) > LINES:
            left = len(exhibit.entries) - place
            break
        rows += [(entry.level, entry.label if not k else "", line) for k, line in enumerate(wrapped)]
    if left:
        rows.append((0, "", f"… {left:,} more lines: cadmllm convert writes the whole program as .txt or .py"))
    words = exhibit.text.splitlines()
    return rows, words[: 2 * LINES], left


def _wrapped(text: str, room: float, most: int = 6) -> list[str]:
    """The text in lines; the last one tells how much is left over."""
    letters = Lettering(SMALL)
    lines, rest = letters.wrap(text, room, most)
    if rest:
        end = f" … {rest + len(lines[-1]):,} more characters"  # at least as wide as what is written
        kept = letters.cut(lines[-1], room - letters.width(end)).rstrip("…")
        lines[-1] = f"{kept} … {rest + len(lines[-1]) - len(kept):,} more characters"
    return lines


def _indent(level: int) -> int:
    """Where the text of a line begins."""
    return (34, 88, 136, 136)[level]


def draw_listing(paper: Paper, box: Box, exhibit: Exhibit, rows: list[tuple[int, str, str]], left: int) -> None:
    count = len(exhibit.program.extrudes) if exhibit.program is not None else 0
    note = f"{count:,} feature{'s' if count != 1 else ''}; mm and degrees, in the coordinates of each sketch" if count else ""
    room = paper.panel(box, "Program", note)
    if not rows:
        broken = bool(exhibit.paths.get("program"))
        paper.empty(room, "No program", exhibit.short(exhibit.program_why), broken=broken)
        return
    y = room.top - 2
    for place, (level, label, text) in enumerate(rows):
        if level == 0 and label:
            colour = OPERATION_COLOURS[text.replace(":", " ").split()[0]]
            paper.text(room.left + 8, y, label, SMALL, colour, bold=True)
            paper.text(room.left + 34, y, text, SMALL, colour, bold=True)
        elif left and place == len(rows) - 1:
            paper.text(room.left + 34, y, text, TINY, FAINT)
        else:
            paper.text(room.left + _indent(max(level, 1)) - 54, y, label, SMALL, MUTED)
            paper.text(room.left + _indent(level), y, text, SMALL, MUTED if level == 1 else INK)
        y += STEP


def draw_tokens(paper: Paper, box: Box, exhibit: Exhibit, words: list[str]) -> None:
    length = exhibit.values.get("program", {}).get("length")
    room = paper.panel(box, "What is learned", f"{length:,} tokens" if length else "")
    if not words:
        broken = bool(exhibit.paths.get("program"))
        paper.empty(room, "No target", exhibit.short(exhibit.program_why), broken=broken)
        return
    half = max(1, room.height // STEP)
    lines = exhibit.text.splitlines()
    shown = words[: 2 * half - (1 if len(lines) > 2 * half else 0)]
    if len(lines) > len(shown):
        shown = [*shown, f"… {len(lines) - len(shown):,} more lines"]
    # a line of two narrow columns has to hold a rectangle with four fine numbers
    size, column = (TINY, room.width) if len(shown) <= half else (12, (room.width - PAD) / 2.0)
    letters = Lettering(size)
    for place, line in enumerate(shown):
        x, y = room.left + (place // half) * (column + PAD), room.top + (place % half) * STEP
        paper.text(x, y, letters.cut(line, column), size, FAINT if line.startswith("…") else INK)
