"""The rows of an evaluation on disk, as they come: a run that was killed goes on where it stopped, to the same rows."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from cadmllm.cad.files import write_whole
from cadmllm.console import jsonable
from cadmllm.errors import CadmllmError

Key = tuple[str, str]  # combination, id


class Ledger:
    """An open folder. Use it as a context manager.

    Args:
        folder: made when missing.
        identity: everything that decides what the rows are: checkpoint, data, settings. It stands beside them, in
            `STEM.settings.json`.
        stem: of the rows' file, `STEM.jsonl`.
        command: as in 'cadmllm eval', for what is said.

    Attributes:
        done: (combination, id) of the rows that are there.

    Raises:
        CadmllmError: E714 when the folder holds rows of another evaluation, or another process writes to it; E303.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any], stem: str = "rows", command: str = "cadmllm eval") -> None:
        self.folder, self.command = folder, command
        self.path, self.beside = folder / f"{stem}.jsonl", folder / f"{stem}.settings.json"
        self.identity = json.loads(json.dumps(jsonable(identity), sort_keys=True))
        self._file = self._open()
        try:
            self._claim()
            self.done = {key_of(row) for row in self._whole_rows()}
        except BaseException:
            self._file.close()
            raise
        self.found = len(self.done)

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Let another process have the folder."""
        self._file.close()

    def add(self, row: Mapping[str, Any]) -> None:
        """Append a row; it is there when this returns, whatever becomes of the process."""
        self._file.write(
            (json.dumps(jsonable(row), ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8", "backslashreplace")
        )
        self._file.flush()
        self.done.add(key_of(row))

    def rows(self) -> Iterator[dict[str, Any]]:
        """Every row that is there, in the order in which they came."""
        with self.path.open("rb") as file:
            for line in file:
                yield json.loads(line)

    def _open(self) -> BinaryIO:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            file = self.path.open("ab")
        except OSError as error:
            message = f"nothing can be written to {self.folder}: {error.strerror}"
            raise CadmllmError("E303", message, "name another folder: --out DIR") from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise self._other("another process writes to it at this moment", "wait for it, or name another folder") from None
        except OSError:
            pass  # some network drives know no locks: two evaluations of one folder are then the user's to avoid
        return file

    def _claim(self) -> None:
        """Whose rows these are: ours, or nobody's yet."""
        path = self.beside
        if not path.is_file():
            if self._file.tell():
                raise self._other(f"there are rows ({self.path.name}), and no {path.name} says of what", "name another folder")
            write_whole(path, (json.dumps(self.identity, indent=1, ensure_ascii=False) + "\n").encode())
            return
        try:
            before = json.loads(path.read_text("utf-8"))
        except (OSError, ValueError):
            raise self._other(f"{path} cannot be read", "name another folder") from None
        if before != self.identity:
            told = differences(before, self.identity)
            raise self._other(f"it was made with {'; '.join(told[:3])}{'; ...' if len(told) > 3 else ''}", "name another folder")

    def _whole_rows(self) -> Iterator[dict[str, Any]]:
        """The rows up to the first that is torn, which is cut off with all after it."""
        kept = 0
        with self.path.open("rb") as file:
            for line in file:
                row = _read(line)
                if row is None:
                    break
                kept += len(line)
                yield row
        self._file.truncate(kept)

    def _other(self, why: str, remedy: str) -> CadmllmError:
        return CadmllmError(
            "E714",
            f"{self.folder} holds another evaluation: {why}",
            f"{remedy}: {self.command} --out DIR; or remove the old one: rm -r {self.folder}",
        )


def key_of(row: Mapping[str, Any]) -> Key:
    """What tells a row from all others."""
    return str(row["combination"]), str(row["id"])


def _read(line: bytes) -> dict[str, Any] | None:
    """A row, or None for what is none."""
    if not line.endswith(b"\n"):
        return None
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and isinstance(row.get("id"), str) and isinstance(row.get("combination"), str) else None


def differences(before: Any, now: Any, name: str = "") -> list[str]:
    """Where two identities part, in words: 'settings.infer.seed 0, and now 1'."""
    if isinstance(before, dict) and isinstance(now, dict):
        found = []
        for key in dict.fromkeys([*before, *now]):
            found += differences(before.get(key), now.get(key), f"{name}.{key}" if name else str(key))
        return found
    return [] if before == now else [f"{name} {_short(before)}, and now it is {_short(now)}"]


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."
