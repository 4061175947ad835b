"""What `cad.repair` saves: programs that fail, by where they come from, before and after.

    .venv/bin/python benchmarks/repair.py [--count 400] [--seed 0] [--timeout 10] [--data ../shared/data] [--json]

Sources: the real programs that the kernel refuses; bundled and real programs with one or two random wounds (a corner moved, an
arc turned, a curve lost, a hole grown, ...); random walks through the grammar, which is what a model without training writes.
Of each: the share that is a solid as given, after the failing operation and all that follows were left out ('cut off': the plain
remedy), and after `repair`; the builds a repair took; and, for wounded programs, how near what came out is to the part before
the wound (intersection over union by volume; 0 where there is no solid).
"""

from __future__ import annotations

import argparse
import json
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cadmllm.cad import grammar
from cadmllm.cad.kernel import BuildResult
from cadmllm.cad.omnicad import read_json
from cadmllm.cad.overlap import mesh_iou
from cadmllm.cad.program import Arc, Circle, Extrude, Line, Loop, Operation, Point2, Profile, Program, Sketch
from cadmllm.cad.repair import repair
from cadmllm.cad.tokens import decode
from cadmllm.cad.vocabulary import NUMBER_BASE
from cadmllm.cad.workshop import Job, Workshop
from cadmllm.errors import CadmllmError

ROOT = Path(__file__).resolve().parents[1]
LONGEST = 8  # extrudes of the programs that are wounded: the long ones take minutes


@dataclass
class Case:
    """A program, where it comes from, and what it was before it was wounded."""

    source: str
    program: Program
    before: Program | None = None
    wounds: str = ""


