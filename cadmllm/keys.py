"""Every dotted settings key: its type, default and description, read from the settings model."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from cadmllm.settings import Settings


@dataclass(frozen=True, slots=True)
class Key:
    """One setting.

    Attributes:
        name: dotted, as written in files ('data.json', 'stages.2.lr').
        type_text: 'int', 'path', 'one of a, b', ...
        default: the default's value.
        description: what it does.
        is_path: the value is a path.
        is_table: the value is a mapping, whose entries may be set one by one.
        optional: it may be unset.
    """

    name: str
    type_text: str
    default: object
    description: str
    is_path: bool
    is_table: bool
    optional: bool

    @property
    def default_text(self) -> str:
        """The default as a settings file would write it."""
        return as_toml(self.default)


@cache
def known_keys() -> dict[str, Key]:
    """All keys in the order of the settings model."""
    return {key.name: key for key in _walk(Settings(), "")}


def _walk(group: BaseModel, prefix: str) -> Iterable[Key]:
    for name, info in type(group).model_fields.items():
        dotted = f"{prefix}{info.alias or name}"
        value = getattr(group, name)
        if isinstance(value, BaseModel):
            yield from _walk(value, f"{dotted}.")
        else:
            yield _key(dotted, info, value)


def _key(name: str, info: FieldInfo, default: object) -> Key:
    choices = [a for a in get_args(info.annotation) if a is not type(None)]
    optional = type(None) in get_args(info.annotation)
    kind: Any = choices[0] if optional else info.annotation
    if get_origin(kind) is Literal:
        text = "one of " + ", ".join(str(a) for a in get_args(kind))
    else:
        text = {Path: "path", str: "text", dict: "table"}.get(get_origin(kind) or kind, getattr(kind, "__name__", str(kind)))
    return Key(name, text, default, info.description or "", kind is Path, get_origin(kind) is dict, optional)


def as_toml(value: object) -> str:
    """`value` as a settings file would write it; an unset value is `(none)`."""
    if value is None:
        return "(none)"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return f"{value:g}" if isinstance(value, float) else str(value)
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f'"{k}" = {as_toml(v)}' for k, v in value.items()) + " }"
    text = str(value)
    return f"'{text}'" if "\\" in text else f'"{text}"'


def flat(settings: Settings) -> dict[str, object]:
    """The value of every dotted key."""
    values: dict[str, object] = {}

    def visit(group: BaseModel, prefix: str) -> None:
        for name, info in type(group).model_fields.items():
            value = getattr(group, name)
            dotted = f"{prefix}{info.alias or name}"
            if isinstance(value, BaseModel):
                visit(value, f"{dotted}.")
            else:
                values[dotted] = value

    visit(settings, "")
    return values


def nested(values: Mapping[str, object], keys: Mapping[str, Key]) -> dict[str, Any]:
    """Dotted values as the nested mapping that the settings model takes.

    Groups that are partly given are filled with their defaults, as a stage's defaults are the stage's, not the class's.
    Entries of tables (`stages.2.probabilities.text`) are merged into the table as it stands.
    """
    full: dict[str, object] = {name: key.default for name, key in keys.items()}
    full.update({name: value for name, value in values.items() if name in keys})
    for name, value in values.items():
        if name in keys:
            continue
        table = next(t for t in keys if keys[t].is_table and name.startswith(t + "."))
        current = full[table]
        full[table] = {**(current if isinstance(current, Mapping) else {}), name.removeprefix(table + "."): value}
    tree: dict[str, Any] = {}
    for name, value in full.items():
        *groups, leaf = name.split(".")
        place = tree
        for group in groups:
            place = place.setdefault(group, {})
        place[leaf] = value
    return tree


def closest(name: str, names: Iterable[str]) -> str | None:
    """The name that was probably meant, or None. A bare last part ('batch_size') finds its dotted key."""
    names = list(names)
    name = name.replace("-", "_").lower()
    by_tail = [n for n in names if n.rpartition(".")[2] == name.rpartition(".")[2]]
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if by_tail and "." not in name:
        return by_tail[0]
    if near:
        return near[0]
    if by_tail:
        return by_tail[0]
    tails = {n.rpartition(".")[2]: n for n in reversed(names)}
    tail = difflib.get_close_matches(name.rpartition(".")[2], tails, n=1, cutoff=0.75)
    return tails[tail[0]] if tail else None
