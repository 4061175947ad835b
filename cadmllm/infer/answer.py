"""A part to files: program.json .txt .py, model.step .stl .glb .png and record.json, all of one answer or none."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cadmllm.cad.grammar import accepts
from cadmllm.errors import CadmllmError

if TYPE_CHECKING:
    from cadmllm.infer.part import Part

JSON, TEXT, PYTHON, STEP, STL, GLB, PICTURE, RECORD = FILES = (
    *("program.json", "program.txt", "program.py"),
    *("model.step", "model.stl", "model.glb", "model.png"),
    "record.json",
)


def check_out(out: Path) -> None:
    """Refuse a folder that cannot be written before the model is loaded.

    Raises:
        CadmllmError: E303.
    """
    try:
        parent = _standing(out)
    except OSError as error:
        raise _unwritable(out, error.strerror or str(error)) from None
    if not parent.is_dir():
        raise _unwritable(out, f"{parent} is a file")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise _unwritable(out, f"{parent} may not be written")


def deliver(part: Part, out: Path) -> list[str]:
    """Write what there is to write and complete the part's record with the names and what could not be written.

    Everything is written aside and moved in at the end; files of an earlier answer that this one does not have (no solid, no
    STEP) are removed then, so that the folder never holds two answers.

    Returns:
        The names, in the order of `FILES`.

    Raises:
        CadmllmError: E303 when `out` cannot be written.
    """
    from cadmllm.infer.part import write_record

    with _aside(out) as folder:
        notes = _write_program(part, folder)
        if part.ok:
            part.write_solid(folder / STEP, folder / STL, folder / GLB)
            part.to_png(folder / PICTURE)
        part.record["notes"] += [note for note in notes if note not in part.record["notes"]]
        part.record["files"] = [name for name in FILES if name == RECORD or (folder / name).is_file()]
        write_record(part.record, folder / RECORD)
        _move_in(folder, out, part.record["files"])
    return part.record["files"]


def _write_program(part: Part, folder: Path) -> list[str]:
    """Write the program in its forms, or say why it has none: what a model wrote need not be a valid program."""
    forms = [(part.to_text, TEXT)] if accepts(part.tokens) else []
    forms += [(part.to_json, JSON), (part.to_python, PYTHON)] if part.program is not None else []
    notes = []
    for write, name in forms:
        try:
            write(folder / name)
        except CadmllmError as error:
            if error.code == "E303":
                raise
            notes.append(f"no {name}: {error.message}")
    return notes


def no_solid(record: dict[str, Any], out: Path) -> CadmllmError:
    """E702 for a record whose verdict is not OK."""
    return CadmllmError(
        "E702",
        f"verdict {record['verdict']}: {record['reason']}",
        f"the program is in {out / TEXT}; try again with --candidates 16 --repair, or with a simpler prompt",
    )


def _standing(folder: Path) -> Path:
    """The nearest of the folder and its parents that exists."""
    return next(part for part in (folder, *folder.absolute().parents) if part.exists())


@contextmanager
def _aside(out: Path) -> Generator[Path]:
    """A hidden folder on the same file system, gone afterwards."""
    try:
        folder = Path(tempfile.mkdtemp(prefix=".cadmllm-", dir=_standing(out)))
    except OSError as error:
        raise _unwritable(out, error.strerror or str(error)) from None
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _move_in(folder: Path, out: Path, names: list[str]) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        # the record goes first and comes last: whoever finds one finds the files that it names
        (out / RECORD).unlink(missing_ok=True)
        for name in FILES:
            if name in names:
                os.replace(folder / name, out / name)
            else:
                (out / name).unlink(missing_ok=True)
    except OSError as error:
        raise _unwritable(out, error.strerror or str(error)) from None


def _unwritable(out: Path, reason: str) -> CadmllmError:
    return CadmllmError("E303", f"nothing can be written to {out}: {reason}", "name another folder: --out DIR")
