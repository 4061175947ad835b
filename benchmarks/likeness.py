"""Does `data check --deep` tell a cloud of the program from the cloud of another one?

    python benchmarks/likeness.py                        # 600 generated parts
    python benchmarks/likeness.py --root ../shared/data/deepcad     # programs of a data set

Every part is built and sampled as `data prepare` does. Its own cloud must pass; the cloud of a random other part and those of
the two parts that fill space most alike (of another area or volume, so that they are not the same shape) must not. Each is
compared twice: with the transform that `data prepare` stores, and bare, as other samplers write it.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from pathlib import Path

import numpy as np

from cadmllm.cad.kernel import Job
from cadmllm.cad.mesh import Mesh, normalise, sample_surface
from cadmllm.cad.workshop import Workshop
from cadmllm.corpus.likeness import DENSE, likeness
from cadmllm.corpus.points import RawCloud

POINTS = 8192
CELLS = 8  # a side of the grid by which parts are compared roughly


def main() -> None:
    """Build, compare, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, help="a data set; default: generated parts")
    parser.add_argument("--count", type=int, default=600, help="generated parts")
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    meshes = built(args)
    filled = np.array([filling(mesh) for mesh in meshes])
    sizes = np.array([size(mesh) for mesh in meshes])
    generator = np.random.default_rng(0)
    found: dict[tuple[str, str], list] = defaultdict(list)
    begin = time.perf_counter()
    for k, mesh in enumerate(meshes):
        far = np.abs(filled - filled[k]).sum(axis=1)
        far[np.all(np.abs(sizes - sizes[k]) < 1e-4 * np.abs(sizes[k]), axis=1)] = np.inf  # itself, and the same shape
        others = {"similar": [int(j) for j in np.argsort(far)[:2] if far[j] < np.inf], "own": [k]}
        others["random"] = [int(j) for j in [generator.integers(len(meshes))] if far[j] < np.inf]
        for what, numbers in others.items():
            for j in numbers:
                found[what, "stored"].append(likeness(mesh, cloud(meshes[j], stored=True)))
                found[what, "bare"].append(likeness(mesh, cloud(meshes[j], stored=False)))
    seconds = (time.perf_counter() - begin) / sum(map(len, found.values()))
    print(f"{len(meshes)} parts, {POINTS} points a cloud, {1000 * seconds:.0f} ms a comparison\n")
    print("| cloud of | transform | number | least ratio | greatest ratio | not alike | foreign for certain |")
    print("|---|---|---|---|---|---|---|")
    for (what, how), list_ in sorted(found.items()):
        ratios = [one.ratio for one in list_]
        odd = sum(not one.alike for one in list_) / len(list_)
        foreign = sum(one.foreign for one in list_) / len(list_)
        print(f"| {what} | {how} | {len(list_):,} | {min(ratios):.3f} | {max(ratios):,.3f} | {odd:.2%} | {foreign:.2%} |")


def built(args: argparse.Namespace) -> list[Mesh]:
    """Meshes of the parts that the kernel can build."""
    from cadmllm.cad import omnicad
    from cadmllm.corpus.layout import program_ids
    from cadmllm.corpus.parts import generate
    from cadmllm.errors import CadmllmError

    programs = []
    if args.root is None:
        programs = [part.program for part in generate(args.count, 7)]
    else:
        for id_ in program_ids(args.root, every=True)[0]:
            try:
                programs.append(omnicad.read_json(args.root / "json" / f"{id_}.json"))
            except CadmllmError:
                continue
    with Workshop(args.workers, 30.0) as workshop:
        results = workshop.map([Job(program, mesh=True) for program in programs])
        return [result.mesh for result in results if result.mesh is not None]


def cloud(mesh: Mesh, *, stored: bool) -> RawCloud:
    """8,192 points of a part: normalised with the transform beside them, or in mm without any."""
    points = sample_surface(mesh, POINTS, 99)[0]
    return RawCloud(normalise(mesh).apply(points), None, normalise(mesh)) if stored else RawCloud(points, None, None)


def filling(mesh: Mesh) -> np.ndarray:
    """Share of the surface in each cell of a grid over the normalised cube [CELLS ** 3]."""
    points = normalise(mesh).apply(sample_surface(mesh, DENSE, 1)[0])
    x, y, z = np.clip(((points + 1.0) * CELLS / 2.0).astype(int), 0, CELLS - 1).T
    return np.bincount((x * CELLS + y) * CELLS + z, minlength=CELLS**3) / DENSE


def size(mesh: Mesh) -> tuple[float, float]:
    """Area and volume in the normalised frame."""
    scale = normalise(mesh).scale
    a, b, c = (mesh.vertices[mesh.faces[:, k]] * scale for k in range(3))
    cross = np.cross(b - a, c - a)
    return float(np.linalg.norm(cross, axis=1).sum() / 2.0), float((a * cross).sum() / 6.0)


if __name__ == "__main__":
    main()
