"""What shares a signature, and what it is worth: built solids compared by IoU, over all quarter turns and mirrors.

    .venv/bin/python benchmarks/duplicates.py [--data ../shared/data] [--workers 2] [--pairs 300] [--json]

For the field's measure (equal after rounding every parameter to 6 bits in the normalised frame) and for each level of
`corpus/duplicates`: groups, pairs, IoU of grouped pairs (a sample), and how many of all pairs of real solids with an IoU above
0.95, 0.98, 0.99 are found. Then: IoU of pairs that share nothing but have about as many tokens; and parts whose every parameter
was moved by up to a share of their size: how many are still found, of all and of those whose solid hardly changed.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import random
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import manifold3d
import numpy as np

from cadmllm.cad import tokens
from cadmllm.cad.bounds import program_box
from cadmllm.cad.mesh import Mesh
from cadmllm.cad.omnicad import read_json
from cadmllm.cad.program import Arc, Circle, Curve, Extent, Loop, Profile, Program
from cadmllm.cad.quantise import quantise
from cadmllm.cad.vocabulary import GRID
from cadmllm.cad.workshop import Job, Workshop
from cadmllm.corpus.duplicates import LEVELS, group, signatures
from cadmllm.errors import CadmllmError

BITS = 6
LEAST = (0.95, 0.98, 0.99)  # IoU above which two solids are near
CLOSE = 0.04  # log of volume and sides within which pairs of solids are compared at all
TURNS = [
    np.eye(3)[list(p)] * np.array(s)[:, None]
    for p in itertools.permutations(range(3))
    for s in itertools.product((1, -1), repeat=3)
]
ROUGHLY = 0.35  # log of sides that rules a quarter turn out


class Solid:
    """A built part, its box centred and its longest side 1."""

    def __init__(self, mesh: Mesh) -> None:
        low, high = mesh.box
        vertices = (mesh.vertices - (low + high) / 2.0) / (high - low).max()
        self.sides = np.maximum((high - low) / (high - low).max(), 1e-3)
        parts = []
        for solid in np.unique(mesh.solid_ids):
            used, where = np.unique(mesh.faces[mesh.solid_ids == solid], return_inverse=True)
            corners = np.ascontiguousarray(vertices[used], np.float64)
            part = manifold3d.Manifold(
                manifold3d.Mesh64(vert_properties=corners, tri_verts=where.reshape(-1, 3).astype(np.uint64))
            )
            if part.status() != manifold3d.Error.NoError:
                raise ValueError("not closed")
            parts.append(part)
        self.body = manifold3d.Manifold.batch_boolean(parts, manifold3d.OpType.Add)
        self.volume = self.body.volume()


def iou(a: Solid, b: Solid) -> float:
    """The best over all quarter turns and mirrors."""
    best = 0.0
    for turn in TURNS:
        if np.abs(np.log(np.abs(turn) @ b.sides / a.sides)).max() > ROUGHLY:
            continue
        common = (a.body ^ b.body.transform(np.hstack([turn, np.zeros((3, 1))]))).volume()
        best = max(best, common / (a.volume + b.volume - common))
        if best > 0.995:
            break
    return best


def built(programs: dict[str, Program], workers: int) -> dict[str, Solid]:
    """Those that the kernel makes closed solids of."""
    out = {}
    with Workshop(workers, 10.0) as workshop:
        for id_, result in zip(programs, workshop.map(Job(program, mesh=True) for program in programs.values()), strict=True):
            try:
                if result.mesh is not None:
                    out[id_] = Solid(result.mesh)
            except ValueError:
                continue
    return out


def field_signature(program: Program) -> tuple[str, ...]:
    """Commands and parameters on a grid of 64 levels: what published data sets are cleared of duplicates by."""
    step = 2 * GRID.half * GRID.fine / 2**BITS
    rows = [(i.command, *(round(n / step) for n in i.numbers)) for i in quantise(program).instructions if i.command != "size"]
    return (str(rows),)


def jittered(program: Program, share: float, dice: random.Random) -> Program:
    """Every coordinate, radius and distance moved by up to `share` of the part's size; equal coordinates stay equal."""
    low, high = program_box(program)
    reach = share * max(b - a for a, b in zip(low, high, strict=True))
    moved: dict[tuple[int, float], float] = {}

    def at(point: tuple[float, ...], sketch: int) -> tuple:
        return tuple(
            moved.setdefault((3 * sketch + k, round(x, 6)), x + dice.uniform(-reach, reach)) for k, x in enumerate(point)
        )

    def length(x: float) -> float:
        return math.copysign(max(abs(x) * 0.05, abs(x) + dice.uniform(-reach, reach)), x) if x else x

    def curve(c: Curve, sketch: int) -> Curve:
        if isinstance(c, Circle):
            return Circle(at(c.center, sketch), length(c.radius))
        ends = at(c.start, sketch), at(c.end, sketch)
        return Arc(*ends, c.sweep) if isinstance(c, Arc) else replace(c, start=ends[0], end=ends[1])

    def loop(found: Loop, sketch: int) -> Loop:
        return Loop(tuple(curve(c, sketch) for c in found.curves))

    out = []
    for number, e in enumerate(program.extrudes):
        sketches = tuple(
            replace(
                s,
                plane=replace(s.plane, origin=at(s.plane.origin, -1)),
                profiles=tuple(Profile(loop(p.outer, number), tuple(loop(hole, number) for hole in p.inner)) for p in s.profiles),
            )
            for s in e.sketches
        )
        out.append(replace(e, sketches=sketches, extent=Extent(e.extent.type, length(e.extent.one), length(e.extent.two))))
    return Program(tuple(out))


