"""Defaults < preset < cadmllm.toml < environment < command line, and where each value came from.

Keys are dotted names as they stand in a settings file: `train.batch_size`, `stages.2.lr`, `data.json`. Every layer is a
mapping of such keys to raw values; the last layer that names a key wins, and the settings model checks the result once.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from cadmllm.errors import CadmllmError, Exit
from cadmllm.flags import FLAGS
from cadmllm.keys import Key, closest, known_keys, nested
from cadmllm.places import BUNDLED, bundled, is_windows_path, local_path
from cadmllm.settings import Settings

CONFIG = Path("cadmllm.toml")
PREFIX = "CADMLLM_"
NOT_SETTINGS = frozenset({"CADMLLM_SHARED", "CADMLLM_LLAMA_PYTHON"})  # where the tests find real data and llama.cpp
MIXED = frozenset({"model.llm", "model.image_encoder"})  # a hub name or a local folder


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value came from.

    Attributes:
        kind: 'default', 'preset', 'file', 'environment' or 'command line'.
        detail: the preset's or file's name, the variable, the option as it was written; empty for a default.
    """

    kind: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.detail}".rstrip()


@dataclass(frozen=True, slots=True)
class Assignment:
    """One `key = value` of a layer. Text from the environment and the command line is read by `parse_value`."""

    key: str
    value: object
    origin: Origin


@dataclass(frozen=True, slots=True)
class Resolved:
    """The settings, each one's origin by dotted key, the preset's name (or None), and what deserves to be said."""

    settings: Settings
    origins: dict[str, Origin]
    preset: str | None = None
    notes: list[str] = field(default_factory=list)


def _refuse(code: str, message: str, remedy: str) -> CadmllmError:
    return CadmllmError(code, message, remedy, exit_code=Exit.USAGE)


def resolve(
    *,
    preset: str | None = None,
    config: Path | None = None,
    assignments: Sequence[Assignment] = (),
    environ: Mapping[str, str] | None = None,
    wsl: bool | None = None,
) -> Resolved:
    """The settings that all layers together say.

    Args:
        preset: a name or the path of a preset; None takes what the environment (CADMLLM_PRESET) or the settings file names.
        config: a settings file; None takes ./cadmllm.toml if there is one.
        assignments: of the command line, in its order.
        environ: the environment; `os.environ` when None.
        wsl: whether Windows paths are translated; None asks the kernel.

    Raises:
        CadmllmError: E101 to E104 and E831, all with exit code 2.
    """
    environ = os.environ if environ is None else environ
    file_layer, file_preset = _settings_file(config)
    environment, environ_preset = _environment(environ)
    preset = preset or environ_preset or file_preset
    layers: list[Assignment] = []
    if preset:
        layers += read_preset(preset)
    layers += [*file_layer, *environment, *assignments]

    keys = known_keys()
    values: dict[str, object] = {}
    origins = dict.fromkeys(keys, Origin("default"))
    notes: list[str] = []
    for item in layers:
        key = _known(item, keys)
        value = _localise(key, item, wsl, notes)
        values[item.key] = value
        if item.key == key.name:  # a whole table takes the place of single entries that were set before it
            values = {k: v for k, v in values.items() if not k.startswith(key.name + ".")}
        origins[key.name] = item.origin
    return Resolved(_validate(values, keys, origins), origins, preset, notes)


def parse_value(text: str) -> object:
    """A value as written on the command line or in the environment.

    Quoted strings, arrays and inline tables are TOML; everything else is a bare string, which the settings model turns into
    the type it needs (`2e-4`, `16`, `true`). An empty text unsets an optional setting.
    """
    text = text.strip()
    if not text:
        return None
    if text[0] in "\"'[{":
        try:
            parsed = tomllib.loads(f"value = {text}")
        except tomllib.TOMLDecodeError:
            return text
        if list(parsed) == ["value"]:
            return parsed["value"]
    return text


def preset_names() -> list[str]:
    """The presets that ship with cadmllm, smallest card first."""

    def size(name: str) -> tuple[int, str]:
        digits = "".join(c for c in name if c.isdigit())
        return (int(digits) if digits else 0, name)

    return sorted((path.stem for path in bundled("presets").glob("*.toml")), key=size)


def read_preset(name: str, seen: tuple[Path, ...] = ()) -> list[Assignment]:
    """The assignments of a preset, those of the presets it `extends` first.

    Raises:
        CadmllmError: E103 for an unknown preset or a circle of `extends`, E104 for a file that is not TOML.
    """
    path = _preset_path(name, seen[-1].parent if seen else None)
    if path in seen:
        circle = " -> ".join(p.stem for p in (*seen, path))
        raise _refuse("E103", f"presets extend each other: {circle}", f"edit {path}")
    data = _toml(path)
    base = data.pop("extends", None)
    if base is not None and not isinstance(base, str):
        raise _refuse("E102", f"{path}: extends = {base!r} is not a name", 'write extends = "16gb"')
    inherited = read_preset(base, (*seen, path)) if base else []
    shown = path.stem if path.parent == bundled("presets") else str(path)
    return [*inherited, *_flatten(data, Origin("preset", shown))]


def _preset_path(name: str, beside: Path | None) -> Path:
    shipped = bundled("presets") / f"{name}.toml"
    if "/" not in name and "\\" not in name and shipped.is_file():
        return shipped
    for path in ((beside / name,) if beside else ()) + (local_path(name),):
        if path.suffix == ".toml" and path.is_file():
            return path.resolve()
    names = preset_names()
    meant = closest(name, names)
    raise _refuse(
        "E103",
        f"unknown preset {name!r}" + (f"; did you mean {meant!r}?" if meant else ""),
        f"use one of: {', '.join(names)}, or the path of a .toml file",
    )


