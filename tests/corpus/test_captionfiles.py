"""Caption files and id lists, whatever is in them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cadmllm.corpus.captionfiles import MOST_FLAWS, examine_captions, read_ids, unsafe
from cadmllm.corpus.prompt import LONGEST_CAPTION
from cadmllm.errors import CODES, CadmllmError

FUZZ = settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12)
JSON = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4))
ENTRY = st.fixed_dictionaries({"id": JSON, "text caption": JSON}, optional={"text caption short": JSON})


@FUZZ
@given(st.text(max_size=30) | st.sampled_from(["..", "a/../b", "/a", "a//b", "a/", "C:/x", "\\\\host", "a\nb", "a" * 201]))
def test_a_safe_id_stays_in_its_folder(id_):
    if unsafe(id_):
        return
    path = os.path.normpath(os.path.join("/root/folder", f"{id_}.json"))
    assert path.startswith("/root/folder/")
    assert path == f"/root/folder/{id_}.json"


@pytest.mark.parametrize("id_", ["0000/00000071_00005", "a", "0001/part 7", "0000/Würfel"])
def test_ordinary_ids_are_safe(id_):
    assert unsafe(id_) == ""


@FUZZ
@given(st.lists(ENTRY | JSON, max_size=6))
def test_any_list_is_read_and_what_is_left_out_is_said(tmp_path, entries):
    path = tmp_path / "0000.json"
    path.write_text(json.dumps(entries))
    found, flaws = examine_captions(path)
    assert len(flaws) + sum(map(len, found.values())) >= len(entries)
    assert all(flaw.code in CODES and flaw.level != "fail" for flaw in flaws)
    for id_, texts in found.items():
        assert not unsafe(id_)
        assert texts
        assert all(text.strip() and len(text) <= LONGEST_CAPTION for text in texts)


@FUZZ
@given(st.binary(max_size=60) | st.text(max_size=40).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_bytes_are_read_or_refused(tmp_path, content):
    for name in ("a.json", "a.txt"):
        path = tmp_path / name
        path.write_bytes(content)
        try:
            read_ids(path)
        except CadmllmError as error:
            assert error.code == "E407"
            assert str(path) in error.message
    found, flaws = examine_captions(tmp_path / "a.json")
    assert bool(found) or bool(flaws) or content.strip() in (b"[]", b"[\n]")


def test_styles_and_further_entries_are_further_captions(tmp_path):
    path = tmp_path / "0000.json"
    entries = [
        {"id": "a", "text caption": "main", "text caption short": "short", "note": "no caption"},
        {"id": "a", "text caption": "again"},
        {"id": "b", "text caption": "x" * (LONGEST_CAPTION + 1)},
    ]
    path.write_text(json.dumps(entries))
    found, flaws = examine_captions(path)
    assert found == {"a": ("main", "short", "again")}
    assert [(flaw.code, flaw.level) for flaw in flaws] == [("E408", "warn"), ("E416", "info")]


def test_a_list_written_on_windows(tmp_path: Path):
    path = tmp_path / "ids.txt"
    path.write_bytes("\ufeff0000/a\r\n0000/b # held out\r\n".encode())
    assert read_ids(path).ids == {"0000/a", "0000/b"}


def examined(path: Path, entries: object) -> tuple[dict, list[tuple[str, str, str]]]:
    path.write_text(json.dumps(entries))
    captions, flaws = examine_captions(path)
    assert all(flaw.path in flaw.message and str(path) in flaw.message for flaw in flaws)
    return captions, [(flaw.code, flaw.level, flaw.path) for flaw in flaws]


def test_an_entry_spoils_no_other(tmp_path):
    path = tmp_path / "0000.json"
    entries = [
        {"id": "a", "text caption": "main", "text caption short": 7},
        {"id": "../b", "text caption": "x"},
        7,
        {"id": "c", "text caption": "\n"},
        {"id": "d", "text caption": "half \ud83d", "text caption short": "half ?"},
    ]
    captions, flaws = examined(path, entries)
    assert captions == {"a": ("main",), "d": ("half ?",)}
    file = str(path)
    expected = [
        ("E408", "warn", "a"),
        ("E403", "warn", file),
        ("E408", "warn", file),
        ("E408", "warn", "c"),
        ("E410", "warn", "d"),
    ]
    assert flaws == expected
    assert all("".join(texts).encode() for texts in captions.values())


def test_several_entries_of_an_id(tmp_path):
    one, two = {"id": "a", "text caption": "one"}, {"id": "a", "text caption": "two"}
    assert examined(tmp_path / "x.json", [one, two]) == ({"a": ("one", "two")}, [("E416", "info", "a")])
    assert examined(tmp_path / "x.json", [one, one]) == ({"a": ("one",)}, [("E416", "warn", "a")])
    assert examined(tmp_path / "x.json", [one, two, two, one]) == ({"a": ("one", "two")}, [("E416", "warn", "a")])


def test_flaws_of_a_file_do_not_pile_up(tmp_path):
    captions, flaws = examined(tmp_path / "x.json", [0] * (3 * MOST_FLAWS) + [{"id": "a", "text caption": "one"}])
    assert captions == {"a": ("one",)}
    assert MOST_FLAWS < len(flaws) < MOST_FLAWS + 5


def test_a_list_that_is_a_pipe_is_refused(tmp_path):
    os.mkfifo(tmp_path / "val.txt")
    os.mkfifo(tmp_path / "val.json")
    for name in ("val.txt", "val.json"):
        with pytest.raises(CadmllmError) as caught:
            read_ids(tmp_path / name)
        assert caught.value.code == "E407"
