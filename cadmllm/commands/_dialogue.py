"""`cadmllm infer --interactive`: the prompt line around `infer.dialogue`; the model stays loaded."""

from __future__ import annotations

import io
import itertools
import json
import os
import signal
import sys
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from cadmllm.errors import CadmllmError, Exit

if TYPE_CHECKING:
    from cadmllm.commands._options import Shared
    from cadmllm.console import Console
    from cadmllm.infer.api import CadModel, Watch
    from cadmllm.infer.dialogue import Dialogue, Turn

PROMPT = "cadmllm> "
LONGEST_LINE = 1 << 20  # characters from a pipe
HISTORY = 1000  # lines that are remembered
LONGEST_REMEMBERED = 4000  # characters of one


def converse(cad: CadModel, console: Console, dialogue: Dialogue, first: str | None = None) -> None:
    """Answer line after line until the input ends or somebody quits. What goes wrong is said, and the session goes on.

    Args:
        cad: an open model.
        console: answers go to its standard output, errors to standard error.
        dialogue: with the settings of `infer` and the inputs to begin with.
        first: a prompt that is answered before anything is read.
    """
    if sys.stdin.isatty():
        console.note("a line is a prompt; /help lists commands, /quit or Ctrl-D ends")
    with _history(console):
        for line in itertools.chain([] if first is None else [f"/{first}" if first.startswith("/") else first], _lines(console)):
            try:
                turn = dialogue.handle(line)
                for text in turn.say:
                    console.print(text)
                if turn.deed == "quit":
                    return
                _do(cad, console, dialogue, turn)
            except CadmllmError as error:
                console.error(error)


def session(shared: Shared, prompt: str | None, images: list[Path], points: list[Path], size: str | None) -> None:
    """Check what the session begins with, load the model, and talk; a prompt of the command line is its first line.

    Raises:
        CadmllmError: E105 under --json, E201, E705; as `infer.api.load`.
    """
    from cadmllm.infer.api import load
    from cadmllm.infer.dialogue import Dialogue

    settings, console = shared.settings(), shared.console
    if console.is_json:
        raise CadmllmError("E105", "--interactive does not go with --json", "use --batch FILE.jsonl --json", exit_code=Exit.USAGE)
    dialogue = Dialogue(settings.infer)
    dialogue.bring(images, points, size)
    with load(settings=settings, console=console) as cad:
        converse(cad, console, dialogue, first=prompt)


def _do(cad: CadModel, console: Console, dialogue: Dialogue, turn: Turn) -> None:
    last = dialogue.last
    if turn.deed == "answer":
        try:
            _answer(cad, console, dialogue, turn)
        except KeyboardInterrupt:
            if not sys.stdin.isatty():
                raise
            console.note("\nstopped: the answer before stays the last one")
    elif turn.deed == "show" and last is not None:
        _show(console, dialogue)
    elif turn.deed == "record" and last is not None:
        console.print(json.dumps(last.record, indent=1, ensure_ascii=False))
    elif turn.deed == "save" and last is not None and turn.folder is not None:
        names = last.save(turn.folder)
        console.print(f"{turn.folder}: {', '.join(names)}")


def _answer(cad: CadModel, console: Console, dialogue: Dialogue, turn: Turn) -> None:
    from cadmllm.commands.infer import summary
    from cadmllm.infer.stream import watching

    assert turn.request is not None
    assert turn.settings is not None
    with watching(console, turn.settings.candidates) as watch:
        if watch is not None and turn.settings.candidates == 1 and (turn.request.points or turn.request.size):
            console.note("in the model's own size and place; those that were asked for follow")
        with _stoppable(watch) as step:
            (part,) = cad.answer([turn.request], step, **turn.settings.model_dump())
    if isinstance(part, CadmllmError):
        raise part
    dialogue.answered(part)
    for note in part.record["notes"]:
        console.note(f"note: {note}")
    if not part.ok:
        raise CadmllmError("E702", f"verdict {part.verdict.value}: {part.reason}", "/again, /candidates 16, or a simpler prompt")
    for label, text in summary(part.record):
        if label != "checkpoint":
            console.print(f"{label:<11}{text}")


@contextmanager
def _stoppable(watch: Watch | None) -> Generator[Watch, None, None]:
    """A watch that raises what Ctrl-C asked for again at the next token: in a destructor or a callback it would be lost."""
    asked: list[int] = []

    def stop(number: int, _: object) -> None:
        asked.append(number)
        raise KeyboardInterrupt

    def step(row: int, tokens: Sequence[int]) -> None:
        if asked:
            raise KeyboardInterrupt
        if watch is not None:
            watch(row, tokens)

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield step
    finally:
        signal.signal(signal.SIGINT, before)


def _show(console: Console, dialogue: Dialogue) -> None:
    from cadmllm.cad.listing import listing, to_text
    from cadmllm.cad.program import validate

    assert dialogue.last is not None
    part = dialogue.last
    try:
        if part.program is not None:
            console.print(to_text(listing(validate(part.program))).rstrip("\n"))
            return
        console.note("the answer spells no program; its tokens:")
    except CadmllmError as error:
        console.note(f"{error.message}; its tokens:")
    console.print(part.text.rstrip("\n"))


def _lines(console: Console) -> Iterator[str]:
    """Lines as they are typed or come through a pipe."""
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")
    if not sys.stdin.isatty():
        yield from _piped()
        return
    while True:
        try:
            yield input(PROMPT)
        except EOFError:
            console.note("")
            return
        except KeyboardInterrupt:
            console.note("\nCtrl-D or /quit ends the session")


def _piped() -> Iterator[str]:
    while line := sys.stdin.readline(LONGEST_LINE):
        whole = line.endswith("\n") or len(line) < LONGEST_LINE
        while not whole:
            whole = (more := sys.stdin.readline(LONGEST_LINE)).endswith("\n") or len(more) < LONGEST_LINE
            line = line[:LONGEST_LINE]
        yield line


def history_file() -> Path:
    """`~/.cache/cadmllm/history`, or under XDG_CACHE_HOME."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "cadmllm" / "history"


@contextmanager
def _history(console: Console) -> Generator[None, None, None]:
    """Line editing with the history of earlier sessions, and completion, where somebody types."""
    if not sys.stdin.isatty():
        yield
        return
    try:
        import readline
    except ImportError:
        console.note("no history and no completion: this Python was built without readline")
        yield
        return
    path = history_file()
    readline.set_history_length(HISTORY)
    readline.set_completer_delims(" ")
    readline.set_completer(_completer)
    readline.parse_and_bind("tab: complete")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        readline.read_history_file(path)
        before = readline.get_current_history_length()
    except OSError as error:
        console.note(f"no history of earlier sessions: {path}: {error.strerror}")
        yield
        return
    try:
        yield
    finally:
        _remember(path, before, console)


def _remember(path: Path, before: int, console: Console) -> None:
    import readline

    for place in range(readline.get_current_history_length(), before, -1):
        if len(readline.get_history_item(place) or "") > LONGEST_REMEMBERED:
            readline.remove_history_item(place - 1)
    try:
        readline.append_history_file(max(0, readline.get_current_history_length() - before), path)
    except OSError as error:
        console.note(f"the history is not kept: {path}: {error.strerror}")


def _completer(word: str, number: int) -> str | None:
    import readline

    from cadmllm.infer.dialogue import completions

    found = completions(readline.get_line_buffer()[: readline.get_endidx()], word)
    return found[number] if number < len(found) else None
