"""What a prompt says of lengths: 'a plate 40 x 20 x 10 mm with four 6 mm holes, 3 mm thick walls'.

No understanding of sentences, only what mechanical English needs: numbers with units, the words beside them, and which noun
they belong to. A noun before the first 'with' is the part; a later one is a hole or something else of the part.

Numbers without a unit count as millimetres in a clear form alone: '40x20x10', '40x20' (from ten on: '2x3' is a pattern), 'Ø20',
'M6', 'R5', 'diameter 20', 'length of 40', '40 long,'; from 1 on, and not as '3 units', as captions in a normalised frame have
them. Counts ('four holes', '4x M6', 'a 3 x 2 grid'), 'part 1', angles, ranges ('10 to 20 mm') and tolerances are no dimensions.
'in' is an inch unless an article, a count or 'row' follows. See `lengths` for the rest.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Literal

from cadmllm.infer.lengths import GREATEST, SMALLEST, Size, parse_size
from cadmllm.infer.lexing import Item, read_items

__all__ = ["Dimension", "Size", "dimensions_in", "parse_size"]

Kind = Literal[
    "side", "length", "width", "height", "thickness", "depth", "diameter", "radius", "across", "thread", "distance", "size"
]
Owner = Literal["part", "hole", "unknown"]


@dataclass(frozen=True, slots=True)
class Dimension:
    """A length that a prompt states.

    Attributes:
        kind: 'side' one of a box ('40 x 20 mm', '50 mm cube': as many as there are, in order, with the same words); 'across'
            flats or corners; 'thread' the nominal diameter of M6; 'distance' between things (pitch, bolt circle, from an edge);
            'size' where no word says what ('a 20 mm bracket'); the others as named.
        mm: its length.
        of: 'part' the whole; 'hole'; 'unknown' something else of the part (a boss, a slot), or not said.
        words: what it was read from.
        start: where these begin in the prompt, characters.
    """

    kind: Kind
    mm: float
    of: Owner
    words: str
    start: int

    @property
    def end(self) -> int:
        """Where its words end: `prompt[start:end] == words`."""
        return self.start + len(self.words)


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_KINDS: dict[str, Kind] = {
    **dict.fromkeys(("length", "long", "lengthwise", "lengths"), "length"),
    **dict.fromkeys(("width", "wide", "breadth", "broad", "widths"), "width"),
    **dict.fromkeys(("height", "high", "tall", "heights"), "height"),
    **dict.fromkeys(("thickness", "thick"), "thickness"),
    **dict.fromkeys(("depth", "deep"), "depth"),
    **dict.fromkeys(("diameter", "diameters", "diametre", "dia", "diam", "od", "id"), "diameter"),
    **dict.fromkeys(("radius", "radii"), "radius"),
    **dict.fromkeys(("side", "sides", "sided", "edge", "edges", "square"), "side"),
    **dict.fromkeys(("across-flats", "across-corners", "af"), "across"),
    **dict.fromkeys(
        [
            "apart",
            "spacing",
            "spaced",
            "pitch",
            "away",
            "offset",
            "distance",
            "pcd",
            "inset",
            "gap",
            "clearance",
            "above",
            "below",
            "beyond",
        ],
        "distance",
    ),
}
_ADJECTIVES = _words("long wide broad high tall thick deep")
_HOLES = _words(
    "hole holes bore bores borehole boreholes counterbore counterbores countersink countersinks drilling drillings "
    "through-hole through-holes pilot-hole tapped threaded"
)
_PART = _words("part body overall total whole base model object entire itself bounding")
_SIDED: dict[str, Owner] = {
    **dict.fromkeys(("id", "inner", "inside", "internal", "interior"), "hole"),
    **dict.fromkeys(("od", "outer", "outside", "external", "exterior"), "part"),
}
_ROUND = _words(
    "disc disk discs cylinder rod pipe tube ball sphere washer pin shaft ring dowel boss hub cone collar bush bushing "
    "circle circular round cylindrical tubular spool roller wheel knob"
)
_NUMBERED = _words("part step line loop face figure fig sketch arc circle section layer no number version")
_SCREWS = _words("bolt screw stud rod spindle thread grub set-screw setscrew fastener")
_FRESH = _words("with has have having featuring includes including contains containing plus and")
_PLACES = _words(
    "in on at through into near around along across from between under over per for by onto upon within above below beyond"
)
_EMPTY = _words(
    "a an the of is are be it its this that these those which to or as all about approximately approx around roughly "
    "exactly equal equals measuring measures measure also about be was were one two three four five six seven eight nine ten "
    "eleven twelve only just some any same single double down up x"
)
_LINKS = _words("of is are be about approximately approx around roughly exactly equal equals to a an the measures measuring")
_GRID = re.compile(r"\s*(?i:grid|array|pattern|matrix|rows?|columns?|arrangement|holes?|bores?|fins?|ribs?|teeth|slots?)\b")


def dimensions_in(prompt: str, unit: str = "mm") -> tuple[Dimension, ...]:
    """The dimensions that a prompt states, in their order. Any text is allowed.

    Args:
        prompt: what a person wrote.
        unit: of numbers that have none, a key of `lengths.MM`.
    """
    items = list(read_items(prompt, unit))
    reader = _Reader(items, prompt)
    found = [dimension for place in range(len(items)) for dimension in reader.step(place)]
    return tuple(dimension for dimension in found if SMALLEST <= dimension.mm <= GREATEST)


class _Reader:
    """Goes through the items and knows whose lengths are being told."""

    def __init__(self, items: Sequence[Item], prompt: str) -> None:
        self.items, self.prompt = items, prompt
        self.owner: Owner = "part"
        self.named = False  # whether the part's noun has been read
        self.head = ""  # that noun
        self.fresh = True  # whether the next noun is a new one
        self.aside = False  # within 'in the center', 'at the corners'
        self.before: Owner | None = None  # the owner to go back to after 'inner diameter 10 mm'
        self.own: set[str] = set()  # words of the part's own noun phrase
        self.told = False  # whether a length has been read
        self.definite = False  # after 'the', a noun that was read already may come again

    def step(self, place: int) -> Iterator[Dimension]:
        item = self.items[place]
        if item.what == "stop":
            self.owner, self.fresh, self.aside = "part", True, False
            self.named = self.named or bool(self.own)
        elif item.what == "comma":
            self.fresh, self.aside = True, False
        elif item.what == "word":
            self._word(item.text, self._text(place + 1))
        else:
            yield from self._measure(place)

    def _text(self, place: int) -> str:
        return self.items[place].text if 0 <= place < len(self.items) else ""

    def _word(self, word: str, after: str) -> None:
        if word in ("a", "an", "the", "this"):
            self.definite = word in ("the", "this")
        if word == "each":
            self.owner = "unknown" if self.owner == "part" else self.owner
        elif word in _FRESH:
            self.fresh, self.aside = True, False
            self.named = self.named or bool(self.own)
        elif word in _PLACES and after not in _HOLES and after not in _KINDS:
            self.aside = True
        elif (word not in _KINDS or word in _SIDED) and word not in _EMPTY and (not self.aside or not self.named):
            self._noun(word)

    def _noun(self, word: str) -> None:
        if word in _SIDED:
            if self.owner != _SIDED[word]:  # 'inner diameter 10 mm, 30 mm long': for one length
                self.before, self.owner = self.owner, _SIDED[word]
        elif word in _HOLES:
            self.owner, self.before = "hole", None
        elif word in _PART or (self.named and self.definite and word == self.head):
            self.owner = "part"
        elif not self.named and (self.owner != "hole" or self.aside):
            self.owner, self.head = "part", word
            self.own.add(word)
        elif self.fresh:
            self.owner = "unknown"
        self.fresh = False

    def _measure(self, place: int) -> Iterator[Dimension]:
        item, behind = self.items[place], self._behind(place)
        sayer = self._sayer_before(place)
        if sayer is None or _KINDS[sayer.text] == "side":
            claims = next((word for word in behind[:3] if word.text in _KINDS), None)
            sayer = claims or sayer
        kind = _KINDS[sayer.text] if sayer else None
        if not item.unit and not item.mark and not self._clear(place, sayer):
            return
        if self._text(place - 1) in _NUMBERED and item.text.endswith((" in", *"0123456789")) and not item.mark:
            return
        if sayer is not None:
            sayer.claimed = True
            if sayer.start < item.start:  # 'length 40 mm width 20 mm': the second word belongs to the next number
                behind = list(takewhile(lambda word: word.text not in _KINDS and word.text not in _SIDED, behind))
        nouns = [word.text for word in behind if (word.text not in _KINDS or word.text in _SIDED) and word.text not in _EMPTY]
        nearby = self.aside and self.named  # 'on a 14 mm base'
        if nouns and not self._is_apart(place, behind):
            self.fresh = self.fresh or self.owner == "hole" or (self.aside and self.named)
            self.aside = False
            for noun in nouns:
                self._noun(noun)
        if self.owner == "part" and ((nearby and nouns) or self._text(place + 1) == "each"):
            self.owner = "unknown"
        if len(item.mm) == 3 and not self.told and not nouns:
            self.owner = "part"  # 'a plate with rounded corners measuring 92 by 54 by 3 mm', 'a plate with holes, 92 x 54 x 3 mm'
        if kind == "thickness" and self.owner == "hole":
            self.owner = "part"
        if item.mark == "thread" and self.owner == "part" and not _SCREWS & (self.own | set(nouns)):
            self.owner, self.before = "hole", "part"
        if self._is_apart(place, behind):
            kind = "distance"
        self.told, self.fresh = True, False
        start = min(item.start, sayer.start) if sayer else item.start
        words = self.prompt[start : max(item.end, sayer.end if sayer else 0)]
        square = any(word.text == "square" for word in behind)
        for one, mm in self._kinds(item, kind, {*nouns, "square"} if square else set(nouns)):
            yield Dimension(one, mm, self.owner, words, start)
        if self.before is not None:
            self.owner, self.before = self.before, None

    def _kinds(self, item: Item, kind: Kind | None, nouns: set[str]) -> Iterator[tuple[Kind, float]]:
        """A kind for each number of a measure; a cube says one for three sides."""
        mm = item.mm
        if item.mark == "round":
            yield from zip(("diameter", "depth" if self.owner == "hole" else "height", "size"), mm, strict=False)
        elif item.mark == "radius":
            if self.named and self.owner == "part":
                self.owner = "unknown"  # of a corner, as a part's own radius is spelled out
            yield from (("radius", mm[0]), *(("size", value) for value in mm[1:]))
        elif item.mark == "thread":
            yield "thread", mm[0]
        elif item.what == "box":
            yield from (("distance" if kind == "distance" else "side", value) for value in mm)
        elif self.owner == "part" and {"cube", "cubic", "cubical"} & (self.own | nouns) and kind in (None, "side", "length"):
            yield from (("side", mm[0]) for _ in range(3))
        elif "square" in nouns and kind in (None, "side"):
            yield from (("side", mm[0]) for _ in range(2))
        elif kind is None and (self.owner == "hole" or nouns & _ROUND):
            yield "diameter", mm[0]
        else:
            yield kind or "size", mm[0]

    def _sayer_before(self, place: int) -> Item | None:
        """The word 'diameter' of 'diameter of', 'diameter:', 'diameter ='; one that another measure has claimed is not seen."""
        for item in reversed(self.items[max(0, place - 5) : place]):
            if item.what != "word":
                return None
            if item.text in _KINDS:
                # nouns alone stand before their number ('a thick 20 mm plate' tells no thickness)
                return None if item.claimed or item.text in _ADJECTIVES or item.text == "square" else item
            if item.text not in _LINKS:
                return None
        return None

    def _behind(self, place: int) -> list[Item]:
        """The words that follow, up to the next measure, stop, 'with' or place; those of 'in diameter' belong to them."""
        found: list[Item] = []
        for k in range(place + 1, min(len(self.items), place + 9)):
            item = self.items[k]
            if item.what != "word" or item.text in _FRESH or item.text in ("of", "is", "are", "to", "x"):
                break
            if item.text in _PLACES and item.text not in _KINDS:
                if self._text(k + 1) in _KINDS or self._text(k + 1) in _HOLES:
                    continue
                break
            found.append(item)
        return found

    def _clear(self, place: int, sayer: Item | None) -> bool:
        """Whether a number without a unit is a length all the same."""
        item, gap = self.items[place], self._text(place + 1)
        if gap in ("unit", "units") or min(item.mm) < 1.0:
            return False
        if item.what == "box":
            return not _GRID.match(gap) and (len(item.mm) == 3 or min(item.mm) >= 10.0)
        if sayer is None or _KINDS[sayer.text] in ("side", "distance"):
            return False
        if sayer.start < item.start:
            return not gap.startswith(("deg", "percent"))
        if self.items[place + 1] is not sayer or sayer.text not in _ADJECTIVES or self.prompt[item.end : sayer.start].strip():
            return False
        beyond = self.items[place + 2] if place + 2 < len(self.items) else None  # '4 long ribs' counts ribs
        return beyond is None or beyond.what != "word" or beyond.text in _FRESH | {"by", "x"}

    def _is_apart(self, place: int, behind: Sequence[Item]) -> bool:
        words = [word.text for word in behind]
        if {"bolt", "bolt-circle", "pitch-circle"} & set(words[:2]) and "circle" in "".join(words[:2]):
            return True
        if words == ["circle"] and self.named:
            return True
        return self._text(place - 1) == "from" or (not words and self._text(place + 1) in ("from", "between"))
