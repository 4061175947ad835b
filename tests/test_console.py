"""Who gets which words on which stream."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import numpy as np
import pytest

from cadmllm.console import Console, jsonable
from cadmllm.errors import CadmllmError


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def consoles(**kwargs) -> tuple[Console, io.StringIO, io.StringIO]:
    out, err = io.StringIO(), io.StringIO()
    return Console(out=out, err=err, **kwargs), out, err


def say_everything(console: Console) -> None:
    console.print("result")
    console.note("note")
    console.warn("care")
    console.json({"a": 1})
    console.table([["x", 1]], ["name", "count"])
    with console.progress(20, "building") as bar:
        for _ in range(20):
            bar.advance()


def test_results_go_to_out_and_the_rest_to_err():
    console, out, err = consoles()
    say_everything(console)
    assert out.getvalue() == "result\nname  count\nx         1\n"
    assert err.getvalue().startswith("note\nwarning: care\nbuilding 2/20\n")
    assert err.getvalue().endswith("building 20/20\n")


def test_json_has_one_document_and_nothing_else_on_out():
    console, out, err = consoles(json=True)
    say_everything(console)
    assert json.loads(out.getvalue()) == {"a": 1}
    assert "note" in err.getvalue()


def test_quiet_leaves_results_and_warnings():
    console, out, err = consoles(quiet=True)
    say_everything(console)
    assert out.getvalue().startswith("result\n")
    assert err.getvalue() == "warning: care\n"


def test_an_error_is_text_with_a_hint_or_an_object():
    error = CadmllmError("E201", "no file x", "check the path")
    console, out, err = consoles()
    console.error(error)
    assert (out.getvalue(), err.getvalue()) == ("", "error: E201 no file x\nhint: check the path\n")
    console, out, err = consoles(json=True)
    console.error(error)
    assert json.loads(out.getvalue()) == {"error": {"code": "E201", "message": "no file x", "remedy": "check the path"}}
    assert err.getvalue() == ""


@pytest.mark.parametrize(("variable", "value", "coloured"), [("X", "", True), ("NO_COLOR", "1", False), ("TERM", "dumb", False)])
def test_colours_only_at_a_terminal_that_wants_them(monkeypatch, variable, value, coloured):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv(variable, value)
    console = Console(out=Terminal(), err=Terminal())
    console.warn("care")
    assert ("\x1b[" in console.err.getvalue()) is coloured
    plain, _, err = consoles()
    plain.warn("care")
    assert "\x1b" not in err.getvalue()


def test_a_bar_at_a_terminal_leaves_markup_alone():
    console = Console(out=Terminal(), err=Terminal())
    with console.progress(2, "[red]building[/red]") as bar:
        bar.advance(2, note="[1]")
    assert "[red]building[/red]" in console.err.getvalue()


def test_progress_without_a_total_and_with_an_error_inside():
    console, _, err = consoles()
    with console.progress(None, "reading") as bar:
        bar.advance(1500, note="a.json")
        bar.advance(3)
    assert err.getvalue() == "reading 1500  a.json\nreading 1503\n"
    with pytest.raises(ValueError, match="inside"), console.progress(5, "x") as bar:
        raise ValueError("inside")


def test_a_table_aligns_and_stands_an_empty_list():
    console, out, _ = consoles()
    console.table([], ["a", "b"])
    console.table([["long", 1.5], ["s", 10]])
    assert out.getvalue() == "a  b\nlong  1.5\ns      10\n"


def test_what_json_lacks_is_said_in_its_words():
    @dataclass
    class Row:
        path: Path
        size: tuple[float, ...]

    class Odd(Enum):
        A = object()

    value = jsonable({1: Row(Path("a/b"), (float("nan"), np.float32(0.5), np.int64(3))), "e": frozenset({"x"}), "n": None})
    assert value == {"1": {"path": "a/b", "size": [None, 0.5, 3]}, "e": ["x"], "n": None}
    with pytest.raises(TypeError, match="Odd"):
        jsonable(Odd.A)
