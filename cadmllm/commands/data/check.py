"""`cadmllm data check`: what each stage can train on, and what is broken."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cadmllm.errors import Exit

if TYPE_CHECKING:
    from cadmllm.commands._options import Shared


def check(
    ctx: typer.Context,
    root: Annotated[Path | None, typer.Argument(help="a data set in the Omni-CAD layout; default data.root")] = None,
    stage: Annotated[int, typer.Option("--stage", min=1, max=3, help="exit 1 when this stage has nothing to train on")] = 1,
) -> None:
    """Read every caption, program, cloud and view once: what each stage can train on, and what is broken."""
    shared: Shared = ctx.obj
    settings, console = shared.settings(), shared.console
    from cadmllm.corpus.audit import audit
    from cadmllm.corpus.layout import open_dataset

    if root is not None:
        settings.data.root = root
    dataset = open_dataset(settings.data)
    with console.progress(len(dataset), "samples") as bar:
        report = audit(dataset, settings.train.max_seq_length, bar.advance)
    counts = ", ".join(f"{number:,} {name}" for name, number in report.counts.items())
    console.print(f"{settings.data.root}: {counts}")
    for number, row in report.stages.items():
        console.print(f"  stage {number}: {row['ids']:,} of {row['of']:,} ids can show all of it")
    for finding in report.findings:
        console.print(f"  [{finding.level}] {finding.code} x {finding.count}: {finding.message}")
        console.print(f"         hint: {finding.remedy}")
    console.json(report.as_dict(stage))
    if not report.stages[stage]["ready"]:
        console.print(f"not ready: stage {stage} has nothing to train on")
        raise typer.Exit(Exit.USER)
