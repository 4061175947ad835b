"""Caption files and id lists: what others wrote, read with care.

A caption file is a JSON list of `{"id": "0000/00000071_00005", "text caption": "..."}`. More captions of an id stand in
further keys that begin with 'text caption' ('text caption dimensioned'), or in further entries with the same id.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path

from cadmllm.corpus.prompt import LONGEST_CAPTION
from cadmllm.errors import CadmllmError

CAPTION = "text caption"
LARGEST_FILE = 2**30  # bytes; a real shard of 10,000 captions has a few megabytes

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


def read_captions(path: Path) -> tuple[dict[str, tuple[str, ...]], list[Note]]:
    """Captions by id, of a caption file or of every .json file in a folder.

    Returns:
        (id -> captions, the main one first; notes on entries that were left out).

    Raises:
        CadmllmError: E401 when there is no such file, E402 when one is not a JSON list.
    """
    files = [path] if path.is_file() else sorted(_json_files(path))
    found: dict[str, list[str]] = {}
    notes: list[Note] = []
    for file in files:
        for number, entry in enumerate(read_list(file), 1):
            at = f"{file}: entry {number}"
            if not isinstance(entry, dict) or not isinstance(entry.get("id"), str):
                notes.append(("E402", str(file), f"{at} is not an object with an id"))
                continue
            id_ = entry["id"]
            if reason := unsafe(id_):
                notes.append(("E403", id_[:80], f"{at}: {reason}: {id_[:80]!r}"))
                continue
            texts = [v for k, v in entry.items() if k.startswith(CAPTION) and isinstance(v, str) and v.strip()]
            usable = [text for text in texts if len(text) <= LONGEST_CAPTION]
            if not usable:
                why = "its caption is too long" if texts else f"it has no {CAPTION!r}"
                notes.append(("E408", id_, f"{at} ({id_}): {why}"))
                continue
            found.setdefault(id_, []).extend(usable)
    return {id_: tuple(texts) for id_, texts in found.items()}, notes


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
            text = path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise CadmllmError("E407", f"{path} cannot be read as text: {error}", remedy) from error
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
    remedy = f'it must be a list of {{"id": "0000/00000001", "{CAPTION}": "..."}}'
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise CadmllmError("E402", f"{path} is larger than 1 GiB", "split it into shards, as txt/0000.json, txt/0001.json")
        data = json.loads(path.read_bytes())
    except OSError as error:
        raise CadmllmError("E402", f"{path} cannot be read: {error.strerror}", remedy) from error
    except (ValueError, RecursionError) as error:  # ValueError covers broken JSON and broken text encodings
        raise CadmllmError("E402", f"{path} is not JSON: {str(error)[:120]}", remedy) from error
    if not isinstance(data, list):
        raise CadmllmError("E402", f"{path} holds {type(data).__name__}, not a list", remedy)
    return data


def _json_files(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            return [Path(e.path) for e in entries if e.name.endswith(".json") and not e.name.startswith(".")]
    except OSError as error:
        raise CadmllmError(
            "E401", f"{folder} cannot be read: {error.strerror}", "check the path: --set data.txt=FOLDER"
        ) from error
