"""What a person names or hands over, before it is read: a path that can be one, a name that can be shown, a hash."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from cadmllm.errors import CadmllmError
from cadmllm.places import local_path

_ADDRESS = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]+:/")


def path_of(value: str | os.PathLike[str], code: str) -> Path:
    """A path as this system knows it: Windows paths under WSL, `~/` as the home folder.

    Args:
        value: as the user wrote it.
        code: for what is no path.

    Raises:
        CadmllmError: `code` for an empty name or an address of the web; E831 for a Windows path on another system.
    """
    text = os.fspath(value)
    if not text.strip():
        raise CadmllmError(code, "a file's name is empty", "name a file")
    if _ADDRESS.match(text):
        shown = printable(re.sub(":/+", "://", text, count=1))  # a Path has one stroke left
        message = f"{shown} is an address, not a file, and nothing is fetched from the network"
        raise CadmllmError(code, message, f"download it first (`curl -LO {shown}`) and name the file")
    return local_path(text).expanduser() if text.startswith("~/") else local_path(text)


def printable(text: str) -> str:
    """The text on one line, with what a terminal would obey or cannot show (escapes, bytes that are no UTF-8) written out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


@contextmanager
def advising(remedies: Mapping[str, str]) -> Generator[None]:
    """Refusals of readers that data sets use, too, with what mends them here.

    Args:
        remedies: by code; others keep theirs.
    """
    try:
        yield
    except CadmllmError as error:
        remedy = remedies.get(error.code, printable(error.remedy))
        raise CadmllmError(error.code, printable(error.message), remedy, exit_code=error.exit_code) from error


def described(kind: str, path: Path | None, content: bytes | Iterable[np.ndarray], **more: Any) -> dict[str, Any]:
    """An input for the record.

    Args:
        kind: 'image', 'point cloud' or 'mesh'.
        path: None for what came as a value.
        content: the bytes of the file, or the arrays.
        more: what else there is to say.

    Returns:
        kind, file (a path as records show it; not there without one), sha256 (of the file; of values: of each array's type,
        shape and bytes), and `more`.
    """
    found: dict[str, Any] = {"kind": kind}
    if path is not None:
        from cadmllm.infer.checkpoint import shown

        found["file"] = printable(shown(path))
    digest = hashlib.sha256()
    for part in (content,) if isinstance(content, bytes) else content:
        if isinstance(part, np.ndarray):
            digest.update(f"{part.dtype.str}{part.shape}".encode())
            part = np.ascontiguousarray(part).data
        digest.update(part)
    return {**found, "sha256": digest.hexdigest(), **more}
