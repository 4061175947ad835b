"""`cadmllm convert`: programs to programs, source, solids and pictures, one file or a folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cadmllm.errors import Exit

if TYPE_CHECKING:
    from cadmllm.cad.convert import Report
    from cadmllm.commands._options import Shared
    from cadmllm.console import Console

SHOWN = 10


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("convert")(convert)


def convert(
    ctx: typer.Context,
    source: Annotated[Path, typer.Argument(metavar="IN", help="a program (.json, .h5, .txt) or a folder of them")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="a file (.json .h5 .txt .py .step .stl .glb .png) or a folder")],
    to: Annotated[str | None, typer.Option("--to", help="format to write where OUT is a folder: step")] = None,
    only: Annotated[str | None, typer.Option("--from", help="the one format to take from a folder: json")] = None,
    workers: Annotated[int | None, typer.Option("--workers", min=1, help="kernel processes; default kernel.workers")] = None,
) -> None:
    """Convert CAD programs. A folder keeps its sub-folders; IN is never overwritten.

    .json is DeepCAD / Omni-CAD, .h5 DeepCAD's vectors, .txt our token text, .py source for build123d, .step .stl .glb solids,
    .png a picture. Solids are in millimetres (.glb: metres, as glTF demands). From a solid there is no way back to a program.
    """
    shared: Shared = ctx.obj
    settings, console = shared.settings(), shared.console
    from cadmllm.cad import convert as room

    pairs = room.plan(source, out, _ending(to), _ending(only))
    kernel = settings.kernel
    with console.progress(len(pairs), "converting") as bar:
        report = room.convert(
            pairs, workers=workers or kernel.workers, timeout=kernel.timeout, memory=kernel.memory, advance=bar.advance
        )
    for note in report.notes:
        console.note(note)
    console.json(report.as_dict())
    if len(pairs) == 1 and report.failures:
        if not console.is_json:
            raise report.failures[0].error
    else:
        _say(console, report, out)
    if report.failures:
        raise typer.Exit(Exit.USER)


def _ending(text: str | None) -> str | None:
    """'step' of '.STEP'."""
    return text.lower().removeprefix(".") if text else None


def _say(console: Console, report: Report, out: Path) -> None:
    counts = report.as_dict()
    console.print(f"{out}: {counts['ok']} of {counts['total']} converted, {counts['failed']} failed")
    for failure in report.failures[:SHOWN]:
        console.print(f"  {failure.error.code} {failure.error.message}")
    if counts["failed"] > SHOWN:
        console.print(f"  ... and {counts['failed'] - SHOWN} more; --json lists them all")
