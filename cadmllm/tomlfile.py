"""Values written into a settings file without touching anything else in it: comments, order and line ends stay.

Minimal textual editing: a value that is there is replaced where it stands; a new one goes into its table, or into a new table at
the end of the file. Every edit is proven by reading it back before the file is written. Standard library only.
"""

from __future__ import annotations

import json
import math
import os
import re
import tempfile
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cadmllm.errors import CadmllmError

_BARE = re.compile(r"[A-Za-z0-9_-]+")


def set_values(path: Path, values: Mapping[str, object]) -> list[str]:
    """Write values into a settings file; what it was stands beside it as `<name>.bak`.

    Args:
        path: of the file; made where it does not exist.
        values: by dotted key (`train.batch_size`, `stages.2.lr`): text, numbers, booleans, paths, lists or tables of such.

    Returns:
        What changed, a line each: 'train.batch_size = 1 (was 2)'. Empty where all of it stood there already; then nothing is
        written.

    Raises:
        CadmllmError: E104 where the file is not TOML, or a key cannot be set without rewriting it.
        OSError: it cannot be read or written.
    """
    there = path.is_file()
    before = path.read_bytes().decode("utf-8") if there else ""
    after, changed = edited(before, values, str(path))
    if not changed:
        return []
    path.parent.mkdir(parents=True, exist_ok=True)
    if there:
        _write(path.with_name(path.name + ".bak"), before)
    _write(path, after)
    return changed


def _write(path: Path, text: str) -> None:
    """Written aside and renamed: a full disk leaves the old file."""
    mode = path.stat().st_mode & 0o777 if path.exists() else 0o644
    handle, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(text.encode("utf-8"))
        os.chmod(name, mode)
        os.replace(name, path)
    except OSError:
        Path(name).unlink(missing_ok=True)
        raise


def edited(text: str, values: Mapping[str, object], where: str = "the settings") -> tuple[str, list[str]]:
    """The text with the values in it, and a line for each that changed.

    Args:
        text: of a TOML file.
        values: by dotted key.
        where: what the file is called in errors.

    Raises:
        CadmllmError: E104.
    """
    try:
        old = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise CadmllmError("E104", f"{where} is not valid TOML: {error}", f"correct {where}") from error
    changed = []
    for dotted, value in values.items():
        key = tuple(dotted.split("."))
        value, was = _plain(value), _get(old, key)
        if was is not None and _same(was, value):
            continue
        expected = _with(old, key, value)
        text = _set(text, key, value)
        if expected is None or not _reads(text, expected):
            line = f"{dotted} = {to_toml(value)}"
            raise CadmllmError("E104", f"{where} cannot be edited for {dotted} without rewriting it", f"write there: {line}")
        old = expected
        changed.append(f"{dotted} = {to_toml(value)}" + ("" if was is None else f" (was {to_toml(was)})"))
    return text, changed


