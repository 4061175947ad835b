"""Damage to caption files and lists of ids, and captions and programs that lack each other."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

from broken import IDS, Breakage, cut, page, pointer, reserved, spoilt

FILE = "txt/0000.json"  # has 0000/a, 0000/b, 0000/c
ALL = {"0000/a": "text", "0000/b": "text", "0000/c": "text"}


def whole(name: str, change: Callable[[bytes], bytes], codes: str, *, used: bool = False) -> Breakage:
    """A caption file of which nothing can be used (or, though something is to be said, all of it)."""
    made = spoilt(name, FILE, change, codes, None)
    return Breakage(name, made.make, made.codes, {} if used else ALL)


def entries(name: str, change: Callable[[list], object], codes: str, loses: dict[str, str] | None = None) -> Breakage:
    """A caption file of which some entries are damaged: `change` edits the list."""

    def make(root: Path) -> None:
        found = json.loads((root / FILE).read_text())
        change(found)
        (root / FILE).write_text(json.dumps(found))

    return Breakage(name, make, frozenset(codes.split()), loses or {})


def _add(*more: object) -> Callable[[list], None]:
    return lambda found: found.extend(more)


def _caption(text: object) -> Callable[[list], None]:
    """Entry 0000/a with this caption alone."""
    return lambda found: found.__setitem__(0, {"id": "0000/a", "text caption": text})


UNSAFE = (
    "../../outside/x",
    "/etc/passwd",
    "0000/../../x",
    "C:\\x",
    "\\\\host\\x",
    "0000//a",
    "",
    "a\x00b",
    "a\nb",
    "a" * 300,
    ".",
)


def _listed(text: str) -> Callable[[Path], None]:
    return lambda root: (root / "val.txt").write_text(text)


def _pipe_as_list(root: Path) -> None:
    os.mkfifo(root / "val.txt")


def _list_out(root: Path) -> None:
    (root / "val.txt").symlink_to(root.parent / "outside" / "txt" / "0000.json")


def _no_program(root: Path) -> None:
    (root / "json/0000/a.json").unlink()


def _pipe(root: Path) -> None:
    os.mkfifo(root / "txt" / "0002.json")


def _stray_captions(root: Path) -> None:
    (root / "txt" / "readme.doc").write_text("captions")
    (root / "txt" / "0000.json.bak").write_text("[]")


def _second_file(root: Path) -> None:
    (root / "txt" / "0009.json").write_text(json.dumps([{"id": "0000/a", "text caption": "another one"}]))


LOST = {"0000/a": "text"}
TEXTS = [
    whole("a caption file of 0 bytes", lambda raw: b"", "E421"),
    whole("a caption file cut short", cut, "E422"),
    whole("a caption file with reserved zeros", reserved, "E422"),
    whole("a caption file that is a Git LFS pointer", pointer, "E424"),
    whole("a caption file that is a web page", page, "E424"),
    whole("a caption file that is an object", lambda raw: b'{"a": ' + raw + b"}", "E402"),
    whole("a caption file that is no JSON", lambda raw: b"id,text caption\n0000/a,a cube\n", "E402"),
    whole("a caption file of brackets", lambda raw: b"[" * 200_000, "E402"),
    whole("a caption file in Latin-1", lambda raw: raw.replace(b"Generate", b"G\xe9n\xe9rer"), "E410"),
    whole("a caption file in UTF-16", lambda raw: raw.decode().encode("utf-16-le"), "E410", used=True),
    whole("an entry with a name twice", lambda raw: raw.replace(b"{", b'{"text caption": "no", ', 1), "E402", used=True),
    entries("entries that are no objects", _add(7, None, [], "0000/a", {"text caption": "no id"}, {"id": 9}), "E408"),
    entries("a caption that is no text", _caption(["a", "b"]), "E408", LOST),
    entries("a blank caption", _caption(" \u200b\n "), "E408", LOST),
    entries("a caption of 30,000 characters", _caption("long " * 6000), "E408", LOST),
    entries("an entry without a caption", lambda found: found[0].clear() or found[0].update(id="0000/a"), "E408", LOST),
    entries("a caption with half a character", _caption("a \ud83d cube"), "E410"),
    entries("two different captions of one id", _add({"id": "0000/a", "text caption": "a second one"}), "E416"),
    entries("one caption twice", lambda found: found.append(dict(found[0])), "E416"),
    entries("unsafe ids", _add(*({"id": id_, "text caption": "x"} for id_ in UNSAFE)), "E403"),
    entries("a caption without a program", _add({"id": "0000/nobody", "text caption": "x"}), "E411"),
    entries("a program without a caption", lambda found: found.pop(0), "E412", LOST),
    entries("a caption that will be cut", _caption("long " * 3000), "E451"),
    Breakage("a program that is missing", _no_program, frozenset({"E411"}), LOST),
    Breakage("a pipe among the caption files", _pipe, frozenset({"E420"})),
    Breakage("foreign files among the captions", _stray_captions, frozenset({"E415"})),
    Breakage("captions of an id in two files", _second_file, frozenset({"E416"})),
    Breakage("a list with unknown ids", _listed("0001/e\n0000/nobody\n"), frozenset({"E407"})),
    Breakage("a list with unsafe ids", _listed("0001/e\n../../outside/x\n"), frozenset({"E403"})),
    Breakage("a list of unknown ids alone", _listed("0000/nobody\n"), frozenset({"E407"}), ready=False),
    Breakage("a list that is a pipe", _pipe_as_list, frozenset({"E407"}), ready=False),
    Breakage("a list that is a link out of the data set", _list_out, frozenset({"E419"})),
    Breakage("a list of everything", _listed("".join(f"{id_}\n" for id_ in IDS)), frozenset(), ready=False),
]
