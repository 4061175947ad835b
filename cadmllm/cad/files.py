"""Writing files whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from cadmllm.errors import CadmllmError


@contextmanager
def whole(path: str | Path) -> Generator[Path]:
    """A new, empty file beside `path` to write to; it replaces `path` when the block ends well and vanishes when it does not.

    Raises:
        CadmllmError: E303 when the folder is missing or cannot be written.
    """
    path = Path(path)
    try:
        if path.is_dir():
            raise IsADirectoryError(21, "it is a folder", str(path))
        handle, name = tempfile.mkstemp(prefix=f".{path.stem[:40]}.", suffix=path.suffix, dir=path.parent)
        os.close(handle)
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        raise _unwritable(path, error) from error
    aside = Path(name)
    try:
        yield aside
        os.chmod(aside, 0o666 & ~_umask())
        os.replace(aside, path)
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        aside.unlink(missing_ok=True)


def _umask() -> int:
    """The process' umask, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _unwritable(path: Path, error: OSError | ValueError) -> CadmllmError:
    reason = getattr(error, "strerror", None) or str(error)
    return CadmllmError("E303", f"cannot write {path}: {reason}", "give a path in a folder that exists and can be written")


def write_whole(path: str | Path, content: bytes) -> None:
    """Put a whole file in place or leave nothing. Raises `CadmllmError` E303."""
    with whole(path) as aside:
        aside.write_bytes(content)
