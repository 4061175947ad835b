"""`cadmllm infer --batch` and `--interactive` from the command line to the files."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_base import make_base

from cadmllm.cad.tokens import from_text
from cadmllm.cli import main
from cadmllm.commands import _dialogue
from cadmllm.commands._dialogue import converse, history_file
from cadmllm.console import Console
from cadmllm.infer import answering, part
from cadmllm.infer.api import CadModel, load
from cadmllm.infer.dialogue import Dialogue
from cadmllm.infer.generate import Answer
from cadmllm.models.fusion import build_model
from cadmllm.models.stages import stage_folder, write_manifest
from cadmllm.models.weights import save_model
from cadmllm.resolve import Assignment, Origin, resolve

torch.set_num_threads(1)

TIMES = re.compile(rb'"(generate|build)_seconds": [0-9.e-]+')


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a finished stage 2 of the tiny preset, random weights."""
    folder = tmp_path_factory.mktemp("run")
    base = make_base(tmp_path_factory.mktemp("base"))
    origin = Origin("command line", "test")
    items = [Assignment("device", "cpu", origin), Assignment("model.llm", str(base), origin)]
    settings = resolve(preset="tiny", assignments=items, environ={}).settings
    save_model(build_model(settings, stage=2), stage_folder(folder, 2), {})
    write_manifest(stage_folder(folder, 2))
    return folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(part, "PIXELS", 64)
    return tmp_path


def infer(run_dir: Path, *args: object) -> int:
    fixed = ("--preset", "tiny", "--set", "kernel.workers=1", "--set", "infer.attempts=1", "--max-new-tokens", 40)
    return main(["infer", *map(str, (*fixed, "--output_dir", run_dir, *args))])


