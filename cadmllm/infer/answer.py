"""One answer to files: program.json, program.txt, model.step, model.png and record.json, all of one run or none."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cadmllm.cad.grammar import accepts
from cadmllm.cad.kernel import BuildResult, Verdict
from cadmllm.cad.omnicad import write_json
from cadmllm.cad.program import Program, validate
from cadmllm.cad.render import render, write_png
from cadmllm.cad.tokens import to_text
from cadmllm.cad.workshop import Workshop
from cadmllm.corpus.types import Sample
from cadmllm.errors import CadmllmError
from cadmllm.infer.generate import Answer
from cadmllm.infer.judge import program_of
from cadmllm.models.stages import MANIFEST, sha256

JSON, TEXT, STEP, PICTURE, RECORD = FILES = ("program.json", "program.txt", "model.step", "model.png", "record.json")
PIXELS = 640


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


def deliver(answer: Answer, sample: Sample, out: Path, record: dict[str, Any], workshop: Workshop) -> dict[str, Any]:
    """Build the answer, write what there is to write, and complete the record.

    A cloud's coordinates are the answer's: it comes out where the scan is. Without a cloud it is centred on the origin, in the
    size that the answer states. Everything is written aside and moved in at the end; files of an earlier answer that this one
    does not have (no solid, no STEP) are removed then, so that the folder never holds two answers.

    Args:
        answer: what the model wrote.
        sample: what it was shown.
        out: the folder; made when missing.
        record: what is known so far (prompt, inputs, checkpoint, settings); copied.
        workshop: an open one.

    Returns:
        The record as written: with verdict, reason, volume and area (mm3, mm2), box (mm), commands, tokens, seconds and files.

    Raises:
        CadmllmError: E303 when `out` cannot be written.
    """
    transform = sample.clouds[0].transform if sample.clouds else None
    program = program_of(answer, transform)
    with _aside(out) as folder:
        result = workshop.build(program, step=folder / STEP, mesh=True) if isinstance(program, Program) else program
        if result.verdict is not Verdict.OK:
            (folder / STEP).unlink(missing_ok=True)
        elif result.mesh is not None:
            write_png(render(result.mesh, size=PIXELS), folder / PICTURE)
        notes = _write_program(program, result, folder) if isinstance(program, Program) else []
        if accepts(answer.tokens):
            (folder / TEXT).write_text(to_text(answer.tokens), encoding="utf-8")
        full = {
            **record,
            **_findings(answer, program, result),
            "frame": "point cloud" if transform else "centred",
            "notes": notes,
        }
        full["files"] = [name for name in FILES if name == RECORD or (folder / name).is_file()]
        (folder / RECORD).write_text(json.dumps(full, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
        _move_in(folder, out, full["files"])
    return full


def _write_program(program: Program, result: BuildResult, folder: Path) -> list[str]:
    """Write the JSON, or say why this program has none: what a model wrote need not be a valid program."""
    try:
        write_json(validate(program), folder / JSON, result.box)
    except CadmllmError as error:
        if error.code == "E303":
            raise
        return [f"no {JSON}: {error.message}"]
    return []


def no_solid(record: dict[str, Any], out: Path) -> CadmllmError:
    """E702 for a record whose verdict is not OK."""
    return CadmllmError(
        "E702",
        f"verdict {record['verdict']}: {record['reason']}",
        f"the program is in {out / TEXT}; try again with --temperature 0.8 --seed N, or with a simpler prompt",
    )


def _findings(answer: Answer, program: Program | BuildResult, result: BuildResult) -> dict[str, Any]:
    return {
        "verdict": result.verdict.value,
        "reason": result.reason,
        "volume_mm3": result.volume,
        "area_mm2": result.area,
        "box_mm": [list(corner) for corner in result.box] if result.box else None,
        "size_mm": [high - low for low, high in zip(*result.box, strict=True)] if result.box else None,
        "solids": result.solids,
        "faces": result.faces,
        "edges": result.edges,
        "commands": command_counts(program) if isinstance(program, Program) else {},
        "tokens": len(answer.tokens),
        "prompt_tokens": answer.prompt_tokens,
        "log_likelihood": answer.log_likelihood,
        "build_seconds": round(result.seconds, 4),
    }


def command_counts(program: Program) -> dict[str, int]:
    """How many extrudes, lines, arcs and circles a program has."""
    counts = Counter(extrude=len(program.extrudes))
    for extrude in program.extrudes:
        for profile in (profile for sketch in extrude.sketches for profile in sketch.profiles):
            counts.update(type(curve).__name__.lower() for loop in (profile.outer, *profile.inner) for curve in loop.curves)
    return {name: counts[name] for name in ("extrude", "line", "arc", "circle")}


def checkpoint_hash(folder: Path) -> str | None:
    """SHA-256 of a checkpoint's manifest, which holds those of its files; None for a base model, which has none."""
    manifest = folder / MANIFEST
    return sha256(manifest) if manifest.is_file() else None


def shown(path: Path) -> str:
    """A path for a record: below the working folder as it stands there, else its last two parts; never anybody's home."""
    full = path.resolve()
    return str(full.relative_to(Path.cwd())) if full.is_relative_to(Path.cwd()) else "/".join(full.parts[-2:])


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
