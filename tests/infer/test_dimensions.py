"""What prompts say of lengths, word by word, and that no text is too strange to be read."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cadmllm.corpus import parts
from cadmllm.infer.dimensions import dimensions_in

CASES: dict[str, list[tuple[str, float, str]]] = {
    "a plate 40 x 20 x 10 mm": [("side", 40, "part"), ("side", 20, "part"), ("side", 10, "part")],
    "40mm x 20mm x 10mm": [("side", 40, "part"), ("side", 20, "part"), ("side", 10, "part")],
    "2 by 4 inches": [("side", 50.8, "part"), ("side", 101.6, "part")],
    "a block of 40x20x10": [("side", 40, "part"), ("side", 20, "part"), ("side", 10, "part")],
    "a plate 40x20, 5 mm thick": [("side", 40, "part"), ("side", 20, "part"), ("thickness", 5, "part")],
    "a 50 mm cube": [("side", 50, "part")] * 3,
    "a cube with an edge length of 36 mm": [("side", 36, "part")] * 3,
    "a 20 mm square plate": [("side", 20, "part")] * 2,
    "diameter 12 mm": [("diameter", 12, "part")],
    "radius 5": [("radius", 5, "part")],
    "3 cm tall": [("height", 30, "part")],
    "40 long, 20 wide and 10 high": [("length", 40, "part"), ("width", 20, "part"), ("height", 10, "part")],
    "length 40 width 20": [("length", 40, "part"), ("width", 20, "part")],
    "a beam of 2 m length": [("length", 2000, "part")],
    "a hex nut 13 mm across flats": [("across", 13, "part")],
    "a 20 mm bracket": [("size", 20, "part")],
    "a 20 mm disc": [("diameter", 20, "part")],
    "ø20": [("diameter", 20, "part")],
    "Ø 20": [("diameter", 20, "part")],
    "dia. 20": [("diameter", 20, "part")],
    "Ø50 x 20 mm": [("diameter", 50, "part"), ("height", 20, "part")],
    "a washer, OD 20 mm, ID 10 mm, 2 mm thick": [("diameter", 20, "part"), ("diameter", 10, "hole"), ("thickness", 2, "part")],
    "a pipe with an inner diameter of 10 mm, 30 mm long": [("diameter", 10, "hole"), ("length", 30, "part")],
    "a plate with a 1/2 in hole": [("diameter", 12.7, "hole")],
    "a two-inch hole": [("diameter", 50.8, "hole")],
    "half an inch thick": [("thickness", 12.7, "part")],
    "a plate with M6 holes": [("thread", 6, "hole")],
    "a plate with four tapped M6x1": [("thread", 6, "hole")],
    "an M8 bolt 40 mm long": [("thread", 8, "part"), ("length", 40, "part")],
    "four holes of 6 mm diameter": [("diameter", 6, "hole")],
    "a plate with 4x 6 mm holes": [("diameter", 6, "hole")],
    "a plate with 4 x Ø6 holes": [("diameter", 6, "hole")],
    "hole diameter 6": [("diameter", 6, "hole")],
    "a 14 mm hole 15.5 mm deep": [("diameter", 14, "hole"), ("depth", 15.5, "hole")],
    "a hub with a boss 10 mm in diameter and 8.5 mm high": [("diameter", 10, "unknown"), ("height", 8.5, "unknown")],
    "a bracket with 3 mm thick walls": [("thickness", 3, "unknown")],
    "a plate with R5 corners": [("radius", 5, "unknown")],
    "a plate with a 20 x 10 mm pocket": [("side", 20, "unknown"), ("side", 10, "unknown")],
    "a plate with two holes 30 mm apart": [("distance", 30, "hole")],
    "six holes on a 63 mm bolt circle": [("distance", 63, "hole")],
    "a plate with a hole 10 mm from the edge": [("distance", 10, "hole")],
    "a 6 mm hole through a block 40 x 20 x 10 mm": [
        ("diameter", 6, "hole"), ("side", 40, "part"), ("side", 20, "part"), ("side", 10, "part"),
    ],
    "A plate. It has four holes. The thickness is 5 mm.": [("thickness", 5, "part")],
    "a shaft 20 ±0.1 mm thick": [("thickness", 20, "part")],
    "a beam 1,000 mm long": [("length", 1000, "part")],
    "a beam 12,5 mm long": [("length", 12.5, "part")],
    "a plate 4 in. long, 2 in wide": [("length", 101.6, "part"), ("width", 50.8, "part")],
    "two blocks of 30 x 57 x 70 mm each": [("side", 30, "unknown"), ("side", 57, "unknown"), ("side", 70, "unknown")],
    "a hub 70 mm high with a 20 mm hub": [("height", 70, "part"), ("diameter", 20, "unknown")],
    "a finned plate with fins 4 mm thick on a 14 mm base": [("thickness", 4, "unknown"), ("size", 14, "unknown")],
    "a plate with four holes, 5 mm through and 9 mm to a depth of 4 mm": [
        ("diameter", 5, "hole"), ("diameter", 9, "hole"), ("depth", 4, "hole"),
    ],
    # no dimensions
    "four holes": [],
    "6 holes": [],
    "a plate with 6 holes in a row": [],
    "six bolts, 6 in a row": [],
    "with 4 long ribs": [],
    "a 3 x 2 grid of holes": [],
    "a 12x10 array of pins": [],
    "a wedge of 30 degrees, angle 45°": [],
    "between 10 to 20 mm": [],
    "10-20 mm": [],
    'call it "plate 20"': [],
    "a part of 100 %": [],
    "0 mm": [],
    "Part 1 in the back. Part 2: long and thin": [],
    "Part 2 in blue": [],
    "Length: 0.75, depth of 3 units, a radius of 0.0164": [],  # of captions in a normalised frame
    "": [],
}  # fmt: skip


@pytest.mark.parametrize("prompt", CASES)
def test_examples(prompt):
    assert [(item.kind, item.mm, item.of) for item in dimensions_in(prompt)] == CASES[prompt]


def test_the_words_and_their_place_are_told():
    prompt = "Make a plate with a length of 40 mm and four 6 mm holes."
    long, hole = dimensions_in(prompt)
    assert (long.words, hole.words) == ("length of 40 mm", "6 mm")
    assert prompt[hole.start : hole.end] == hole.words


def test_bare_numbers_are_in_the_unit_that_is_set():
    assert [item.mm for item in dimensions_in("2x3x1 and diameter 4 mm", "in")] == [50.8, pytest.approx(76.2), 25.4, 4.0]


@given(st.text(max_size=200))
@settings(max_examples=300)
def test_any_text_is_read(prompt):
    check(prompt)


PIECES = (
    *("40", "2,5", "1/2", "1 1/2", "½", "1,000", ".5", "1/0", "1e9", "9" * 30, "M6", "Ø", "R", "dia.", "±", "x", "by", " ", "-"),
    *('"', "'", "mm", "in", "in.", "cm", "m", "ft", "degrees", "plate", "hole", "holes", "with", "and", "of", "in diameter"),
    *(
        "across flats",
        "long",
        "wide",
        "thick",
        "radius",
        "inner",
        "outer",
        "each",
        "from",
        "grid",
        "square",
        "cube",
        ".",
        ",",
        ";",
    ),
)
SPELLED = "(?i:half|quarter|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve)"
LONG = ("1" * 20_000, "1 x " * 5_000, "1/" * 10_000, "a " * 10_000 + "5 mm", "in " * 6_000, "Ø" * 20_000)


@given(st.lists(st.sampled_from(PIECES), max_size=30).map(" ".join) | st.lists(st.sampled_from(PIECES), max_size=30).map("".join))
@settings(max_examples=300)
def test_any_mixture_of_words_and_numbers_is_read(prompt):
    check(prompt)


def check(prompt: str) -> None:
    for item in dimensions_in(prompt):
        assert prompt[item.start : item.end] == item.words
        assert 1e-4 <= item.mm <= 1e7
        assert re.search(f"[0-9½¼¾⅛⅜⅝⅞⅓⅔]|{SPELLED}", item.words)


@pytest.mark.parametrize("prompt", LONG, ids=range(len(LONG)))
def test_long_prompts_of_one_thing_are_read(prompt):
    dimensions_in(prompt)


@given(
    st.tuples(st.integers(11, 9999), st.integers(11, 9999), st.integers(11, 9999)),
    st.sampled_from(["mm", "cm", "m", "in", "inches"]),
    st.sampled_from(["{} x {} x {} {u}", "{}x{}x{}{u}", "{} by {} by {} {u}", "{}{u} x {}{u} x {}{u}", "{}×{}×{} {u}"]),
    st.sampled_from(["a plate {}", "Make a block of {} with six holes.", "{}", "a box, {}, with rounded corners"]),
)
def test_a_box_in_any_form_is_read_back(numbers, unit, form, sentence):
    factor = {"mm": 1.0, "cm": 10.0, "m": 1000.0, "in": 25.4, "inches": 25.4}[unit]
    found = dimensions_in(sentence.format(form.format(*numbers, u=unit)))
    assert [item.mm for item in found] == pytest.approx([number * factor for number in numbers])
    assert {item.kind for item in found} == {"side"}
    assert {item.of for item in found} == {"part"}


def test_the_generators_captions_say_every_number_with_a_unit():
    """Lists ('sections of 48, 72, 22 mm') give their last number alone; all else is read."""
    for part in parts.generate(60, 21):
        caption = part.captions["dimensioned"]
        said = {float(number) for number in re.findall(r"([0-9.]+) mm", caption)}
        read = {item.mm for item in dimensions_in(caption)}
        assert said - read == set(), caption
