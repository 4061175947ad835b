"""Puts files that cannot be used aside, so that nothing reads them, or writes down which they are.

A file keeps its path below the folder that holds it: ROOT/pcd/0000/ID.npz becomes DIR/pcd/0000/ID.npz. What happened stands
in DIR/quarantine.jsonl, a line a file, written before the file moves: a run that was killed is completed by the next one.
DIR/ids.txt and DIR/suspect.txt are lists for `data.exclude`.
"""

from __future__ import annotations

import errno
import filecmp
import json
import os
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TextIO

from cadmllm.cad.files import whole
from cadmllm.corpus.captionfiles import unsafe
from cadmllm.corpus.facts import Flaw, Kind
from cadmllm.corpus.folders import Folders
from cadmllm.errors import CadmllmError, Exit

RECORD = "quarantine.jsonl"
IDS = "ids.txt"
SUSPECT = "suspect.txt"
MISSING = "missing.tsv"
DATA = ("json", "txt", "img", "pcd", "pointcloud", "step")  # folders of a root that are read
BATCH = 100  # moves that are written down together before the first of them
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS}
_HEAD = "# ids of which {what}; --set data.exclude={path} leaves them out of everything\n"
_WHAT = {IDS: "a file cannot be used", SUSPECT: "the kernel found something odd"}

Owned = tuple[Kind, str, Flaw]


@dataclass(slots=True)
class Outcome:
    """What was put aside.

    Attributes:
        folder: DIR.
        moved: files that moved now.
        listed: what cannot be moved (entries of caption files, folders), or was only to be listed.
        ids: in DIR/ids.txt.
    """

    folder: Path
    moved: int = 0
    listed: int = 0
    ids: int = 0


def check_place(folder: Path, folders: Folders) -> None:
    """Refuse a quarantine that would be read as data.

    Raises:
        CadmllmError: E105 when it is the root or one of the data folders, or lies in one.
    """
    place = folder.resolve()
    data = [folders.root / name for name in DATA]
    data += [path for path in (folders.json, folders.txt, folders.img, *folders.points) if path is not None]
    inside = next((path for path in data if place.is_relative_to(path.resolve())), None)
    if inside is None and place != folders.root.resolve():
        return
    where = "the data set itself" if inside is None else f"inside {inside}"
    beside = folders.root.absolute().parent / f"{folders.root.resolve().name}-bad"
    raise CadmllmError(
        "E105",
        f"--quarantine {folder} is {where}, where it would be read as data",
        f"give a folder beside it: --quarantine {beside}",
        exit_code=Exit.USAGE,
    )