def to_toml(value: Any) -> str:
    """A value as TOML has it, on one line."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else str(value)  # inf, -inf, nan
    if isinstance(value, Mapping):
        inside = ", ".join(f"{_as_key((str(name),))} = {to_toml(part)}" for name, part in value.items())
        return f"{{ {inside} }}" if inside else "{}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(to_toml(part) for part in value) + "]"
    return str(value)  # whole numbers, dates and times: Python writes them as TOML reads them


def _quoted(text: str) -> str:
    if "\\" in text and "'" not in text and text.isprintable():
        return f"'{text}'"  # a Windows path stays readable
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _plain(value: object) -> Any:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(name): _plain(part) for name, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, (list, tuple)) else value


def _same(one: Any, other: Any) -> bool:
    """Equal and of one type: 1, 1.0 and true are three values in TOML."""
    return type(one) is type(other) and to_toml(one) == to_toml(other)


def _reads(text: str, expected: Mapping[str, Any]) -> bool:
    try:
        return _same(_ordered(tomllib.loads(text)), _ordered(expected))
    except tomllib.TOMLDecodeError:
        return False


def _ordered(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _ordered(value[name]) for name in sorted(value)}
    return [_ordered(part) for part in value] if isinstance(value, list) else value


def _get(data: Any, key: tuple[str, ...]) -> Any:
    for name in key:
        if not isinstance(data, Mapping) or name not in data:
            return None
        data = data[name]
    return data


def _with(data: Mapping[str, Any], key: tuple[str, ...], value: Any) -> dict[str, Any] | None:
    """The data with the value in it; None where something that is no table is in the way."""
    first, rest = key[0], key[1:]
    if not rest:
        return {**data, first: value}
    below = data.get(first, {})
    inner = _with(below, rest, value) if isinstance(below, Mapping) else None
    return None if inner is None else {**data, first: inner}


@dataclass(frozen=True, slots=True)
class _Entry:
    """A line `key = value`: the table it stands in, its own (dotted) key, and where the value and the whole line are."""

    table: tuple[str, ...]
    key: tuple[str, ...]
    begin: int
    end: int
    next: int

    @property
    def path(self) -> tuple[str, ...]:
        return self.table + self.key


@dataclass(frozen=True, slots=True)
class _Header:
    """A line `[table]`; `next` is where the following line begins. One of an array of tables has no path."""

    path: tuple[str, ...] | None
    begin: int
    next: int


def _set(text: str, key: tuple[str, ...], value: Any) -> str:
    """The text with one value in it; what cannot be done in place gives something that is not read back as expected."""
    entries, headers = _scan(text)
    for entry in entries:
        if entry.path == key:
            return text[: entry.begin] + to_toml(value) + text[entry.end :]
        if entry.path == key[: len(entry.path)]:  # inside an inline table: that is written anew
            table = tomllib.loads(f"x = {text[entry.begin : entry.end]}")["x"]
            whole = _with(table, key[len(entry.path) :], value) if isinstance(table, dict) else None
            return text if whole is None else text[: entry.begin] + to_toml(whole) + text[entry.end :]
    parent = key[:-1]
    newline = "\r\n" if "\r\n" in text else "\n"
    implied = [entry for entry in entries if len(entry.key) > 1 and parent in _implied(entry)]
    if implied:  # `train.lr = 1` made the table: a header would define it twice
        return _insert(text, implied[-1].next, f"{_as_key(key[len(implied[-1].table) :])} = {to_toml(value)}", newline)
    line = f"{_as_key(key[-1:])} = {to_toml(value)}"
    if not parent:
        own = [entry.next for entry in entries if not entry.table]
        return _insert(text, own[-1] if own else _top(text, headers), line, newline)
    for header in headers:
        if header.path == parent:
            inside = [entry.next for entry in entries if entry.table == parent]
            return _insert(text, inside[-1] if inside else header.next, line, newline)
    gap = newline if text.strip() else ""
    return _insert(text, len(text), f"{gap}[{_as_key(parent)}]{newline}{line}", newline)


def _implied(entry: _Entry) -> set[tuple[str, ...]]:
    """Tables that a dotted key makes."""
    return {entry.path[:k] for k in range(len(entry.table) + 1, len(entry.path))}


def _top(text: str, headers: list[_Header]) -> int:
    """Where a first value before all tables may stand: below the comments that open the file, where a blank line ends them."""
    end = headers[0].begin if headers else len(text)
    opening = re.match(r"(?:[ \t]*#[^\n]*\n)+(?=[ \t]*\r?\n|\Z)", text[:end])
    return opening.end() if opening else end if not headers else 0


def _insert(text: str, place: int, line: str, newline: str) -> str:
    before = text[:place]
    if before and not before.endswith("\n"):
        before += newline
    return before + line + newline + text[place:]


def _as_key(key: tuple[str, ...]) -> str:
    return ".".join(name if _BARE.fullmatch(name) else json.dumps(name, ensure_ascii=False) for name in key)


def _scan(text: str) -> tuple[list[_Entry], list[_Header]]:
    """Every `key = value` and `[table]` of a text that tomllib reads, without what stands in arrays of tables."""
    entries: list[_Entry] = []
    headers: list[_Header] = []
    table: tuple[str, ...] | None = ()
    arrays: list[tuple[str, ...]] = []
    place = 0
    while (place := _blank(text, place)) < len(text):
        begin = place
        if text[place] == "[":
            double = text.startswith("[[", place)
            path, place = _key(text, place + 1 + double)
            if double:
                arrays.append(path)
            table = None if any(path[: len(a)] == a for a in arrays) else path
            place = _line_end(text, place)
            headers.append(_Header(table, begin, place))
            continue
        key, place = _key(text, place)
        value = _spaces(text, place + 1)  # behind the `=`
        end = _value_end(text, value)
        place = _line_end(text, end)
        if table is not None:
            entries.append(_Entry(table, key, value, end, place))
    return entries, headers


def _spaces(text: str, place: int) -> int:
    while place < len(text) and text[place] in " \t":
        place += 1
    return place


def _blank(text: str, place: int) -> int:
    """Past blank lines and comments."""
    while place < len(text) and (text[place] in " \t\r\n" or text[place] == "#"):
        place = _line_end(text, place) if text[place] == "#" else place + 1
    return place


def _line_end(text: str, place: int) -> int:
    found = text.find("\n", place)
    return len(text) if found < 0 else found + 1


def _key(text: str, place: int) -> tuple[tuple[str, ...], int]:
    """A dotted key and the place of what follows it (`=` or `]`)."""
    names = []
    while True:
        place = _spaces(text, place)
        if text[place] in "\"'":
            end = _string_end(text, place)
            names.append(tomllib.loads(f"x = {text[place:end]}")["x"])
        else:
            match = _BARE.match(text, place)
            assert match is not None, "tomllib has read this"
            names.append(match.group())
            end = match.end()
        place = _spaces(text, end)
        if text[place] != ".":
            return tuple(names), place
        place += 1


def _string_end(text: str, place: int) -> int:
    """Behind the string that begins here."""
    mark = text[place]
    literal = mark == "'"
    if text.startswith(3 * mark, place):
        place += 3
        while not text.startswith(3 * mark, place):
            place += 2 if text[place] == "\\" and not literal else 1
        place += 3
        while place < len(text) and text[place] == mark:  # up to two quotes may end the text itself
            place += 1
        return place
    place += 1
    while text[place] != mark:
        place += 2 if text[place] == "\\" and not literal else 1
    return place + 1


def _value_end(text: str, place: int) -> int:
    """Behind the value that begins here; brackets may go over several lines, with comments in them."""
    depth = 0
    end = place
    while place < len(text):
        letter = text[place]
        if letter in "\"'":
            place = end = _string_end(text, place)
            continue
        if letter == "#":
            if not depth:
                break
            place = _line_end(text, place)
            continue
        if letter in "\r\n" and not depth:
            break
        depth += (letter in "[{") - (letter in "]}")
        place += 1
        if letter not in " \t\r\n":
            end = place
    return end
