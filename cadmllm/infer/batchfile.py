"""Batch files: a JSON object a line, each a request; all of it is looked at before anything is answered.

    {"id": "bracket-1", "prompt": "an angle bracket", "images": ["a.png"], "points": "scan.ply", "size": "40x20x10mm", "seed": 3}

Everything but one of `prompt`, `images` and `points` may be left out. Paths are relative to the file.
"""

from __future__ import annotations

import codecs
import difflib
import json
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from cadmllm.corpus.prompt import clean_caption
from cadmllm.corpus.rawfile import other_encoding
from cadmllm.errors import CadmllmError
from cadmllm.infer.inputs import MOST_CLOUDS
from cadmllm.infer.lengths import parse_size
from cadmllm.infer.pictures import MOST_IMAGES
from cadmllm.infer.request import Request
from cadmllm.places import local_path

RESULTS = "results.jsonl"
LONGEST_LINE = 1 << 20  # bytes
LISTED = 20  # bad lines that are named one by one
KEYS = ("id", "prompt", "images", "points", "size", "seed")
_MEANT = {
    **dict.fromkeys(("text", "caption", "text caption", "description"), "prompt"),
    **dict.fromkeys(("img", "view", "views", "picture", "pictures"), "images"),
    **dict.fromkeys(("pc", "pcd", "cloud", "point_cloud", "pointcloud", "scan", "mesh"), "points"),
    "name": "id",
}
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,99}")
_NAME_ANOTHER = "name a file with a JSON object a line: --batch FILE.jsonl"
_LARGEST_SEED = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Line:
    """A request of the file.

    Attributes:
        number: of the line, from 1.
        given: what it says, paths as they are written, `images` and `points` as lists; without the id.
        request: the same, ready to be answered; its name is the id.
        files: the files that it names.
    """

    number: int
    given: dict[str, Any]
    request: Request

    @property
    def id(self) -> str:
        return self.request.name

    @property
    def files(self) -> list[Path]:
        return [*self.request.images, *self.request.points]


@dataclass(frozen=True, slots=True)
class BatchFile:
    """A file that has been checked; iterating reads it again, so that a long one takes no memory.

    Attributes:
        path: the file.
        count: requests.
        commented: lines left out as they begin with '#'.
        units: of sizes that name none.
    """

    path: Path
    count: int
    commented: int
    units: str = "mm"

    def __iter__(self) -> Iterator[Line]:
        """The requests in order. Raises `CadmllmError` E706 where the file has changed since it was checked."""
        for number, item in _read(self.path, self.units):
            if isinstance(item, str):
                raise _refusal(self.path, [f"line {number}: {item}"], 1)
            if item is not None:
                yield item


def check_batch(path: Path, units: str = "mm") -> BatchFile:
    """Read the whole file and see that every line can be answered, as far as that can be told without reading what it names.

    Args:
        path: UTF-8, with or without a byte order mark; blank lines and lines that begin with '#' are left out.
        units: of a size that names none.

    Raises:
        CadmllmError: E706 naming every bad line (`LISTED` at most) with what is wrong in it.
    """
    bad: list[str] = []
    count = commented = wrong = 0
    ids = _Ids()
    for number, item in _read(path, units):
        if item is None:
            commented += 1
            continue
        why = item if isinstance(item, str) else ids.refuses(item.id, number)
        if why:
            wrong += 1
            if len(bad) < LISTED:
                bad.append(f"line {number}: {why}")
        count += 1
    if wrong:
        raise _refusal(path, bad, wrong)
    if not count:
        raise _unreadable(path, "holds no request", 'write a line a part: {"id": "a", "prompt": "a flange with six holes"}')
    return BatchFile(path, count, commented, units)


