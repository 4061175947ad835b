"""The pictures of a sheet: views, the built part, the cloud from two sides."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cadmllm.cad.dots import render_points
from cadmllm.cad.render import VIEWS as DIRECTIONS
from cadmllm.cad.render import axes_of, render, render_views
from cadmllm.corpus.exhibit import VIEWS, Exhibit, View
from cadmllm.corpus.paper import BLUE, GAP, MARGIN, MUTED, PAD, TINY, WIDTH, Box, Paper

if TYPE_CHECKING:
    from cadmllm.corpus.points import RawCloud

CELL = 240  # px, side of a view
THIRD = (WIDTH - 2 * MARGIN - 2 * GAP) // 3  # a panel over a third of the page
SQUARE = THIRD - 2 * PAD  # side of the large pictures
SEEN_FROM = (0, 6)  # directions of the large pictures: from the front above, and from behind below
AXIS_COLOURS = ("#c0392b", "#2c8a4b", "#2a5f9e")  # x, y, z


def draw_views(paper: Paper, box: Box, exhibit: Exhibit) -> None:
    files = len(exhibit.paths.get("views", []))
    shown = f", the first {VIEWS} are shown" if files > VIEWS else ""
    views, title, note = exhibit.views, "Views", f"{files} file{'s' if files != 1 else ''} in img/{shown}"
    drawn = not views and exhibit.mesh is not None
    if drawn and exhibit.mesh is not None:
        views = [View(k, pixels) for k, pixels in enumerate(render_views(exhibit.mesh))]
        title, note = "Views drawn from the program", "img/ has none of this id: these were drawn now and are not in the data set"
    room = paper.panel(box, title, note if views else "")
    if not views:
        paper.empty(room, "No views", f"{exhibit.views_why} They cannot be drawn either: {exhibit.build_why}")
        return
    for place in range(VIEWS):
        left, top = room.left + (place % 4) * (CELL + 8), room.top + (place // 4) * (CELL + 8)
        cell = Box(left, top, left + CELL, top + CELL)
        if place >= len(views):
            paper.empty(cell, "no view")
            continue
        view = views[place]
        if view.pixels is None:
            paper.empty(cell, f"view {view.number:03d}", exhibit.short(view.why), broken=True)
            continue
        paper.pen.rectangle((cell.left, cell.top, cell.right - 1, cell.bottom - 1), "#ffffff", "#e3e8ef")
        paper.picture(cell.inset(1), view.pixels)
        paper.text(cell.left + 7, cell.top + 4, f"{view.number:03d}", TINY, BLUE if drawn else MUTED)


def draw_part(paper: Paper, box: Box, exhibit: Exhibit) -> None:
    note = "by the kernel" if exhibit.mesh is not None else ""
    room = paper.panel(box, "Built from the program", note)
    if exhibit.mesh is None:
        paper.empty(room, "No solid", exhibit.short(exhibit.build_why), broken=bool(exhibit.paths.get("program")))
        return
    paper.picture(room, render(exhibit.mesh, SEEN_FROM[0], SQUARE))
    _triad(paper, room, SEEN_FROM[0])


def draw_no_cloud(paper: Paper, box: Box, exhibit: Exhibit) -> None:
    room = paper.panel(box, "Point cloud")
    why = f"{exhibit.short(exhibit.cloud_why).rstrip('.')}. To make one: cadmllm data prepare ROOT --points"
    paper.empty(room, "No point cloud", why, broken="cloud" in exhibit.paths)


def draw_cloud(paper: Paper, box: Box, cloud: RawCloud, view: int, title: str) -> None:
    room = paper.panel(box, title, "coloured by normal" if cloud.normals is not None else "coloured by depth: no normals")
    paper.picture(room, render_points(cloud.points, cloud.normals, view, SQUARE))
    _triad(paper, room, view)
    size = cloud.points.max(axis=0) - cloud.points.min(axis=0)
    paper.text(room.right, room.bottom - 20, f"box {size[0]:.3g} x {size[1]:.3g} x {size[2]:.3g}", TINY, MUTED, align="right")


def _triad(paper: Paper, room: Box, view: int) -> None:
    """The axes of space in the lower left corner of a picture."""
    axes = axes_of(DIRECTIONS[view])
    x, y = room.left + 30, room.bottom - 26
    for k in np.argsort(axes[2]):  # those that point away first
        right, up = axes[0, k] * 30.0, axes[1, k] * 30.0
        paper.pen.line((x, y, x + right, y - up), AXIS_COLOURS[k], 2)
        tip = (x + right * 1.3, y - up * 1.3 - 9)
        paper.text(*tip, "XYZ"[k], TINY, AXIS_COLOURS[k], bold=True, align="center")
