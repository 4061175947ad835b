"""OUT/results.jsonl: a record a line, written as they come; it outlives a kill, and its order is mended when all is done.

A record is appended with its line break in one write and synced. What a kill leaves behind is at most one line without its end,
which is cut off when the file is opened again. Of two records of an id the later one counts.
"""

from __future__ import annotations

import fcntl
import io
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cadmllm.cad.files import whole
from cadmllm.errors import CadmllmError


class Results:
    """The records of a folder, one process at a time; use it as a context manager.

    Args:
        path: the file; made when missing, its folder too.

    Attributes:
        torn: bytes of a half-written record that were cut off.
        unread: lines that are no record; they go when the file is put in order.

    Raises:
        CadmllmError: E303 when it cannot be written, or another process writes to it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.torn = self.unread = 0
        self._places: dict[str, tuple[int, int]] = {}  # offset and length of each id's record, in the order of the file
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._open()
        except OSError as error:
            raise _unwritable(path, error.strerror or str(error)) from None
        self._read()

    def __enter__(self) -> Results:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, id_: object) -> bool:
        return id_ in self._places

    def get(self, id_: str) -> dict[str, Any] | None:
        """The latest record of an id."""
        if id_ not in self._places:
            return None
        return json.loads(self._bytes(id_))

    def append(self, record: dict[str, Any]) -> None:
        """Write a record at the end: all of it is on the disk afterwards, or nothing.

        Raises:
            CadmllmError: E303.
        """
        line = json.dumps(record, ensure_ascii=False, allow_nan=False).encode("utf-8", "backslashreplace") + b"\n"
        end = self._file.seek(0, os.SEEK_END)
        try:
            if os.write(self._file.fileno(), line) != len(line):
                os.ftruncate(self._file.fileno(), end)
                raise _unwritable(self.path, "no space left on device")
            os.fsync(self._file.fileno())
        except OSError as error:
            raise _unwritable(self.path, error.strerror or str(error)) from None
        self._places.pop(record["id"], None)  # its place is now behind the others
        self._places[record["id"]] = (end, len(line))

    def put_in_order(self, ids: Iterable[str]) -> None:
        """Have the file hold the latest records of `ids` in this order, then all others; nothing is written where it does.

        Raises:
            CadmllmError: E303.
        """
        order = [id_ for id_ in ids if id_ in self._places]
        named = set(order)
        order += [id_ for id_ in self._places if id_ not in named]
        size = self._file.seek(0, os.SEEK_END)
        if order == list(self._places) and size == sum(length for _, length in self._places.values()):
            return
        with whole(self.path) as aside, aside.open("wb") as file:
            for id_ in order:
                file.write(self._bytes(id_))
            file.flush()
            os.fsync(file.fileno())
        old, self._file = self._file, self._open()
        old.close()
        self._places = {}
        self._read()

    def _open(self) -> io.FileIO:
        file = io.FileIO(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666), "r+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise CadmllmError(
                "E303", f"another process is writing to {self.path}", "wait for it, or name another folder: --out DIR"
            ) from None
        return file

    def _read(self) -> None:
        """Find every record, and cut off what a kill left half-written."""
        offset = self._file.seek(0)
        with open(self._file.fileno(), "rb", closefd=False) as lines:
            for raw in lines:
                if not raw.endswith(b"\n"):
                    self.torn = len(raw)
                    break
                id_ = _id_of(raw)
                if id_ is None:
                    self.unread += 1
                else:
                    self._places.pop(id_, None)
                    self._places[id_] = (offset, len(raw))
                offset += len(raw)
        if self.torn:
            os.ftruncate(self._file.fileno(), offset)

    def _bytes(self, id_: str) -> bytes:
        offset, length = self._places[id_]
        return os.pread(self._file.fileno(), length, offset)


def _id_of(raw: bytes) -> str | None:
    try:
        record = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    id_ = record.get("id") if isinstance(record, dict) else None
    return id_ if isinstance(id_, str) else None


def _unwritable(path: Path, reason: str) -> CadmllmError:
    return CadmllmError(
        "E303",
        f"cannot write {path}: {reason}",
        "make room (df -h) or name another folder (--out DIR); the same command then goes on where it stopped",
    )
