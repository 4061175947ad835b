"""`cadmllm data encode`: the frozen encoders run once, so that stages 2 and 3 train without them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cadmllm.errors import CadmllmError, Exit

if TYPE_CHECKING:
    from cadmllm.commands._options import Shared
    from cadmllm.console import Console
    from cadmllm.train.encode import PartReport

DTYPES = ("bfloat16", "float16", "float32")


def encode(
    ctx: typer.Context,
    root: Annotated[Path | None, typer.Argument(help="a data set in the Omni-CAD layout; default data.root")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="folder of the features; default data.features")] = None,
    points: Annotated[bool, typer.Option("--points", help="point clouds alone")] = False,
    views: Annotated[bool, typer.Option("--views", help="views alone")] = False,
    draws: Annotated[
        int | None, typer.Option("--draws", min=1, help="fixed draws of points a cloud; default data.draws, else 1")
    ] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", min=0, help="processes that read files; default kernel.workers")
    ] = None,
    dtype: Annotated[str | None, typer.Option("--dtype", help="bfloat16, float16 or float32; default the setting dtype")] = None,
    batch_size: Annotated[int, typer.Option("--batch", min=1, help="clouds or views the encoder sees at once")] = 16,
    verify: Annotated[bool, typer.Option("--verify", help="read all features back and encode damaged ones again")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace features made by another encoder or settings")] = False,
) -> None:
    """Run the frozen encoders once over clouds and views and keep their features.

    Stages 2 and 3 then train without loading an encoder: --set data.features=DIR. Only what is missing or changed is encoded;
    stopped, it goes on. Without --points and --views, every encoder that is frozen.
    """
    shared: Shared = ctx.obj
    settings, console = shared.settings(), shared.console
    if root is not None:
        settings.data.root = root
    folder = out or settings.data.features
    if folder is None:
        raise _usage("no folder for the features", "name one: cadmllm data encode ROOT --out DIR")
    stored = dtype or settings.dtype
    if stored not in DTYPES:
        raise _usage(f"--dtype {stored!r} is unknown", f"one of {', '.join(DTYPES)}")
    from cadmllm.corpus.layout import open_dataset
    from cadmllm.train import encode as encoding

    asked = tuple(name for name, on in (("points", points), ("images", views)) if on)
    options = encoding.Options(
        parts=asked or None,
        draws=draws or settings.data.draws or 1,
        dtype=stored,
        workers=settings.kernel.workers if workers is None else workers,
        batch_size=batch_size,
        verify=verify,
        overwrite=overwrite,
    )
    dataset = open_dataset(settings.data, console=console, workers=settings.kernel.workers)
    _say(encoding.encode(settings, dataset, folder, options, console), settings.data.root, folder, console)


def _say(reports: list[PartReport], root: Path, folder: Path, console: Console) -> None:
    rows: list[tuple[Any, ...]] = []
    for report in reports:
        name = "clouds" if report.part == "points" else "views"
        counts = (report.encoded, report.kept, report.unreadable, report.rows, report.shards)
        rows.append((name, *counts, f"{report.bytes / 2**20:.1f} MiB", f"{report.seconds:.0f} s"))
        for problem in report.problems:
            console.warn(f"without features: {problem}")
    console.table(rows, ("of", "ids encoded", "kept", "rows unreadable", "rows", "shards", "size", "took"))
    follow = f"cadmllm train stage2 stage3 --set data.root={root} --set data.features={folder}"
    console.print(f"next:    {follow}")
    console.json({"out": folder, "parts": reports, "next": follow})


def _usage(message: str, remedy: str) -> CadmllmError:
    return CadmllmError("E105", message, remedy, exit_code=Exit.USAGE)
