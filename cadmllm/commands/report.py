"""`cadmllm report`: what a training run did, as a picture, a page and a table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cadmllm.console import Console

if TYPE_CHECKING:
    from cadmllm.commands._options import Shared
    from cadmllm.train.history import Stage

SECTION = "Train"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("report")(report)


def report(
    ctx: typer.Context,
    run: Annotated[Path | None, typer.Argument(help="a run folder (or its metrics.jsonl); default run.dir")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="folder for the pictures; default the run folder")] = None,
) -> None:
    """Draw loss, rates, throughput and memory of a training run, and say its figures stage by stage.

    Writes report.png (all charts), report.md (figures, to be read or shared) and curves/ (each chart by itself).
    The run may still be going on.
    """
    shared: Shared = ctx.obj
    console = shared.console
    from cadmllm.places import local_path
    from cadmllm.train.history import find_metrics, load

    chosen = shared.settings().run.dir if run is None else local_path(str(run))
    metrics = find_metrics(chosen)
    # nobody knows how many there are: a log would get a line every thousand
    with (console if console.err.isatty() else Console(quiet=True)).progress(None, "records read") as bar:
        stages = load(metrics, bar.advance)
    folder = metrics.parent if out is None else local_path(str(out))
    written = _write(stages, metrics, folder)
    rows = [stage.row() for stage in stages]
    _say(rows, console)
    console.print(f"\npicture: {written['picture']}\npage:    {written['page']}")
    console.json({"run": metrics.parent, "metrics": metrics, **written, "stages": rows})


def _write(stages: list[Stage], metrics: Path, folder: Path) -> dict[str, Any]:
    """Draw and write; returns the paths."""
    from cadmllm.cad.files import write_whole
    from cadmllm.errors import CadmllmError
    from cadmllm.train.curves import draw_run
    from cadmllm.train.runpage import facts, page

    try:
        (folder / "curves").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        message = f"cannot write into {folder}: {error.strerror}"
        raise CadmllmError("E303", message, "name a folder that can be written to: --out FOLDER") from error
    paper, places = draw_run(stages, f"Training run {metrics.parent.resolve().name}", facts(stages))
    picture = folder / "report.png"
    write_whole(picture, paper.png())
    curves = {name: folder / "curves" / f"{name}.png" for name in places}
    for name, path in curves.items():
        write_whole(path, paper.part(places[name]))
    text = folder / "report.md"
    write_whole(text, page(stages, metrics, picture.name).encode())
    return {"picture": picture, "page": text, "curves": curves}


def _say(rows: list[dict[str, Any]], console: Console) -> None:
    from cadmllm.train.runpage import HEADERS, cells, held_out, remarks

    lines = [HEADERS, *(cells(row) for row in rows)]
    telling = [k for k in range(len(HEADERS)) if any(line[k] not in ("-", "0") for line in lines[1:])]
    widths = [max(len(line[k]) for line in lines) for k in telling]
    aligned = [[line[k].rjust(width) if k else line[k] for k, width in zip(telling, widths, strict=True)] for line in lines]
    console.table(aligned[1:], aligned[0])
    told = held_out(rows)
    if told:
        console.print("\nheld-out loss")
        console.table(told[1:], told[0])
    said = remarks(rows)
    if said:
        console.print("\n" + "\n".join(said))
