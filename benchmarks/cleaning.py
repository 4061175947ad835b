"""What `infer --clean` makes of clouds with uniform noise, beside the plain rule of PCL and Open3D.

    python benchmarks/cleaning.py                                    # the clouds of data/
    python benchmarks/cleaning.py --programs ../shared/data/deepcad  # parts built from programs, 4,096 points each

Noise is uniform in a cube 1.25 times as wide as the part. Distances are chamfer (mean squared, both ways, x 1000) to the clean
cloud, whose longest side is 2. "plain" keeps a point whose mean distance to 20 neighbours is within mean + 2 deviations.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from scipy.spatial import KDTree

from cadmllm.cad.convert import read_program
from cadmllm.cad.mesh import normalise, sample_surface
from cadmllm.cad.workshop import Job, Workshop
from cadmllm.corpus.outliers import find_outliers
from cadmllm.corpus.points import read_cloud

SHARES = (0.0, 0.01, 0.05, 0.2)
POINTS = 4096
WIDER = 1.25


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parents[1] / "data", help="of a data set with pcd/")
    parser.add_argument("--programs", type=Path, help="of a data set with json/: its parts are built and sampled")
    parser.add_argument("--count", type=int, default=100, help="parts")
    arguments = parser.parse_args()
    parts = list(built(arguments.programs, arguments.count) if arguments.programs else stored(arguments.root, arguments.count))
    print(f"{len(parts)} parts of {min(map(len, parts)):,} to {max(map(len, parts)):,} points")
    print("| noise | rule | true points lost, mean (worst) | noise removed | chamfer x 1000 before | after, mean (worst) |")
    print("|---|---|---|---|---|---|")
    random = np.random.default_rng(0)
    for share in SHARES:
        for name, row in rows(parts, share, random).items():
            lost, gone, before, after = np.array(row).T
            removed = f"{np.nanmean(gone):.0%}" if share else ""
            print(
                f"| {share:.0%} | {name} | {lost.mean():.2%} ({lost.max():.2%}) | {removed} | {before.mean():.2f} "
                f"| {after.mean():.2f} ({after.max():.2f}) |"
            )


def rows(parts: list[np.ndarray], share: float, random: np.random.Generator) -> dict[str, list[tuple[float, ...]]]:
    """By rule, a part a row: true points lost, noise removed, chamfer before and after."""
    found: dict[str, list[tuple[float, ...]]] = {"plain": [], "ours": []}
    for points in parts:
        noise = random.uniform(-WIDER, WIDER, (int(share * len(points)), 3))
        dirty, count = np.vstack([points, noise]), len(points)
        tree = KDTree(points)
        before = chamfer(dirty, points, tree)
        for name, keep in (("plain", plain(dirty)), ("ours", find_outliers(dirty).keep)):
            gone = 1.0 - keep[count:].mean() if len(noise) else float("nan")
            found[name].append((1.0 - keep[:count].mean(), gone, before, chamfer(dirty[keep], points, tree)))
    return found


def plain(points: np.ndarray, neighbours: int = 20, ratio: float = 2.0) -> np.ndarray:
    """Open3D's `remove_statistical_outlier` with the values of its tutorial."""
    mean = KDTree(points).query(points, k=neighbours + 1)[0][:, 1:].mean(axis=1)
    return mean < mean.mean() + ratio * mean.std()


def chamfer(points: np.ndarray, truth: np.ndarray, tree: KDTree) -> float:
    """Mean squared distances both ways, x 1000."""
    return 1000.0 * float((tree.query(points)[0] ** 2).mean() + (KDTree(points).query(truth)[0] ** 2).mean())


def stored(root: Path, count: int) -> Iterator[np.ndarray]:
    """The points of a data set's clouds."""
    for path in sorted(root.glob("pcd/**/*.npz"))[:count]:
        yield read_cloud(path).points


def built(root: Path, count: int) -> Iterator[np.ndarray]:
    """Surface points of parts that the kernel builds, normalised."""
    programs = [read_program(path)[0] for path in sorted(root.glob("json/**/*.json"))[:count]]
    with Workshop(2, 30.0) as workshop:
        for result in workshop.map(Job(program, mesh=True) for program in programs):
            if result.ok and result.mesh is not None:
                yield normalise(result.mesh).apply(sample_surface(result.mesh, POINTS, 0)[0])


if __name__ == "__main__":
    main()
