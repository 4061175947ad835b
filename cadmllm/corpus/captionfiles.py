"""Caption files and id lists: what others wrote, read with care.

A caption file is a JSON list of `{"id": "0000/00000071_00005", "text caption": "..."}`. More captions of an id stand in
further keys that begin with 'text caption' ('text caption dimensioned'), or in further entries with the same id.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from cadmllm.corpus.facts import Flaw
from cadmllm.corpus.prompt import LONGEST_CAPTION
from cadmllm.corpus.rawfile import json_of, other_encoding, read_raw
from cadmllm.errors import CadmllmError

CAPTION = "text caption"
LARGEST_FILE = 2**30  # bytes; a real shard of 10,000 captions has a few megabytes
LARGEST_LIST = 2**27  # bytes of a list of ids
MOST_FLAWS = 20_000  # that are kept one by one of a file

REMEDY = f'it must be a list of {{"id": "0000/00000001", "{CAPTION}": "..."}}'
Note = tuple[str, str, str]  # (code, where, message)


@dataclass(slots=True)
class IdList:
    """Ids of a list, and what in it could not be used."""

    ids: set[str] = field(default_factory=set)
    notes: list[Note] = field(default_factory=list)


def unsafe(id_: str) -> str:
    """Why an id (or a file name) must not become a path; '' when it may."""
    if not id_ or len(id_) > 200:
        return "an empty or overlong id"
    if id_.startswith("/") or "\\" in id_ or ":" in id_:
        return "an absolute or Windows path"
    if any(part in ("", ".", "..") for part in id_.split("/")):
        return "'..' or an empty part in the id"
    if not id_.isprintable():
        return "a control character in the id"
    return ""


def examine_captions(path: Path) -> tuple[dict[str, tuple[str, ...]], tuple[Flaw, ...]]:
    """The captions in a file, and everything that is wrong with it.

    A flaw of the file ('fail': E402, E410, E420 to E422, E424) leaves no caption of it; one of an entry ('warn': E403, E408,
    E416) leaves the others. The path of an entry's flaw is its id, where it has one that is safe to name.

    Returns:
        (id -> different captions, the main one first and without halves of surrogate pairs; flaws).
    """
    flaws: list[Flaw] = []
    try:
        entries = _entries(path, flaws)
    except CadmllmError as error:
        return {}, (Flaw(error.code, "fail", str(path), error.message),)
    found: dict[str, dict[str, None]] = {}
    again: dict[str, bool] = {}  # ids with several entries: whether a text stands twice
    more = 0  # flaws beyond those that are kept
    for number, entry in enumerate(entries, 1):
        if len(flaws) > MOST_FLAWS:
            more += len(flaws) - MOST_FLAWS
            del flaws[MOST_FLAWS:]
        at = f"{path}: entry {number}"
        if not isinstance(entry, dict) or not isinstance(entry.get("id"), str):
            flaws.append(Flaw("E408", "warn", str(path), f"{at} is not an object with an id"))
            continue
        id_ = entry["id"]
        if reason := unsafe(id_):
            flaws.append(Flaw("E403", "warn", str(path), f"{at}: {reason}: {ascii(id_[:80])}"))
            continue
        texts = list(_texts(entry, f"{at} ({id_})", id_, flaws))
        if not texts:
            continue
        known = found.setdefault(id_, {})
        if known:
            again[id_] = again.get(id_, False) or any(text in known for text in texts)
        known.update(dict.fromkeys(texts))
    for id_, same in again.items():
        what = "the same caption twice: the second is left out" if same else "several entries: all of them are its captions"
        flaws.append(Flaw("E416", "warn" if same else "info", id_, f"{path}: {id_} has {what}"))
    if more:
        flaws.append(Flaw("E408", "warn", str(path), f"{path}: {more:,} entries more cannot be used"))
    return {id_: tuple(texts) for id_, texts in found.items()}, tuple(flaws)


def _texts(entry: dict[str, object], at: str, id_: str, flaws: list[Flaw]) -> Iterator[str]:
    """The usable captions of an entry; why others are not usable becomes a flaw."""
    keys = [key for key in entry if key.startswith(CAPTION)]
    if not keys:
        flaws.append(Flaw("E408", "warn", id_, f"{at} has no {CAPTION!r}"))
    for key in keys:
        text = entry[key]
        if not isinstance(text, str):
            why = f"is {type(text).__name__}, not text"
        elif not any(char.isprintable() and char != " " for char in text):
            why = "is blank"
        elif len(text) > LONGEST_CAPTION:
            why = f"has {len(text):,} characters, more than {LONGEST_CAPTION:,}"
        else:
            whole = text.encode("utf-8", "replace").decode("utf-8")
            if whole != text:
                flaws.append(Flaw("E410", "warn", id_, f"{at}: {key[:40]!r} holds halves of characters: '?' stands for them"))
            yield whole
            continue
        flaws.append(Flaw("E408", "warn", id_, f"{at}: {ascii(key[:40])} {why}"))


def read_ids(path: Path) -> IdList:
    """A list of ids: a text file with an id a line ('#' begins a comment), or a caption file (.json).

    Raises:
        CadmllmError: E407 when it is unreadable or empty.
    """
    remedy = "give a text file with an id a line, or a caption file"
    out = IdList()
    if path.suffix == ".json":
        try:
            entries = read_list(path)
        except CadmllmError as error:
            raise CadmllmError("E407", error.message, remedy) from error
        names = [e["id"] if isinstance(e, dict) and isinstance(e.get("id"), str) else e for e in entries]
    else:
        try:
            text = read_raw(path, LARGEST_LIST, "E407", remedy).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise CadmllmError("E407", f"{path} is not UTF-8 text: {error}", remedy) from error
        except CadmllmError as error:
            raise CadmllmError("E407", error.message, remedy) from error
        names = [name for line in text.splitlines() if (name := line.split("#", 1)[0].strip())]
    for name in names:
        if isinstance(name, str) and not unsafe(name):
            out.ids.add(name)
        else:
            reason = unsafe(name) if isinstance(name, str) else "not an id"
            out.notes.append(("E403", str(path), f"{path}: {reason}: {str(name)[:80]!r}"))
    if not out.ids:
        raise CadmllmError("E407", f"{path} names no id", remedy)
    return out


def read_list(path: Path) -> list[object]:
    """The JSON list in a file.

    Raises:
        CadmllmError: E402 when it cannot be read or is no list.
    """
    try:
        return _entries(path, [])
    except CadmllmError as error:
        raise CadmllmError("E402", error.message, error.remedy) from error


def _entries(path: Path, flaws: list[Flaw]) -> list[object]:
    """The list in a caption file; E402, E410, E420 to E422 or E424 when there is none."""
    notes: list[str] = []
    raw = read_raw(path, LARGEST_FILE, "E402", REMEDY)
    data = json_of(raw, path, "E402", REMEDY, notes)
    if not isinstance(data, list):
        raise CadmllmError("E402", f"{path} holds {type(data).__name__}, not a list", REMEDY)
    flaws += [Flaw("E402", "warn", str(path), note) for note in notes]
    if encoding := other_encoding(raw):
        flaws.append(Flaw("E410", "warn", str(path), f"{path} is {encoding}, not UTF-8: it is read, but not by every tool"))
    return data
