"""The manifest of prepared files, OUT/prepared.jsonl, and the journal of a run that is under way.

A line an id, sorted by id: any tool reads it, it streams in bounded memory, and its bytes say nothing of when or how often
the run was stopped. During a run lines are appended to a journal, first that files of an id are about to be written (a claim),
then what became of it. So at any moment it is known which files are ours: what was claimed and not finished is removed at the
next start, and what neither manifest nor journal knows belongs to somebody else.

    {"id", "program": SHA-256, "verdict", "center", "scale", "points" | "step" | "views": {..., "files": [[bytes, SHA-256]]}}
    {"id", "program", "verdict", "code", "reason", "limit": s of a TIMEOUT, "points" | ...: {...}}     nothing was made
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from cadmllm.corpus.captionfiles import unsafe
from cadmllm.corpus.derive import PRODUCTS, Product, targets
from cadmllm.errors import CadmllmError

MANIFEST = "prepared.jsonl"
FOLDER = ".prepare"  # of a run: its lock, its journal, and files that are being written
Line = dict[str, Any]


def encode(line: Line) -> bytes:
    """A line of the file; the same line gives the same bytes."""
    return json.dumps(line, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode("utf-8", "surrogateescape") + b"\n"


def decode(raw: bytes) -> Line | None:
    """The line, or None when it is torn or not ours. Ids are checked: a manifest may have come along with a data set."""
    if not raw.endswith(b"\n"):
        return None
    try:
        line = json.loads(raw.decode("utf-8", "surrogateescape"), parse_constant=_refused)
    except (ValueError, RecursionError):
        return None
    if not isinstance(line, dict) or not isinstance(line.get("id"), str) or unsafe(line["id"]):
        return None
    if not isinstance(line.get("limit", 0), (int, float)):
        return None
    return line if all(isinstance(line.get(product, {}), dict) for product in PRODUCTS) else None


def _refused(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


class Workplace:
    """An output folder that this process alone works in, with its manifest and journal; use it as a context manager.

    Entering takes the lock, removes what a killed run half wrote, and brings its finished lines into the manifest; leaving does
    the same for this run.

    Args:
        out: the folder; it is made.
        warn: told of what could not be done and does no harm.

    Raises:
        CadmllmError: E303 (cannot be written), E409 (another run is at work there), E419 (its folders are links), E480 (the
            manifest is broken).
    """

    def __init__(self, out: Path, warn: Callable[[str], None] = lambda text: None) -> None:
        self.out = out
        self.path = out / MANIFEST
        self.aside = out / FOLDER
        self._warn = warn
        self._journal: BinaryIO | None = None
        self._lock = -1

    def __enter__(self) -> Workplace:
        make_folder(self.out)
        for path in (self.aside, self.path):
            if path.is_symlink():
                raise CadmllmError("E419", f"{path} is a link", f"remove it: rm {path}")
        if self.path.exists() and not self.path.is_file():
            raise CadmllmError("E480", f"{self.path} is no regular file", f"move it away: mv {self.path} {self.path}.broken")
        make_folder(self.aside)
        self._lock = _locked(self.aside / "lock", self._warn)
        try:
            self._consolidate()
            self._journal = open(self.aside / "journal.jsonl", "ab")  # noqa: SIM115 closed by `__exit__`
        except BaseException as error:
            os.close(self._lock)
            if isinstance(error, OSError):
                raise unwritable(self.aside, error) from error
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        if self._journal is not None:
            self._journal.close()
        try:
            self._consolidate()
            shutil.rmtree(self.aside, ignore_errors=True)
        except CadmllmError:
            if exception[0] is None:
                raise
            # the error that ends the run is the one to tell; the journal stays and the next start goes on from it
        finally:
            os.close(self._lock)

    def claim(self, id_: str, products: tuple[Product, ...]) -> None:
        """Note that files of the id are about to be written."""
        self._append({"id": id_, "claim": list(products)})

    def finish(self, line: Line) -> None:
        """Note what became of the id; this ends its claim."""
        self._append(line)

    def _append(self, line: Line) -> None:
        assert self._journal is not None
        try:
            self._journal.write(encode(line))
            self._journal.flush()  # to the system: a killed process loses nothing, a cut of power no more than the last seconds
        except OSError as error:
            raise unwritable(self.aside, error) from error

    def lines(self) -> Iterator[Line]:
        """The manifest, in the order of ids. Raises `CadmllmError` E480 for a line that is none."""
        for line, _ in self._sorted():
            yield line

    def _sorted(self) -> Iterator[tuple[Line, bytes]]:
        before = ""
        try:
            with open(self.path, "rb") as file:
                for number, raw in enumerate(file, 1):
                    line = decode(raw)
                    if line is None or line["id"] <= before:
                        what = "is no line of a manifest" if line is None else "is out of order"
                        raise CadmllmError(
                            "E480",
                            f"{self.path}: line {number} {what}",
                            f"move it away: mv {self.path} {self.path}.broken (its files are then kept as someone else's)",
                        )
                    before = line["id"]
                    yield line, raw
        except FileNotFoundError:
            return
        except OSError as error:
            raise CadmllmError("E480", f"{self.path} cannot be read: {error.strerror}", "check its permissions") from error

    def _consolidate(self) -> None:
        """Remove files of unfinished claims and of killed writers, and bring the journal's lines into the manifest, sorted."""
        journal = self.aside / "journal.jsonl"
        try:
            for path in self.aside.iterdir():
                if path.name not in ("lock", "journal.jsonl") or path.is_symlink() or not path.is_file():
                    path.unlink()  # what is no file was never ours, and reading a pipe would not end
            if not journal.exists():
                return
            with open(journal, "rb") as file:
                claims, finished = _index(file)
                for id_, products in claims.items():
                    for product in products:
                        self.remove(id_, product)
                if finished:
                    self._merge(file, finished)
            journal.unlink()
        except OSError as error:
            raise unwritable(self.aside, error) from error

    def _merge(self, journal: BinaryIO, finished: list[tuple[str, int]]) -> None:
        fresh = self.aside / MANIFEST
        with open(fresh, "wb") as file:
            place = 0
            for line, raw in self._sorted():
                while place < len(finished) and finished[place][0] < line["id"]:
                    file.write(_line_at(journal, finished[place][1]))
                    place += 1
                if place < len(finished) and finished[place][0] == line["id"]:
                    continue  # told anew in the journal
                file.write(raw)
            for _, offset in finished[place:]:
                file.write(_line_at(journal, offset))
            file.flush()
            os.fsync(file.fileno())
        os.replace(fresh, self.path)

    def remove(self, id_: str, product: Product) -> int:
        """Remove what there is of a product of an id; returns how many files that were."""
        count = 0
        for name in targets(id_, product):
            path = self.out / name
            if not path.parent.resolve().is_relative_to(self.out.resolve()):
                continue  # a folder that is a link out of here: nothing of ours was ever written there
            try:
                path.unlink()
                count += 1
            except FileNotFoundError:
                continue
            except OSError as error:
                raise unwritable(path, error) from error
        return count


