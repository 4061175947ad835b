"""Values written into a settings file without touching anything else in it: comments, order and line ends stay.

tomlkit edits; every edit is proven by reading it back with tomllib before the file is written.
"""

from __future__ import annotations

import os
import tempfile
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cadmllm.errors import CadmllmError

if TYPE_CHECKING:
    from tomlkit import TOMLDocument


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
    import tomlkit

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
        new = text if expected is None or isinstance(was, dict) else _set(tomlkit.parse(text), key, value)
        if expected is None or not _reads(new, expected):
            line = f"{dotted} = {to_toml(value)}"
            raise CadmllmError("E104", f"{where} cannot be edited for {dotted} without rewriting it", f"write there: {line}")
        text, old = new, expected
        changed.append(f"{dotted} = {to_toml(value)}" + ("" if was is None else f" (was {to_toml(was)})"))
    return text, changed


def _set(document: TOMLDocument, key: tuple[str, ...], value: Any) -> str:
    """The document's text with one value in it."""
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    table: Any = document
    try:
        for name in key[:-1]:
            if name not in table:
                table.add(name, tomlkit.table()) if table is document else table.update({name: {}})
            table = table[name]
        table[key[-1]] = _item(value)
        return tomlkit.dumps(document)
    except (TOMLKitError, TypeError, AttributeError):  # something that is no table is in the way: what is read back says so
        return ""


def _item(value: Any) -> Any:
    """A value as tomlkit has it; a table on one line."""
    import tomlkit

    if not isinstance(value, dict):
        return tomlkit.item(value)
    table = tomlkit.inline_table()
    for name, part in value.items():
        table.append(name, _item(part))
    return table


def to_toml(value: Any) -> str:
    """A value (text, number, boolean, list or table of such) as TOML has it, on one line."""
    return _item(value).as_string()


def _plain(value: object) -> Any:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(name): _plain(part) for name, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, (list, tuple)) else value


def _same(one: Any, other: Any) -> bool:
    """Equal and of one type throughout: 1, 1.0 and true are three values in TOML."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(part, other[name]) for name, part in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return type(one) is type(other) and one == other


def _reads(text: str, expected: Mapping[str, Any]) -> bool:
    try:
        return _same(tomllib.loads(text), expected)
    except tomllib.TOMLDecodeError:
        return False


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
