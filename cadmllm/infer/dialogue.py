"""A session at the prompt line, without the prompt line: what each line means, and what is in force.

A line is a prompt, and each prompt stands for itself; a line that begins with '/' is a command. `Dialogue.handle` gives a `Turn`,
which says what to print and what to do; who runs the session does it and tells `answered` what came of it.
"""

from __future__ import annotations

import difflib
import itertools
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cadmllm.errors import CadmllmError
from cadmllm.infer.api import changed
from cadmllm.infer.inputs import MOST_CLOUDS
from cadmllm.infer.lengths import parse_size
from cadmllm.infer.pictures import MOST_IMAGES
from cadmllm.infer.request import Request
from cadmllm.places import local_path

if TYPE_CHECKING:
    from cadmllm.infer.part import Part
    from cadmllm.settings import InferSettings

WARM = 0.7  # of /again after a greedy answer, which would only repeat itself
Deed = Literal["", "answer", "show", "save", "record", "quit"]

COMMANDS = {
    "/image": ("F...", "show these pictures with every prompt from now on; alone: which they are; /image clear"),
    "/pc": ("F...", "show this cloud or mesh (several files: scans in one frame), in place of the one before; /pc clear"),
    "/size": ("40x20x10mm", "bring results to this size; /size clear"),
    "/candidates": ("N", "draw N answers and take the best solid"),
    "/temperature": ("T", "0 is greedy, 1 as the model learned"),
    "/seed": ("N", "of sampling"),
    "/again": ("", "another answer to the same prompt, with the inputs in force: the next seed"),
    "/go": ("", "answer from the pictures and points alone"),
    "/show": ("", "the program of the last part, feature by feature"),
    "/record": ("", "all that is known of the last part, as JSON"),
    "/save": ("[DIR]", "write the files of the last part; alone: to the output folder, never over another answer"),
    "/clear": ("", "no pictures, points and size any more"),
    "/help": ("", "this list"),
    "/quit": ("", "end the session (Ctrl-D)"),
}
ALIASES = {"/exit": "/quit", "/q": "/quit", "/?": "/help", "/h": "/help", "/images": "/image", "/points": "/pc", "/cloud": "/pc"}
FILES = ("/image", "/pc", "/save")  # commands that take paths


@dataclass(frozen=True, slots=True)
class Turn:
    """What a line asks for.

    Attributes:
        say: lines to print.
        deed: what to do; 'answer' comes with a request.
        request: to be answered with `settings`.
        settings: `infer` for this answer.
        folder: of 'save'.
    """

    say: tuple[str, ...] = ()
    deed: Deed = ""
    request: Request | None = None
    settings: InferSettings | None = None
    folder: Path | None = None


