"""Text in pictures: nothing wider than its place, nothing lost unseen."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from cadmllm.corpus import lettering
from cadmllm.corpus.lettering import Lettering, pieces


@pytest.fixture(autouse=True)
def _no_installed_fonts(monkeypatch):
    """The machine's fonts differ: without them every machine draws the same."""
    monkeypatch.setattr(lettering, "FONT_FOLDERS", ())
    lettering._piece.cache_clear()
    yield
    lettering._piece.cache_clear()


def drawn(text: str, size: int = 40) -> Image.Image:
    picture = Image.new("L", (900, 80), 255)
    Lettering(size).draw(ImageDraw.Draw(picture), 10, 10, text, "black")
    return picture


def ink(text: str) -> tuple[int, int, int, int]:
    box = drawn(text).point(lambda value: 255 - value).getbbox()
    assert box is not None
    return box


def test_accents_are_stacked_on_their_letters():
    assert Lettering(40).width("ü") == Lettering(40).width("u")
    for base, marked in ("uü", "oõ", "aå", "eê", "EÉ", "nñ"):
        plain, both = ink(base), ink(marked)
        assert both[1] < plain[1] - 3, "the mark stands above"
        assert abs((both[0] + both[2]) - (plain[0] + plain[2])) <= 6, "and in the middle"
        assert both[3] == plain[3]
    assert drawn("u\u0308").tobytes() == drawn("ü").tobytes()


def test_what_no_font_has_is_a_box_with_its_code_point():
    assert [(p.kind, p.text) for p in pieces("a中\x07b")] == [("own", "a"), ("box", "4E2D"), ("box", "0007"), ("own", "b")]
    assert pieces("\ud800")[0].text == "D800"
    assert pieces("😀\u200d")[0].text == "1F600"
    assert [p.text for p in pieces("40 × 20 – mm³ ⌀8 → ß")] == ["40 x 20 - mm", "3", " ", "Ø", "8 › ss"]
    assert drawn("中").tobytes() != drawn("文").tobytes()


@given(st.text(max_size=300), st.integers(60, 500), st.integers(1, 6))
@settings(max_examples=80, deadline=None)
def test_wrapped_lines_fit_and_nothing_is_lost_uncounted(text, width, most):
    letters = Lettering(15)
    lines, left = letters.wrap(text, width, most)
    assert len(lines) <= most
    assert all(letters.width(line) <= width or len(line) == 1 for line in lines)
    kept = "".join("".join(lines).split())
    whole = "".join(text.split())
    assert whole.startswith(kept)
    assert (left == 0) == (kept == whole)


@given(st.text(max_size=120), st.integers(30, 400))
@settings(max_examples=60, deadline=None)
def test_cut_text_fits_and_says_that_it_was_cut(text, width):
    letters = Lettering(14)
    cut = letters.cut(text, width)
    assert letters.width(cut) <= width
    assert cut == text or (cut.endswith("…") and text.startswith(cut[:-1]))


def test_alignment():
    right, left = Image.new("L", (300, 60), 255), Image.new("L", (300, 60), 255)
    letters = Lettering(20)
    letters.draw(ImageDraw.Draw(right), 250, 5, "cut Ø8", "black", "right")
    letters.draw(ImageDraw.Draw(left), 250 - letters.width("cut Ø8"), 5, "cut Ø8", "black")
    assert right.tobytes() == left.tobytes()


def test_fonts_that_do_not_load_are_passed_over(tmp_path):
    (tmp_path / "DejaVuSans.ttf").write_bytes(b"not a font")
    assert lettering._installed((tmp_path,)) == ()
