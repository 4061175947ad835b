"""`cadmllm data stats`: how the quantities of a data set are distributed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cadmllm.console import Console

if TYPE_CHECKING:
    from cadmllm.commands._options import Shared
    from cadmllm.corpus.stats import Stats

MANY = 50_000  # rows that take long enough for a progress bar


def stats(
    ctx: typer.Context,
    root: Annotated[Path | None, typer.Argument(help="a data set in the Omni-CAD layout; default data.root")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="also draw a sheet of histograms: FILE.png")] = None,
) -> None:
    """Count what a data set holds: targets, features, curves, sizes, captions, duplicates, and what fits into a sequence.

    Everything comes from the index; only programs and captions that are new are read first.
    """
    shared: Shared = ctx.obj
    settings, console = shared.settings(), shared.console
    from cadmllm.cad.files import write_whole
    from cadmllm.corpus.charts import draw_stats
    from cadmllm.corpus.exhibit import open_any
    from cadmllm.corpus.stats import gather, rows_of

    if root is not None:
        settings.data.root = root
    dataset = open_any(settings.data, console, examine=True, workers=settings.kernel.workers)
    total = rows_of(dataset.index)
    with (console if total > MANY else Console(quiet=True)).progress(total, "rows counted") as bar:
        found = gather(dataset.index, settings, bar.advance)
    if out is not None:
        write_whole(out, draw_stats(found, str(settings.data.root)).png())
    _say(console, found)
    if out is not None:
        console.print(f"\nsheet:   {out}")
    console.json({"root": settings.data.root, "sheet": out, **found.as_dict()})


def _say(console: Console, found: Stats) -> None:
    from cadmllm.corpus.charts import percent, table
    from cadmllm.corpus.stats import doubles

    counts = found.counts
    broken, unread = counts["programs"] - counts["usable_programs"], counts["clouds"] - counts["examined_clouds"]
    console.print(f"{counts['trainable']:,} ids with caption and program")
    later = f" ({unread:,} not read yet: cadmllm data check)" if unread else ""
    programs = f"{counts['programs']:,} programs ({broken:,} not usable)"
    console.print(
        f"{counts['captions']:,} with a caption, {programs}, {counts['clouds']:,} clouds{later}, {counts['views']:,} with views\n"
    )
    headers = ("count", "min", "5 %", "median", "mean", "95 %", "max")
    rows = [(*row[:2], *(cell.rjust(8) for cell in row[2:])) for row in table(found)]
    console.table(rows, ("", "of", *(header.rjust(8) for header in headers)))
    console.print()
    for category in found.categories.values():
        parts = (f"{kind} {number:,} in {category.programs[kind]:,}" for kind, number in category.total.items())
        console.print(f"{category.title}: {'; '.join(parts)}")
    console.print("\ntargets that fit, by train.max_seq_length")
    lengths = dict.fromkeys(row[0] for row in found.fits)
    fits = [(f"{n:,}", *(percent(row[3], row[4]).rjust(8) for row in found.fits if row[0] == n)) for n in lengths]
    console.table(fits, ("length", *(f"stage {k}".rjust(8) for k in (1, 2, 3))))
    console.print()
    for name, groups in (("the same token sequence", found.exact), ("nearly the same part", found.near)):
        said = doubles(groups)
        console.print(f"{name}: {said['groups']:,} groups with {said['ids']:,} ids, {said['surplus']:,} more than one of each")
