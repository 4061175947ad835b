"""The only printer. Results go to standard output, everything else to standard error.

Four ways to be read: a person at a terminal (colours, progress bars), a pipe or a log (plain lines), a program (`--json`:
one JSON document on standard output and nothing else there), and nobody (`--quiet`: results, warnings and errors alone).
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import sys
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from numbers import Integral, Real
from pathlib import PurePath
from typing import TYPE_CHECKING, Protocol, TextIO

if TYPE_CHECKING:
    from cadmllm.errors import CadmllmError

_COLOURS = {"red": "31;1", "yellow": "33;1", "green": "32", "cyan": "36", "dim": "2", "bold": "1"}


class Progress(Protocol):
    """What `Console.progress` yields."""

    def advance(self, n: int = 1, note: str = "") -> None:
        """`n` more are done; `note` stands behind the bar ('loss 1.23')."""
        ...


def jsonable(value: object) -> object:
    """`value` as plain JSON data: paths and enums as text, dataclasses as objects, numbers that JSON lacks as null."""
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, PurePath):
        return str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: jsonable(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [jsonable(item) for item in value]
    raise TypeError(f"no JSON form for {type(value).__name__}")


class Console:
    """Prints for one invocation.

    Args:
        json: results are one JSON document; `print` and `table` are silent.
        quiet: no notes and no progress.
        out, err: the streams; standard output and standard error when None (looked up at each call).
    """

    def __init__(self, json: bool = False, quiet: bool = False, *, out: TextIO | None = None, err: TextIO | None = None) -> None:
        self.is_json = json
        self.is_quiet = quiet
        self._out = out
        self._err = err

    @property
    def out(self) -> TextIO:
        """The stream of results."""
        return self._out or sys.stdout

    @property
    def err(self) -> TextIO:
        """The stream of everything else."""
        return self._err or sys.stderr

    def colour(self, text: str, name: str, stream: TextIO | None = None) -> str:
        """`text` in a colour where the stream is a terminal and NO_COLOR is not set, else as it is."""
        stream = stream or self.out
        if not stream.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
            return text
        return f"\x1b[{_COLOURS[name]}m{text}\x1b[0m"

    def print(self, text: str = "") -> None:
        """A line of the result, for people; nothing under `--json`."""
        if not self.is_json:
            print(text, file=self.out, flush=True)

    def json(self, value: object) -> None:
        """The result as one JSON document under `--json`; nothing otherwise."""
        if self.is_json:
            print(json.dumps(jsonable(value), ensure_ascii=False, indent=2, allow_nan=False), file=self.out, flush=True)

    def note(self, text: str) -> None:
        """What is going on, on standard error; silent under `--quiet`."""
        if not self.is_quiet:
            print(text, file=self.err, flush=True)

    def warn(self, text: str) -> None:
        """Something that deserves a look, on standard error, also under `--quiet`."""
        print(f"{self.colour('warning:', 'yellow', self.err)} {text}", file=self.err, flush=True)

    def error(self, error: CadmllmError) -> None:
        """`error:` and `hint:` on standard error; under `--json` the error object on standard output."""
        if self.is_json:
            self.json({"error": error.as_dict()})
            return
        print(f"{self.colour('error:', 'red', self.err)} {error.code} {error.message}", file=self.err)
        if error.remedy:
            print(f"{self.colour('hint:', 'cyan', self.err)} {error.remedy}", file=self.err)
        self.err.flush()

    def table(self, rows: Sequence[Sequence[object]], headers: Sequence[str] = ()) -> None:
        """Rows under headers, columns aligned, numbers to the right; nothing under `--json`."""
        if self.is_json:
            return
        texts = [[str(cell) for cell in row] for row in rows]
        lines = [list(headers), *texts] if headers else texts
        if not lines:
            return
        widths = [max(len(line[k]) for line in lines) for k in range(len(lines[0]))]
        right = [bool(rows) and all(isinstance(row[k], (int, float)) for row in rows) for k in range(len(widths))]
        for number, line in enumerate(lines):
            cells = (cell.rjust(w) if r else cell.ljust(w) for cell, w, r in zip(line, widths, right, strict=True))
            text = "  ".join(cells).rstrip()
            self.print(self.colour(text, "bold") if headers and number == 0 else text)

    @contextmanager
    def progress(self, total: int | None, label: str) -> Generator[Progress, None, None]:
        """A progress bar on standard error while the block runs; plain lines where that is no terminal.

        Args:
            total: how many there are, None when nobody knows.
            label: what is being done ('building').
        """
        if self.is_quiet:
            yield _Silent()
        elif self.err.isatty():
            with _bar(total, label, self.err) as bar:
                yield bar
        else:
            lines = _Lines(total, label, self.err)
            yield lines
            lines.finish()


class _Silent:
    def advance(self, n: int = 1, note: str = "") -> None:
        pass


class _Lines:
    """A line at every tenth (or, without a total, at every thousandth item), for logs and pipes."""

    def __init__(self, total: int | None, label: str, err: TextIO) -> None:
        self.total, self.label, self.err = total, label, err
        self.done = 0
        self.said = 0
        self.note = ""

    def advance(self, n: int = 1, note: str = "") -> None:
        self.done += n
        self.note = note
        step = max(1, self.total // 10) if self.total else 1000
        if self.done // step > self.said // step:
            self._say()

    def finish(self) -> None:
        if self.done > self.said:
            self._say()

    def _say(self) -> None:
        self.said = self.done
        count = f"{self.done}/{self.total}" if self.total is not None else str(self.done)
        print(f"{self.label} {count}{'  ' + self.note if self.note else ''}", file=self.err, flush=True)


@contextmanager
def _bar(total: int | None, label: str, err: TextIO) -> Generator[Progress, None, None]:
    # rich costs 30 ms: only those who see a bar pay for it
    from rich.console import Console as RichConsole
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with RichProgress(*columns, console=RichConsole(file=err), transient=True) as progress:
        task = progress.add_task(label, total=total, note="")

        class Bar:
            def advance(self, n: int = 1, note: str = "") -> None:
                progress.update(task, advance=n, note=note)

        yield Bar()