def write(path: Path, *lines: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def everything(out: Path) -> dict[str, bytes]:
    """All files, times aside."""
    return {str(path.relative_to(out)): TIMES.sub(b"", path.read_bytes()) for path in sorted(out.rglob("*")) if path.is_file()}


def test_a_batch_is_answered_and_goes_on_where_it_was_cut(here: Path, run_dir: Path, capsys) -> None:
    np.save("good.npy", np.random.default_rng(0).uniform(-5, 5, (500, 3)))
    Path("bad.npy").write_bytes(b"no points")
    file = write(
        here / "parts.jsonl",
        {"id": "0000/0001", "prompt": "a plate"},
        {"id": "scan", "points": "good.npy", "seed": 3},
        {"id": "bad", "points": "bad.npy"},
        {"prompt": "a ring", "size": "30mm"},
    )
    settings = ("--temperature", 1.0, "--batch-size", 2)
    assert infer(run_dir, "--batch", file, "--out", "o", "--json", *settings) == 1
    report = json.loads(capsys.readouterr().out)
    assert (report["requests"], report["answered"], report["kept"], report["exit_code"]) == (4, 4, 0, 1)
    assert report["verdicts"]["error"] == 1
    assert sum(report["errors"].values()) == 1
    rows = [json.loads(line) for line in (here / "o" / "results.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == ["0000/0001", "scan", "bad", "000004"]
    assert rows[1]["settings"]["seed"] == 3
    assert rows[1]["request"] == {"points": ["good.npy"], "seed": 3}
    assert rows[2]["error"]["code"].startswith("E4")
    assert rows[3]["size"] == "30mm"
    for row in rows:
        if "error" not in row:
            record = json.loads((here / "o" / row["id"] / "record.json").read_text())
            assert record == {name: value for name, value in row.items() if name not in ("id", "request", "kernel")}
    whole = everything(here / "o")

    lines = (here / "o" / "results.jsonl").read_bytes().splitlines(keepends=True)
    (here / "o" / "results.jsonl").write_bytes(lines[0] + lines[1][:40])
    assert infer(run_dir, "--batch", file, "--out", "o", *settings) == 1
    out, err = capsys.readouterr()
    assert everything(here / "o") == whole
    assert "1 of 4 are done already" in err
    assert "requests   4 (1 were done before)" in out
    assert infer(run_dir, "--batch", file, "--out", "o", *settings) == 1
    assert "(3 were done before)" in capsys.readouterr().out
    assert everything(here / "o") == whole


def test_a_bad_batch_is_refused_before_the_model_is_loaded(here: Path, run_dir: Path, capsys) -> None:
    file = write(here / "parts.jsonl", {"prompt": "a"}, {"text": "b"}, {"images": "c.png"})
    assert infer(run_dir, "--batch", file, "--json") == 1
    out, err = capsys.readouterr()
    error = json.loads(out)["error"]
    assert error["code"] == "E706"
    assert "line 2" in error["message"]
    assert "line 3" in error["message"]
    assert "checkpoint" not in err
    assert {path.name for path in here.iterdir()} == {"parts.jsonl"}


@pytest.mark.parametrize(
    "args",
    [("--batch", "f", "--prompt", "a"), ("--batch", "f", "-i"), ("--batch", "f", "--pc", "x"), ("-i", "--json")],
)
def test_options_that_do_not_go_together(here: Path, run_dir: Path, capsys, args: tuple[str, ...]) -> None:
    assert infer(run_dir, *args) == 2
    out, err = capsys.readouterr()
    assert "E105" in out + err


@pytest.fixture(scope="module")
def cad(run_dir: Path) -> Iterator[CadModel]:
    origin = Origin("command line", "test")
    small = {"run.dir": str(run_dir), "infer.max_new_tokens": 40, "infer.attempts": 1, "kernel.workers": 1, "device": "cpu"}
    items = [Assignment(name, value, origin) for name, value in small.items()]
    with load(settings=resolve(preset="tiny", assignments=items, environ={}).settings) as model:
        yield model


def session(cad: CadModel, monkeypatch, *lines: str, first: str | None = None) -> tuple[str, str]:
    """What a session says on standard output and on standard error."""
    out, err = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(lines) + "\n"))
    converse(cad, Console(out=out, err=err), Dialogue(cad.settings.infer), first)
    return out.getvalue(), err.getvalue()


def test_a_session_through_a_pipe(here: Path, cad: CadModel, monkeypatch) -> None:
    np.save("good.npy", np.random.default_rng(0).uniform(-5, 5, (500, 3)))
    Path("bad.npy").write_bytes(b"no points")
    out, err = session(
        cad,
        monkeypatch,
        "/shw",
        "/pc bad.npy",
        "/go",
        "/pc good.npy",
        "/go",
        "/record",
        "/save",
        "/quit",
        "/help",
        first="a plate",
    )
    assert "did you mean /show?" in err
    assert re.search(r"error: E4\d\d .*bad\.npy", err)
    assert "points: good.npy" in out
    record = json.loads(out[out.index("{\n") : out.rindex("\n}") + 2])
    assert [item["kind"] for item in record["inputs"]] == ["point cloud"]
    assert json.loads((here / "out" / "record.json").read_text())["inputs"] == record["inputs"]
    assert "out: " in out
    assert "/candidates N" not in out  # it ended at /quit


def test_the_same_line_says_the_same_as_the_command(here: Path, run_dir: Path, cad: CadModel, monkeypatch, capsys) -> None:
    session(cad, monkeypatch, "/seed 4", "/temperature 1", "a plate", "/save s")
    infer(run_dir, "--prompt", "a plate", "--seed", 4, "--temperature", 1, "--out", "c")
    assert everything(here / "s") == everything(here / "c")


def test_a_program_without_a_solid_can_be_looked_at(here: Path, cad: CadModel, monkeypatch) -> None:
    said = "size 40 mm\nplane_z 0\nloop 0 0\nhline 100\nhline 50\nhline 0\nclose\nnew_up 256\nend\n"
    monkeypatch.setattr(answering, "generate", lambda *_, **__: [Answer(tuple(from_text(said)), True, -1.0, 5)])
    out, err = session(cad, monkeypatch, "a plate", "/show", "/record", "/save")
    assert "error: E702 verdict " in err
    assert "hint: /again" in err
    assert "loop of 3 lines" in out
    assert '"verdict": "OK"' not in out
    assert "program.txt" in out


def test_an_interrupt_ends_a_session_that_nobody_types(here: Path, cad: CadModel, monkeypatch) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cad, "answer", stopped)
    with pytest.raises(KeyboardInterrupt):
        session(cad, monkeypatch, "a plate")


def test_an_interrupt_that_somebody_swallows_stops_the_answer_all_the_same(here: Path, cad: CadModel, monkeypatch) -> None:
    def deaf(requests: object, watch: Callable[[int, list[int]], None], **_: object) -> None:
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        watch(0, [1])
        raise AssertionError("it went on")

    monkeypatch.setattr(cad, "answer", deaf)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        session(cad, monkeypatch, "a plate")
    assert signal.getsignal(signal.SIGINT) is before


