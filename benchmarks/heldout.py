"""Held-out prompts: which share gives a valid solid, by modality combination, with a picture sheet.

    python benchmarks/heldout.py --checkpoint run/stage3_all_model --count 20 [--data ROOT] [--out DIR]

Shows the first `--count` held-out ids of the data set, in turn under every combination that the model has encoders for, answers
greedily (`--temperature` for sampling) under the grammar, builds the answers, and prints a row a combination. `--no-grammar`
shows what the model does by itself. DIR gets sheet.png (each answer's solid, in the order of answers.txt) and answers.txt.
Ends with exit code 1 when fewer than `--least` (a share, default 0) of the answers are valid solids.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from cadmllm.cad.grammar import accepts
from cadmllm.cad.render import contact_sheet, render, write_png
from cadmllm.cad.tokens import to_text
from cadmllm.cad.workshop import Workshop
from cadmllm.console import Console
from cadmllm.corpus.layout import open_dataset
from cadmllm.errors import CadmllmError
from cadmllm.infer.judge import Judged, in_turn, sample_and_judge, shares
from cadmllm.infer.checkpoint import load_checkpoint
from cadmllm.models.fusion import CadMLLM
from cadmllm.resolve import Assignment, Origin, parse_value, resolve
from cadmllm.settings import COMBINATIONS, Settings

TILE = 240
COLUMNS = 5


def read_settings(args: argparse.Namespace) -> Settings:
    """Of the preset, with what the options say."""
    given = {"infer.checkpoint": args.checkpoint, "data.root": args.data, "data.val": args.val}
    pairs = [(key, str(value)) for key, value in given.items() if value is not None]
    pairs += [(key, value) for key, _, value in (text.partition("=") for text in args.set)]
    items = [Assignment(key, parse_value(value), Origin("command line", f"--set {key}")) for key, value in pairs]
    return resolve(preset=args.preset, assignments=items).settings


def combinations_of(model: CadMLLM) -> list[str]:
    """Those that the model has encoders for."""
    lacking = {name for name, encoder in (("point_cloud", model.points), ("image", model.images)) if encoder is None}
    return [name for name in COMBINATIONS if not lacking & set(name.split("+"))]


def sheet(judged: list[Judged]) -> np.ndarray:
    """The solids as tiles, white where there is none, uint8 [H, W, 3]."""
    empty = np.full((TILE, TILE, 3), 255, np.uint8)
    tiles = [render(item.result.mesh, size=TILE) if item.result.mesh is not None else empty for item in judged]
    return contact_sheet(tiles, COLUMNS)


def listing(judged: list[Judged]) -> str:
    """What was asked and answered, as text."""
    parts = []
    for place, item in enumerate(judged):
        head = f"[{place + 1}] {item.id} ({item.combination}) {item.result.verdict} {item.result.reason}".rstrip()
        text = to_text(item.answer.tokens) if accepts(item.answer.tokens) else f"(no program: {len(item.answer.tokens)} tokens)\n"
        parts.append(f"{head}\n{item.caption}\n{text}")
    return "\n".join(parts)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--data", type=Path, help="data.root")
    parser.add_argument("--val", type=Path, help="data.val: a list of held-out ids")
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-grammar", action="store_true")
    parser.add_argument("--least", type=float, default=0.0)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    console = Console()
    settings = read_settings(args)
    model = load_checkpoint(settings, console).model
    dataset = open_dataset(settings.data)
    ids = dataset.split()[1][: args.count]
    if len(ids) < args.count:
        console.warn(f"{settings.data.root} holds out {len(ids)} ids, fewer than {args.count}")
    with Workshop(settings.kernel.workers, settings.kernel.timeout) as workshop:
        judged = sample_and_judge(
            model,
            dataset,
            ids,
            in_turn(ids, combinations_of(model), dataset),
            workshop,
            max_new_tokens=settings.infer.max_new_tokens,
            temperature=args.temperature,
            seed=args.seed,
            grammar=not args.no_grammar,
            mesh=True,
        )
    rows = shares(judged)
    verdicts = sorted({name for row in rows.values() for name in row} - {"count", "valid"})
    console.table(
        [(name, row["count"], f"{100.0 * row['valid']:.0f} %", *(row.get(v, 0) for v in verdicts)) for name, row in rows.items()],
        ("shown", "prompts", "valid", *verdicts),
    )
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
        write_png(sheet(judged), args.out / "sheet.png")
        (args.out / "answers.txt").write_text(listing(judged), encoding="utf-8")
        console.note(f"{args.out / 'sheet.png'}, {args.out / 'answers.txt'}")
    return 0 if rows and rows["all"]["valid"] >= args.least else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except CadmllmError as error:
        Console().error(error)
        sys.exit(error.exit_code)
