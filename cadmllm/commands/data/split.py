"""`cadmllm data split`: lists of ids for training, validation and evaluation."""

from __future__ import annotations

import shlex
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cadmllm.errors import CadmllmError, Exit

if TYPE_CHECKING:
    from cadmllm.commands._options import Shared
    from cadmllm.console import Console
    from cadmllm.corpus.split import Division


class Near(StrEnum):
    """The levels of `corpus.duplicates`, which is too heavy to import for a help text."""

    COPY = "copy"
    SOLID = "solid"
    DRAWING = "drawing"


def split(
    ctx: typer.Context,
    root: Annotated[Path | None, typer.Argument(help="a data set in the Omni-CAD layout; default data.root")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="folder for the lists; default ROOT, where training looks")] = None,
    val: Annotated[float, typer.Option("--val", min=0.0, max=0.45, help="share held out in training")] = 0.05,
    test: Annotated[float, typer.Option("--test", min=0.0, max=0.45, help="share kept for evaluation")] = 0.05,
    seed: Annotated[int, typer.Option("--seed", min=0, help="another seed, other lists")] = 0,
    near: Annotated[
        Near, typer.Option("--near", help="copy: 0.2 %; solid: 2 %; drawing: like structure, 2 to 10 %")
    ] = Near.DRAWING,
    official: Annotated[Path | None, typer.Option("--official", help="published lists to keep to: a file or a folder")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="groups too dense to stand on one side all train")] = False,
    keep: Annotated[bool, typer.Option("--keep-duplicates", help="with --official: count them, leave none out")] = False,
    every: Annotated[bool, typer.Option("--all", help="programs without a caption, too (they cannot be trained on)")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace lists that 'data split' did not write")] = False,
    workers: Annotated[int | None, typer.Option("--workers", min=1, help="processes; default kernel.workers")] = None,
) -> None:
    """Write train.txt, val.txt and test.txt without near-duplicates across them, and split.json, which says how.

    The same data and options give the same lists. Published lists are kept; training loses what duplicates their val and test.
    """
    shared: Shared = ctx.obj
    settings, console = shared.settings(), shared.console
    from cadmllm.corpus import splitfiles
    from cadmllm.corpus.adopt import split_dataset
    from cadmllm.corpus.split import Rules

    if val + test == 0.0 and official is None:
        raise CadmllmError("E105", "--val 0 --test 0 leaves nothing to divide", "write --val 0.05", exit_code=Exit.USAGE)
    if keep and official is None:
        raise CadmllmError("E105", "--keep-duplicates goes with --official", "write --official FILE", exit_code=Exit.USAGE)
    if root is not None:
        settings.data.root = root
    place = out or settings.data.root
    splitfiles.check_place(place, overwrite)
    lists = splitfiles.read_official(official) if official else None
    rules = Rules(near.value, val, test, seed, strict, keep)
    division = split_dataset(settings.data, rules, lists, every, workers or settings.kernel.workers, console)
    report = division.report()
    left_out = [f"{id_}  # {side}, {twin}" for id_, side, twin in division.twins]
    splitfiles.write_lists(place, division.lists(), left_out, division.how(), report)
    _say(console, settings.data.root, place, division, report)
    console.json({"out": place} | report)


def _say(console: Console, root: Path, out: Path, division: Division, report: dict[str, Any]) -> None:
    groups, counts, total = report["groups"], report["counts"], len(division.ids)
    console.print(
        f"{root}: {total:,} parts are {groups['number']:,} groups of near-duplicates ({division.rules.near}); "
        f"{groups['ids_in_several']:,} parts have one, the largest group has {groups['largest']:,}"
    )
    console.table([[name, f"{count:,}", f"{count / total:.1%}"] for name, count in counts.items()], ["list", "ids", "share"])
    narrowed = {name: number for name, number in groups["ids_by_level"].items() if number and name != division.rules.near}
    for name, number in narrowed.items():
        console.print(
            f"{number:,} parts are of shapes so common that only '{name}' counts as near among them (--strict: all train)"
        )
    for group in report["dense"][:5]:
        console.print(f"too many to be held out, all train: {group['ids']:,} parts like {group['first']}")
    for side, number in report["unknown"].items():
        if number:
            console.warn(f"{number:,} ids of the official {side} list are not in the data set")
    if division.unlisted:
        console.warn(f"{division.unlisted:,} ids of the data set stand on no official list and on no side now")
    if division.rules.keep_duplicates:
        for pair, found in report["overlap"].items():
            console.print(f"{pair}: {', '.join(f'{number:,} {level}' for level, number in found.items())} near-duplicates, kept")
    keys = {"data.root": root}
    if out.resolve() != root.resolve():  # beside the captions training finds them by itself
        keys |= {f"data.{side}": out / f"{side}.txt" for side in ("train", "val", "test") if counts[side]}
    sets = " ".join(f"--set {shlex.quote(f'{key}={path}')}" for key, path in keys.items())
    console.print(f"next:    cadmllm train all --preset tiny {sets}")
