"""benchmarks/terminal.py: a picture of what a command prints at a terminal."""

from __future__ import annotations

import importlib.util
import os
import sys
import xml.etree.ElementTree as xml
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "terminal.py"
SPEC = importlib.util.spec_from_file_location("bench_terminal", SCRIPT)
assert SPEC is not None
assert SPEC.loader is not None
terminal = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(terminal)

GREEN = "print('\\x1b[32m[ok]\\x1b[0m  gpu: <none> & more ' + 'word ' * 20)"


def draw(out: Path, code: str, *options: str) -> str:
    """The picture of a Python program's output."""
    assert terminal.main(["--out", str(out), "--width", "60", *options, "--", sys.executable, "-c", code]) == 0
    return out.read_text(encoding="utf-8")


def words(svg: str) -> list[str]:
    """Its lines of text, in order; blanks as blanks."""
    namespace = "{http://www.w3.org/2000/svg}"
    rows: dict[float, str] = {}
    for element in xml.fromstring(svg).iter(f"{namespace}text"):
        if "textLength" in element.attrib:
            row = float(element.attrib["y"])
            rows[row] = rows.get(row, "") + (element.text or "").replace("\u00a0", " ")
    return [rows[row].rstrip() for row in sorted(rows)]


def test_colours_and_width_are_those_of_a_terminal(tmp_path):
    code = "import os, sys; assert sys.stdout.isatty() and sys.stderr.isatty(); print(os.get_terminal_size().columns);" + GREEN
    svg = draw(tmp_path / "deep" / "a.svg", code, "--title", "a <title> {0}")
    assert words(svg)[:2] == ["60", "[ok]  gpu: <none> & more word word word word word word word"]
    assert max(map(len, words(svg))) <= 60
    assert " ".join(words(svg)).count("word") == 20
    assert "<title>a &lt;title&gt; {0}</title>" in svg
    green = [line for line in svg.splitlines() if "#98a84b" in line]  # green of rich's theme
    assert len(green) == 1


def test_the_same_output_gives_the_same_bytes_and_nothing_from_the_network(tmp_path):
    one, two = (draw(tmp_path / name, GREEN) for name in ("1.svg", "2.svg"))
    assert one == two
    assert "http" not in one.replace("http://www.w3.org/2000/svg", "")
    assert "@font-face" not in one
    assert "url(" not in one
    assert "\n</text>" not in one
    assert len(one) < 4000


def test_paths_have_short_names(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    code = f"print('/home/someone/.cache', '/home/someone2/x', '{SCRIPT}', '/scratch/x')"
    svg = draw(tmp_path / "a.svg", code, "--width", "200", "--replace", "/scratch=DATA")
    assert words(svg) == ["~/.cache /home/someone2/x ~/cadmllm/benchmarks/terminal.py DATA/x"]


def test_standard_error_is_shown_or_left_out(tmp_path, capfd):
    code = "import sys; print('a'); sys.stdout.flush(); print('b', file=sys.stderr); sys.exit(3)"
    assert words(draw(tmp_path / "a.svg", code)) == ["a", "b"]
    assert "ended with 3" in capfd.readouterr().err
    assert words(draw(tmp_path / "b.svg", code, "--without-errors")) == ["a"]
    assert capfd.readouterr().err.startswith("b\n")


def test_no_color_of_ours_is_not_the_commands(tmp_path, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    assert words(draw(tmp_path / "a.svg", "import os; print('NO_COLOR' in os.environ)")) == ["False"]
    assert os.environ["NO_COLOR"] == "1"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--", "no-such-program-here"], "there is no program no-such-program-here"),
        (["--replace", "=x", "--", "true"], "write OLD=NEW"),
        (["--", sys.executable, "-c", "print('50 %\\r100 %')"], "moves the cursor"),
        (["--", sys.executable, "-c", "print('\\x1b[?25lbar\\x1b[1A\\x1b[2K')"], "moves the cursor"),
    ],
)
def test_what_cannot_be_drawn_is_refused(arguments, said, tmp_path, capfd):
    with pytest.raises(SystemExit) as stop:
        terminal.main(["--out", str(tmp_path / "a.svg"), *arguments])
    assert stop.value.code == 2
    assert said in capfd.readouterr().err
    assert not (tmp_path / "a.svg").exists()
