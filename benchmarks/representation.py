"""What a representation costs and loses: tokens a model, and IoU of the decoded against the original solid.

    .venv/bin/python benchmarks/representation.py --data ../shared/data/deepcad [--limit N] [--schemes ours deepcad8 ...] [--json]

Each program is read, built and triangulated; then encoded, decoded, built and triangulated again with each scheme, and the two
meshes are compared by mesh booleans (`cad.compare.overlap`); *sampled* counts the pairs with a mesh that is not closed, whose
IoU is a rough estimate. A decoded program that does not build counts as IoU 0; one that the scheme cannot express at all
(DeepCAD's caps) is counted apart and left out of its other columns. Schemes:

    ours        one shared grid, 512 levels to half the longest side, 16 steps a level, decoded to the roundest number
    HALFxFINE   the same with other numbers of levels and steps (512x1 is one token a value)
    deepcad8    DeepCAD's 8-bit vectors (256 levels, each profile normalised by itself), one token per command and used argument

Raw JSON tokens (compact separators) are counted when `--tokenizer tokenizer.json` is given.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from cadmllm.cad.compare import overlap
from cadmllm.cad.deepcad_vec import from_vec, to_vec
from cadmllm.cad.omnicad import read_json
from cadmllm.cad.program import Arc, Circle, Extent, Extrude, Line, Loop, Plane, Profile, Program, Sketch
from cadmllm.cad.quantise import quantise
from cadmllm.cad.realise import realise
from cadmllm.cad.tokens import spell
from cadmllm.cad.vocabulary import GRID, Grid
from cadmllm.cad.workshop import Job, Workshop
from cadmllm.errors import CadmllmError


@dataclass
class Row:
    """One program under one scheme."""

    tokens: int
    program: Program | None
    iou: float = 0.0
    fault: str = ""
    sampled: bool = False


@dataclass
class Tally:
    rows: list[Row] = field(default_factory=list)
    names: list[str] = field(default_factory=list)


def decoded(program: Program, scheme: str) -> Row:
    """The program as the scheme gives it back, and its tokens."""
    try:
        if scheme == "deepcad8":
            return deepcad8(program)
        grid = GRID if scheme == "ours" else Grid(*map(int, scheme.split("x")))
        quantised = quantise(program, grid)
        count = sum(1 for _ in spell(quantised.instructions, grid))
        return Row(count, realise(quantised.instructions, quantised.transform, grid))
    except CadmllmError as error:
        return Row(0, None, fault=f"{error.code} {error.message}")


def deepcad8(program: Program) -> Row:
    """DeepCAD's vectors; they know no size, so the decoded part is scaled back by the largest coordinate of the original."""
    vec = to_vec(program)
    count = int((vec != -1).sum())  # one token per command and per used argument, as FACTS 1 counts
    back = from_vec(vec)
    return Row(count, scaled(back, reach(program) / reach(back)))


def reach(program: Program) -> float:
    """Largest coordinate magnitude of the sketched points, swept to both ends, mm."""
    far = 0.0
    for extrude in program.extrudes:
        for sketch in extrude.sketches:
            for profile in sketch.profiles:
                for curve in profile.outer.curves:
                    if isinstance(curve, Circle):
                        (x, y), r = curve.center, curve.radius
                        points = [(x + r, y), (x - r, y), (x, y + r), (x, y - r)]
                    else:
                        points = [curve.start, curve.end] + ([curve.mid] if isinstance(curve, Arc) else [])
                    for height in extrude.extent.interval:
                        far = max(far, *(max(map(abs, sketch.plane.to_world(p, height))) for p in points))
    return far


def scaled(program: Program, factor: float) -> Program:
    """The program with every length multiplied."""

    def curve(c):
        if isinstance(c, Circle):
            return Circle((c.center[0] * factor, c.center[1] * factor), c.radius * factor)
        start, end = (c.start[0] * factor, c.start[1] * factor), (c.end[0] * factor, c.end[1] * factor)
        return Line(start, end) if isinstance(c, Line) else Arc(start, end, c.sweep)

    def loop(item):
        return Loop(tuple(curve(c) for c in item.curves))

    extrudes = []
    for extrude in program.extrudes:
        sketches = []
        for sketch in extrude.sketches:
            x, y, z = (c * factor for c in sketch.plane.origin)
            plane = Plane((x, y, z), sketch.plane.x_axis, sketch.plane.normal)
            sketches.append(Sketch(plane, tuple(Profile(loop(p.outer), tuple(map(loop, p.inner))) for p in sketch.profiles)))
        extent = Extent(extrude.extent.type, extrude.extent.one * factor, extrude.extent.two * factor)
        extrudes.append(Extrude(tuple(sketches), extrude.operation, extent))
    return Program(tuple(extrudes))


def jobs(programs: dict[str, Program], rows: dict[str, Tally]) -> Iterator[Job]:
    """The original and every decoded form, program by program."""
    for k, program in enumerate(programs.values()):
        yield Job(program, mesh=True)
        for tally in rows.values():
            back = tally.rows[k].program
            if back is not None:
                yield Job(back, mesh=True)


