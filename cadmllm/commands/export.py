"""`cadmllm export`: a checkpoint as other people's tools expect it, proven to answer the same."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cadmllm.commands._options import Shared
    from cadmllm.console import Console

SECTION = "Use"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("export")(export)


def export(
    ctx: typer.Context,
    verify: Annotated[
        Path | None, typer.Option("--verify", metavar="DIR", help="compare every file of an export with its manifest, and end")
    ] = None,
) -> None:
    """Write a checkpoint for other tools, compare its answers with the checkpoint's, and keep it only if they are the same.

    --to adapter: LoRA, resized matrices and tokenizer for peft. --to merged: a plain transformers model. --to gguf: the text
    part for llama.cpp. Projectors go along with the first two, so that `cadmllm infer --checkpoint DIR` answers from them.

    Further options: --checkpoint D (default: the newest finished stage of run.dir), --out DIR (new or empty), --dtype
    auto|fp32|bf16|fp16|q8_0|q4_k_m (of the weights; auto: as the run computed). Files of at most --set export.shard_gb=4.
    """
    shared: Shared = ctx.obj
    settings, console = shared.settings(), shared.console
    from cadmllm.export import run
    from cadmllm.places import local_path

    if verify is not None:
        found = run.verify_folder(local_path(str(verify)))
        console.json(found)
        console.print(f"{found['out']}: {found['kind']}, {len(found['files'])} files, all as they were written")
        return
    report = run.export(settings, console)
    console.json(report)
    _say(console, report)


def _say(console: Console, report: Mapping[str, Any]) -> None:
    console.table([(file["name"], size(file["bytes"])) for file in report["files"]], ("file", "size"))
    checked = report["checked"]
    console.print()
    console.print(f"checked    {checked['said']}")
    console.print(
        f"export     {report['out']}: {report['kind']}, {report['dtype']}, {size(report['bytes'])}, {report['seconds']:.0f} s"
    )


def size(count: int) -> str:
    """'1.19 GB' (10^9 bytes), as file managers and hubs show it."""
    for unit, name in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if count >= unit:
            return f"{count / unit:.2f} {name}"
    return f"{count} B"
