"""Options that every command takes: settings, output mode and the guide's flags, taken out before Typer sees the rest.

A command gets them as `ctx.obj`, a `Shared`::

    def train(ctx: typer.Context, stage: str) -> None:
        shared: Shared = ctx.obj
        settings, console = shared.settings(), shared.console

A command that declares an option of the same name (`data synth --seed`) keeps it for itself.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from cadmllm.console import Console
from cadmllm.errors import CadmllmError, Exit
from cadmllm.flags import FLAGS, OFF, ON, Flag, flags_of, switch_value
from cadmllm.places import is_windows_path, local_path, under_wsl

if TYPE_CHECKING:
    import typer.core

    from cadmllm.resolve import Resolved
    from cadmllm.settings import Settings

    Command = typer.core.TyperCommand | typer.core.TyperGroup

SHARED = ("preset", "config", "set", "json", "quiet")  # names that no command may declare itself
EPILOG = (
    "Every command takes --preset NAME|FILE, --config FILE (default ./cadmllm.toml), --set KEY=VALUE (again and again), --json, "
    "--quiet and the training guide's flags (--batch_size 2, --stage2-lr 2e-4, ...). Settings: 'cadmllm config keys'; flags: "
    "'cadmllm config flags'."
)


@dataclass(slots=True)
class Shared:
    """What the options that all commands share say.

    Attributes:
        command: 'train', 'data synth', ...
        preset, config: as given, else None.
        given: `(dotted key, value as text, option as written)` in the order of the command line.
        json, quiet: the output mode.
        start_from_stage: 1, 2, 3, or None when not given.
    """

    command: str = ""
    preset: str | None = None
    config: Path | None = None
    given: list[tuple[str, str, str]] = field(default_factory=list)
    json: bool = False
    quiet: bool = False
    start_from_stage: int | None = None
    _resolved: Resolved | None = None
    _console: Console | None = None

    @property
    def console(self) -> Console:
        """The printer of this invocation."""
        if self._console is None:
            self._console = Console(json=self.json, quiet=self.quiet)
        return self._console

    def resolve(self) -> Resolved:
        """The settings of all layers with their origins. What deserves to be said is said once, on standard error.

        Raises:
            CadmllmError: E101 to E104, E831: exit code 2.
        """
        if self._resolved is None:
            from cadmllm.resolve import Assignment, Origin, parse_value, resolve

            items = [Assignment(key, parse_value(text), Origin("command line", how)) for key, text, how in self.given]
            self._resolved = resolve(preset=self.preset, config=self.config, assignments=items)
            for note in self._resolved.notes:
                self.console.note(note)
        return self._resolved

    def forget(self) -> None:
        """Have the settings read again: a file of theirs was changed."""
        self._resolved = None

    def settings(self) -> Settings:
        """The settings of all layers."""
        return self.resolve().settings


def wants_json(args: Sequence[str]) -> bool:
    """Whether `--json` is there at all: errors of the command line itself must come out in the right form, too."""
    return "--json" in _before_separator(args)


def split(root: typer.core.TyperGroup, args: Sequence[str]) -> tuple[list[str], Shared]:
    """Takes the shared options out of a command line.

    Args:
        root: the program's group of commands.
        args: without the program's name.

    Returns:
        What Typer is to parse, and the shared options.

    Raises:
        CadmllmError: E106 for an option that neither the command nor the shared table knows, or one without its value.
    """
    import typer.core

    name, command, rest = _find_command(root, args)
    shared = Shared(command=name)
    own = _own_options(command)
    flags = flags_of(name)
    kept: list[str] = []
    words = _Words(rest)
    for word in words:
        if word == "--":
            kept += ["--", *words]
        elif not word.startswith("--") or len(word) == 2:
            kept.append(word)
            if len(word) == 2 and word in own:
                kept += _own_values(word, own[word], words)
        else:
            _take(word, own, flags, shared, kept, words)
    if isinstance(command, typer.core.TyperGroup) and not kept and not (name and command.invoke_without_command):
        kept = ["--help"]  # a group alone shows what it holds
    if under_wsl():
        kept = [_mounted(word, shared) for word in kept]
    return [*name.split(), *kept], shared


def _mounted(word: str, shared: Shared) -> str:
    """A Windows path among a command's own arguments, as WSL mounts it."""
    if not is_windows_path(word):
        return word
    path = str(local_path(word, wsl=True))
    shared.console.note(f"{word} is {path} here")
    return path


class _Words:
    """The words of a command line, with a look at the next one."""

    def __init__(self, words: Sequence[str]) -> None:
        self.words = list(words)
        self.place = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if self.place == len(self.words):
            raise StopIteration
        self.place += 1
        return self.words[self.place - 1]

    def peek(self) -> str | None:
        return self.words[self.place] if self.place < len(self.words) else None


def _before_separator(args: Sequence[str]) -> list[str]:
    words = list(args)
    return words[: words.index("--")] if "--" in words else words


def _plain(word: str) -> str:
    """`--stage2-lr=1` as `stage2_lr`."""
    return word.partition("=")[0].removeprefix("--").replace("-", "_")


