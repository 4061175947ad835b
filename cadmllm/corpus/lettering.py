"""Text in pictures: measured, wrapped, cut to its place, in any script.

Pillow's own typeface looks the same on every machine but has 111 characters. Accented letters are stacked from its glyphs;
what is left comes from the first installed font that has it, else it is drawn as a small box with the code point in it, so that
nothing of a caption vanishes unseen.
"""

from __future__ import annotations

import functools
import os
import unicodedata
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

FONT_FOLDERS = (
    Path("/usr/share/fonts"),
    Path("/usr/local/share/fonts"),
    Path("~/.local/share/fonts").expanduser(),
    Path("/mnt/c/Windows/Fonts"),
)
FONT_FILES = (  # asked in this order
    *("DejaVuSans.ttf", "NotoSans-Regular.ttf", "LiberationSans-Regular.ttf", "segoeui.ttf", "arial.ttf"),
    *("NotoSansCJK-Regular.ttc", "NotoSansCJKsc-Regular.otf", "wqy-microhei.ttc", "wqy-zenhei.ttc", "DroidSansFallbackFull.ttf"),
    *("msyh.ttc", "YuGothR.ttc", "msgothic.ttc", "malgun.ttf"),
    *("NotoSansArabic-Regular.ttf", "NotoSansHebrew-Regular.ttf", "NotoSansDevanagari-Regular.ttf", "NotoSansThai-Regular.ttf"),
    *("NotoSansSymbols-Regular.ttf", "NotoSansSymbols2-Regular.ttf", "seguisym.ttf"),
)
ELLIPSIS = "…"
LINE = 1.42  # line height over size
_SAME = str.maketrans("\u00d7\u2212\u2010\u2011\u2013\u2014\u2192\u2300\u00a0\u202f\t", "x-----\u203a\u00d8   ")
_OVERLAID = {"Ø": ("O", "/"), "ø": ("o", "/"), "≠": ("=", "/")}
_MARKS = {  # combining mark -> the glyph that stands for it, and whether it stands above
    "\u0300": ("`", True),
    "\u0301": ("´", True),
    "\u0302": ("^", True),
    "\u0303": ("~", True),
    "\u0304": ("-", True),
    "\u0307": (".", True),
    "\u0308": ("..", True),
    "\u030a": ("°", True),
    "\u030b": ("´", True),
    "\u030c": ("^", True),
    "\u0327": (",", False),
    "\u0328": (",", False),
}
_SPELT = {"ß": "ss", "æ": "ae", "œ": "oe", "Æ": "AE", "Œ": "OE", "≤": "<=", "≥": ">=", "≈": "~", "½": "1/2", "¼": "1/4"}
_RAISED = {"²": "2", "³": "3", "¹": "1"}


class Piece(NamedTuple):
    """Characters that are drawn in one way: 'own', 'stack', 'raised', 'font' (of the file `font`) or 'box'."""

    kind: str
    text: str
    font: str = ""


class Lettering:
    """One size and weight.

    Args:
        size: em height, px, >= 6.
        bold: thicker strokes of the same glyphs.
    """

    def __init__(self, size: int, bold: bool = False) -> None:
        self.size = size
        self.bold = bold
        self.height = round(size * LINE)
        self._own = _own_font(size)
        self._stroke = size / 42.0 if bold else 0.0

    def width(self, text: str) -> float:
        """Width of one line, px."""
        return sum(self._advance(piece) for piece in pieces(text))

    def draw(self, draw: ImageDraw.ImageDraw, x: float, y: float, text: str, fill: str, align: str = "left") -> None:
        """Draw one line whose top is at `y`.

        Args:
            draw: of the picture.
            x, y: px; `x` is the left end, the right end or the middle, as `align` says.
            text: anything; line breaks are drawn as blanks.
            fill: a colour.
            align: 'left', 'right' or 'center'.
        """
        parts = pieces(text)
        if align != "left":
            x -= sum(map(self._advance, parts)) * (1.0 if align == "right" else 0.5)
        baseline = y + round((self.height - self.size) / 2.0 + self.size * 0.8)
        for piece in parts:
            self._draw_piece(draw, x, baseline, piece, fill)
            x += self._advance(piece)

    def cut(self, text: str, width: float) -> str:
        """As much of the text as fits into `width`, with an ellipsis where it was cut."""
        if self.width(text) <= width:
            return text
        low, high = 0, len(text)
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.width(text[:middle].rstrip() + ELLIPSIS) <= width else (low, middle - 1)
        return text[:low].rstrip() + ELLIPSIS

    def wrap(self, text: str, width: float, lines: int) -> tuple[list[str], int]:
        """The text in lines of at most `width` px, at most `lines` of them.

        Returns:
            (lines, number of characters that are left over).
        """
        words = text.split()
        out: list[str] = []
        line = ""
        used = 0
        while words:
            word = words.pop(0)
            longer = f"{line} {word}" if line else word
            if self.width(longer) <= width:
                line = longer
                continue
            if not line:  # a word wider than a line, or a script without blanks
                kept = len(self.cut(word, width).rstrip(ELLIPSIS)) or 1
                line, rest = word[:kept], word[kept:]
                words[:0] = [rest] if rest else []
            else:
                words.insert(0, word)
            out.append(line)
            used += len(line)
            line = ""
            if len(out) == lines:
                return out, len(" ".join(words))
        return [*out, line] if line else out, 0

    def _advance(self, piece: Piece) -> float:
        if piece.kind == "own":
            return self._own.getlength(piece.text)
        if piece.kind == "stack":
            return self._own.getlength(_parts(piece.text)[0])
        if piece.kind == "raised":
            return _own_font(self._small).getlength(piece.text)
        if piece.kind == "font":
            return _file_font(piece.font, self.size).getlength(piece.text)
        return _own_font(self._small).getlength(piece.text) + 6

    @property
    def _small(self) -> int:
        return max(6, round(self.size * 0.62))

    def _draw_piece(self, draw: ImageDraw.ImageDraw, x: float, base: float, piece: Piece, fill: str) -> None:
        if piece.kind == "own":
            draw.text((x, base), piece.text, fill, self._own, "ls", stroke_width=self._stroke)
        elif piece.kind == "stack":
            self._draw_stack(draw, x, base, piece.text, fill)
        elif piece.kind == "raised":
            draw.text((x, base - self.size * 0.36), piece.text, fill, _own_font(self._small), "ls", stroke_width=self._stroke)
        elif piece.kind == "font":
            draw.text((x, base), piece.text, fill, _file_font(piece.font, self.size), "ls", stroke_width=self._stroke)
        else:
            width = self._advance(piece)
            draw.rectangle((x + 1, base - self.size * 0.72, x + width - 2, base + self.size * 0.12), outline=fill)
            draw.text((x + width / 2, base - self.size * 0.3), piece.text, fill, _own_font(self._small), "mm")

    def _draw_stack(self, draw: ImageDraw.ImageDraw, x: float, base: float, text: str, fill: str) -> None:
        below, glyph, where = _parts(text)
        font = _own_font(self._small) if glyph == "^" else self._own
        draw.text((x, base), below, fill, self._own, "ls", stroke_width=self._stroke)
        left, top, right, bottom = _ink(self._own, below)
        mark = _ink(font, glyph)
        middle = x + (left + right) / 2.0 - (mark[0] + mark[2]) / 2.0
        gap = max(1.0, self.size * 0.07)
        rise = {"above": top - gap - mark[3], "below": bottom - mark[1] - gap, "over": (top + bottom - mark[1] - mark[3]) / 2.0}
        draw.text((middle, base + rise[where]), glyph, fill, font, "ls", stroke_width=self._stroke)