@dataclass(slots=True)
class _Ids:
    """The ids so far, each with its line, as a file system that ignores case would see them."""

    lines: dict[str, int] = field(default_factory=dict)
    heads: dict[str, int] = field(default_factory=dict)  # the folder of 'a/b'

    def refuses(self, id_: str, number: int) -> str:
        """Why the id cannot be one more; '' when it can."""
        key = id_.casefold()
        if key in self.lines:
            return f"id {id_!r} stands in line {self.lines[key]} already (upper and lower case count as one)"
        head, slash, _ = key.partition("/")
        if key in self.heads:
            return f"id {id_!r} would hold the folder of the id in line {self.heads[key]}"
        if slash and head in self.lines:
            return f"id {id_!r} would lie in the folder of {head!r}, the id of line {self.lines[head]}"
        self.lines[key] = number
        if slash:
            self.heads.setdefault(head, number)
        return ""


def _read(path: Path, units: str) -> Iterator[tuple[int, Line | str | None]]:
    """(number, request | what is wrong | None for a comment) of every line that is not blank."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise _unreadable(path, "is no regular file: it is read twice", f"save it first: cat {path} > parts.jsonl")
        with path.open("rb") as file:
            _look_at_head(path, file)
            number = 0
            while raw := file.readline(LONGEST_LINE + 1):
                number += 1
                if len(raw) > LONGEST_LINE:
                    _skip_rest(file, raw)
                    yield number, f"longer than {LONGEST_LINE:,} bytes"
                    continue
                raw = raw.removeprefix(codecs.BOM_UTF8).strip() if number == 1 else raw.strip()
                if raw:
                    yield number, None if raw.startswith(b"#") else _line(raw, number, path.parent, units)
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        reason = getattr(error, "strerror", None) or str(error)
        raise _unreadable(
            path, f"cannot be read: {reason}", "name a file with a JSON object a line: --batch FILE.jsonl"
        ) from None


def _skip_rest(file: BinaryIO, raw: bytes) -> None:
    while raw and not raw.endswith(b"\n"):
        raw = file.readline(LONGEST_LINE)


def _look_at_head(path: Path, file: BinaryIO) -> None:
    """Refuse at once what is no JSON Lines file at all."""
    head = file.read(4096)
    file.seek(0)
    if kind := other_encoding(head):
        raise _unreadable(path, f"is {kind}, not UTF-8", f"iconv -f {kind.split()[0]} -t UTF-8 {path} > utf8.jsonl")
    if b"\0" in head:
        raise _unreadable(path, "is a binary file, not JSON Lines", _NAME_ANOTHER)
    first = head.removeprefix(codecs.BOM_UTF8).lstrip()
    if first.startswith(b"["):
        raise _unreadable(path, "is a JSON list, not a JSON object a line", f"jq -c '.[]' {path} > parts.jsonl")
    if first.splitlines()[:1] == [b"{"]:
        raise _unreadable(path, "has an object over several lines", f"write it a line an object: jq -c . {path} > parts.jsonl")


class _Bad(Exception):
    """What is wrong with a line."""


def _line(raw: bytes, number: int, folder: Path, units: str) -> Line | str:
    try:
        return _request(_object(raw), number, folder, units)
    except _Bad as error:
        return str(error)
    except CadmllmError as error:
        return error.message


def _object(raw: bytes) -> dict[str, Any]:
    try:
        value = json.loads(raw.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_number)
    except UnicodeDecodeError as error:
        raise _Bad(f"not UTF-8 at byte {error.start + 1}") from None
    except json.JSONDecodeError as error:
        raise _Bad(f"not valid JSON at column {error.colno}: {error.msg}") from None
    except RecursionError:
        raise _Bad("nested too deeply") from None
    except ValueError:  # an integer of thousands of digits
        raise _Bad("a number that is too long") from None
    if not isinstance(value, dict):
        raise _Bad(f"{_kind(value)}, not an object")
    return {key: item for key, item in value.items() if item is not None}


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise _Bad(f"key {next(name for name in names if names.count(name) > 1)[:40]!r} stands there twice")
    return found


def _no_number(word: str) -> float:
    raise _Bad(f"{word} is no JSON number")


def _request(found: dict[str, Any], number: int, folder: Path, units: str) -> Line:
    for key in found:
        if key not in KEYS:
            near = _MEANT.get(key.lower()) or next(iter(difflib.get_close_matches(key.lower(), KEYS, n=1)), None)
            raise _Bad(f"unknown key {key[:40]!r}" + (f": did you mean {near!r}?" if near else f"; known: {', '.join(KEYS)}"))
    given = {key: found[key] for key in KEYS if key in found and key != "id"}
    name = safe_id(found["id"]) if "id" in found else f"{number:06d}"
    text = _text(given, "prompt")
    size = _text(given, "size")
    images = _paths(given, "images", folder)
    points = _paths(given, "points", folder)
    if not (text and text.strip()) and not images and not points:
        raise _Bad("nothing to generate from: give prompt, images or points")
    if text and text.strip():
        clean_caption(text, "prompt")
    for key, files, most in (("images", images, MOST_IMAGES), ("points", points, MOST_CLOUDS)):
        if len(files) > most:
            raise _Bad(f"{key} names {len(files)} files, more than {most}")
    if size is not None:
        parse_size(size, units)
    seed = given.get("seed")
    if seed is not None and (not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed <= _LARGEST_SEED):
        raise _Bad(f"seed {str(seed)[:40]!r} is no whole number from 0 to {_LARGEST_SEED}")
    return Line(number, given, Request(name, text, images, points, size, seed))


def safe_id(value: object) -> str:
    """An id that is the name of a folder: letters, digits, `_ . + -`, at most one slash inside."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise _Bad(f"the id is {_kind(value)}, not text")
    parts = value.split("/")
    if len(parts) > 2 or not all(_NAME.fullmatch(part) and not part.endswith(".") for part in parts):
        raise _Bad(f"id {ascii(value[:60])} cannot name a folder: use letters, digits, '_', '-', '.', and at most one '/' inside")
    if value.casefold() == RESULTS:
        raise _Bad(f"id {value!r} is the name of the results' own file")
    return value


