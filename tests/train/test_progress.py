"""What is shown while a stage trains."""

from __future__ import annotations

import contextlib
import io
import re
import sys
from collections import Counter
from collections.abc import Callable

import pytest

from cadmllm.console import Console
from cadmllm.train.progress import Board, Shown, duration, panel, plain_line

RECORD = {
    "step": 1,
    "total_steps": 30,
    "loss": 2.5,
    "lr": 1e-4,
    "grad_norm": 1.25,
    "tokens_per_s": 1234.5,
    "samples_per_s": 8.0,
    "mix": {"text": 3, "text+point_cloud": 5},
    "seconds": 2.0,
}
GPU = {
    "peak_gib": 13.2,
    "gpu_memory_gib": 15.4,
    "gpu_memory_total_gib": 15.9,
    "gpu_utilisation": 61,
    "gpu_temperature": 88,
    "gpu_throttled": True,
}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def screen(text: str) -> list[str]:
    """What a terminal shows after it was sent `text`: lines without colours, and without blank ones."""
    lines, row, column = [""], 0, 0
    for piece in re.findall(r"\x1b\[[?\d;]*[A-Za-z]|[\s\S]", text):
        if piece == "\r":
            column = 0
        elif piece == "\n":
            row, column = row + 1, 0
            lines += [""] * (row + 1 - len(lines))
        elif piece.startswith("\x1b"):
            number = int(re.sub(r"\D", "", piece) or 1)
            if piece.endswith("A"):
                row -= number
            elif piece.endswith("K"):
                lines[row] = "" if number == 2 else lines[row][:column]
            assert piece[-1] in "AKmhl", f"{piece!r} is not understood"
        else:
            lines[row] = f"{lines[row]:{column}}"[:column] + piece + lines[row][column + 1 :]
            column += 1
    return [line.rstrip() for line in lines if line.strip()]


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Terminal]:
    """Makes standard error a terminal of 100 columns; called in the test, as pytest takes the streams for each of its phases."""

    def make() -> Terminal:
        err = Terminal()
        monkeypatch.setattr(sys, "stderr", err)
        return err

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr("cadmllm.train.progress.FRAME", 0.0)
    return make


def _show(console: Console) -> None:
    with Board(console, "stage 2 of 3", 10) as board:
        for step in range(4, 31):
            board.step({**RECORD, "step": step})


def test_a_pipe_gets_the_first_every_tenth_and_the_last_step() -> None:
    err = io.StringIO()
    _show(Console(err=err))
    lines = err.getvalue().splitlines()
    assert [line.split("step ")[1].split("/")[0] for line in lines] == ["4", "10", "20", "30"]
    assert lines[1].startswith("stage 2 of 3: step 10/30  loss 2.5000  lr 0.0001  grad 1.25  1,234 tokens/s  40 s left")


def test_a_terminal_gets_a_panel_whose_last_step_stays(terminal: Callable[[], Terminal]) -> None:
    err = terminal()
    _show(Console())
    assert "text + points 62%" in err.getvalue()
    line = "stage 2 of 3: step 30/30  loss 2.5000  lr 0.0001  grad 1.25  1,234 tokens/s  0 s left"
    assert screen(err.getvalue()) == [line]


def test_what_is_said_meanwhile_stands_above_the_panel(terminal: Callable[[], Terminal], capsys: pytest.CaptureFixture) -> None:
    err = terminal()
    console = Console()
    with Board(console, "stage 2 of 3", 10) as board:
        assert any("waiting for the first step" in line for line in screen(err.getvalue()))
        for step in range(1, 7):
            board.step({**RECORD, "step": step})
            if step == 2:
                console.note("a note")
            if step == 4:
                console.warn("careful, " + "this is a warning that is wider than the terminal " * 2)
                board.notice("careful")
            if step == 5:
                console.print("a result")
                board.doing("saving")
            if step == 6:
                live = screen(err.getvalue())
    assert live[0] == "a note"
    assert live[1].startswith("warning: careful, this is")
    panel_begins = next(k for k, line in enumerate(live) if line.startswith("╭"))
    assert sum(line.startswith("╭") for line in live) == 1  # no piece of an earlier panel is left
    assert all(line[0] in "╭│╰" and line[-1] in "╮│╯" for line in live[panel_begins:])
    assert any("doing     saving" in line for line in live)
    assert any("notices   step 4: careful" in line for line in live)
    after = screen(err.getvalue())
    assert not any(line[0] in "╭│╰" for line in after)
    assert after[-1].startswith("stage 2 of 3: step 6/30")
    assert capsys.readouterr().out == "a result\n"  # results go where standard output goes, not into the panel's terminal