def test_an_overlong_line_from_a_pipe_is_one_line(here: Path, cad: CadModel, monkeypatch) -> None:
    monkeypatch.setattr(_dialogue, "LONGEST_LINE", 30_000)
    _, err = session(cad, monkeypatch, "x" * 100_000, "/nope")
    assert err.count("E408") == 1
    assert err.count("E106") == 1


def test_where_the_history_lies(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert history_file() == tmp_path / "cadmllm" / "history"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert history_file() == Path.home() / ".cache" / "cadmllm" / "history"


class Terminal:
    """A session in a terminal of its own."""

    def __init__(self, folder: Path, run_dir: Path) -> None:
        self.text, self.seen = "", 0
        self.pid, self.handle = pty.fork()
        if not self.pid:
            os.chdir(folder)
            os.environ.update(
                XDG_CACHE_HOME=str(folder / "cache"), OMP_NUM_THREADS="1", TERM="xterm", NO_COLOR="1", COLUMNS="100"
            )
            words = ["-m", "cadmllm", "infer", "-i", "--output_dir", str(run_dir), "--set", "kernel.workers=1"]
            os.execv(sys.executable, [sys.executable, *words, "--temperature", "1", "--set", "infer.attempts=1"])

    def type(self, keys: str) -> None:
        os.write(self.handle, keys.encode())

    def until(self, words: str) -> str:
        """Wait for words that are not there yet, and give what came up to them."""
        end = time.monotonic() + 100  # before the limit of a test: what was there is shown
        while words not in self.text[self.seen :]:
            assert time.monotonic() < end, self.text[self.seen :]
            if select.select([self.handle], [], [], 1.0)[0]:
                self.text += os.read(self.handle, 65536).decode(errors="replace")
        begin, self.seen = self.seen, self.text.index(words, self.seen) + len(words)
        return self.text[begin : self.seen]


@pytest.mark.long
def test_a_session_at_a_terminal(tmp_path: Path, run_dir: Path) -> None:
    (tmp_path / "c.ply").write_text("")
    for first in (True, False):
        terminal = Terminal(tmp_path, run_dir)
        terminal.until("cadmllm> ")
        terminal.type("a plate\n" if first else "\x1b[A\x1b[A\x1b[A\n")  # the third line back in the history is the prompt
        assert "a plate" in terminal.until("size ")
        terminal.until("cadmllm> ")
        terminal.type("/candidates 256\na gear\n")
        terminal.until("writing 256 answers")
        terminal.type("\x03")
        terminal.until("stopped: ")
        terminal.until("cadmllm> ")
        terminal.type("/p\tc.\t\n")
        terminal.until("points: c.ply")
        terminal.type("/quit\n")
        assert os.waitpid(terminal.pid, 0)[1] == 0
        history = tmp_path / "cache" / "cadmllm" / "history"
        assert history.read_text().splitlines()[-1] == "/quit"
        assert history.stat().st_mode & 0o077 == 0
        history.write_text("a plate\n/x\n/y\n")


@pytest.mark.long
def test_a_batch_that_is_killed_again_and_again_ends_in_the_same_bytes(tmp_path: Path, run_dir: Path) -> None:
    file = write(tmp_path / "parts.jsonl", *[{"id": f"p{k}", "prompt": f"a part with {k} holes"} for k in range(12)])
    fixed = ("--batch", str(file), "--batch-size", "3", "--temperature", "1", "--max-new-tokens", "60", "--quiet")
    words = [sys.executable, "-m", "cadmllm", "infer", *fixed, "--output_dir", str(run_dir), "--set", "kernel.workers=1", "--out"]
    subprocess.run([*words, "whole"], cwd=tmp_path, check=False, timeout=300)
    results = tmp_path / "killed" / "results.jsonl"
    for kills in range(1, 4):
        process = subprocess.Popen([*words, "killed"], cwd=tmp_path, start_new_session=True)
        while process.poll() is None and (not results.is_file() or results.read_bytes().count(b"\n") < 3 * kills - 1):
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert results.read_bytes().count(b"\n") < 12
    subprocess.run([*words, "killed"], cwd=tmp_path, check=False, timeout=300)
    assert everything(tmp_path / "killed") == everything(tmp_path / "whole")
