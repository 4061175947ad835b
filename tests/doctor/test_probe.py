"""A probe answers, whatever the code in it does."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from cadmllm.doctor import probe
from cadmllm.doctor.probe import run_probe


def test_what_is_said_comes_back_and_chatter_does_not():
    answer = run_probe("print('hello')\nsay(a=1, b=sys.argv[1])\nprint('bye')\nsay(c='ä')", "x y", seconds=20)
    assert answer.lines == [{"a": 1, "b": "x y"}, {"c": "ä"}]
    assert answer.end == ""


@pytest.mark.parametrize(
    ("code", "end"),
    [
        ("os._exit(7)", "exit code 7"),
        ("os.kill(os.getpid(), 11)", "killed by SIGSEGV"),
        ("os.kill(os.getpid(), 40)", "killed by signal 40"),
        ("raise SystemExit(3)", "exit code 3"),
    ],
)
def test_how_it_ended(code, end):
    answer = run_probe(f"say(first=1)\n{code}", seconds=20)
    assert answer.end == end
    assert answer.lines == [{"first": 1}]


def test_the_last_words_of_standard_error():
    assert run_probe("raise ValueError('why')", seconds=20).stderr == "ValueError: why"


def test_a_late_one_is_stopped_with_its_children(tmp_path):
    mark = tmp_path / "alive"
    code = f"""
import subprocess, time
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(5); open({str(mark)!r}, 'w')"])
say(begun=1)
time.sleep(60)
"""
    answer = run_probe(code, seconds=3)
    assert answer.end == "no answer within 3 s"
    assert answer.lines == [{"begun": 1}]
    time.sleep(3)
    assert not mark.exists(), "what the probe has started goes with it"


def test_a_grandchild_that_stays_does_not_hold_us():
    code = "import os, time\nif os.fork() == 0:\n    time.sleep(50)\n    os._exit(0)\nsay(done=1)"
    start = time.monotonic()
    answer = run_probe(code, seconds=40)
    assert (answer.lines, answer.end) == ([{"done": 1}], "")
    assert time.monotonic() - start < 30


def test_one_that_prints_without_end_does_not_fill_us(monkeypatch):
    flood = "import os\nblock = b'x' * 65536 + b'\\n'\nfor _ in range(800):\n    os.write({fd}, block)\nsay(done=1)"
    for fd in (1, 2):
        answer = run_probe(flood.format(fd=fd), seconds=30)
        assert (answer.lines, answer.end) == ([{"done": 1}], "")
        assert len(answer.stderr) <= probe.LAST
    monkeypatch.setattr(probe, "MOST", 1 << 20)
    answer = run_probe("while True:\n    say(text='x' * 1000)", seconds=30)
    assert answer.end == "more than 1 MiB of answers"
    assert answer.lines[0] == {"text": "x" * 1000}


def test_our_source_can_be_imported_and_stubs_come_before(tmp_path):
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(tmp_path)}
    (tmp_path / "numpy.py").write_text("stub = True")
    code = "import cadmllm, numpy\nsay(ours=cadmllm.__file__, stub=numpy.stub)"
    answer = run_probe(code, seconds=20, environ=environ)
    assert answer.lines == [{"ours": str(Path(probe.SOURCE) / "cadmllm" / "__init__.py"), "stub": True}]


def test_no_pipe_is_left_open(monkeypatch):
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        run_probe("say(a=1)", seconds=20)

    def refuse(*args, **kwargs):
        raise OSError("no more processes")

    monkeypatch.setattr(probe.subprocess, "Popen", refuse)
    with pytest.raises(OSError, match="no more"):
        run_probe("say(a=1)", seconds=20)
    assert len(os.listdir("/proc/self/fd")) == before
