"""An answer while it is written: finished instructions as an engineer reads them, line by line, on a terminal.

A line appears when its instruction is known to be over, which is when the next one begins: a number may be followed by a finer
one. The numbers are the model's own (centred, in the size that it states first); a cloud or a wanted size moves and scales the
part afterwards.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, TextIO

from cadmllm.cad.grammar import NEXT, NO_STATE, START
from cadmllm.cad.listing import Entry, listing
from cadmllm.cad.program import Operation, Program, validate
from cadmllm.cad.tokens import decode, spell, to_text
from cadmllm.cad.vocabulary import (
    CLOSES,
    COMMANDS,
    END,
    EXTRUDES,
    GRID,
    INDEX,
    PLANES,
    SLOTS,
    VOCABULARY,
    Instruction,
)
from cadmllm.errors import CadmllmError

if TYPE_CHECKING:
    from cadmllm.console import Console

Watch = Callable[[int, Sequence[int]], None]
REFRESH = 0.1  # seconds between two looks of the line that counts
_SINGLE = ("rect", "circle", "hole_rect", "hole_circle")


def _spelled(command: str, *levels: int) -> list[int]:
    return list(spell([Instruction(command, tuple(level * GRID.fine for level in levels))]))


_FLAT = _spelled("plane_z", 0)
_WHOLE = _spelled("rect", -GRID.half, -GRID.half, 2 * GRID.half, 2 * GRID.half)
_UP = _spelled("new_up", GRID.half)


class Reader:
    """Reads one answer as it grows. It looks at each token once, and at an instruction or a loop when it is over."""

    def __init__(self) -> None:
        self.seen = 0
        self.left = False  # the grammar (only an answer written without it can)
        self._state = START
        self._item: list[int] = []  # tokens of the instruction that is being written
        self._size: list[int] = []
        self._plane: list[int] = []
        self._planes: list[list[int]] = []  # of the sketches that wait for their extrude
        self._loop: list[int] = []
        self._curves = 0

    @property
    def doing(self) -> str:
        """What is being written and has no line yet."""
        return f"loop, {self._curves} curve{'s' * (self._curves != 1)} so far" if self._loop else ""

    def feed(self, tokens: Sequence[int]) -> list[str]:
        """The lines of all that is finished by now and has not been told.

        Args:
            tokens: the whole answer so far, CAD vocabulary indices; what was fed before is its beginning.
        """
        lines: list[str] = []
        while self.seen < len(tokens) and not self.left:
            token = tokens[self.seen]
            self.seen += 1
            self._state = int(NEXT[self._state, token]) if 0 <= token < len(VOCABULARY) else NO_STATE
            if self._state == NO_STATE:
                self.left = True
                return [*lines, f"token {self.seen} is outside the grammar: what follows cannot be read"]
            if token < len(SLOTS):  # a command: the one before is over
                lines += self._finish()
                self._item = []
            self._item.append(token)
        return lines

    def _finish(self) -> list[str]:
        if not self._item:
            return []
        command, item = COMMANDS[self._item[0]], self._item
        if command == "size":
            self._size = item
            return [to_text([*item, *_FLAT, *_WHOLE, *_UP, END]).splitlines()[0]]
        if command in PLANES:
            self._plane = item
            self._planes.append(item)
            return [_line(listing(self._alone(item, _WHOLE))[1])]
        if command in EXTRUDES:
            return self._extrude(command, item)
        if command in _SINGLE:
            return self._shape(item)
        self._loop += item
        if command not in ("loop", "hole"):
            self._curves += 1
        if command not in CLOSES:
            return []
        loop, self._loop, self._curves = self._loop, [], 0
        return self._shape(loop)

    def _shape(self, loop: list[int]) -> list[str]:
        """The lines of a finished loop, read as the outline of a part of its own."""
        name = COMMANDS[loop[0]]
        hole = name.startswith("hole")
        outline = INDEX["loop" if name == "hole" else name.removeprefix("hole_")]
        label = "hole" if hole else "outer"
        try:
            entries = listing(validate(self._alone(self._plane, [outline, *loop[1:]]), "this part"))[2:]
        except CadmllmError as error:  # the model may draw what encloses nothing
            return [_line(Entry(2, label, error.message.rpartition("loop 1")[2].strip(" :")))]
        return [_line(entry._replace(label=label if entry.label else "")) for entry in entries]

    def _extrude(self, command: str, item: list[int]) -> list[str]:
        operation, direction = command.split("_")
        sketches = [token for plane in self._planes for token in (*plane, *_WHOLE)]
        program = decode([*self._size, *sketches, INDEX[f"new_{direction}"], *item[1:], END])
        extrude = replace(program.extrudes[0], operation=Operation(operation))
        self._planes = []
        return [listing(Program((extrude,)))[0].text]

    def _alone(self, plane: list[int], shape: list[int]) -> Program:
        return decode([*self._size, *plane, *shape, *_UP, END])


def _line(entry: Entry) -> str:
    return f"{'  ' * entry.level}{entry.label + '  ' if entry.label else ''}{entry.text}"


@contextmanager
def watching(
    console: Console, answers: int = 1, *, clock: Callable[[], float] = time.monotonic
) -> Generator[Watch | None, None, None]:
    """What to give to `generate(watch=...)`: shows one answer as it is written, or counts the tokens of several.

    On a terminal alone, and on standard error; in a pipe, with `--quiet` and with `--json` it is None, so that nothing is paid.

    Args:
        console: of this invocation.
        answers: how many are written side by side.
        clock: seconds, rising.
    """
    if console.is_quiet or console.is_json or not console.err.isatty():
        yield None
        return
    status = _Status(console.err, clock)
    try:
        yield _Shown(console, status) if answers == 1 else _Counted(answers, status)
    finally:
        status.clear()


class _Status:
    """A line that is written over, at most ten times a second; none on a terminal that cannot."""

    def __init__(self, err: TextIO, clock: Callable[[], float]) -> None:
        self._err, self._clock = err, clock
        self._able = os.environ.get("TERM") != "dumb"
        self._due = clock()
        self._shown = False

    def due(self) -> bool:
        return self._able and self._clock() >= self._due

    def show(self, text: str) -> None:
        self._due = self._clock() + REFRESH
        self._shown = True
        self._err.write(f"\r\x1b[K{fitted(text)}")
        self._err.flush()

    def clear(self) -> None:
        if self._shown:
            self._shown = False
            self._err.write("\r\x1b[K")
            self._err.flush()


class _Shown:
    """One answer, a line an instruction; when a shorter one follows, it is another attempt."""

    def __init__(self, console: Console, status: _Status) -> None:
        self._console, self._status = console, status
        self._reader = Reader()

    def __call__(self, row: int, tokens: Sequence[int]) -> None:
        if len(tokens) < self._reader.seen:
            self._reader = Reader()
            self._say("another answer:")
        for line in self._reader.feed(tokens):
            self._say("  " + line)
        if self._status.due():
            doing = self._reader.doing
            self._status.show(f"  ... tokens: {len(tokens)}{'; ' + doing if doing else ''}")

    def _say(self, line: str) -> None:
        self._status.clear()
        self._console.note(self._console.colour(fitted(line), "dim", self._console.err))


class _Counted:
    """Several answers side by side: one line with how far they are."""

    def __init__(self, answers: int, status: _Status) -> None:
        self._answers, self._status = answers, status
        self._lengths: dict[int, int] = {}
        self._done: set[int] = set()
        self._before = 0  # tokens of earlier rounds

    def __call__(self, row: int, tokens: Sequence[int]) -> None:
        if len(tokens) < self._lengths.get(row, 0):  # another round
            self._before += sum(self._lengths.values())
            self._lengths, self._done = {}, set()
        self._lengths[row] = len(tokens)
        if tokens and tokens[-1] == END:
            self._done.add(row)
        if self._status.due():
            total = self._before + sum(self._lengths.values())
            self._status.show(f"writing {self._answers} answers: {total} tokens, {len(self._done)} done")


def fitted(text: str) -> str:
    """`text` cut to the width of the terminal."""
    width = max(20, shutil.get_terminal_size().columns - 1)
    return text if len(text) <= width else text[: width - 3] + "..."
