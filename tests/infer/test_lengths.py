"""Sizes in every form that people write them; what cannot be read is E705 and says what was found."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cadmllm.errors import CadmllmError
from cadmllm.infer.lengths import MM, parse_size

UNITS = {
    "mm": ("mm", " mm", "MM", " millimetres", " millimeter", "-mm"),
    "cm": ("cm", " centimetres", " centimeter"),
    "m": ("m", " m", " metre", " meters"),
    "in": ("in", " inch", " inches", '"', "″", "''"),
    "ft": ("ft", " feet", " foot", "'", "′"),
    "um": ("um", "µm", " microns"),
}
TIMES = ("x", " x ", "X", " X ", "*", " × ", "×", " by ")


@st.composite
def written(draw) -> tuple[str, tuple[float | None, ...]]:
    """A size in some form, and what it says in mm."""
    count = draw(st.integers(1, 3))
    each = draw(st.booleans())
    common = draw(st.sampled_from(sorted(UNITS)))
    texts, sides = [], []
    for place in range(count):
        if count > 1 and draw(st.integers(0, 5)) == 0 and not (place == count - 1 and all(side is None for side in sides)):
            texts.append("?")
            sides.append(None)
            continue
        unit = draw(st.sampled_from(sorted(UNITS))) if each else common
        digits = draw(st.integers(1, 99_999))
        decimals = draw(st.sampled_from((0, 1, 2, 4)))  # three could be a thousand where the point is a comma
        number = f"{digits / 10**decimals:.{decimals}f}"
        point = draw(st.sampled_from(".,"))
        with_unit = each or place == count - 1
        texts.append(number.replace(".", point) + (draw(st.sampled_from(UNITS[unit])) if with_unit else ""))
        sides.append(float(number) * MM[unit])
    if not each and texts[-1] == "?":
        texts[-1] = "?" + draw(st.sampled_from(UNITS[common]))
    return draw(st.sampled_from(TIMES)).join(texts), tuple(sides)


@given(written())
@settings(max_examples=300)
def test_a_size_that_is_written_in_any_way_is_read_back(case):
    text, sides = case
    if all(side is None for side in sides) or any(side is not None and not 1e-4 <= side <= 1e7 for side in sides):
        with pytest.raises(CadmllmError, match="E705"):
            parse_size(text)
        return
    read = parse_size(text).sides
    assert [side is None for side in read] == [side is None for side in sides]
    assert [side for side in read if side] == pytest.approx([side for side in sides if side], rel=1e-11)


@given(st.text(max_size=60) | st.text("0123456789.,/x?* mcinftØ'\"-", max_size=30))
def test_any_other_text_is_refused_with_what_was_found(text):
    try:
        size = parse_size(text)
    except CadmllmError as error:
        assert error.code == "E705"
        assert "--size 40x20x10mm" in error.remedy
    else:
        assert size.known
        assert all(1e-4 <= side <= 1e7 for side in size.known)


@pytest.mark.parametrize(
    ("text", "sides"),
    [
        ("40x20x10mm", (40, 20, 10)),
        ("40mmx20mmx10mm", (40, 20, 10)),
        ("40x?x10mm", (40, None, 10)),
        ("4cm x 20 x 10mm", (40, 20, 10)),  # a bare number takes the unit to its right
        ("4cm x 2", (40, 20)),  # or to its left
        ("100", (100,)),
        ("1/2in", (12.7,)),
        ("1 1/2 in", (38.1,)),
        ('1-1/2" x 2"', (38.1, 50.8)),
        ("½ in", (12.7,)),
        ("0,125 m", (125,)),
        ("12,5cm", (125,)),
        ("1000mm", (1000,)),
        ("2 ft", (609.6,)),
    ],
)
def test_examples(text, sides):
    assert parse_size(text).sides == sides


def test_the_unit_of_the_setting_is_that_of_bare_numbers():
    assert parse_size("2x1", "in").sides == (50.8, 25.4)
    assert parse_size("2mm x 1", "in").sides == (2, 1)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1,000mm", "1,000 may be 1000 or 1.000"),
        ("40 kg", "'kg' is no unit"),
        ("40xx10", "'x10' is no length"),
        ("40x", "a side is missing"),
        ("", "a side is missing"),
        ("?x?", "no side is given"),
        ("1x2x3x4", "4 sides"),
        ("0mm", "a side of 0 mm is outside"),
        ("1/0 in", "a side of 0 mm is outside"),
        ("20000 m", "is outside"),
        ("-5mm", "is no length"),
        ("nan", "'nan' is no length"),
        ("1" * 200, "more than 80 characters"),
    ],
)
def test_what_is_wrong_is_said(text, said):
    with pytest.raises(CadmllmError) as caught:
        parse_size(text)
    assert caught.value.code == "E705"
    assert said in caught.value.message