def pairs_of(found: dict[str, Iterable[str]], ids: Iterable[str]) -> set[tuple[str, str]]:
    """Pairs of ids that share a signature."""
    owners = defaultdict(list)
    for id_ in ids:
        for signature in found[id_]:
            owners[signature].append(id_)
    return {pair for many in owners.values() for pair in itertools.combinations(many, 2)}


def main() -> None:
    """Read, build, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[2] / "shared" / "data")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=300, help="pairs that are compared for a figure")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of lines")
    args = parser.parse_args()
    programs = {}
    for file in sorted((args.data / "deepcad" / "json").rglob("*.json")):
        try:
            programs[file.stem] = read_json(file)
        except CadmllmError:
            continue
    start = time.perf_counter()
    every = {id_: signatures(program) for id_, program in programs.items()}
    figures: dict[str, object] = {"programs": len(programs), "ms_a_program": 1e3 * (time.perf_counter() - start) / len(programs)}
    solids = built(programs, args.workers)
    figures["solids"] = len(solids)
    kinds: dict[str, dict[str, tuple[str, ...]]] = {"field": {id_: field_signature(program) for id_, program in programs.items()}}
    kinds |= {level: {id_: s[:width] for id_, s in every.items()} for level, width in LEVELS.items()}
    figures |= compare(kinds, solids, args.pairs) | strangers(programs, every, solids, args.pairs)
    figures["moved"] = [moved(programs, solids, kinds, share, args.workers) for share in (0.001, 0.005, 0.01, 0.02)]
    print(json.dumps(figures, indent=1) if args.json else "\n".join(f"{key}: {value}" for key, value in figures.items()))


def compare(kinds: dict[str, dict], solids: dict[str, Solid], count: int) -> dict[str, object]:
    """Precision of each kind of signature, and how many of the truly near pairs it finds."""
    ids = list(solids)
    shape = np.array([[*np.sort(np.log(s.sides)), math.log(s.volume)] for s in solids.values()])
    near = []
    for k, id_ in enumerate(ids):
        for j in np.flatnonzero(np.abs(shape[k + 1 :] - shape[k]).max(axis=1) < CLOSE):
            near.append(((id_, ids[k + 1 + j]), iou(solids[id_], solids[ids[k + 1 + j]])))
    out: dict[str, object] = {"near_pairs": {str(least): sum(v > least for _, v in near) for least in LEAST}}
    for name, found in kinds.items():
        pairs = pairs_of(found, solids)
        sample = random.Random(0).sample(sorted(pairs), min(count, len(pairs)))
        values = np.array([iou(solids[a], solids[b]) for a, b in sample])
        numbers = {s: k for k, s in enumerate({s for many in found.values() for s in many})}
        groups = group((id_, [f"{numbers[s]:x}" for s in many]) for id_, many in found.items()).sizes
        out[name] = {
            "groups": len(groups),
            "ids_in_several": int(groups[groups > 1].sum()),
            "largest": int(groups.max()),
            "pairs": len(pairs),
            "iou": {f"{q}%": round(float(np.percentile(values, q)), 3) for q in (0, 1, 5, 50)},
            "below_0.9": round(float((values < 0.9).mean()), 3),
            "found": {
                least: round(float(np.mean([p in pairs for p, v in near if v > least])), 3) for least in (0.95, 0.98, 0.99)
            },
        }
    return out


def strangers(programs: dict, every: dict, solids: dict[str, Solid], count: int) -> dict[str, object]:
    """IoU of random pairs that share no signature and differ in length by at most 10 %."""
    dice = random.Random(1)
    lengths = {id_: len(tokens.encode(programs[id_]).tokens) for id_ in solids}
    values = []
    while len(values) < count:
        a, b = dice.sample(list(solids), 2)
        if abs(lengths[a] - lengths[b]) <= 0.1 * lengths[a] and not set(every[a]) & set(every[b]):
            values.append(iou(solids[a], solids[b]))
    return {"strangers": {least: round(float(np.mean(np.array(values) > least)), 4) for least in (0.9, 0.95, 0.98)}}


def moved(programs: dict, solids: dict[str, Solid], kinds: dict, share: float, workers: int) -> dict[str, object]:
    """How many of every third part are still found when all parameters move."""
    dice = random.Random(2)
    others = {id_: jittered(programs[id_], share, dice) for id_ in list(solids)[::3]}
    bodies = built(others, workers)
    alike = {id_ for id_, body in bodies.items() if iou(solids[id_], body) > 0.95}
    out: dict[str, object] = {"share": share, "parts": len(others), "iou_above_0.95": len(alike)}
    for name, found in kinds.items():
        hits = set()
        for id_, other in others.items():
            try:
                mine = field_signature(other) if name == "field" else signatures(other)[: LEVELS[name]]
            except CadmllmError:  # the grid has nothing left of it
                continue
            if set(mine) & set(found[id_]):
                hits.add(id_)
        out[name] = [round(len(hits) / len(others), 3), round(len(hits & alike) / max(1, len(alike)), 3)]
    return out


if __name__ == "__main__":
    main()