def _index(journal: BinaryIO) -> tuple[dict[str, list[Product]], list[tuple[str, int]]]:
    """Claims that nothing followed, and (id, offset) of the last finished line of each id, sorted. A torn line is no line."""
    claims: dict[str, list[Product]] = {}
    finished: dict[str, int] = {}
    offset = 0
    for raw in journal:
        line = decode(raw)
        if line is not None and isinstance(line.get("claim"), list):
            claims[line["id"]] = [product for product in PRODUCTS if product in line["claim"]]
        elif line is not None:
            claims.pop(line["id"], None)
            finished[line["id"]] = offset
        offset += len(raw)
    return claims, sorted(finished.items())


def _line_at(journal: BinaryIO, offset: int) -> bytes:
    journal.seek(offset)
    return journal.readline()


def _locked(path: Path, warn: Callable[[str], None]) -> int:
    """A handle on the locked file: E409 when another process has it."""
    while True:
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        except OSError as error:
            raise unwritable(path, error) from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                os.close(handle)
                raise CadmllmError(
                    "E409", f"another data prepare is at work in {path.parent.parent}", "wait for it, or give another --out"
                ) from error
            warn(f"{path.parent.parent}: this file system has no locks; do not start a second run on it")
            return handle
        try:
            if os.stat(path).st_ino == os.fstat(handle).st_ino:
                return handle
        except FileNotFoundError:
            pass  # the run that held it has ended and taken its folder along
        os.close(handle)
        make_folder(path.parent)


def make_folder(path: Path) -> None:
    """The folder, with its parents.

    Raises:
        CadmllmError: E303 when it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CadmllmError("E303", f"{path} cannot be made: {error.strerror}", "give a folder that can be written") from error


def unwritable(path: Path, error: OSError) -> CadmllmError:
    """E303 for what the system said."""
    remedy = "free some space, or give a folder that can be written (--out); the same command goes on from here"
    return CadmllmError("E303", f"cannot write {path}: {error.strerror}", remedy)
