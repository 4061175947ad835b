"""A page to draw on: panels with titles, pictures in them, places that say why they are empty."""

from __future__ import annotations

from io import BytesIO
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from cadmllm.corpus.lettering import Lettering

WIDTH = 1600  # px
MARGIN, GAP, PAD = 32, 24, 16
GROUND, PANEL, LINE, SHADE = "#f3f5f8", "#ffffff", "#d8dee7", "#eef1f5"
INK, MUTED, FAINT = "#1b2431", "#627083", "#98a3b3"
BLUE, GREEN, AMBER, RED = "#2a5f9e", "#2c7a4b", "#a86a10", "#b3261e"
ORANGE, VIOLET = "#b4560f", "#6a4c9c"  # with blue and green: kinds of things; red is kept for what is wrong
PALE = {BLUE: "#e6eef8", GREEN: "#e5f3ea", AMBER: "#fbf0dd", RED: "#fdeceb", MUTED: SHADE}
TITLE_HEIGHT = 44


class Box(NamedTuple):
    """A rectangle, px: the right and bottom edges lie outside."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def width(self) -> int:
        """Across."""
        return self.right - self.left

    @property
    def height(self) -> int:
        """Down."""
        return self.bottom - self.top

    def holds(self, other: Box) -> bool:
        """Whether another one lies inside, edges included."""
        across = self.left <= other.left and other.right <= self.right
        return across and self.top <= other.top and other.bottom <= self.bottom

    def inset(self, by: int) -> Box:
        """Smaller by so much on every side."""
        return Box(self.left + by, self.top + by, self.right - by, self.bottom - by)


TITLE, TEXT, SMALL, TINY = 17, 15, 14, 13  # px, sizes of letters


class Paper:
    """A page `WIDTH` wide.

    Args:
        height: px.
    """

    def __init__(self, height: int) -> None:
        self.image = Image.new("RGB", (WIDTH, height), GROUND)
        self.pen = ImageDraw.Draw(self.image)
        self.written: list[tuple[str, Box]] = []  # every line of text and where it stands: what a test looks at

    def text(
        self, x: float, y: float, text: str, size: int = TEXT, fill: str = INK, *, bold: bool = False, align: str = "left"
    ) -> float:
        """One line whose top is at `y`. Returns its width."""
        letters = Lettering(size, bold)
        width = letters.width(text)
        left = x - (width if align == "right" else width / 2.0 if align == "center" else 0.0)
        letters.draw(self.pen, left, y, text, fill)
        self.written.append((text, Box(round(left), round(y), round(left + width), round(y) + letters.height)))
        return width

    def panel(self, box: Box, title: str, note: str = "", fill: str = PANEL, edge: str = LINE) -> Box:
        """A panel with its title on the left and a note on the right of its first line. Returns the room inside."""
        self.pen.rounded_rectangle((box.left, box.top, box.right - 1, box.bottom - 1), 8, fill, edge)
        width = self.text(box.left + PAD, box.top + 11, title, TITLE, INK, bold=True)
        room = box.width - 2 * PAD - width - 16
        if note and room > 40:
            letters = Lettering(TINY)
            self.text(box.right - PAD, box.top + 14, letters.cut(note, room), TINY, MUTED, align="right")
        return Box(box.left + PAD, box.top + TITLE_HEIGHT, box.right - PAD, box.bottom - PAD)

    def badge(self, x: float, y: float, text: str, colour: str) -> float:
        """A word on a coloured ground. Returns the x behind it."""
        width = Lettering(SMALL, True).width(text)
        self.pen.rounded_rectangle((x, y, x + width + 20, y + 26), 13, PALE[colour], colour)
        self.text(x + 10, y + 3, text, SMALL, colour, bold=True)
        return x + width + 28

    def picture(self, box: Box, pixels: np.ndarray) -> None:
        """A picture [H, W, 3] uint8 RGB in the middle of a box: whole, never enlarged, its shape kept."""
        picture = Image.fromarray(pixels)
        share = min(1.0, box.width / picture.width, box.height / picture.height)
        if share < 1.0:
            size = max(1, round(picture.width * share)), max(1, round(picture.height * share))
            picture = picture.resize(size, Image.Resampling.LANCZOS)
        self.image.paste(picture, (box.left + (box.width - picture.width) // 2, box.top + (box.height - picture.height) // 2))

    def empty(self, box: Box, what: str, why: str = "", *, broken: bool = False) -> None:
        """A place without content that says what is missing and why; red where something is broken."""
        colour = RED if broken else MUTED
        self.pen.rounded_rectangle((box.left, box.top, box.right - 1, box.bottom - 1), 6, PALE[colour], LINE)
        small = box.width < 320
        head, body = Lettering(TINY if small else TITLE, True), Lettering(TINY if small else TEXT)
        lines, left = body.wrap(why, box.width - 24, max(1, (box.height - head.height - 24) // body.height))
        if left:
            lines[-1] = body.cut(lines[-1] + " …", box.width - 24)
        y = box.top + (box.height - head.height - body.height * len(lines) - 4) / 2.0
        middle = (box.left + box.right) / 2.0
        self.text(middle, y, head.cut(what, box.width - 16), head.size, colour, bold=True, align="center")
        for number, line in enumerate(lines):
            self.text(
                middle, y + head.height + 4 + number * body.height, line, body.size, INK if broken else MUTED, align="center"
            )

    def part(self, box: Box) -> bytes:
        """A part of the page as a PNG file."""
        buffer = BytesIO()
        self.image.crop(box).save(buffer, "PNG", optimize=True)
        return buffer.getvalue()

    def png(self) -> bytes:
        """The page as a PNG file of few colours where that changes little, the same bytes for the same page."""
        buffer = BytesIO()
        self.image.save(buffer, "PNG", optimize=True)
        return buffer.getvalue()
