"""What the topology metrics cost: cutting against trimesh's bodies and open edges, self-intersection against all pairs.

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/topology.py [--data ../shared/data/deepcad] [--large]

Figures are milliseconds of one core (CPU time, best of three), so that they hold on a busy machine. `all pairs` is the
same test of triangles without the tree of boxes (what the predecessor did, but in numpy); it is left out above 6,000 faces.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import trimesh

from cadmllm.cad.kernel import Job, build
from cadmllm.cad.omnicad import read_json
from cadmllm.errors import CadmllmError
from cadmllm.evaluate import intersect
from cadmllm.evaluate.orient import dangling, orient, weld
from cadmllm.evaluate.topology import topology

MOST_FOR_ALL_PAIRS = 6000
BLOCK = 1 << 16
Named = tuple[str, np.ndarray, np.ndarray]


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[2] / "shared" / "data" / "deepcad")
    parser.add_argument("--large", action="store_true", help="meshes of 50,000 and 330,000 faces, too")
    args = parser.parse_args()
    print(f"{'mesh':34} {'faces':>7} {'all, ms':>9} {'oriented':>9} {'trimesh':>9} {'SIR':>9} {'all pairs':>10}")
    for name, vertices, faces in [*made(args.large), *real(args.data)]:
        row(name, vertices, faces)
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


def made(large: bool) -> Iterator[Named]:
    """Shapes that are hard in their own way: fans, slivers, all of one plane, nothing along an axis."""
    turn = trimesh.transformations.rotation_matrix(0.7, [1.0, 0.3, 0.2])
    yield named("sphere", trimesh.creation.icosphere(subdivisions=4))
    yield named("cylinder with fans", trimesh.creation.cylinder(1.0, 2.0, sections=750))
    yield named("ring", trimesh.creation.annulus(0.5, 1.0, 2.0, sections=375))
    yield named("long cylinder, tilted", trimesh.creation.cylinder(1.0, 20.0, sections=750, transform=turn))
    yield named("250 boxes through each other", boxes())
    if large:
        yield named("sphere", trimesh.creation.icosphere(subdivisions=6))
        yield named("cylinder with fans", trimesh.creation.cylinder(1.0, 2.0, sections=12_500))
        yield named("sphere", trimesh.creation.icosphere(subdivisions=7))


def boxes() -> trimesh.Trimesh:
    """250 cubes at random places and turns within a cube of three times their size."""
    random = np.random.default_rng(0)
    placed = []
    for _ in range(250):
        turn = trimesh.transformations.random_rotation_matrix(random.random(3))
        turn[:3, 3] = random.uniform(-1.0, 1.0, 3)
        placed.append(trimesh.creation.box((1.0, 1.0, 1.0), turn))
    return trimesh.Trimesh(*together(placed), process=False)


def together(meshes: list[trimesh.Trimesh]) -> tuple[np.ndarray, np.ndarray]:
    bases = np.cumsum([0, *(len(mesh.vertices) for mesh in meshes)])
    faces = [mesh.faces + base for mesh, base in zip(meshes, bases, strict=False)]
    return np.concatenate([mesh.vertices for mesh in meshes]), np.concatenate(faces)


def real(data: Path) -> Iterator[Named]:
    """Of the parts of a data set, built here, the median one by faces and those nearest to 3,000."""
    if not data.is_dir():
        print(f"(no real parts: {data} is not there)")
        return
    meshes = []
    for path in sorted((data / "json").rglob("*.json"))[:400:8]:
        try:
            mesh = build(Job(read_json(path), mesh=True)).mesh
        except CadmllmError:
            continue
        if mesh is not None:
            meshes.append((len(mesh.faces), path.stem, mesh))
    meshes.sort(key=lambda found: found[:2])
    chosen = [meshes[len(meshes) // 2], *sorted(meshes, key=lambda found: abs(found[0] - 3000))[:2]]
    for _, name, mesh in chosen:
        yield f"part {name}", mesh.vertices, mesh.faces


def named(name: str, mesh: trimesh.Trimesh) -> Named:
    return name, np.array(mesh.vertices), np.array(mesh.faces)


def row(name: str, vertices: np.ndarray, faces: np.ndarray) -> None:
    """Print the figures of one mesh; the ratios are those of the columns before."""
    whole = best(lambda: topology(vertices, faces))
    points, corners = weld(vertices, faces)
    soup = orient(corners)
    oriented = best(lambda: dangling(orient(weld(vertices, faces)[1]).faces))
    theirs = best(lambda: bodies(vertices, faces))
    crossing = best(lambda: intersect.self_intersecting(points[soup.origin], soup.faces))
    line = f"{name:34} {len(faces):7,} {whole * 1e3:9.1f} {oriented * 1e3:9.1f} {theirs / oriented:8.1f}x {crossing * 1e3:9.1f}"
    if len(faces) <= MOST_FOR_ALL_PAIRS:
        slow = once(lambda: all_pairs(points[soup.origin], soup.faces))
        line += f" {slow / crossing:9.0f}x"
    print(line)


def bodies(vertices: np.ndarray, faces: np.ndarray) -> tuple[int, int]:
    """Welded bodies and open edges as trimesh finds them; it neither cuts nor orients."""
    mesh = trimesh.Trimesh(vertices, faces, process=True)
    return mesh.body_count, len(trimesh.grouping.group_rows(mesh.edges_sorted, require_count=1))


def all_pairs(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """The same answer with every pair of faces tested."""
    mesh = intersect._planes(vertices[faces], faces)
    meets = np.zeros(len(faces), bool)
    one, two = np.triu_indices(len(faces), 1)
    for start in range(0, len(one), BLOCK):
        a, b = one[start : start + BLOCK], two[start : start + BLOCK]
        both = intersect._meet(mesh, a, b)
        meets[a[both]] = meets[b[both]] = True
    return meets


def once(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def best(work: Callable[[], object]) -> float:
    return min(once(work) for _ in range(3))


if __name__ == "__main__":
    main()
