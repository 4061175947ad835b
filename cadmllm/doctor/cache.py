"""What was found well before, so that the quick part of the doctor stays quick. Standard library only.

Only good news is kept: what fails is looked at anew each time. An entry counts while its key is the same, and a key holds
everything that the answer depends on (versions, sizes, times of change). One JSON file in the user's cache folder; what is
not readable there counts as empty.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

KEPT = 64  # entries of each name: as many runs, machines' GPUs or files are remembered


def default_path(environ: Mapping[str, str] = os.environ) -> Path:
    """`~/.cache/cadmllm/doctor.json`, or under XDG_CACHE_HOME."""
    base = environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "cadmllm" / "doctor.json"


class Cache:
    """Answers by name and key.

    Args:
        path: of the file; None: the default. A folder that cannot be written costs time, not the check.
        fresh: forget what is there.
    """

    def __init__(self, path: Path | None = None, *, fresh: bool = False) -> None:
        self.path = path or default_path()
        self._fresh = fresh
        self._entries: dict[str, dict[str, Any]] | None = None

    def get(self, name: str, *key: object) -> Any:
        """The answer (plain JSON data) that was kept under `name` for this key, else None."""
        return self._read().get(name, {}).get(_digest(key))

    def put(self, name: str, *key: object, answer: object) -> None:
        """Keep a good answer; at most `KEPT` of a name, the oldest go."""
        entries = self._read().setdefault(name, {})
        entries.pop(_digest(key), None)
        entries[_digest(key)] = answer
        for old in list(entries)[:-KEPT]:
            del entries[old]
        self._write()

    def _read(self) -> dict[str, dict[str, Any]]:
        if self._entries is None:
            found: object = None
            if not self._fresh:
                try:
                    found = json.loads(self.path.read_text(encoding="utf-8"))
                except (OSError, ValueError):
                    found = None
            whole = isinstance(found, dict) and all(isinstance(value, dict) for value in found.values())
            self._entries = dict(found) if isinstance(found, dict) and whole else {}
        return self._entries

    def _write(self) -> None:
        """Written aside and renamed, as two doctors may run at once."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with tempfile.NamedTemporaryFile(
                "w", dir=self.path.parent, prefix=".doctor-", delete=False, encoding="utf-8"
            ) as file:
                json.dump(self._entries, file)
            os.replace(file.name, self.path)
        except OSError:
            pass  # no place to remember: the next doctor looks again


def _digest(key: tuple[object, ...]) -> str:
    return hashlib.sha256("\n".join(str(part) for part in key).encode("utf-8", "surrogatepass")).hexdigest()[:32]


def file_key(path: Path) -> str:
    """What changes when a file does: its path, size and time of change; 'none' where it is not there."""
    try:
        facts = path.stat()
    except OSError:
        return f"{path}: none"
    return f"{path}: {facts.st_size} {facts.st_mtime_ns}"