def _settings_file(config: Path | None) -> tuple[list[Assignment], str | None]:
    path = config or CONFIG
    if config is None and not path.is_file():
        return [], None
    if not path.is_file():
        raise _refuse("E104", f"no settings file {path}", "check the path given to --config")
    data = _toml(path)
    preset = data.pop("preset", None)
    if preset is not None and not isinstance(preset, str):
        raise _refuse("E102", f"{path}: preset = {preset!r} is not a name", 'write preset = "16gb"')
    return _flatten(data, Origin("file", str(path))), preset


def _environment(environ: Mapping[str, str]) -> tuple[list[Assignment], str | None]:
    """`CADMLLM_STAGES__2__LR` is `stages.2.lr`; CADMLLM_PRESET names the preset."""
    found = []
    preset = None
    for name, text in sorted(environ.items()):
        if not name.startswith(PREFIX) or name in NOT_SETTINGS:
            continue
        if name == PREFIX + "PRESET":
            preset = text or None
            continue
        key = name.removeprefix(PREFIX).lower().replace("__", ".")
        found.append(Assignment(key, parse_value(text), Origin("environment", name)))
    return found, preset


def _toml(path: Path) -> dict[str, object]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        remedy = f"correct {path}"
        if "escape" in str(error).lower() or "backslash" in str(error).lower():
            remedy += r": TOML reads backslashes in double quotes; write Windows paths in single quotes, root = 'W:\data'"
        raise _refuse("E104", f"{path} is not valid TOML: {error}", remedy) from error
    except OSError as error:
        raise _refuse("E104", f"{path} cannot be read: {error.strerror}", f"check {path}") from error


def _flatten(data: Mapping[str, object], origin: Origin, prefix: str = "") -> list[Assignment]:
    """Tables become dotted keys, as deep as the settings model has groups."""
    keys = known_keys()
    found: list[Assignment] = []
    for name, value in data.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping) and key not in keys:
            found += _flatten(value, origin, f"{key}.")
        else:
            found.append(Assignment(key, value, origin))
    return found


def _known(item: Assignment, keys: Mapping[str, Key]) -> Key:
    """The key that an assignment speaks of; entries of a table (`stages.2.probabilities.text`) count to their table."""
    if item.key in keys:
        return keys[item.key]
    parent = item.key.rpartition(".")[0]
    while parent:
        if parent in keys and keys[parent].is_table:
            return keys[parent]
        parent = parent.rpartition(".")[0]
    inside = [key for key in keys if key.startswith(item.key + ".")]
    if inside:
        raise _refuse("E101", f"{item.key} is a group of settings ({item.origin})", f"set one of its keys, such as {inside[0]}")
    by_flag = {flag.name: flag.key for flag in FLAGS if flag.key}
    meant = by_flag.get(item.key.replace("-", "_")) or closest(item.key, keys)
    raise _refuse(
        "E101",
        f"unknown setting {item.key!r} ({item.origin})"
        + (f"; did you mean {_as_written(meant, item.origin)!r}?" if meant else ""),
        "list all settings: cadmllm config keys",
    )


def _as_written(key: str, origin: Origin) -> str:
    return PREFIX + key.upper().replace(".", "__") if origin.kind == "environment" else key


def _localise(key: Key, item: Assignment, wsl: bool | None, notes: list[str]) -> object:
    """Windows paths as WSL mounts them, and the bundled data set by its name."""
    value = item.value
    if not isinstance(value, str) or not (key.is_path or key.name in MIXED):
        return value
    if any(ord(c) < 32 for c in value):
        raise _refuse(
            "E102",
            f"{item.key} = {value!r} ({item.origin}) holds a control character: TOML reads backslashes in double quotes",
            rf"write Windows paths in single quotes: {item.key} = 'W:\data'",
        )
    if key.name == "data.root" and value == BUNDLED:
        return bundled("data")
    if is_windows_path(value):
        path = local_path(value, wsl=wsl)
        notes.append(f"{item.key}: {value} is {path} here")
        return str(path)
    if key.is_path and value.startswith("~"):
        return str(Path(value).expanduser())
    return value


def _validate(values: Mapping[str, object], keys: Mapping[str, Key], origins: Mapping[str, Origin]) -> Settings:
    try:
        return Settings(**nested(values, keys))
    except ValidationError as error:
        problems = [_problem(detail, keys, origins) for detail in error.errors(include_url=False, include_context=False)]
    first = problems[0][0]
    remedy = f"{first.name}: {first.description} ({first.type_text}, default {first.default_text})"
    raise _refuse("E102", "; ".join(text for _, text in problems), remedy)


def _problem(detail: Mapping, keys: Mapping[str, Key], origins: Mapping[str, Origin]) -> tuple[Key, str]:
    """The key that a validation error is about, and the error in words."""
    name = ".".join(str(part) for part in detail["loc"])
    own = [key for key in keys if name == key or name.startswith(key + ".")]
    group = [key for key in keys if key.startswith(name + ".")]  # a rule over a whole group: name what was set in it
    key = keys[(own or [k for k in group if origins[k].kind != "default"] or group)[-1]]
    given = detail["input"]
    shown = f" = {given!r}" if own and (given is None or isinstance(given, (str, int, float, bool, list))) else ""
    message = detail["msg"].removeprefix("Value error, ")
    return key, f"{key.name}{shown} ({origins[key.name]}): {message[0].lower()}{message[1:]}"
