"""The process that makes the proofs: asked for one at a time, killed when it hangs. Standard library only."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from cadmllm.doctor.check import Finding, Level, Outcome, Situation
from cadmllm.doctor.machine import Machine
from cadmllm.errors import CadmllmError

MODULE = "cadmllm.doctor.proving"
MARK = "@cadmllm-proof "  # packages print as they like; lines of the proofs begin with this
SILENT = 300.0  # seconds without a word after which it counts as hung
LONGEST = 1200.0  # seconds of all proofs together
PREFIX = ".cadmllm-proofs-"


class Prover:
    """Makes proofs of a situation's run in a process of its own.

    Args:
        situation: whose run is put to the proof.
        silent, longest: seconds without a word, and in all, after which the process is killed.

    Raises:
        CadmllmError: E867 when there is no place for the temporary folder.
    """

    def __init__(self, situation: Situation, silent: float | None = None, longest: float | None = None) -> None:
        self.silent, self.until = silent or SILENT, time.monotonic() + (longest or LONGEST)
        self.longest = longest or LONGEST
        self._machine, self._plan, self._console = situation.machine, situation.plan, situation.console
        settings = situation.needed
        self.folder = place_for(settings.run.dir)
        self._kills = _oom_kills(self._machine)
        self._process = subprocess.Popen(
            [sys.executable, "-m", MODULE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
            env=dict(situation.machine.environ),
        )
        weakref.finalize(self, _end, self._process, self.folder)
        said: queue.Queue[dict[str, Any] | None] = queue.Queue()
        last: deque[str] = deque(maxlen=20)
        # the threads hold on to what they write to, not to this object: it ends when nobody needs it any more
        _thread(self._process.stdout, lambda line: _hear(line, said), lambda: said.put(None))
        _thread(self._process.stderr, last.append, lambda: None)
        self._said, self._last = said, last
        self._ended = ""
        self._doing = "starting"
        intent = {"resume": situation.intent.resume, "from_scratch": situation.intent.from_scratch}
        run = {"settings": settings.model_dump(mode="json", by_alias=True), "stages": list(situation.stages)}
        self._tell(json.dumps(run | intent | {"folder": str(self.folder)}))

    def prove(self, name: str) -> Outcome:
        """The outcome of one proof; skipped when the process ended in one before it."""
        if self._ended:
            return Outcome(skipped=f"the process of the proofs ended in {self._ended}")
        self._tell(name)
        while True:
            try:
                said = self._said.get(timeout=max(0.01, min(self.silent, self.until - time.monotonic())))
            except queue.Empty:
                return self._hung(name)
            if said is None:
                return self._died(name)
            if "doing" in said:
                self._doing = said["doing"]
                if self._console is not None:
                    self._console.note(f"proving: {name}: {self._doing}")
            elif "failed" in said:
                self._ended = name
                found = said["failed"]
                return Outcome(findings=(Finding(found["code"], Level.FAIL, name, found["message"], found["remedy"]),))
            elif said.get("proof") == name:
                if said["measured"]:
                    self._plan["measured"] = said["measured"]
                return _outcome(said["outcome"])

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it has died: what it said last tells of what

    def _hung(self, name: str) -> Outcome:
        _kill(self._process)
        self._process.wait()
        self._ended = name
        late = time.monotonic() >= self.until
        why = f"took over {self.longest:.0f} s in all" if late else f"said nothing for {self.silent:.0f} s"
        remedy = f"make the other proofs: cadmllm doctor --deep --skip {name}; whether a disk or a GPU hangs says: dmesg | tail"
        return self._lost(name, f"{why} ({self._doing})", remedy)

    def _died(self, name: str) -> Outcome:
        code = self._process.wait()
        self._ended = name
        killed = _oom_kills(self._machine) > self._kills
        if code == -signal.SIGKILL and killed:
            how = "was killed by the kernel, as main memory ran out"
            remedy = "close other programs, or need less: --set train.pack_tokens=2048 --set train.workers=0; see: cadmllm plan"
        else:
            how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
            remedy = f"see what it says: cadmllm doctor --deep --only {name} -v; the other proofs: --deep --skip {name}"
        return self._lost(name, f"{how} ({self._doing}){self._words()}", remedy)

    def _lost(self, name: str, how: str, remedy: str) -> Outcome:
        finding = Finding("E867", Level.FAIL, name, f"the process that makes the proofs {how}", remedy)
        return Outcome(findings=(finding,), details=tuple(self._last))

    def _words(self) -> str:
        time.sleep(0.05)  # the thread that reads may still have some of it
        last = next((line.strip() for line in reversed(self._last) if line.strip()), "")
        return f": {last[:300]}" if last else ""


def prove(situation: Situation, name: str) -> Outcome:
    """One proof, made by the process of this doctor, which is started at its first use.

    Raises:
        CadmllmError: E867 when it cannot be, for the first proof; the others are skipped.
    """
    known = situation.once("prover", lambda: [_started(situation)])
    if isinstance(known[0], Prover):
        return known[0].prove(name)
    if known[0] is None:
        return Outcome(skipped="the process of the proofs could not be started")
    error, known[0] = known[0], None
    raise error


def _started(situation: Situation) -> Prover | CadmllmError | None:
    try:
        return Prover(situation)
    except CadmllmError as error:
        return error


def place_for(run_dir: Path) -> Path:
    """A new temporary folder on the disk of `run.dir`, beside it if that can be; what a killed doctor left there is removed.

    Raises:
        CadmllmError: E867.
    """
    run = run_dir.expanduser().absolute()
    there = next(folder for folder in run.parents if folder.is_dir())
    # in a hidden folder that no run looks at, where another disk is mounted, or where nothing else can be written
    apart = run.is_dir() and run.stat().st_dev != there.stat().st_dev
    places = [run] if apart else [there, run] if run.is_dir() else [there]
    for place in places:
        _sweep(place)
        try:
            return Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=place))
        except OSError as error:
            reason = error.strerror
    remedy = "name a run folder that can be written: --set run.dir=FOLDER"
    raise CadmllmError("E867", f"no temporary folder can be made in {places[-1]}: {reason}", remedy)


def _sweep(there: Path) -> None:
    """Remove what doctors that were killed have left."""
    for left in there.glob(f"{PREFIX}*"):
        owner = re.match(r"(\d+)-", left.name.removeprefix(PREFIX))
        if owner and not Path(f"/proc/{owner[1]}").exists():
            shutil.rmtree(left, ignore_errors=True)


def _outcome(said: dict[str, Any]) -> Outcome:
    findings = tuple(Finding(**{**found, "level": Level(found["level"])}) for found in said["findings"])
    return Outcome(said["summary"], findings, said["skipped"], tuple(said["details"]))


def _oom_kills(machine: Machine) -> int:
    """Processes that the kernel has killed for want of memory, of this machine and of this container."""
    texts = (machine.text("proc/vmstat"), machine.text("sys/fs/cgroup/memory.events"))
    return sum(int(count) for text in texts for count in re.findall(r"^oom_kill (\d+)$", text, re.MULTILINE))


def _hear(line: str, said: queue.Queue[dict[str, Any] | None]) -> None:
    if line.startswith(MARK):
        said.put(json.loads(line.removeprefix(MARK)))


def _thread(stream: IO[str] | None, each: Callable[[str], None], end: Callable[[], None]) -> None:
    assert stream is not None

    def read() -> None:
        for line in stream:
            each(line.rstrip("\n"))
        end()

    threading.Thread(target=read, daemon=True).start()


def _kill(process: subprocess.Popen[str]) -> None:
    """With its loader processes."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _end(process: subprocess.Popen[str], folder: Path) -> None:
    _kill(process)
    process.wait()
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            try:
                stream.close()
            except (OSError, ValueError):  # a pipe without a reader, a thread within it
                continue
    shutil.rmtree(folder, ignore_errors=True)