def measure(files: list[Path], schemes: list[str], workers: int) -> tuple[dict, dict[str, Tally], list[str]]:
    """Rows by scheme over all files that are read and built."""
    refused, programs = [], {}
    for file in files:
        try:
            programs[file.stem] = read_json(file)
        except CadmllmError as error:
            refused.append(f"{file.stem}: {error.code} {error.message}")
    tallies = {scheme: Tally([decoded(p, scheme) for p in programs.values()], list(programs)) for scheme in schemes}
    counts = {"files": len(files), "refused": len(refused), "unbuilt": 0, "no manifold": 0}
    skip = set()
    with Workshop(workers=workers, timeout=60.0) as shop:
        results = shop.map(jobs(programs, tallies))
        for k, name in enumerate(programs):
            original = next(results)
            good = original.mesh is not None
            counts["unbuilt"] += not good
            for tally in tallies.values():
                row = tally.rows[k]
                if row.program is None:
                    continue
                result = next(results)
                row.fault = "" if result.mesh is not None else f"{result.verdict} {result.reason}"
                if good and result.mesh is not None:
                    both = overlap(original.mesh, result.mesh)
                    row.iou, row.sampled = float(both.iou), both.method == "sampled"
            if not good or any(np.isnan(tally.rows[k].iou) for tally in tallies.values()):
                counts["no manifold"] += good
                skip.add(k)
            print(f"\r{k + 1}/{len(programs)} {name}", end="", file=sys.stderr)
    print(file=sys.stderr)
    for tally in tallies.values():
        tally.rows = [row for k, row in enumerate(tally.rows) if k not in skip]
        tally.names = [name for k, name in enumerate(tally.names) if k not in skip]
    return counts, tallies, refused


def summary(tally: Tally) -> dict:
    """Token and IoU statistics of a scheme."""
    rows = [row for row in tally.rows if not row.fault.startswith("E212")]
    tokens = np.array([row.tokens for row in rows if row.tokens])
    iou = np.array([row.iou for row in rows])
    return {
        "programs": len(iou),
        "not_expressible": len(tally.rows) - len(rows),
        "tokens_median": float(np.median(tokens)),
        "tokens_mean": round(float(tokens.mean()), 1),
        "tokens_p95": float(np.percentile(tokens, 95)),
        "iou_median": round(float(np.median(iou)), 4),
        "iou_mean": round(float(iou.mean()), 4),
        "iou_p5": round(float(np.percentile(iou, 5)), 4),
        "below_0.9": round(float((iou < 0.9).mean()), 4),
        "sampled": sum(row.sampled for row in rows),
        "not_built": round(float(np.mean([bool(row.fault) for row in rows])), 4),
    }


def raw_json(files: list[Path], tokenizer: Path) -> dict:
    """Tokens of the compact JSON text under a fast tokenizer."""
    from tokenizers import Tokenizer

    coder = Tokenizer.from_file(str(tokenizer))
    texts = [json.dumps(json.loads(file.read_text()), separators=(",", ":")) for file in files]
    counts = np.array([len(coder.encode(text).ids) for text in texts])
    return {"median": float(np.median(counts)), "mean": round(float(counts.mean()), 1), "p95": float(np.percentile(counts, 95))}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with json/")
    parser.add_argument("--limit", type=int, default=0, help="use about so many programs, evenly spread")
    parser.add_argument("--schemes", nargs="+", default=["ours"])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--tokenizer", type=Path)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    bad = [s for s in args.schemes if s not in ("ours", "deepcad8") and not re.fullmatch(r"\d+x\d+", s)]
    if bad:
        parser.error(f"unknown scheme {bad[0]}")
    files = sorted((args.data / "json").glob("*/*.json"))
    if args.limit:
        files = files[:: max(1, len(files) // args.limit)]
    counts, tallies, refused = measure(files, args.schemes, args.workers)
    report = {**counts, "schemes": {scheme: summary(tally) for scheme, tally in tallies.items()}, "refusals": refused}
    report["worst"] = {
        scheme: sorted(
            (round(row.iou, 4), name, row.fault or ("sampled" if row.sampled else ""))
            for row, name in zip(tally.rows, tally.names, strict=True)
        )[:10]
        for scheme, tally in tallies.items()
    }
    if args.tokenizer:
        report["raw_json"] = raw_json(files, args.tokenizer)
    if args.json:
        print(json.dumps(report, indent=1))
        return
    print({key: value for key, value in report.items() if key in counts or key == "raw_json"})
    columns = list(next(iter(report["schemes"].values())))
    print("| scheme | " + " | ".join(columns) + " |")
    for scheme, values in report["schemes"].items():
        print(f"| {scheme} | " + " | ".join(str(values[c]) for c in columns) + " |")
    for line in refused:
        print("refused", line)
    for scheme, rows in report["worst"].items():
        print("worst of", scheme, rows)


if __name__ == "__main__":
    main()
