"""`cadmllm data show`: one picture sheet per id."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cadmllm.errors import CadmllmError, Exit

if TYPE_CHECKING:
    from cadmllm.commands._options import Shared


def show(
    ctx: typer.Context,
    ids: Annotated[list[str] | None, typer.Argument(metavar="[ID...]", help="ids, with or without the shard's name")] = None,
    random: Annotated[int | None, typer.Option("--random", min=1, max=1000, help="show so many ids, drawn by the seed")] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="of --random")] = 0,
    root: Annotated[Path | None, typer.Option("--root", help="a data set in the Omni-CAD layout; default data.root")] = None,
    out: Annotated[Path, typer.Option("--out", help="a folder, or a file (.png) for one id")] = Path("show"),
) -> None:
    """Draw a sheet per id: views, the built part, the cloud, the program, the captions, the figures, and what is wrong in red.

    Nothing of the data set is changed. Without ids and without --random one id is drawn at random.
    """
    shared: Shared = ctx.obj
    settings, console = shared.settings(), shared.console
    from cadmllm.corpus.exhibit import choose, find, open_any
    from cadmllm.corpus.sheet import write_sheets

    if ids and random:
        raise CadmllmError("E105", "ids and --random do not go together", "leave one of them out", exit_code=Exit.USAGE)
    if root is not None:
        settings.data.root = root
    dataset = open_any(settings.data, console)
    wanted = list(dict.fromkeys(find(dataset, id_) for id_ in ids)) if ids else choose(dataset, random or 1, seed)
    if out.suffix.lower() == ".png" and len(wanted) > 1:
        raise CadmllmError(
            "E105", f"{len(wanted)} ids do not fit into one file", "give a folder: --out DIR", exit_code=Exit.USAGE
        )
    sheets = []
    for sheet in write_sheets(dataset, wanted, out, settings.kernel.timeout, settings.kernel.memory):
        sheets.append(sheet)
        flaws = ", ".join(dict.fromkeys(flaw["code"] for flaw in sheet["flaws"]))
        console.print(f"{sheet['sheet']}: {sheet['id']}, {sheet['side']}{', ' + flaws if flaws else ''}")
    console.json({"root": settings.data.root, "sheets": sheets})