@dataclass(slots=True)
class Dialogue:
    """What is in force.

    Attributes:
        settings: `infer`, as the session has changed it.
        images, points: files that every prompt comes with.
        size: that results are brought to, None: as the points or the prompt say.
        prompt: the latest, for /again; None before there is one.
        last: the part of the latest answer.
        tries: answers to the latest prompt so far.
    """

    settings: InferSettings
    images: tuple[Path, ...] = ()
    points: tuple[Path, ...] = ()
    size: str | None = None
    prompt: str | None = None
    last: Part | None = None
    tries: int = 0

    def bring(self, images: Sequence[Path], points: Sequence[Path], size: str | None) -> None:
        """Put inputs in force, as /image, /pc and /size do.

        Raises:
            CadmllmError: E201, E106, E705.
        """
        self.images = _files("images", tuple(images), MOST_IMAGES)
        self.points = _files("points", tuple(points), MOST_CLOUDS)
        if size is not None:
            parse_size(size, self.settings.units)
        self.size = size

    def handle(self, line: str) -> Turn:
        """What a line means.

        Raises:
            CadmllmError: E106 (no such command, wrong use), E102 (a value out of range), E201 (a file that is not there), E703,
                E705; nothing has changed then.
        """
        line = line.strip()
        if not line:
            return Turn()
        if not line.startswith("/") or line.startswith("//"):
            return self._ask(line.removeprefix("/") if line.startswith("//") else line)
        name, _, rest = line.partition(" ")
        command = ALIASES.get(name.lower(), name.lower())
        if command not in COMMANDS:
            near = difflib.get_close_matches(command, COMMANDS, n=1)
            hint = f": did you mean {near[0]}?" if near else ""
            raise CadmllmError(
                "E106", f"there is no command {name[:40]}{hint}", "/help (a prompt that begins with a slash: //...)"
            )
        return self._command(command, _words(rest))

    def answered(self, part: Part) -> None:
        """The latest answer is this."""
        self.last = part

    def _command(self, command: str, words: list[str]) -> Turn:
        if not COMMANDS[command][0] and words:
            raise CadmllmError("E106", f"{command} takes nothing, not {words[0][:40]!r}", command)
        match command:
            case "/image" | "/pc" | "/size":
                return self._input(command, words)
            case "/candidates" | "/temperature" | "/seed":
                return self._setting(command.removeprefix("/"), words)
            case "/again":
                return self._again()
            case "/go":
                return self._ask(None)
            case "/show" | "/record":
                self._need_last()
                return Turn(deed="show" if command == "/show" else "record")
            case "/save":
                return self._save(words)
            case "/clear":
                self.images, self.points, self.size = (), (), None
                return Turn(("no pictures, no points, no size",))
            case "/help":
                return Turn(_help())
            case _:
                return Turn(deed="quit")

    def _ask(self, text: str | None) -> Turn:
        if text is None and not self.images and not self.points:
            raise CadmllmError("E703", "there is nothing to generate from", "write a prompt, or /image F, or /pc F")
        self.prompt, self.tries = text or "", 1
        return Turn((), "answer", self._request(), self.settings)

    def _again(self) -> Turn:
        if self.prompt is None or (not self.prompt and not self.images and not self.points):
            raise CadmllmError("E703", "there is nothing to answer again", "write a prompt first")
        asked = self.settings.model_copy(update={"seed": self.settings.seed + self.tries})
        self.tries += 1
        said = f"seed {asked.seed}"
        if asked.temperature == 0.0 and asked.candidates == 1:
            asked = asked.model_copy(update={"temperature": WARM})
            said += f", temperature {WARM:g} (at 0 the answer would be the same)"
        return Turn((said,), "answer", self._request(), asked)

    def _request(self) -> Request:
        return Request("prompt", self.prompt or None, self.images, self.points, self.size)

    def _input(self, command: str, words: list[str]) -> Turn:
        clear = [word.lower() for word in words] == ["clear"]
        if command == "/image":
            if clear:
                self.images = ()
            elif words:
                self.images = _files("images", (*self.images, *map(_path, words)), MOST_IMAGES)
            return Turn((_listed("pictures", self.images),))
        if command == "/pc":
            if clear:
                self.points = ()
            elif words:
                self.points = _files("points", tuple(map(_path, words)), MOST_CLOUDS)
            return Turn((_listed("points", self.points),))
        if clear:
            self.size = None
        elif words:
            parse_size(" ".join(words), self.settings.units)
            self.size = " ".join(words)
        return Turn((f"size: {self.size or 'as the points, the prompt or the model say'}",))

    def _setting(self, name: str, words: list[str]) -> Turn:
        if len(words) > 1:
            raise CadmllmError("E106", f"/{name} takes one number, not {len(words)}", f"/{name} {words[0]}")
        if words:
            self.settings = changed(self.settings, {name: words[0]})
            self.tries = 0  # /again begins with the seed that was named
        return Turn((f"{name}: {getattr(self.settings, name):g}",))

    def _save(self, words: list[str]) -> Turn:
        self._need_last()
        if len(words) > 1:
            raise CadmllmError("E106", f"/save takes one folder, not {len(words)}", "quote a name with spaces: /save 'my part'")
        return Turn(deed="save", folder=_path(words[0]) if words else _free(self.settings.out))

    def _need_last(self) -> None:
        if self.last is None:
            raise CadmllmError("E703", "there is no part yet", "write a prompt first")


def completions(line: str, word: str) -> list[str]:
    """What `word`, the last of `line`, may become: a command, or a file where the command takes one; a folder ends in '/'."""
    if line.startswith("/") and " " not in line.lstrip():
        return [f"{name} " for name in COMMANDS if name.startswith(word)]
    if line.split(" ", 1)[0] not in FILES:
        return []
    folder, start = os.path.split(word)
    try:
        names = sorted(os.listdir(os.path.expanduser(folder) or "."))
    except (OSError, ValueError):
        return []
    found = []
    for name in names:
        if name.startswith(start) and (start.startswith(".") or not name.startswith(".")):
            path = os.path.join(folder, name)
            found.append(path + ("/" if os.path.isdir(os.path.expanduser(path)) else " "))
    return found


def _words(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise CadmllmError("E106", f"the line cannot be read: {error}", "close the quotes") from None


def _path(word: str) -> Path:
    return Path(os.path.expanduser(local_path(word)))


def _files(what: str, paths: tuple[Path, ...], most: int) -> tuple[Path, ...]:
    for path in paths:
        if not os.path.isfile(path):
            found = "a folder" if os.path.isdir(path) else "no file" if os.path.exists(path) else "not there"
            raise CadmllmError("E201", f"{path} is {found}", "name a file (Tab completes; quote a name with spaces)")
    if len(paths) > most:
        raise CadmllmError("E106", f"{len(paths)} {what} are more than {most}", "/clear, then name those that matter")
    return tuple(dict.fromkeys(paths))


def _listed(what: str, paths: tuple[Path, ...]) -> str:
    return f"{what}: {', '.join(map(str, paths)) or 'none'}"


def _free(folder: Path) -> Path:
    """The folder, or the first of folder-2, folder-3, ... that holds nothing."""
    places = (folder.with_name(f"{folder.resolve().name}-{number}") if number > 1 else folder for number in itertools.count(1))
    return next(place for place in places if not os.path.exists(place) or (os.path.isdir(place) and not os.listdir(place)))


def _help() -> tuple[str, ...]:
    uses = {name: f"{name} {argument}".rstrip() for name, (argument, _) in COMMANDS.items()}
    width = max(map(len, uses.values()))
    return ("a line is a prompt; each stands for itself", *(f"{uses[name]:<{width}}  {COMMANDS[name][1]}" for name in COMMANDS))