def test_a_stage_that_breaks_leaves_the_terminal_whole(terminal: Callable[[], Terminal]) -> None:
    err = terminal()
    with contextlib.suppress(KeyboardInterrupt), Board(Console(), "stage 1 of 3", 10) as board:
        board.step(RECORD)
        raise KeyboardInterrupt
    assert sys.stderr is err
    assert err.getvalue().rindex("\x1b[?25h") > err.getvalue().rindex("\x1b[?25l")  # the cursor is back
    assert screen(err.getvalue())[0].startswith("stage 1 of 3: step 1/30")


def test_a_terminal_that_cannot_move_its_cursor_gets_lines(
    terminal: Callable[[], Terminal], monkeypatch: pytest.MonkeyPatch
) -> None:
    err = terminal()
    monkeypatch.setenv("TERM", "dumb")
    _show(Console())
    assert "\x1b" not in err.getvalue()
    assert len(err.getvalue().splitlines()) == 4


def test_quiet_is_quiet(terminal: Callable[[], Terminal]) -> None:
    err = terminal()
    _show(Console(quiet=True))
    assert err.getvalue() == ""


def _drawn(width: int, *records: dict, plain: bool = False, colour: bool = True) -> str:
    from rich.console import Console as RichConsole

    shown = Shown(Counter({"text": 1}))
    for record in records:
        shown.add(record)
    console = RichConsole(record=True, width=width, file=io.StringIO(), force_terminal=True, no_color=not colour)
    console.print(panel("stage 2 of 3", shown, width, plain=plain))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue() if not colour else console.export_text()


FULL = {
    **RECORD,
    **GPU,
    "epoch": 0.5,
    "waited": 0.5,
    "supervised": 300,
    "rates": {"llm": 1e-4, "rows": 1e-4, "points": 5e-4},
    "val_loss": {"text": 1.5, "all": 1.75},
    "samples_judged": {"valid": 0.75},
}


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_a_panel_of_any_width_has_every_figure_beside_its_unit(width: int) -> None:
    text = _drawn(width, FULL)
    lines = text.splitlines()
    assert {len(line) for line in lines} == {min(width, 100)}
    for said in (
        "1/30",
        "2.5000",
        "text 1.5000",
        "valid 75%",
        "llm, rows 0.0001",
        "points 0.0005",
        "1,234 tokens/s",
        "150 supervised/s",
        "25% waiting",
    ):
        assert said in text
    for said in ("25% waiting", "15.4 of 15.9 GiB used", "peak 13.20 GiB", "61% busy", "88 °C", "throttled", "text + points 56%"):
        assert said in text


def test_what_a_machine_cannot_know_is_not_shown() -> None:
    text = _drawn(80, RECORD)
    assert not any(name in text for name in ("memory", "GPU", "held out", "answers", "waiting", "supervised", "doing", "None"))
    assert "gradient" not in _drawn(80, {key: value for key, value in RECORD.items() if key != "grad_norm"})


def test_held_out_figures_stay_until_there_are_newer_ones() -> None:
    text = _drawn(80, FULL, {**RECORD, "step": 2})
    assert "all 1.7500" in text
    assert "at step 1" in text


def test_without_colours_and_without_unicode() -> None:
    assert not re.search(r"\x1b\[(?:\d+;)*(?:3|9)\d", _drawn(60, FULL, colour=False))
    inside = [line[1:-1] for line in _drawn(60, FULL, plain=True).splitlines()[1:-1] if "°C" not in line]
    assert all(line.isascii() for line in inside)


def test_an_overflow_and_a_held_out_loss_are_said() -> None:
    line = plain_line({**RECORD, "grad_norm": None, "val_loss": {"all": 1.5}}, 4000)
    assert "overflow" in line
    assert "held-out loss 1.5000" in line
    assert "67 min left" in line
    assert "GiB" not in line
    assert "15.4 GiB  88 C" in plain_line({**RECORD, **GPU}, 1)
    assert "25% waiting" in plain_line({**RECORD, "waited": 0.5}, 1)


def test_the_first_step_does_not_spoil_the_estimate() -> None:
    shown = Shown(Counter())
    for step in range(1, 4):
        shown.add({**RECORD, "step": step, "seconds": 300.0 if step == 1 else 2.0})
    assert shown.left == pytest.approx(27 * 2.0)


def test_durations() -> None:
    assert [duration(s) for s in (0.4, 89, 91, 3600, 7500)] == ["0 s", "89 s", "2 min", "60 min", "2 h 05 min"]
    assert duration(200_000) == "2 d 07 h"


def test_a_step_that_was_validated_has_a_line_of_its_own() -> None:
    err = io.StringIO()
    with Board(Console(out=io.StringIO(), err=err), "stage 1 of 3", 10) as board:
        for step in range(1, 10):
            board.step({**RECORD, "step": step, "total_steps": 30} | ({"val_loss": {"all": 1.25}} if step == 7 else {}))
    assert [line.split()[5] for line in err.getvalue().splitlines()] == ["1/30", "7/30"]