def put_aside(
    flaws: Callable[[], Iterable[Owned]],
    folder: Path,
    folders: Folders,
    *,
    list_only: bool = False,
) -> Outcome:
    """Move the files of failing flaws into `folder`, or only write down which they are.

    Args:
        flaws: gives (kind, owner, flaw), as `Index.flaws` does; asked twice. Files move for flaws of level fail alone; others,
            such as entries of a caption file, are listed; the ids of suspect programs stand in a list of their own.
        folder: DIR; made if it is not there.
        folders: of the data set.
        list_only: move nothing.

    Raises:
        CadmllmError: E105 (see `check_place`), E303 when something cannot be written; what was moved until then is recorded.
    """
    check_place(folder, folders)
    way = _Ways(folders, folder)
    outcome = Outcome(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        moved = set() if list_only else _move_all(flaws(), way, folder)
        outcome.moved = len(moved)
        ids: set[str] = set()
        suspect: set[str] = set()
        with whole(folder / RECORD) as aside, aside.open("w", encoding="utf-8") as record:
            _copy_moved(folder / RECORD, record, ids)
            for kind, owner, flaw in flaws():
                if kind is Kind.DEEP and flaw.level == "warn":
                    suspect.add(owner)
                elif flaw.path not in moved:
                    outcome.listed += 1
                    record.write(_line(flaw, None, _id_of(kind, owner, flaw), ids))
        _write_ids(folder / IDS, ids)
        _write_ids(folder / SUSPECT, suspect)
    except OSError as error:
        where = f"{error.filename or folder}: {error.strerror}"
        remedy = "make room or give another folder, then run it again: it goes on where it stopped"
        raise CadmllmError("E303", f"the quarantine stops at {where}", remedy) from error
    outcome.ids = len(ids)
    return outcome


def write_missing(folder: Path, incomplete: Iterable[tuple[str, Sequence[str]]]) -> None:
    """DIR/missing.tsv: every id that lacks something, and what, a line each: what a download has yet to bring.

    Raises:
        CadmllmError: E303 when it cannot be written.
    """
    with whole(folder / MISSING) as aside, aside.open("w", encoding="utf-8") as table:
        table.write("id\tlacks\n")
        for id_, lacks in incomplete:
            table.write(f"{id_}\t{','.join(lacks)}\n")


def _write_ids(path: Path, ids: set[str]) -> None:
    with whole(path) as aside:
        aside.write_text(_HEAD.format(what=_WHAT[path.name], path=path) + "".join(f"{id_}\n" for id_ in sorted(ids)), "utf-8")


class _Ways:
    """From a flaw to the file that moves, and where to."""

    def __init__(self, folders: Folders, folder: Path) -> None:
        self.folder = folder
        named = [(folders.json, "json"), (folders.txt, "txt"), (folders.img, "img")]
        named += [(path, path.name) for path in folders.points]
        self.homes = [(Path(os.path.abspath(path)), name, folders.fence(path)) for path, name in named if path is not None]

    def of(self, flaw: Flaw) -> tuple[Path, Path] | None:
        """(file, its place in the quarantine), or None for what cannot be moved: folders, entries of a file, ids."""
        if flaw.level != "fail":
            return None
        source = Path(os.path.abspath(flaw.path))
        try:
            if stat.S_ISDIR(source.lstat().st_mode):
                return None
        except (OSError, ValueError):
            return None
        for top, name, fence in self.homes:
            below = source.relative_to(top) if source.is_relative_to(top) else None
            if below is None or ".." in below.parts or not source.parent.resolve().is_relative_to(fence.resolve()):
                continue
            target = self.folder / name / (below if below.parts else source.name)
            # a folder of the quarantine that is a link would lead elsewhere, perhaps back into the data
            if target.parent.resolve().is_relative_to(self.folder.resolve()):
                return source, _free(source, target)
        return None


def _move_all(flaws: Iterable[Owned], way: _Ways, folder: Path) -> set[str]:
    """Move what can be moved, each batch written down before it moves; the files' old paths."""
    moved: set[str] = set()
    source = iter(flaws)
    with (folder / RECORD).open("a", encoding="utf-8") as record:
        while batch := list(islice(source, BATCH)):
            moves: dict[str, tuple[Path, Path]] = {}
            for kind, owner, flaw in batch:
                found = way.of(flaw)
                taken = {target for _, target in moves.values()}
                if found is not None and flaw.path not in moves and found[1] not in taken:
                    moves[flaw.path] = found
                    record.write(_line(flaw, found[1], _id_of(kind, owner, flaw), set()))
            record.flush()
            os.fsync(record.fileno())
            for path, (file, target) in moves.items():
                move(file, target)
                moved.add(path)
    return moved


def move(source: Path, target: Path) -> None:
    """Move a file, never over another one; killed at any moment, it is whole in one of the two places at least.

    Args:
        source: a regular file, a link (which moves itself, not what it names), or a pipe and the like.
        target: nothing, or a copy of `source` that a killed run has left.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    if os.path.lexists(target):
        if not _same(source, target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
        source.unlink()
        return
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError as error:
        if error.errno == errno.EXDEV:
            _copy(source, target)
        elif error.errno in _NO_LINKS:  # drives of Windows, for example
            os.rename(source, target)
            return
        else:
            raise
    source.unlink()


def _copy(source: Path, target: Path) -> None:
    """A copy on another file system, on its disk before the name is there."""
    if source.is_symlink():
        os.symlink(os.readlink(source), target)
        return
    if not source.is_file():
        raise OSError(errno.EXDEV, "neither a file nor a link: it cannot move to another file system", str(source))
    aside = target.with_name(f".{target.name}.moving")
    with source.open("rb") as old, aside.open("wb") as new:
        shutil.copyfileobj(old, new, 2**20)
        new.flush()
        os.fsync(new.fileno())
    shutil.copystat(source, aside)
    os.rename(aside, target)


def _free(source: Path, target: Path) -> Path:
    """`target`, or a name beside it where another file stands there. A copy of `source` that a killed run left counts as free."""
    number = 0
    place = target
    while os.path.lexists(place) and not _same(source, place):
        number += 1
        place = target.with_name(f"{target.name}.{number}")
    return place


def _same(source: Path, place: Path) -> bool:
    if source.is_symlink() or place.is_symlink():
        return source.is_symlink() and place.is_symlink() and os.readlink(source) == os.readlink(place)
    return source.is_file() and place.is_file() and filecmp.cmp(source, place, shallow=False)


def _line(flaw: Flaw, to: Path | None, id_: str | None, ids: set[str]) -> str:
    if id_ is not None:
        ids.add(id_)
    way = {"from": flaw.path, "to": None} if to is None else {"from": os.path.abspath(flaw.path), "to": os.path.abspath(to)}
    said = way | {"id": id_, "code": flaw.code, "message": flaw.message}
    return json.dumps(said) + "\n"


def _copy_moved(record: Path, out: TextIO, ids: set[str]) -> None:
    """The lines of files that are in the quarantine; what was put back or only listed is left out."""
    seen: set[str] = set()
    for line in _lines(record):
        to = line.get("to")
        if isinstance(to, str) and to not in seen and os.path.lexists(to):
            seen.add(to)
            if isinstance(line.get("id"), str):
                ids.add(line["id"])
            out.write(json.dumps(line) + "\n")


def _lines(record: Path) -> Iterator[dict]:
    """The objects of a record; a line that a killed run left half-written is passed over."""
    if not record.is_file():
        return
    with record.open(encoding="utf-8", errors="replace") as file:
        for text in file:
            try:
                line = json.loads(text)
            except (ValueError, RecursionError):
                continue
            if isinstance(line, dict):
                yield line


def _id_of(kind: Kind, owner: str, flaw: Flaw) -> str | None:
    """The id that a flaw spoils; None for files that belong to none, and for a caption that is not the only one of its id."""
    return None if kind is Kind.CAPTIONS or flaw.level != "fail" or owner.startswith("@") or unsafe(owner) else owner
