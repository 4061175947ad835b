"""One line a check, one a finding, details on request."""

from __future__ import annotations

import io

import pytest

from cadmllm.console import Console
from cadmllm.doctor.check import Check, Finding, Level, Outcome
from cadmllm.doctor.lines import lines, spent

CHECK = Check("model", "the model is there", ("E501",), lambda situation: Outcome())
FAIL = Finding("E501", Level.FAIL, "model", "no\nconfig.json", "hf download X")
WARN = Finding("E811", Level.WARN, "model", "no CUDA device", "nvidia-smi")
PLAIN = Console(out=io.StringIO())


@pytest.mark.parametrize(
    ("outcome", "told"),
    [
        (Outcome("Qwen3, 16 GB"), ["[ok]   model: Qwen3, 16 GB"]),
        (Outcome(), ["[ok]   model"]),
        (Outcome(skipped="not WSL"), ["[skip: not WSL] model"]),
        (Outcome("s", (FAIL,)), ["[fail] model: E501 no config.json -> hf download X"]),
        (
            Outcome("s", (WARN, FAIL)),
            ["[warn] model: E811 no CUDA device -> nvidia-smi", "[fail] model: E501 no config.json -> hf download X"],
        ),
        (Outcome(details=("unsaid",)), ["[ok]   model"]),
    ],
)
def test_a_line_a_check_or_finding(outcome, told):
    assert lines(PLAIN, CHECK, outcome) == told


def test_details_and_time_stand_below_on_request():
    outcome = Outcome("seen", (WARN,), details=("one\ntwo", "three"))
    told = lines(PLAIN, CHECK, outcome, verbose=True, seconds=0.0384)
    assert told[1:] == ["       seen", "       one", "       two", "       three", "       38 ms"]
    assert lines(PLAIN, CHECK, Outcome(skipped="why"), verbose=True, seconds=1.0) == ["[skip: why] model"]
    assert lines(PLAIN, CHECK, Outcome("s"), verbose=True) == ["[ok]   model: s"]


def test_colours_on_a_terminal_keep_the_columns(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    console = Console(out=Terminal())
    assert lines(console, CHECK, Outcome("s")) == ["\x1b[32m[ok]\x1b[0m   model: s"]
    assert lines(console, CHECK, Outcome("", (FAIL,)))[0].startswith("\x1b[31;1m[fail]\x1b[0m model: E501")


def test_times():
    assert [spent(s) for s in (0.0004, 0.25, 1.44, 75.0)] == ["0 ms", "250 ms", "1.4 s", "75.0 s"]
