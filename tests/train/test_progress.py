"""What is shown while a stage trains."""

from __future__ import annotations

import io

import pytest

from cadmllm.console import Console
from cadmllm.train.progress import Board, duration, plain_line

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


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def _show(err: io.StringIO, quiet: bool = False) -> str:
    with Board(Console(quiet=quiet, err=err), "stage 2 of 3", 10) as board:
        for step in range(4, 31):
            board.step({**RECORD, "step": step})
    return err.getvalue()


def test_a_pipe_gets_the_first_every_tenth_and_the_last_step() -> None:
    lines = _show(io.StringIO()).splitlines()
    assert [line.split("step ")[1].split("/")[0] for line in lines] == ["4", "10", "20", "30"]
    assert lines[1].startswith("stage 2 of 3: step 10/30  loss 2.5000  lr 0.0001  grad 1.25  1,234 tokens/s  40 s left")


def test_a_terminal_gets_a_panel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    text = _show(Terminal())
    for said in ("stage 2 of 3", "30/30", "2.5000", "1,234 tokens/s", "text+point_cloud 5"):
        assert said in text


def test_quiet_is_quiet() -> None:
    assert _show(io.StringIO(), quiet=True) == ""
    assert _show(Terminal(), quiet=True) == ""


def test_an_overflow_and_a_held_out_loss_are_said() -> None:
    line = plain_line({**RECORD, "grad_norm": None, "val_loss": {"all": 1.5}}, 4000)
    assert "overflow" in line
    assert "held-out loss 1.5000" in line
    assert "67 min left" in line


def test_durations() -> None:
    assert [duration(s) for s in (0.4, 89, 91, 3600, 7500)] == ["0 s", "89 s", "2 min", "60 min", "2 h 05 min"]
