"""`cadmllm infer`: a text, pictures or a point cloud in, a CAD program and its solid out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from cadmllm.commands._options import Shared
    from cadmllm.console import Console
    from cadmllm.infer.api import CadModel
    from cadmllm.infer.request import Request

SECTION = "Use"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("infer")(infer)


def infer(
    ctx: typer.Context,
    prompt: Annotated[str | None, typer.Option("--prompt", "-p", help="what to make")] = None,
    image: Annotated[list[Path] | None, typer.Option("--image", help="a picture of the part; again for more views")] = None,
    pc: Annotated[
        list[Path] | None,
        typer.Option("--pc", help="points or a mesh (.npz .npy .ply .xyz .pcd .stl .obj ...); again for more scans in one frame"),
    ] = None,
    size: Annotated[str | None, typer.Option("--size", help="bring the result to this size: 40x20x10mm")] = None,
    batch: Annotated[
        Path | None, typer.Option("--batch", help="many requests, a JSON object a line; the same command again goes on")
    ] = None,
    interactive: Annotated[bool, typer.Option("--interactive", "-i", help="a prompt line; the model stays loaded")] = False,
) -> int | None:
    """Generate a CAD model: program.json .txt .py, model.step .stl .glb .png and record.json in OUT.

    Further options: --checkpoint D (default: the newest finished stage of run.dir, else the bundled tiny base), --out DIR,
    --candidates N (the best solid of N), --repair, --seed S, --temperature T (0 is greedy), --top-p P, --max-new-tokens N,
    --units mm|cm|m|in|ft (of what is given and of STEP and STL), --clean (outliers of a cloud), --no-grammar, --batch-size N.
    """
    shared: Shared = ctx.obj
    if batch is not None or interactive:
        return _many(shared, batch, interactive, prompt, image or [], pc or [], size)
    settings, console = shared.settings(), shared.console
    from cadmllm.infer.answer import check_out, no_solid
    from cadmllm.infer.lengths import parse_size
    from cadmllm.infer.request import Request

    request = Request(text=prompt, images=tuple(image or ()), points=tuple(pc or ()), size=size)
    if size is not None:
        parse_size(size, settings.infer.units)
    request = Request(text=prompt, size=size, shown=request.read(settings))
    check_out(settings.infer.out)
    with _loaded(shared) as cad:
        record = _answer(cad, request, console, settings.infer.out)
    if record["verdict"] != "OK":
        raise no_solid(record, settings.infer.out)
    for note in record["notes"]:
        console.note(f"note: {note}")
    console.json(record)
    _say(console, record, settings.infer.out)
    return None


def _many(
    shared: Shared,
    batch: Path | None,
    interactive: bool,
    prompt: str | None,
    images: list[Path],
    points: list[Path],
    size: str | None,
) -> int | None:
    """A batch or a session. Raises `CadmllmError` E105 where options do not go together."""
    from cadmllm.commands import _batch, _dialogue
    from cadmllm.errors import CadmllmError, Exit

    given = {"--prompt": prompt, "--image": images, "--pc": points, "--size": size, "--interactive": interactive}
    if batch is None:
        _dialogue.session(shared, prompt, images, points, size)
        return None
    for name, value in given.items():
        if value:
            remedy = "write what a part is made from into its line of the batch file" if name != "--interactive" else "name one"
            raise CadmllmError("E105", f"--batch does not go with {name}", remedy, exit_code=Exit.USAGE)
    return _batch.batch(shared, batch)


def _loaded(shared: Shared) -> CadModel:
    from cadmllm.infer.api import load

    return load(settings=shared.settings(), console=shared.console)


def _answer(cad: CadModel, request: Request, console: Console, out: Path) -> dict[str, Any]:
    from cadmllm.errors import CadmllmError
    from cadmllm.infer.stream import watching

    with watching(console, cad.settings.infer.candidates) as watch:
        (part,) = cad.answer([request], watch)
    if isinstance(part, CadmllmError):
        raise part
    part.save(out)
    return part.record


def _say(console: Console, record: dict[str, Any], out: Path) -> None:
    for label, text in [*summary(record), ("files", f"{out}: {', '.join(record['files'])}")]:
        console.print(f"{label:<11}{text}")


def summary(record: dict[str, Any]) -> list[tuple[str, str]]:
    """What a person wants to know of a solid: (label, text) each."""
    size = " x ".join(f"{side:.1f}" if side >= 1.0 else f"{side:.3g}" for side in record["size_mm"])
    seconds = record["generate_seconds"] + record["build_seconds"]
    count = len(record["candidates"])
    lines = [
        ("checkpoint", record["checkpoint"]["path"]),
        ("commands", count_words(record["commands"])),
        ("size", f"{size} mm"),
        ("volume", f"{record['volume_mm3']:,.1f} mm3" if record["volume_mm3"] >= 1.0 else f"{record['volume_mm3']:.3g} mm3"),
        ("verdict", f"{record['verdict']} ({record['tokens']} tokens, {seconds:.1f} s)"),
        ("chosen", f"of {count} candidates by {record['chosen']['by']}" if count > 1 else ""),
        *(("repaired", step) for step in record["repairs"]),
    ]
    return [(label, text) for label, text in lines if text]


def count_words(counts: dict[str, int]) -> str:
    """'2 extrudes, 9 lines, 1 circle'; what is not there is not said."""
    return ", ".join(f"{count} {name}{'s' if count > 1 else ''}" for name, count in counts.items() if count)
