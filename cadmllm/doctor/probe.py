"""Runs a piece of Python in a process of its own, so that what breaks there is a finding here. Standard library only."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

SOURCE = str(Path(__file__).resolve().parents[2])  # importable in the probe also when cadmllm is not installed
MOST = 32 * 2**20  # bytes that a probe may say; a package that prints without end must not fill this process
LAST = 4096  # bytes of its standard error that are kept

_PRELUDE = """
import json, os, sys
if {source!r} not in sys.path:
    sys.path.append({source!r})
_channel = open({channel}, "w", encoding="utf-8", errors="replace")
def say(**fields):
    _channel.write(json.dumps(fields) + "\\n")
    _channel.flush()
"""


@dataclass(frozen=True, slots=True)
class Probe:
    """What a probe said: its JSON lines, how it ended in words ('' when well), and its last words on standard error."""

    lines: list[dict]
    end: str
    stderr: str


def run_probe(code: str, *args: str, seconds: float, environ: Mapping[str, str] | None = None) -> Probe:
    """Runs `code` with `args` and a `say(**fields)` that sends one JSON line back.

    What the process prints on standard output goes nowhere (packages chat while they are imported), of standard error the
    end is kept. It is stopped with all that it has started when it is done, late, or says more than 32 MiB.

    Args:
        code: Python source of ours, never of anybody else.
        args: its `sys.argv[1:]`.
        seconds: time limit; the process and its children are killed after it.
        environ: its environment; this process' own when None.
    """
    ours, theirs = os.pipe()
    try:
        process = subprocess.Popen(
            [sys.executable, "-c", _PRELUDE.format(source=SOURCE, channel=theirs) + code, *args],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            pass_fds=(theirs,),
            start_new_session=True,
            env=environ,
        )
    except OSError:
        os.close(ours)
        raise
    finally:
        os.close(theirs)
    try:
        said, stderr, end = _listen(process, ours, time.monotonic() + seconds)
    finally:
        _stop(process)
        os.close(ours)
    if end == "late":
        end = f"no answer within {seconds:.0f} s"
    return Probe(_parsed(said), end or _ending(process.returncode), _last_line(stderr))


def _listen(process: subprocess.Popen[bytes], channel: int, deadline: float) -> tuple[bytes, bytes, str]:
    """Everything said until the process has ended, its last bytes of standard error, and why it has to be stopped."""
    assert process.stderr is not None
    said, stderr = bytearray(), bytearray()
    with selectors.DefaultSelector() as selector:
        selector.register(channel, selectors.EVENT_READ, said)
        selector.register(process.stderr.fileno(), selectors.EVENT_READ, stderr)
        while selector.get_map():
            left = deadline - time.monotonic()
            if left <= 0:
                return bytes(said), bytes(stderr), "late"
            # a grandchild may hold the pipes open after the process has gone: look for that end, too
            ready = selector.select(min(left, 0.2))
            if not ready and process.poll() is not None:
                break
            for key, _ in ready:
                chunk = os.read(key.fd, 1 << 16)
                if not chunk:
                    selector.unregister(key.fd)
                key.data.extend(chunk)
            del stderr[:-LAST]
            if len(said) > MOST:
                return bytes(said), bytes(stderr), f"more than {MOST >> 20} MiB of answers"
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            return bytes(said), bytes(stderr), "late"
    return bytes(said), bytes(stderr), ""


def _stop(process: subprocess.Popen[bytes]) -> None:
    """The process and all that it has started are gone after this."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert process.stderr is not None
    process.stderr.close()


def _parsed(said: bytes) -> list[dict]:
    found = []
    for line in said.decode("utf-8", "replace").splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue  # a process that was killed while it spoke
    return found


def _last_line(stderr: bytes) -> str:
    return stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]


def _ending(code: int) -> str:
    if code == 0:
        return ""
    if code < 0:
        names = {number.value: number.name for number in signal.Signals}
        return f"killed by {names.get(-code, f'signal {-code}')}"
    return f"exit code {code}"
