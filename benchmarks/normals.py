"""Estimated normals against true ones on real parts, and farthest point sampling against uniform.

    python benchmarks/normals.py --root ../shared/data/deepcad [--count 100] [--sampling]

The kernel builds the programs; points are drawn uniformly from the triangles, whose normals are the truth. 4,096 points get
normals, estimated from these alone or from up to 32,768 of 100,000 drawn; without and with noise. The baseline is the plane
through 16 neighbours, facing away from the centre. Where solids touch, two faces lie on each other with opposite normals and
no answer is right; these parts are counted and marked with a *. Angles with orientation 0..180 degrees, without 0..90.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy.spatial import KDTree

from cadmllm.cad.convert import read_program
from cadmllm.cad.mesh import Mesh, normalise, sample_surface
from cadmllm.cad.workshop import Job, Workshop
from cadmllm.corpus.normals import estimate_normals
from cadmllm.corpus.points import CANDIDATES, NEIGHBOURHOOD, RawCloud, draw_cloud
from cadmllm.errors import CadmllmError

POINTS, MANY, NOISE = 4096, 100_000, 0.005
Estimate = Callable[[np.ndarray, np.ndarray], np.ndarray]


def main() -> None:
    """Build the parts, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="a data set in the Omni-CAD layout")
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--sampling", action="store_true", help="coverage of uniform and farthest points instead")
    args = parser.parse_args()
    parts = built(args.root, args.count)
    if args.sampling:
        coverage(parts)
        return
    touching = {name for name, mesh in parts if touches(mesh)}
    print(f"{len(parts)} parts, {len(touching)} of them of solids that touch (*)\n")
    print(
        "| cloud | estimate | median of medians | parts over 5 | median | mean | unsigned mean | flipped | without * | CPU ms |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    worst = []
    for total, noise in ((POINTS, 0.0), (MANY, 0.0), (POINTS, NOISE), (MANY, NOISE)):
        for name, estimate in (("16 neighbours", plain), ("ours", estimate_normals)):
            rows = row(f"{total:,}, noise {noise:.1%}", name, parts, total, noise, estimate, touching)
        worst.append((total, noise, sorted(rows, key=lambda pair: -pair[1])[:8]))
    for total, noise, rows in worst:
        said = ", ".join(f"{name}{'*' if name in touching else ''} {share:.0%}" for name, share in rows)
        print(f"\nmost flipped of {total:,} points, noise {noise:.1%}: {said}")


def built(root: Path, count: int) -> list[tuple[str, Mesh]]:
    """The first parts that build, of programs evenly spread over the data set."""
    paths = sorted((root / "json").rglob("*.json"))
    programs, parts = [], []
    for path in paths[:: max(1, len(paths) // (count + count // 8))]:
        try:
            programs.append((path.stem, read_program(path)[0]))
        except CadmllmError:
            continue  # empty programs are part of the data
    with Workshop(1, 30.0) as workshop:
        results = workshop.map([Job(program, mesh=True) for _, program in programs])
        for (name, _), result in zip(programs, results, strict=True):
            if result.mesh is not None and len(parts) < count:
                parts.append((name, result.mesh))
    return parts


def touches(mesh: Mesh) -> bool:
    """Whether over 1 % of the surface lies on other surface that faces the opposite way."""
    points, normals = sample_surface(mesh, 20_000, 1)
    points = normalise(mesh).apply(points)
    _, near = KDTree(points).query(points, k=12)
    level = np.abs(np.einsum("nki,ni->nk", points[near] - points[:, None], normals)) < 1e-6
    return float(((np.einsum("nki,ni->nk", normals[near], normals) < -0.95) & level).any(axis=1).mean()) > 0.01


def plain(points: np.ndarray, cloud: np.ndarray) -> np.ndarray:
    """The baseline."""
    around = cloud[KDTree(cloud).query(points, k=16)[1]]
    around = around - around.mean(axis=1, keepdims=True)
    normals = np.linalg.eigh(np.einsum("nki,nkj->nij", around, around))[1][:, :, 0]
    away = np.einsum("ni,ni->n", normals, points - (cloud.min(axis=0) + cloud.max(axis=0)) / 2.0)
    return normals * np.where(away < 0.0, -1.0, 1.0)[:, None]


def row(
    cloud: str, name: str, parts: list[tuple[str, Mesh]], total: int, noise: float, estimate: Estimate, touching: set[str]
) -> list[tuple[str, float]]:
    """Print a row; returns the flipped share of each part."""
    medians, signed, unsigned, flipped, seconds = [], [], [], [], 0.0
    for id_, mesh in parts:
        points, truth = sample_surface(mesh, total, 5)
        points = normalise(mesh).apply(points)
        points = points + np.random.default_rng(1).normal(0.0, 2.0 * noise, points.shape)
        begun = time.process_time()
        found = estimate(points[:POINTS], points[: max(POINTS, NEIGHBOURHOOD)])
        seconds += time.process_time() - begun
        angle = np.degrees(np.arccos(np.clip(np.einsum("ni,ni->n", found, truth[:POINTS]), -1.0, 1.0)))
        medians.append(np.median(angle))
        signed.append(angle)
        unsigned.append(np.minimum(angle, 180.0 - angle))
        flipped.append((id_, float((angle > 90.0).mean())))
    all_, flat = np.concatenate(signed), np.concatenate(unsigned)
    alone = [share for id_, share in flipped if id_ not in touching]
    values = (np.median(medians), sum(value > 5.0 for value in medians), np.median(all_), all_.mean(), flat.mean())
    shares = (np.mean([share for _, share in flipped]), np.mean(alone))
    said = (
        f"{values[0]:.2f} | {values[1]} | {values[2]:.2f} | {values[3]:.1f} | {values[4]:.1f} | {shares[0]:.1%} | {shares[1]:.1%}"
    )
    print(f"| {cloud} | {name} | {said} | {1000.0 * seconds / len(parts):.0f} |", flush=True)
    return flipped


def coverage(parts: list[tuple[str, Mesh]]) -> None:
    """The largest distance of a surface point to its nearest chosen point, as a share of the longest side."""
    print(f"{len(parts)} parts, {MANY:,} points each; farthest among {CANDIDATES} times as many candidates\n")
    print("| chosen | sampling | largest distance, mean over parts | CPU ms |\n|---|---|---|---|")
    for count in (256, 2048, POINTS):
        for sampling in ("uniform", "farthest"):
            gaps, seconds = [], 0.0
            for _, mesh in parts:
                points, normals = sample_surface(mesh, MANY, 5)
                raw, begun = RawCloud(points, normals, None), time.process_time()
                chosen = draw_cloud(raw, count, 0, sampling)
                seconds += time.process_time() - begun
                everything = (points - list(chosen.transform.center)) * chosen.transform.scale
                gaps.append(KDTree(chosen.points).query(everything)[0].max() / 2.0)
            print(f"| {count:,} | {sampling} | {np.mean(gaps):.2%} | {1000.0 * seconds / len(parts):.0f} |", flush=True)


if __name__ == "__main__":
    main()
