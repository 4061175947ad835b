"""Build every real program and compare its box with the recorded one.

    .venv/bin/python benchmarks/kernel.py [--data ../shared/data] [--every 1] [--workers 2] [--timeout 60] [--json]

Prints verdicts, the share of one-sided programs whose box agrees with the file's `properties.bounding_box` within 0.1 % of its
diagonal, the others with their numbers, and build times by percentile. A program that disagrees is suspect data, not
necessarily a bug: in most of them features were lost before the file was written.
"""

from __future__ import annotations

import argparse
import json
import math
from collections import Counter
from pathlib import Path

import numpy as np

from cadmllm.cad.kernel import BuildResult
from cadmllm.cad.omnicad import read_json, recorded_box
from cadmllm.cad.program import ExtentType, Operation, Program
from cadmllm.cad.workshop import Job, Workshop
from cadmllm.errors import CadmllmError

WITHIN = 1e-3  # of the recorded box's diagonal


def main() -> None:
    """Parse, build, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[2] / "shared" / "data")
    parser.add_argument("--every", type=int, default=1, help="build every n-th file")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--timeout", type=float, default=60.0)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    args = parser.parse_args()
    files = sorted((args.data / "deepcad" / "json").rglob("*.json")) + sorted((args.data / "deepcad_hard").rglob("*.json"))
    programs, refused = _read(files[:: args.every])
    figures = _measure(programs, args.workers, args.timeout) | {"refused": refused, "files": len(files[:: args.every])}
    print(json.dumps(figures, indent=1) if args.json else _table(figures))


def _read(files: list[Path]) -> tuple[list[tuple[Path, Program]], list[dict[str, str]]]:
    programs, refused = [], []
    for file in files:
        try:
            programs.append((file, read_json(file)))
        except CadmllmError as error:
            refused.append({"file": file.name, "code": error.code, "reason": error.message})
    return programs, refused


def _measure(programs: list[tuple[Path, Program]], workers: int, timeout: float) -> dict:
    verdicts: Counter[str] = Counter()
    failures, apart, seconds, open_meshes = [], [], [], []
    compared = 0
    with Workshop(workers, timeout) as workshop:
        results = workshop.map(Job(program, mesh=True) for _, program in programs)
        for (file, program), result in zip(programs, results, strict=True):
            verdicts[str(result.verdict)] += 1
            if not result.ok or result.mesh is None:
                failures.append({"file": file.name, "verdict": str(result.verdict), "reason": result.reason})
                continue
            seconds.append(result.seconds)
            if not result.mesh.closed:
                open_meshes.append(file.name)
            box = recorded_box(file)
            if box is not None and all(extrude.extent.type is ExtentType.ONE_SIDE for extrude in program.extrudes):
                compared += 1
                off = _off(result, box)
                if off > WITHIN:
                    apart.append({"file": file.name, "off": round(off, 5), "note": _note(program)})
    return {
        "built": len(programs),
        "verdicts": dict(verdicts),
        "ok": round(verdicts["OK"] / max(1, len(programs)), 5),
        "failures": failures,
        "open_meshes": open_meshes,
        "boxes": compared,
        "boxes_agree": round(1.0 - len(apart) / max(1, compared), 5),
        "apart": apart,
        "seconds": {str(p): round(float(np.percentile(seconds, p)), 4) for p in (50, 90, 95, 99, 100)} if seconds else {},
    }


def _off(result: BuildResult, box) -> float:
    """Largest difference of a box coordinate, as a share of the recorded diagonal."""
    assert result.box is not None
    pairs = zip((*result.box[0], *result.box[1]), (*box[0], *box[1]), strict=True)
    return max(abs(a - b) for a, b in pairs) / max(math.dist(*box), 1e-12)


def _note(program: Program) -> str:
    operations = Counter(str(extrude.operation) for extrude in program.extrudes)
    first = "" if program.extrudes[0].operation is Operation.NEW_BODY else f", begins with {program.extrudes[0].operation}"
    return " ".join(f"{count} {name}" for name, count in sorted(operations.items())) + first


def _table(figures: dict) -> str:
    lines = [
        f"files {figures['files']}, refused by the reader {len(figures['refused'])}, built {figures['built']}",
        f"OK {100 * figures['ok']:.2f} %  verdicts {figures['verdicts']}  meshes not closed {len(figures['open_meshes'])}",
        f"box within {100 * WITHIN:g} % of the recorded one: {100 * figures['boxes_agree']:.1f} % of {figures['boxes']}",
        "seconds (build, measure, tessellate) " + "  ".join(f"p{p} {value:g}" for p, value in figures["seconds"].items()),
        "",
        *(f"refused   {item['code']}  {item['reason']}" for item in figures["refused"]),
        *(f"{item['verdict']:9s} {item['file']}  {item['reason']}" for item in figures["failures"]),
        *(f"open mesh {name}" for name in figures["open_meshes"]),
        *(f"box off   {item['file']}  {100 * item['off']:.2f} %  ({item['note']})" for item in figures["apart"]),
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