def pieces(text: str) -> list[Piece]:
    """The text cut into pieces that are drawn in one way each, in order."""
    out: list[Piece] = []
    for char in unicodedata.normalize("NFC", text.replace("\r\n", " ").replace("\n", " ")).translate(_SAME):
        piece = _piece(char)
        if piece is None:
            continue
        if out and piece.kind in ("own", "font") and (out[-1].kind, out[-1].font) == (piece.kind, piece.font):
            piece = Piece(piece.kind, out.pop().text + piece.text, piece.font)
        out.append(piece)
    return out


@functools.lru_cache(maxsize=4096)
def _piece(char: str) -> Piece | None:
    """How one character is drawn; None for what has no width of its own (joiners, variation selectors)."""
    if _has(_own_font(16), char):
        return Piece("own", char)
    if char in _RAISED:
        return Piece("raised", _RAISED[char])
    if _parts(char)[0]:
        return Piece("stack", char)
    if unicodedata.category(char) in ("Cf", "Mn", "Me"):
        return None
    for path in installed():
        if _has(_file_font(path, 16), char):
            return Piece("font", char, path)
    if char in _SPELT:
        return Piece("own", _SPELT[char])
    return Piece("box", f"{ord(char):04X}")


@functools.lru_cache(maxsize=4096)
def _parts(char: str) -> tuple[str, str, str]:
    """(glyph, glyph on it, 'above' | 'below' | 'over') of a letter that can be stacked from the own font, else three times ''."""
    if char in _OVERLAID:
        return (*_OVERLAID[char], "over")
    base, mark = (*unicodedata.normalize("NFD", char), "", "")[:2]
    if len(unicodedata.normalize("NFD", char)) == 2 and mark in _MARKS and _has(_own_font(16), base):
        glyph, above = _MARKS[mark]
        return base, glyph, "above" if above else "below"
    return "", "", ""


def installed() -> tuple[str, ...]:
    """Paths of the fonts of `FONT_FILES` that this machine has, in that order."""
    return _installed(FONT_FOLDERS)


@functools.lru_cache(maxsize=4)
def _installed(folders: tuple[Path, ...]) -> tuple[str, ...]:
    found: dict[str, str] = {}
    for top in folders:
        for folder, _, names in os.walk(top):
            for name in names:
                if name in FONT_FILES and _loads(os.path.join(folder, name)):
                    found.setdefault(name, os.path.join(folder, name))
    return tuple(found[name] for name in FONT_FILES if name in found)


def _loads(path: str) -> bool:
    try:
        _file_font(path, 16)
    except OSError:
        return False
    return True


@functools.lru_cache(maxsize=32)
def _own_font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont), "Pillow was built without FreeType"
    return font


@functools.lru_cache(maxsize=64)
def _file_font(path: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.FreeTypeFont(path, size)  # `truetype` would look for a font of the same name elsewhere


def _has(font: ImageFont.FreeTypeFont, char: str) -> bool:
    """Whether the font has a glyph of its own for a character: what it lacks, it draws as it draws a noncharacter."""
    if unicodedata.category(char) in ("Cc", "Cs", "Cn"):
        return False
    return char == " " or _mask(font, char) != _mask(font, "\U0010fffe")


def _ink(font: ImageFont.FreeTypeFont, text: str) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of what is black, from the left end of the baseline."""
    box = font.getmask(text).getbbox() or (0, 0, 0, 0)
    left, top = font.getbbox(text, anchor="ls")[:2]
    return left + box[0], top + box[1], left + box[2], top + box[3]


def _mask(font: ImageFont.FreeTypeFont, char: str) -> bytes:
    paper = Image.new("L", (40, 40))
    ImageDraw.Draw(paper).text((10, 28), char, 255, font, "ls")
    return paper.tobytes()