def _find_command(root: typer.core.TyperGroup, args: Sequence[str]) -> tuple[str, Command, list[str]]:
    """The command that is meant, its name ('data synth'), and all other words in their order."""
    from typer.core import TyperCommand, TyperGroup

    place = root
    names: list[str] = []
    other: list[str] = []
    words = _Words(args)
    known = {flag.name: flag for flag in FLAGS}  # the command is not known yet: whatever any of them takes
    for word in words:
        if word == "--":
            return " ".join(names), place, [*other, "--", *words]
        if word.startswith("-"):
            other.append(word)
            following = words.peek()
            own = {_plain(spelling): values for spelling, values in _own_options(place).items()}
            if "=" not in word and own.get(_plain(word)):
                other += _own_values(word, own[_plain(word)], words)
            elif "=" not in word and following is not None and _takes(_plain(word), known, following):
                other.append(next(words))
            continue
        if word not in place.commands:
            raise _unknown_command(word, [*names], place.commands)
        names.append(word)
        found = place.commands[word]
        if isinstance(found, TyperCommand):
            return " ".join(names), found, [*other, *words]
        assert isinstance(found, TyperGroup)
        place = found
    return " ".join(names), place, other


def _takes(name: str, flags: dict[str, Flag], following: str) -> bool:
    """Whether the shared option `name` takes the following word as its value."""
    if name in ("preset", "config", "set"):
        return True
    return name in flags and (not flags[name].switch or following.lower() in ON | OFF)


def _unknown_command(word: str, names: Sequence[str], commands: Iterable[str]) -> CadmllmError:
    where = " ".join(["cadmllm", *names])
    near = difflib.get_close_matches(word, list(commands), n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return CadmllmError("E106", f"{where} has no command {word!r}{hint}", f"{where} --help", exit_code=Exit.USAGE)


def _own_options(command: Command) -> dict[str, int]:
    """Every spelling of the command's own options, and how many values it takes."""
    from typer.core import TyperOption

    own = {"--help": 0, "-h": 0}
    for param in command.params:
        if isinstance(param, TyperOption):
            values = 0 if param.is_flag or param.count else param.nargs
            own.update(dict.fromkeys((*param.opts, *param.secondary_opts), values))
    return own


def _own_values(word: str, count: int, words: _Words) -> list[str]:
    values = []
    for _ in range(count):
        if words.peek() is None:
            raise _no_value(word)
        values.append(next(words))
    return values


def _no_value(word: str) -> CadmllmError:
    return CadmllmError("E106", f"{word} needs a value", f"write {word} VALUE", exit_code=Exit.USAGE)


def _take(word: str, own: dict[str, int], flags: dict[str, Flag], shared: Shared, kept: list[str], words: _Words) -> None:
    """Puts one long option, with its value, where it belongs: into `kept` (the command's own) or into `shared`."""
    written, equals, inline = word.partition("=")
    name = _plain(word)
    declared = {_plain(spelling): spelling for spelling in own if spelling.startswith("--")}
    if name in declared:
        spelling = declared[name]
        kept.append(spelling + equals + inline)
        if not equals:
            kept += _own_values(written, own[spelling], words)
        return
    if name in ("json", "quiet"):
        if equals:
            raise CadmllmError("E106", f"{written} takes no value", f"write {written}", exit_code=Exit.USAGE)
        setattr(shared, name, True)
        return
    off = name.removeprefix("no_") if name.startswith("no_") else None
    flag = flags.get(name) or (flags.get(off) if off else None)
    if flag is not None and flag.switch:
        _take_switch(flag, written, off is not None and name not in flags, inline if equals else None, shared, words)
        return
    if name not in ("preset", "config", "set") and (flag is None or off in flags):
        raise _unknown_option(written, shared.command, own, flags)
    following = words.peek()
    if not equals and (following is None or following.startswith("--")):
        raise _no_value(written)
    _take_value(name, flag, written, inline if equals else next(words), shared)


def _take_switch(flag: Flag, written: str, negated: bool, inline: str | None, shared: Shared, words: _Words) -> None:
    value = inline
    following = words.peek()
    if value is None and following is not None and following.lower() in ON | OFF:
        value = next(words)
    if value is not None and value.lower() not in ON | OFF:
        raise CadmllmError("E106", f"{written} is on or off, not {value!r}", f"write {written} true", exit_code=Exit.USAGE)
    on = (value is None or value.lower() in ON) != negated
    if flag.name == "create_dummy_data" and on and any(how == "--num_dummy_samples" for _, _, how in shared.given):
        return  # the number was given before: it stands
    shared.given.append((flag.key, switch_value(flag, on, os.environ.get("WANDB_MODE")), flag.spelling))


def _take_value(name: str, flag: Flag | None, written: str, value: str, shared: Shared) -> None:
    if name == "preset":
        shared.preset = value
    elif name == "config":
        shared.config = local_path(value)
    elif name == "set":
        key, equals, text = value.partition("=")
        if not equals:
            raise CadmllmError("E106", f"--set {value!r} has no '='", "write --set train.batch_size=2", exit_code=Exit.USAGE)
        shared.given.append((key.strip(), text, "--set"))
    elif flag is not None and not flag.key:
        if value not in ("1", "2", "3"):
            raise CadmllmError(
                "E102", f"{written} {value}: there are stages 1, 2 and 3", f"write {written} 2", exit_code=Exit.USAGE
            )
        shared.start_from_stage = int(value)
    elif flag is not None:
        shared.given.append((flag.key, value, flag.spelling))


def _unknown_option(written: str, command: str, own: Iterable[str], flags: Iterable[str]) -> CadmllmError:
    spellings = {_plain(s): s for s in own if s.startswith("--")}
    dashed = "-" in written.removeprefix("--")
    for name in (*SHARED, *flags):
        spellings.setdefault(name, f"--{name.replace('_', '-') if dashed else name}")
    near = difflib.get_close_matches(_plain(written), list(spellings), n=1)
    hint = f"; did you mean {spellings[near[0]]}?" if near else ""
    where = f"cadmllm {command}".rstrip()
    return CadmllmError("E106", f"{where} has no option {written}{hint}", f"{where} --help", exit_code=Exit.USAGE)
