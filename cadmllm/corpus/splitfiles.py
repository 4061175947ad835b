"""Lists of ids by side, as files: official ones that others published, and those that we write."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cadmllm.cad.files import write_whole
from cadmllm.corpus.captionfiles import LARGEST_FILE, unsafe
from cadmllm.errors import CadmllmError

SIDES = ("train", "val", "test")
NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}
MARK = "# cadmllm data split"  # how a list of ours begins
REPORT, LEFT_OUT = "split.json", "left_out.txt"
OURS = (*(f"{side}.txt" for side in SIDES), LEFT_OUT, REPORT)
_FORMATS = (".txt", ".json", ".lst", ".csv")
_REMEDY = (
    'give {"train": [ids], "validation": [ids], "test": [ids]} as JSON, a list that is called after its side '
    "(test.txt with an id a line, test.json), or a folder of such lists"
)


@dataclass(slots=True)
class Official:
    """A published split.

    Attributes:
        lists: side -> its ids; only the sides that the files name.
        files: what was read, names alone.
        refused: ids that are no ids ('..', absolute paths, not text).
        ours: they are lists that `data split` wrote: what they do not name came later.
    """

    lists: dict[str, set[str]] = field(default_factory=dict)
    files: list[str] = field(default_factory=list)
    refused: int = 0
    ours: bool = False


def read_official(path: Path) -> Official:
    """A published split: DeepCAD's JSON, a list whose name says its side, or a folder of those.

    Ids stand in JSON as text or as `{"id": ...}` (a caption file), in text files a line each ('#' begins a comment); an ending
    '.json' is no part of an id. Further files of a folder are passed over.

    Raises:
        CadmllmError: E490 when there is nothing of that kind, a file cannot be read, or an id stands on two sides.
    """
    official = Official()
    folder = path.is_dir()
    try:
        files = sorted(p for p in path.iterdir() if p.suffix.lower() in _FORMATS and p.is_file()) if folder else [path]
    except OSError as error:
        raise _unreadable(f"{path} cannot be read: {error.strerror}") from error
    for file in files:
        if folder and _side_of(file) is None and not _many_sides(file):
            continue
        if folder and not file.resolve().is_relative_to(path.resolve()):
            raise _unreadable(f"{file} leads out of {path}")
        for side, ids in _lists_of(file):
            official.lists.setdefault(side, set()).update(_ids(ids, official))
        official.files.append(file.name)
    official.ours = bool(official.files) and all(_is_ours(file) for file in files if file.name in official.files)
    if not any(official.lists.values()):
        raise _unreadable(f"{path} names no id" if official.files else f"{path} holds no list that is called after a side")
    for a, b in (("train", "val"), ("train", "test"), ("val", "test")):
        both = official.lists.get(a, set()) & official.lists.get(b, set())
        if both:
            raise CadmllmError(
                "E490",
                f"{path}: {len(both)} ids stand in {a} and in {b}, the first is {min(both)}",
                "an id belongs to one side: correct the lists, or give the one that counts",
            )
    return official


def _words(path: Path) -> list[str]:
    return re.findall(r"[a-z]+", path.stem.lower())


def _side_of(path: Path) -> str | None:
    """The one side that a file's name tells: test.txt, omnicad_test_ids.json."""
    found = {NAMES[word] for word in _words(path) if word in NAMES}
    return found.pop() if len(found) == 1 else None


def _many_sides(path: Path) -> bool:
    """Whether a file may hold all sides: train_val_test_split.json, split.json (but not our own report)."""
    return path.suffix.lower() == ".json" and path.name != REPORT and not {"split", "splits"}.isdisjoint(_words(path))


def _lists_of(path: Path) -> Iterator[tuple[str, Iterable[object]]]:
    """(side, its entries) of a file."""
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise _unreadable(f"{path} is larger than 1 GiB")
        raw = path.read_bytes()
        text = raw.decode("utf-16" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
        data = json.loads(text) if path.suffix.lower() == ".json" else None
    except OSError as error:
        raise _unreadable(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # broken JSON, broken text encodings
        raise _unreadable(f"{path} cannot be understood: {str(error)[:120]}") from error
    if isinstance(data, dict):
        known = {key: NAMES[key.lower()] for key in data if key.lower() in NAMES}
        if not known:
            raise _unreadable(f"{path} has none of the keys train, validation, test")
        for key, side in known.items():
            if not isinstance(data[key], list):
                raise _unreadable(f"{path}: {key!r} holds {type(data[key]).__name__}, not a list")
            yield side, data[key]
        return
    side = _side_of(path)
    if side is None:
        raise _unreadable(f"the name of {path} does not tell which side its ids are on")
    if data is not None and not isinstance(data, list):
        raise _unreadable(f"{path} holds {type(data).__name__}, not a list")
    yield side, data if data is not None else (line.split("#", 1)[0].split(",", 1)[0].strip() for line in text.splitlines())


def _ids(entries: Iterable[object], official: Official) -> Iterator[str]:
    for entry in entries:
        name: Any = entry.get("id") if isinstance(entry, dict) else entry
        if name == "":
            continue
        if not isinstance(name, str) or unsafe(name):
            official.refused += 1
        else:
            yield name.removesuffix(".json")


def _unreadable(message: str) -> CadmllmError:
    return CadmllmError("E490", message, _REMEDY)


def check_place(out: Path, overwrite: bool) -> None:
    """See that writing the lists into `out` destroys nothing that somebody else made.

    Raises:
        CadmllmError: E409 when a list is there that is not ours, E303 when `out` is no folder.
    """
    if out.exists() and not out.is_dir():
        raise CadmllmError("E303", f"{out} is not a folder", "give a folder: --out DIR")
    foreign = [name for name in OURS if (out / name).is_symlink() or ((out / name).exists() and not _is_ours(out / name))]
    if foreign and not overwrite:
        raise CadmllmError(
            "E409",
            f"{out} has lists that 'data split' did not write: {', '.join(foreign)}",
            "write the new ones elsewhere: --out DIR; replace these: --overwrite; keep to them: --official " + str(out),
        )


def _is_ours(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            head = file.read(200)
    except OSError:
        return False
    return MARK.removeprefix("# ").encode() in head if path.name == REPORT else head.startswith(MARK.encode())


def write_lists(out: Path, lists: Mapping[str, list[str]], left_out: list[str], how: str, report: Mapping[str, object]) -> None:
    """Write a list a side, what was left out, and the report; a list without an id is not there afterwards.

    Each file appears whole; the report comes last, so that where it agrees with the lists' headers, they belong together.

    Args:
        out: a folder, made if missing.
        lists: side -> sorted ids.
        left_out: lines of left_out.txt.
        how: a line for the headers.
        report: split.json; its first key says who made it.

    Raises:
        CadmllmError: E303 when the folder cannot be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / REPORT).unlink(missing_ok=True)
        for side in reversed(SIDES):
            _write(out / f"{side}.txt", f"{side}, {len(lists[side]):,} ids; {how}", lists[side])
        _write(
            out / LEFT_OUT, f"left out, {len(left_out):,} ids; {how}\n# id, the side it stood on, the id it duplicates", left_out
        )
    except OSError as error:
        raise CadmllmError("E303", f"cannot write into {out}: {error.strerror}", "give a folder: --out DIR") from error
    write_whole(out / REPORT, (json.dumps(report, indent=1, ensure_ascii=False) + "\n").encode())


def _write(path: Path, head: str, lines: list[str]) -> None:
    if not lines:
        path.unlink(missing_ok=True)
        return
    write_whole(path, "\n".join((f"{MARK}: {head}", *lines, "")).encode("utf-8", "surrogatepass"))