def _text(given: dict[str, Any], key: str) -> str | None:
    value = given.get(key)
    if value is not None and not isinstance(value, str):
        raise _Bad(f"{key} is {_kind(value)}, not text")
    return value


def _paths(given: dict[str, Any], key: str, folder: Path) -> tuple[Path, ...]:
    """The files of a key, which becomes a list in `given`; they must be there."""
    value = given.get(key, [])
    words = [value] if isinstance(value, str) else value
    if not isinstance(words, list) or not all(isinstance(word, str) and word for word in words):
        raise _Bad(f"{key} is neither a file name nor a list of file names")
    if not words:
        given.pop(key, None)
        return ()
    given[key] = words
    return tuple(_file(word, key, folder) for word in words)


def _file(word: str, key: str, folder: Path) -> Path:
    path = folder / local_path(word)
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        reason = "is not there" if isinstance(error, FileNotFoundError) else getattr(error, "strerror", None) or str(error)
        raise _Bad(f"{key}: {word[:200]} {reason}") from None
    if not stat.S_ISREG(mode):
        raise _Bad(f"{key}: {word[:200]} is {'a folder' if stat.S_ISDIR(mode) else 'no regular file'}")
    return path


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", int: "a number", float: "a number"}
    return names.get(type(value), "null")


def _refusal(path: Path, bad: list[str], wrong: int) -> CadmllmError:
    more = [f"and {wrong - len(bad)} more"] if wrong > len(bad) else []
    head = f"{path}: {wrong} line{'s' * (wrong != 1)} cannot be answered"
    return CadmllmError(
        "E706",
        "\n  ".join([head, *bad, *more]),
        "correct them, or put '#' before a line to leave it out; nothing was answered",
    )


def _unreadable(path: Path, why: str, remedy: str) -> CadmllmError:
    return CadmllmError("E706", f"{path} {why}", remedy)
