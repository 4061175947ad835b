"""`cadmllm infer`: a text, pictures or a point cloud in, a CAD program and its solid out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from cadmllm.commands._options import Shared
    from cadmllm.console import Console

SECTION = "Use"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("infer")(infer)


def infer(
    ctx: typer.Context,
    prompt: Annotated[str | None, typer.Option("--prompt", "-p", help="what to make")] = None,
    image: Annotated[list[Path] | None, typer.Option("--image", help="a picture of the part; again for more views")] = None,
    pc: Annotated[Path | None, typer.Option("--pc", help="a point file (.npz, .npy, .ply), mm")] = None,
) -> None:
    """Generate a CAD model: OUT/program.json, program.txt, model.step, model.png and record.json.

    Further options: --checkpoint D (default: the newest finished stage of run.dir, else the bundled tiny base), --out DIR,
    --max-new-tokens N, --temperature T (0 is greedy), --top-p P, --seed S.
    """
    shared: Shared = ctx.obj
    settings, console = shared.settings(), shared.console
    from cadmllm.infer.answer import no_solid
    from cadmllm.infer.session import run

    record = run(settings, console, prompt, image or [], pc)
    if record["verdict"] != "OK":
        raise no_solid(record, settings.infer.out)
    for note in record["notes"]:
        console.warn(note)
    console.json(record)
    _say(console, record, settings.infer.out)


def _say(console: Console, record: dict[str, Any], out: Path) -> None:
    size = " x ".join(f"{side:.1f}" if side >= 1.0 else f"{side:.3g}" for side in record["size_mm"])
    seconds = record["generate_seconds"] + record["build_seconds"]
    for label, text in (
        ("checkpoint", record["checkpoint"]["path"]),
        ("commands", count_words(record["commands"])),
        ("size", f"{size} mm"),
        ("volume", f"{record['volume_mm3']:,.1f} mm3" if record["volume_mm3"] >= 1.0 else f"{record['volume_mm3']:.3g} mm3"),
        ("verdict", f"{record['verdict']} ({record['tokens']} tokens, {seconds:.1f} s)"),
        ("files", f"{out}: {', '.join(record['files'])}"),
    ):
        console.print(f"{label:<11}{text}")


def count_words(counts: dict[str, int]) -> str:
    """'2 extrudes, 9 lines, 1 circle'; what is not there is not said."""
    return ", ".join(f"{count} {name}{'s' if count > 1 else ''}" for name, count in counts.items() if count)
