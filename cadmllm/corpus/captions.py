"""Captions of generated parts, in three styles, from what the part really has.

`qualitative` is Omni-CAD's style (no dimensions), `dimensioned` gives millimetres, `short` is what a person types. Wording
varies, so that a text model learns the things and not one sentence.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from cadmllm.cad.program import Extrude
from cadmllm.corpus.shapes import Dice

STYLES = ("qualitative", "dimensioned", "short")
_SPOKEN = re.compile(r"\b([Aa]) (?=8[\d.]* |1[18](?:\.\d+)? )")
NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")


@dataclass(frozen=True, slots=True)
class Feature:
    """Something the part has: how one says it without and with dimensions (variants of equal meaning)."""

    words: tuple[str, ...]
    exact: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Design:
    """A part and what can be said of it.

    Attributes:
        extrudes: the program, base centred on the origin, standing on z = 0.
        names: nouns without an article, the first the plainest.
        size: outer dimensions, each a phrase that can follow the noun.
        features: what it has besides.
        box: outer x, y, z in mm; picks an adjective such as 'thin'. None: no adjective fits.
        remarks: qualitative sentences' ends, such as 'with a flat top and bottom'.
        uses: what it is good for, as Omni-CAD's captions like to add.
    """

    extrudes: Sequence[Extrude]
    names: tuple[str, ...]
    size: tuple[str, ...]
    features: tuple[Feature, ...] = ()
    box: tuple[float, float, float] | None = None
    remarks: tuple[str, ...] = ()
    uses: tuple[str, ...] = ()


def mm(value: float) -> str:
    """A length as people write it: 12.5, 80, at most a tenth of a micrometre."""
    return f"{round(value, 4):g}"


def number(count: int) -> str:
    """A count in words up to twelve."""
    return NUMBERS[count] if count < len(NUMBERS) else str(count)


def article(phrase: str) -> str:
    """The phrase with 'a' or 'an'; single letters go by their sound (an L-shaped, a U-shaped)."""
    first = phrase[0]
    if len(phrase) > 1 and phrase[1] == "-" and first.isupper():
        vowel = first in "AEFHILMNORSX"
    else:
        vowel = first.lower() in "aeio" or phrase.lower().startswith(("un", "up"))
    return f"{'an' if vowel else 'a'} {phrase}"


def box_size(x: float, y: float, z: float) -> tuple[str, ...]:
    """Ways to say a box's dimensions."""
    a, b, c = mm(x), mm(y), mm(z)
    return (
        f"{a} x {b} x {c} mm",
        f"of {a} x {b} x {c} mm",
        f"measuring {a} by {b} by {c} mm",
        f"{a} mm long, {b} mm wide and {c} mm high",
        f"with a length of {a} mm, a width of {b} mm and a height of {c} mm",
    )


def round_size(diameter: float, height: float) -> tuple[str, ...]:
    """Ways to say a round part's dimensions."""
    d, h = mm(diameter), mm(height)
    return (
        f"{d} mm in diameter and {h} mm high",
        f"of {d} mm diameter and {h} mm height",
        f"with a diameter of {d} mm and a height of {h} mm",
        f"Ø{d} x {h} mm",
    )


def holes(count: int, diameter: float, words: Sequence[str], where: str) -> Feature:
    """Round through holes: `words` are qualitative variants, `where` ends the exact ones ('at the corners')."""
    d, tail = mm(diameter), f" {where}" if where else ""
    if count == 1:
        return Feature(tuple(words), (f"a {d} mm through hole{tail}", f"a through hole of {d} mm diameter{tail}"))
    n = number(count)
    return Feature(
        tuple(words),
        (f"{n} {d} mm through holes{tail}", f"{n} through holes of {d} mm diameter{tail}", f"{count} holes Ø{d} mm{tail}"),
    )


def adjective(box: tuple[float, float, float] | None) -> str:
    """A word for the proportions, '' when none stands out."""
    if box is None:
        return ""
    small, middle, large = sorted(box)
    if large > 3.5 * middle:
        return "long"
    if small < 0.12 * middle:
        return "thin"
    if small < 0.25 * middle:
        return "flat"
    return ""


def listing(items: Sequence[str]) -> str:
    """'a', 'a and b', 'a, b and c'."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def sentence(text: str) -> str:
    """Capitalised, with a full stop, 'an' before numbers that are spoken with a vowel (8, 11, 18)."""
    text = _SPOKEN.sub(r"\1n ", text)
    return text[0].upper() + text[1:] + ("" if text.endswith(".") else ".")


def write_captions(dice: Dice, design: Design) -> dict[str, str]:
    """One caption a style, of `STYLES`."""
    return {
        "qualitative": _qualitative(dice, design),
        "dimensioned": _dimensioned(dice, design),
        "short": _short(dice, design),
    }


def _qualitative(dice: Dice, design: Design) -> str:
    name = dice.pick(design.names)
    word = adjective(design.box)
    if word and word not in name and dice.chance(0.5):
        name = f"{word} {name}"
    has = listing([dice.pick(feature.words) for feature in design.features]) if design.features else ""
    if has:
        text = dice.pick(
            (
                f"Generate a CAD model with {article(name)} featuring {has}",
                f"Generate a CAD model of {article(name)} with {has}",
                f"Generate a CAD model featuring {article(name)} with {has}",
                f"Generate a CAD model that consists of {article(name)} and has {has}",
                f"{article(name)} with {has}",
                f"{article(name)} featuring {has}",
                f"a three-dimensional {name} with {has}",
                f"a 3D model of {article(name)}, featuring {has}",
                f"a CAD model of {article(name)} that has {has}",
            )
        )
    else:
        text = dice.pick(
            (
                f"Generate a CAD model of {article(name)}",
                f"Generate a CAD model with {article(name)}",
                f"Generate a CAD model featuring {article(name)}",
                f"a three-dimensional {name}",
                f"a 3D model of {article(name)}",
                article(name),
            )
        )
    if design.remarks and dice.chance(0.4):
        text += f", {dice.pick(design.remarks)}"
    if design.uses and dice.chance(0.25):
        text += f", {dice.pick(('suitable for', 'designed for', 'used for'))} {dice.pick(design.uses)}"
    return sentence(text)


def _dimensioned(dice: Dice, design: Design) -> str:
    name, size = article(dice.pick(design.names)), dice.pick(design.size)
    has = listing([dice.pick(feature.exact) for feature in design.features]) if design.features else ""
    opening = dice.pick(("", "", "Generate a CAD model of ", "Create ", "Make ", "Design "))
    joint = dice.pick((" with ", ", with ", "; it has ")) if has else ""
    return sentence(f"{opening}{name} {size}{joint}{has}")


def _short(dice: Dice, design: Design) -> str:
    name = article(design.names[0] if dice.chance(0.5) else dice.pick(design.names))
    if design.features and dice.chance(0.4):
        name += f" with {dice.pick(design.features[0].words)}"
    return dice.pick(
        (
            f"Generate a CAD model of {name}.",
            f"Generate a CAD model of {name}.",
            f"Create {name}.",
            f"Make {name}.",
            f"Draw {name}.",
            f"Design {name}.",
            f"Model {name}.",
            f"I need {name}.",
            name,
        )
    )