def main() -> None:
    """Parse, collect, build, repair, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=400, help="programs of each random source")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--timeout", type=float, default=10.0)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--most", type=int, default=8, help="builds a repair may take")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    args = parser.parse_args()
    bundled = _read(sorted((ROOT / "data" / "json").rglob("*.json")))
    files = sorted((args.data / "deepcad" / "json").rglob("*.json")) + sorted((args.data / "deepcad_hard").rglob("*.json"))
    real = _read(files)
    cases = [Case("real programs, as they are", program) for program in real]
    for name, programs in (("bundled, wounded", bundled), ("real, wounded", real)):
        short = [program for program in programs if len(program.extrudes) <= LONGEST]
        cases += _wounded(name, short, args.count, args.seed) if short else []
    cases += [Case("random walks", walk(random.Random(args.seed + k), (40, 80, 160)[k % 3])) for k in range(args.count)]
    figures = _measure(cases, args.timeout, args.most)
    print(json.dumps(figures, indent=1) if args.json else _table(figures))


def _read(files: list[Path]) -> list[Program]:
    programs = []
    for file in files:
        try:
            programs.append(read_json(file))
        except CadmllmError:
            continue
    return programs


def walk(random_: random.Random, budget: int) -> Program:
    """A program of at most `budget` tokens of those that the grammar allows, commands as likely as numbers."""
    state, tokens = grammar.START, []
    while state != grammar.DONE:
        allowed = np.flatnonzero(grammar.ALLOWED[state])
        left = budget - len(tokens) - 1
        allowed = [int(token) for token in allowed if grammar.TO_END[grammar.NEXT[state, token]] <= left]
        commands = [token for token in allowed if token < NUMBER_BASE] or allowed
        token = random_.choice(commands if len(commands) < len(allowed) and random_.random() < 0.5 else allowed)
        tokens.append(token)
        state = int(grammar.NEXT[state, token])
    return decode(tokens)


def _wounded(name: str, programs: list[Program], count: int, seed: int) -> Iterator[Case]:
    for k in range(count):
        random_ = random.Random(f"{seed} {name} {k}")
        before = random_.choice(programs)
        program, wounds = before, []
        for _ in range(random_.choice((1, 1, 2))):
            wound = random_.choice(WOUNDS)
            program = wound(program, random_)
            wounds.append(wound.__name__.removeprefix("_").replace("_", " "))
        if program != before:
            yield Case(name, program, before, ", ".join(wounds))


def _on_extrude(program: Program, random_: random.Random, change: Callable[[Extrude], Extrude]) -> Program:
    extrudes = list(program.extrudes)
    k = random_.randrange(len(extrudes))
    extrudes[k] = change(extrudes[k])
    return Program(tuple(extrudes))


def _on_loop(program: Program, random_: random.Random, change: Callable[[Loop], Loop], hole: bool = False) -> Program:
    def in_extrude(extrude: Extrude) -> Extrude:
        s = random_.randrange(len(extrude.sketches))
        sketch = extrude.sketches[s]
        p = random_.randrange(len(sketch.profiles))
        loops = [sketch.profiles[p].outer, *sketch.profiles[p].inner]
        if hole and len(loops) < 2:
            return extrude
        k = random_.randrange(1 if hole else 0, len(loops))
        loops[k] = change(loops[k])
        profiles = (*sketch.profiles[:p], Profile(loops[0], tuple(loops[1:])), *sketch.profiles[p + 1 :])
        return replace(extrude, sketches=(*extrude.sketches[:s], Sketch(sketch.plane, profiles), *extrude.sketches[s + 1 :]))

    return _on_extrude(program, random_, in_extrude)


def _size(loop: Loop) -> float:
    points = [point for curve in loop.curves if not isinstance(curve, Circle) for point in (curve.start, curve.end)]
    return float(np.ptp(np.array(points), axis=0).max())


def _beside(point: Point2, far: float, random_: random.Random) -> Point2:
    return point[0] + random_.gauss(0.0, far), point[1] + random_.gauss(0.0, far)


def _corner_moved(program: Program, random_: random.Random) -> Program:
    """One corner, by about the size of the loop."""

    def change(loop: Loop) -> Loop:
        curves = list(loop.curves)
        k = random_.randrange(len(curves))
        one, other = curves[k - 1], curves[k]
        if isinstance(one, Circle) or isinstance(other, Circle):
            return loop
        point = _beside(other.start, 0.7 * _size(loop), random_)
        curves[k - 1], curves[k] = replace(one, end=point), replace(other, start=point)
        return Loop(tuple(curves))

    return _on_loop(program, random_, change)


def _gap_opened(program: Program, random_: random.Random) -> Program:
    """One end of one curve, by about 1 % of the size of the loop."""

    def change(loop: Loop) -> Loop:
        curves = list(loop.curves)
        k = random_.randrange(len(curves))
        curve = curves[k]
        if isinstance(curve, Circle):
            return loop
        curves[k] = replace(curve, end=_beside(curve.end, 0.01 * _size(loop), random_))
        return Loop(tuple(curves))

    return _on_loop(program, random_, change)


def _curve_lost(program: Program, random_: random.Random) -> Program:
    def change(loop: Loop) -> Loop:
        k = random_.randrange(len(loop.curves))
        return Loop((*loop.curves[:k], *loop.curves[k + 1 :])) if len(loop.curves) > 1 else loop

    return _on_loop(program, random_, change)


def _curves_shuffled(program: Program, random_: random.Random) -> Program:
    return _on_loop(program, random_, lambda loop: Loop(tuple(random_.sample(loop.curves, len(loop.curves)))))


def _arc_turned(program: Program, random_: random.Random) -> Program:
    def change(loop: Loop) -> Loop:
        arcs = [k for k, curve in enumerate(loop.curves) if isinstance(curve, Arc)]
        if not arcs:
            return loop
        k = random_.choice(arcs)
        arc = loop.curves[k]
        assert isinstance(arc, Arc)
        return Loop((*loop.curves[:k], replace(arc, sweep=-arc.sweep), *loop.curves[k + 1 :]))

    return _on_loop(program, random_, change)


def _line_bent(program: Program, random_: random.Random) -> Program:
    """A line made an arc of any sweep."""

    def change(loop: Loop) -> Loop:
        k = random_.randrange(len(loop.curves))
        curve = loop.curves[k]
        if not isinstance(curve, Line):
            return loop
        bent = Arc(curve.start, curve.end, random_.choice((-1.0, 1.0)) * random_.uniform(0.5, 6.0))
        return Loop((*loop.curves[:k], bent, *loop.curves[k + 1 :]))

    return _on_loop(program, random_, change)


def _hole_grown(program: Program, random_: random.Random) -> Program:
    def change(loop: Loop) -> Loop:
        curve = loop.curves[0]
        return Loop((replace(curve, radius=curve.radius * 20.0),)) if isinstance(curve, Circle) else loop

    return _on_loop(program, random_, change, hole=True)


def _operation_changed(program: Program, random_: random.Random) -> Program:
    return _on_extrude(program, random_, lambda e: replace(e, operation=random_.choice((Operation.CUT, Operation.INTERSECT))))


def _distance_lost(program: Program, random_: random.Random) -> Program:
    return _on_extrude(program, random_, lambda e: replace(e, extent=replace(e.extent, one=0.0, two=0.0)))


def _number_exploded(program: Program, random_: random.Random) -> Program:
    def change(loop: Loop) -> Loop:
        curve = loop.curves[0]
        far = 10.0 ** random_.uniform(5, 9)
        first = replace(curve, radius=far) if isinstance(curve, Circle) else replace(curve, start=(far, curve.start[1]))
        return Loop((first, *loop.curves[1:]))

    return _on_loop(program, random_, change)


WOUNDS = (
    _corner_moved,
    _gap_opened,
    _curve_lost,
    _curves_shuffled,
    _arc_turned,
    _line_bent,
    _hole_grown,
    _operation_changed,
    _distance_lost,
    _number_exploded,
)


def _measure(cases: list[Case], timeout: float, most: int) -> dict[str, Any]:
    sources: dict[str, dict[str, Any]] = {}
    wounds: dict[str, list[tuple[bool, float, float]]] = {}
    kinds: Counter[str] = Counter()
    with Workshop(1, timeout) as shop:
        for case, result in zip(cases, shop.map(Job(case.program) for case in cases), strict=True):
            row = sources.setdefault(case.source, {"programs": 0, "failed": Counter(), "repaired": Counter(), "cut_off": 0})
            row["programs"] += 1
            if not result.ok:
                row["failed"][str(result.verdict)] += 1
                row.setdefault("cases", []).append((case, result))
        for name, row in sources.items():
            for case, result in row.pop("cases", []):
                _one(case, result, row, wounds, kinds, shop, most)
            print(f"... {name} done", flush=True)
    return {
        "sources": sources,
        "wounds": {name: _means(found) for name, found in sorted(wounds.items())},
        "steps": dict(kinds.most_common(20)),
    }


def _one(case: Case, result: BuildResult, row: dict, wounds: dict, kinds: Counter[str], shop: Workshop, most: int) -> None:
    def build(program: Program) -> BuildResult:
        return shop.build(program, mesh=True)

    mended = repair(case.program, result, build, most)
    index = result.where[0] if result.where else 0
    plain = build(Program(case.program.extrudes[:index])) if index else result
    row["cut_off"] += plain.ok
    row.setdefault("builds", []).append(mended.builds)
    if mended.result.ok:
        row["repaired"][str(result.verdict)] += 1
        for step in mended.steps:
            kinds["left out" if ": left out" in step else "put right"] += 1
    if case.before is not None:
        truth = build(case.before)
        if truth.mesh is None:
            return
        scores = [mesh_iou(found.mesh, truth.mesh) if found.mesh is not None else 0.0 for found in (mended.result, plain)]
        row.setdefault("iou", []).append(scores)
        wounds.setdefault(case.wounds, []).append((mended.result.ok, *scores))


def _means(found: list[tuple[bool, float, float]]) -> dict[str, float]:
    whole, ours, plain = (float(np.mean(values)) for values in zip(*found, strict=True))
    return {"failed": len(found), "repaired": round(whole, 3), "iou": round(ours, 3), "iou_cut_off": round(plain, 3)}


def _table(figures: dict[str, Any]) -> str:
    lines = ["| source | programs | solid as given | cut off | repaired | builds, mean (most) | IoU repaired | IoU cut off |"]
    lines += ["|---|---|---|---|---|---|---|---|"]
    for name, row in figures["sources"].items():
        count, failed = row["programs"], sum(row["failed"].values())
        shares = [(count - failed + more) / count for more in (0, row["cut_off"], sum(row["repaired"].values()))]
        builds = row.get("builds", [0])
        iou = [f"{value:.3f}" for value in np.mean(row["iou"], axis=0)] if "iou" in row else ["", ""]
        percent = " | ".join(f"{share:.1%}" for share in shares)
        lines.append(f"| {name} | {count:,} | {percent} | {np.mean(builds):.2f} ({max(builds)}) | {iou[0]} | {iou[1]} |")
    lines += ["", "| verdict as given | " + " | ".join(figures["sources"]) + " |", "|---|" + "---|" * len(figures["sources"])]
    for verdict in sorted({verdict for row in figures["sources"].values() for verdict in row["failed"]}):
        cells = [f"{row['repaired'][verdict]} of {row['failed'][verdict]}" for row in figures["sources"].values()]
        lines.append(f"| {verdict} | " + " | ".join(cells) + " |")
    lines += ["", "| wound | failed | repaired | IoU | IoU cut off |", "|---|---|---|---|---|"]
    for name, row in figures["wounds"].items():
        if "," not in name:
            lines.append(f"| {name} | {row['failed']} | {row['repaired']:.0%} | {row['iou']:.3f} | {row['iou_cut_off']:.3f} |")
    return "\n".join([*lines, "", f"steps: {figures['steps']}"])


if __name__ == "__main__":
    main()
