"""Runs a piece of Python in a process of its own, so that what breaks there is a finding here. Standard library only."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass

MARK = "@cadmllm "  # packages print on import; our lines begin with this


@dataclass(frozen=True, slots=True)
class Probe:
    """What a probe said: its JSON lines, how it ended in words ('' when well), and its last words on standard error."""

    lines: list[dict]
    end: str
    stderr: str


def run_probe(code: str, *args: str, seconds: float, environ: Mapping[str, str] | None = None) -> Probe:
    """Runs `code` with `args` and a `say(**fields)` that sends one JSON line back.

    Args:
        code: Python source of ours, never of anybody else.
        args: its `sys.argv[1:]`.
        seconds: time limit; the process and its children are killed after it.
        environ: its environment; this process' own when None.
    """
    prelude = f"import json, sys\ndef say(**fields):\n    print({MARK!r} + json.dumps(fields), flush=True)\n"
    process = subprocess.Popen(
        [sys.executable, "-c", prelude + code, *args],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
        env=environ,
    )
    try:
        out, err = process.communicate(timeout=seconds)
        end = _ending(process.returncode)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
        end = f"no answer within {seconds:.0f} s"
    lines = [json.loads(line.removeprefix(MARK)) for line in out.splitlines() if line.startswith(MARK)]
    return Probe(lines, end, err.strip().rpartition("\n")[2])


def _ending(code: int) -> str:
    if code == 0:
        return ""
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return f"exit code {code}"
