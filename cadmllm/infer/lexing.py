"""A prompt cut into what may matter for its dimensions: words, stops, and measures in mm."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from cadmllm.infer.lengths import NUMBER, TIMES, UNIT, in_mm, spread, unit_of, value_of

_QUOTES = ('"', "″", "”", "''", "'", "′", "’")
_HOLES_NEXT = re.compile(r"\s*(?:(?i:[a-z-]+)\s+){0,2}?(?i:holes|bores|counterbores|countersinks)\b")
_NO_INCH = re.compile(
    r"\s+(?i:a|an|the|each|every|total|all|its|this|that|both|rows?|lines?|pairs|number|between|one|two|three|four|five|six"
    r"|order|place|front|circular|rectangular|opposite)\b|\s+[0-9]+(?!\s*[xX×])"
)
_COUNTS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
_SPELLED = {
    **{name: float(count) for count, name in enumerate(_COUNTS, 1)},
    "half": 0.5,
    "half a": 0.5,
    "half an": 0.5,
    "quarter": 0.25,
    "a quarter": 0.25,
}
_TOLERANCE = rf"(?:[ ]{{0,2}}(?:±|\+/-)[ ]{{0,2}}{NUMBER})?"
_MEASURE = rf"{NUMBER}{_TOLERANCE}(?:[ \t\u00a0\u202f]{{0,3}}-?[ ]{{0,2}}{UNIT})?"
_LEXER = re.compile(
    rf"(?P<range>(?<![\w.,]){NUMBER}[ ]?{UNIT}?[ ]?(?:-|–|—|\bto\b)[ ]?{NUMBER}[ ]?{UNIT})"
    rf"|(?P<count>(?<![\w.,])[0-9]{{1,3}}[ ]?[xX×][ ]?(?=[Ø⌀ø∅]|M[0-9]))"
    rf"|(?P<round>(?:[Ø⌀ø∅]|(?<!\w)(?i:diam|dia)\.?)[ ]{{0,2}}(?={NUMBER}))"
    rf"|(?P<thread>(?<!\w)M(?P<nominal>[0-9]{{1,3}}(?:\.[0-9])?)(?:[ ]?[xX×][ ]?[0-9]{{1,3}}(?:\.[0-9]{{1,2}})?)?(?!\w))"
    rf"|(?P<radius>(?<!\w)[Rr](?:[ ]?=[ ]?)?(?={NUMBER}))"
    rf"|(?P<box>(?<![\w.,±/]){_MEASURE}(?:{TIMES}{_MEASURE}){{1,2}})"
    rf"|(?P<measure>(?<![\w.,±/]){_MEASURE})"
    r"|(?P<spelled>(?<!\w)(?i:(?P<amount>half an?|a quarter|half|quarter|one|two|three|four|five|six|seven|eight|nine|ten|eleven"
    r"|twelve)[ -](?P<its>inch(?:es)?|feet|foot|millimet(?:er|re)s?|centimet(?:er|re)s?|met(?:er|re)s?|mm|cm))(?!\w))"
    r"|(?P<across>(?<!\w)(?i:across)[ -](?i:flats|corners)(?!\w))"
    r"|(?P<word>[^\W\d_]+(?:-[^\W\d_]+)*)"
    r"|(?P<stop>[.;!?\n])|(?P<comma>,)"
)
_BEHIND_SIGN = re.compile(rf"(?P<box>{_MEASURE}(?:{TIMES}{_MEASURE}){{1,2}})|(?P<measure>{_MEASURE})")
_ONE = re.compile(rf"({NUMBER}){_TOLERANCE}(?:[ \t\u00a0\u202f]{{0,3}}-?[ ]{{0,2}}({UNIT}))?")


@dataclass(slots=True)
class Item:
    """A word, a stop, or a measure: its numbers in mm (those without a unit as if in mm) and whether a unit is there."""

    what: str
    text: str
    start: int
    mm: tuple[float, ...] = ()
    unit: bool = False
    mark: str = ""  # 'round', 'radius' or 'thread' where a sign says the kind
    claimed: bool = False  # a word of a kind that belongs to a measure already

    @property
    def end(self) -> int:
        return self.start + len(self.text)


def read_items(prompt: str, unit: str) -> Iterator[Item]:
    place = 0
    while (match := _LEXER.search(prompt, place)) is not None:
        what, place = str(match.lastgroup), match.end()
        text, start = match[0], match.start()
        if what in ("round", "radius"):
            number = _BEHIND_SIGN.match(prompt, place)
            assert number is not None
            item, place = _numbers(prompt, number, unit)
            yield Item(item.what, prompt[start : item.end], start, item.mm, item.unit, what)
        elif what in ("measure", "box"):
            item, place = _numbers(prompt, match, unit)
            yield item
        elif what == "thread":
            yield Item("measure", text, start, (float(match["nominal"]),), True, "thread")
        elif what == "spelled":
            mm = in_mm(_SPELLED[match["amount"].lower()], unit_of(match["its"]) or unit)
            yield Item("measure", text, start, (mm,), True)
        elif what == "across":
            yield Item("word", text.lower().replace(" ", "-"), start)
        elif what not in ("range", "count"):
            yield Item(what, text.lower() if what == "word" else text, start)


def _numbers(prompt: str, match: re.Match[str], unit: str) -> tuple[Item, int]:
    """A measure or a box, and where reading goes on: '4 x 6 mm holes' is a count and a measure."""
    parts = list(_ONE.finditer(match[0]))
    end, last = match.end(), parts[-1][2]
    counts = len(parts) == 2 and re.fullmatch(r"[0-9]{1,2}", parts[0][0]) and last is not None
    if counts and _HOLES_NEXT.match(prompt, end):
        parts = parts[1:]
    units = [unit_of(part[2]) for part in parts]
    if last is not None and last.lower() == "in" and _NO_INCH.match(prompt, end):
        units[-1] = None
        end = match.start() + parts[-1].start(2)
    elif last in _QUOTES and prompt[: match.start()].count(last) % 2:
        units[-1] = None  # it closes a quotation
    mm = tuple(in_mm(value_of(part[1]), its or unit) for part, its in zip(parts, spread(units), strict=True))
    start = match.start() + parts[0].start()
    return Item("box" if len(parts) > 1 else "measure", prompt[start:end].rstrip(), start, mm, any(units)), end
