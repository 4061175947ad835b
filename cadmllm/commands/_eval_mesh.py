"""`cadmllm eval mesh`: is a mesh whole, and how far is it from another."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from cadmllm.commands._options import Shared


def mesh(
    ctx: typer.Context,
    one: Annotated[
        Path, typer.Argument(metavar="A", help="a mesh (.stl .obj .ply .off .glb), .step, a program (.json .h5 .txt)")
    ],
    other: Annotated[Path | None, typer.Argument(metavar="B", help="what it should be: another of these")] = None,
) -> None:
    """Measure one shape as it is: pieces, open edges, leaks, self-intersections; with B also the distances to it.

    Nothing is centred or scaled: lengths are the file's own (a .glb's in mm). The values are those of CAD-MLLM's topology
    metrics; see docs/evaluation.md.

    --set eval.points=N (surface points for distances), --set eval.seed=S.
    """
    shared: Shared = ctx.obj
    settings, console = shared.settings(), shared.console
    from cadmllm.evaluate.meshes import measure_apart, table
    from cadmllm.places import local_path

    found = measure_apart(
        local_path(str(one)),
        local_path(str(other)) if other is not None else None,
        points=settings.eval.points,
        seed=settings.eval.seed,
        timeout=settings.kernel.timeout,
        memory=settings.kernel.memory,
    )
    lines = table(found)
    console.table(lines[1:], lines[0])
    console.json(found)
