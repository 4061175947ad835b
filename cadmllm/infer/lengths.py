"""Lengths as people write them, and `--size`: '40x20x10mm', '40 x ? x 10 mm', '1 1/2 in', '12,5 cm', '2\"'.

Rules, which are those of prompts, too:
* Units: mm, cm, dm, m, um, inch (in, "), foot (ft, ') and their names. A number without one takes that of the next number to
  the right that has one, else that of the one to the left, else the default.
* A dot is the decimal point. A comma is one, too, unless exactly three digits follow: '1,000' is a thousand to some and one to
  others, so that a size refuses it; in a prompt it is a thousand, as English has it. '0,125' can only be an eighth.
* Fractions: '1/2 in', '1 1/2 in', '1-1/2 in', '½ in'.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from cadmllm.errors import CadmllmError

MM = {"mm": 1.0, "cm": 10.0, "dm": 100.0, "m": 1000.0, "um": 1e-3, "in": 25.4, "ft": 304.8}  # of one unit
SMALLEST, GREATEST = 1e-4, 1e7  # mm
REMEDY = "write it as --size 40x20x10mm (x, y, z), --size 40x?x10mm (one side free) or --size 100mm (the longest side)"
LONGEST = 80  # characters of a size

_S = r"[ \t\u00a0\u202f]{0,3}"
_VULGAR = {"½": 1 / 2, "¼": 1 / 4, "¾": 3 / 4, "⅛": 1 / 8, "⅜": 3 / 8, "⅝": 5 / 8, "⅞": 7 / 8, "⅓": 1 / 3, "⅔": 2 / 3}
NUMBER = (
    rf"(?:[0-9]{{1,9}}(?:{_S}[½¼¾⅛⅜⅝⅞⅓⅔]|(?:[ ]|-)[0-9]{{1,3}}{_S}/{_S}[0-9]{{1,3}}(?![0-9])|/[0-9]{{1,3}}(?![0-9/]))"
    r"|[½¼¾⅛⅜⅝⅞⅓⅔]"
    r"|[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]{1,12})?(?![0-9,])"
    r"|(?:[0-9]{1,12}(?:[.,][0-9]{1,17})?|\.[0-9]{1,17})(?:[eE][+-]?[0-9]{1,2})?)"
)
_END = r"(?:(?=[xX][ ]?[0-9?.½¼¾])|(?![A-Za-z²³]))"  # '40mmx20mm' ends a unit, '40mmy' does not
UNIT = (
    r"(?:in\.(?=[ ]?[a-z0-9×])"
    r"|(?i:millimet(?:er|re)s?|mms?|centimet(?:er|re)s?|cms?|decimet(?:er|re)s?|dm|micromet(?:er|re)s?|microns?|inch(?:es)?"
    rf"|feet|foot|ft|met(?:er|re)s?|um|µm|μm|in){_END}|m{_END}|''|[\"″”]|['′’]{_END})"
)
TIMES = rf"{_S}(?:[xX×*✕]|\bby\b){_S}"
_LENGTH = re.compile(rf"({NUMBER}|\?)(?:{_S}-?{_S}({UNIT}))?")
_FRACTION = re.compile(rf"(?:([0-9]+)[ -])?([0-9]+){_S}/{_S}([0-9]+)")
_THOUSANDS = re.compile(r"[1-9][0-9]{0,2}(?:,[0-9]{3})+(?:\.[0-9]+)?")
_AMBIGUOUS = re.compile(r"[1-9][0-9]{0,2},[0-9]{3}")


@dataclass(frozen=True, slots=True)
class Size:
    """The sides that are wanted.

    Attributes:
        sides: mm, one to three; None where a side is free. Three belong to x, y, z; a single one is the longest side of the part.
        text: as it was written.
    """

    sides: tuple[float | None, ...]
    text: str = ""

    @property
    def known(self) -> tuple[float, ...]:
        """The sides that are given, mm."""
        return tuple(side for side in self.sides if side is not None)


def parse_size(text: str, unit: str = "mm") -> Size:
    """The sides that a size names.

    Args:
        text: '40x20x10mm', '40 x 20 mm', '40x?x10', '100mm', '2in'; between sides stand x, X, *, × or 'by'.
        unit: of numbers where none is written, a key of `MM`.

    Raises:
        CadmllmError: E705 with what was found: no such form, more than three sides, none that is known, a comma that may be
            either, a side outside 1e-4..1e7 mm.
    """
    if not isinstance(text, str) or len(text) > LONGEST:
        raise _refused(str(text)[:40] + "...", f"more than {LONGEST} characters")
    rest, numbers, units = text.strip(), [], []
    while True:
        found = _LENGTH.match(rest)
        if found is None:
            raise _refused(text, f"{rest[:20]!r} is no length" if rest else "a side is missing")
        if _AMBIGUOUS.fullmatch(found[1]):
            digits = found[1].replace(",", "")
            raise _refused(text, f"{found[1]} may be {digits} or {found[1].replace(',', '.')}")
        numbers.append(None if found[1] == "?" else value_of(found[1]))
        units.append(unit_of(found[2]))
        rest = rest[found.end() :]
        if not rest:
            break
        between = re.match(TIMES, rest)
        if between is None:
            raise _refused(text, f"{rest.strip()[:20]!r} is no unit; known: mm, cm, m, um, in, ft")
        rest = rest[between.end() :]
    if len(numbers) > 3:
        raise _refused(text, f"{len(numbers)} sides; a part has three")
    sides = [None if number is None else in_mm(number, its or unit) for number, its in zip(numbers, spread(units), strict=True)]
    if not any(side is not None for side in sides):
        raise _refused(text, "no side is given")
    for side in sides:
        if side is not None and not SMALLEST <= side <= GREATEST:
            raise _refused(text, f"a side of {side:g} mm is outside {SMALLEST:g} to {GREATEST:g} mm")
    return Size(tuple(sides), text.strip())


def in_mm(number: float, unit: str) -> float:
    """Millimetres; twelve figures, so that an inch and a half is 38.1."""
    return float(f"{number * MM[unit]:.12g}")


def value_of(number: str) -> float:
    """What a text that `NUMBER` matches says; 0.0 for a fraction whose denominator is zero."""
    fraction = _FRACTION.fullmatch(number)
    if fraction:
        whole, above, below = (float(part or 0) for part in fraction.groups())
        return whole + above / below if below else 0.0
    if number[-1] in _VULGAR:
        return (float(number[:-1]) if number[:-1].strip() else 0.0) + _VULGAR[number[-1]]
    if _THOUSANDS.fullmatch(number):
        return float(number.replace(",", ""))
    return float(number.replace(",", "."))


def unit_of(word: str | None) -> str | None:
    """The key of `MM` for a unit as written, None for none."""
    if not word:
        return None
    plain = word.lower().rstrip(".")
    if plain in ("'", "′", "’", "ft", "foot", "feet"):
        return "ft"
    if plain in ("''", '"', "″", "”") or plain.startswith("in"):
        return "in"
    if plain in ("um", "µm", "μm") or plain.startswith("micro"):
        return "um"
    return next(key for key, names in _METRIC.items() if plain.startswith(names))


_METRIC = {"mm": ("mm", "milli"), "cm": ("cm", "centi"), "dm": ("dm", "deci"), "m": ("m",)}


def spread(units: list[str | None]) -> list[str | None]:
    """Units for numbers that have none: of the next to the right, else of the one to the left."""
    filled: list[str | None] = list(units)
    for place in range(len(filled) - 2, -1, -1):
        filled[place] = filled[place] or filled[place + 1]
    for place in range(1, len(filled)):
        filled[place] = filled[place] or filled[place - 1]
    return filled


def _refused(text: str, why: str) -> CadmllmError:
    return CadmllmError("E705", f"the size {text!r} cannot be read: {why}", REMEDY)
