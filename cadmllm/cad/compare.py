"""Distances between shapes: chamfer, F-score, normal consistency over surface points, IoU of solids.

None of these normalises: bring both shapes into one frame first (the evaluation centres them and scales the longest side of
the box to 1; FACTS of the project, table "Metrics").
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from cadmllm.cad.mesh import Mesh

GRID = 96  # sampling positions along the longest side where a mesh is not a closed manifold


def nearest(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each point of a [N, 3], the distance [N] to its nearest point of b [M, 3], and that point's index [N]."""
    from scipy.spatial import KDTree

    distance, index = KDTree(b).query(a)
    return distance, index


def chamfer(a: np.ndarray, b: np.ndarray) -> float:
    """Mean squared nearest distance from a to b plus that from b to a.

    CD(A, B) = 1/|A| sum_a min_b |a - b|^2 + 1/|B| sum_b min_a |a - b|^2 (Fan et al., "A Point Set Generation Network", CVPR
    2017, averaged as DeepCAD, ICCV 2021, and cadrille, ICLR 2026, print it; they multiply by 1,000 for their tables).

    Args:
        a: points [N, 3], N > 0.
        b: points [M, 3], M > 0.

    Returns:
        A value in the square of the points' unit, >= 0.
    """
    return float(np.mean(nearest(a, b)[0] ** 2) + np.mean(nearest(b, a)[0] ** 2))


def f_score(a: np.ndarray, b: np.ndarray, threshold: float) -> float:
    """Harmonic mean of precision and recall of points within `threshold` (Knapitsch et al., "Tanks and Temples", 2017, eq. 5).

    Args:
        a: predicted points [N, 3], N > 0.
        b: true points [M, 3], M > 0.
        threshold: a distance in the points' unit; a point exactly that far counts.

    Returns:
        0..1.
    """
    precision = float(np.mean(nearest(a, b)[0] <= threshold))
    recall = float(np.mean(nearest(b, a)[0] <= threshold))
    return 2.0 * precision * recall / (precision + recall) if precision + recall > 0.0 else 0.0


def normal_consistency(a: np.ndarray, normals_a: np.ndarray, b: np.ndarray, normals_b: np.ndarray) -> float:
    """Mean absolute cosine of the normals at nearest neighbours, averaged over both ways (Mescheder et al., CVPR 2019, sec. 4).

    Args:
        a, b: points [N, 3] and [M, 3].
        normals_a, normals_b: unit normals of the same shapes.

    Returns:
        0..1; 1 where all surfaces are parallel.
    """
    there = np.abs(np.sum(normals_a * normals_b[nearest(a, b)[1]], axis=1)).mean()
    back = np.abs(np.sum(normals_b * normals_a[nearest(b, a)[1]], axis=1)).mean()
    return float((there + back) / 2.0)


@dataclass(frozen=True, slots=True)
class Overlap:
    """Volumes of two shapes, mm3, and how they were found: "exact" (mesh booleans) or "sampled" (a grid of points)."""

    a: float
    b: float
    common: float
    method: str

    @property
    def iou(self) -> float:
        """Intersection over union, 0..1; NaN where both are empty."""
        union = self.a + self.b - self.common
        return min(1.0, max(0.0, self.common / union)) if union > 0.0 else float("nan")


def mesh_iou(a: Mesh, b: Mesh) -> float:
    """Volume of the intersection over volume of the union (Jaccard), 0..1. `overlap` tells how it was found."""
    return overlap(a, b).iou


def overlap(a: Mesh, b: Mesh) -> Overlap:
    """Volumes of two parts and of what they share; the solids of one part are united first, so that overlaps count once.

    Exact mesh booleans (manifold3d) when all solids are closed manifolds, else a count of winding numbers at the points of a
    grid (`GRID` along the longest side: about 1 % for compact parts, worse for thin ones, and far too little where a solid's
    mesh has holes); `method` says which.
    """
    one, two = _united(a), _united(b)
    if one is None or two is None:
        return _sampled(a, b)
    return Overlap(float(one.volume()), float(two.volume()), float((one ^ two).volume()), "exact")


def _united(mesh: Mesh) -> Any | None:
    """The union of the mesh's solids as a manifold, or None if one of them is not closed."""
    import manifold3d

    parts = []
    for solid in np.unique(mesh.solid_ids):
        used, where = np.unique(mesh.faces[mesh.solid_ids == solid], return_inverse=True)
        part = manifold3d.Manifold(
            manifold3d.Mesh64(
                vert_properties=np.ascontiguousarray(mesh.vertices[used], np.float64),
                tri_verts=where.reshape(-1, 3).astype(np.uint64),
            )
        )
        if part.status() != manifold3d.Error.NoError:
            return None
        parts.append(part)
    return parts[0] if len(parts) == 1 else manifold3d.Manifold.batch_boolean(parts, manifold3d.OpType.Add)


def _sampled(a: Mesh, b: Mesh) -> Overlap:
    low = np.minimum(a.vertices.min(axis=0), b.vertices.min(axis=0))
    high = np.maximum(a.vertices.max(axis=0), b.vertices.max(axis=0))
    step = float((high - low).max()) / GRID
    counts = np.maximum(1, np.ceil((high - low) / step)).astype(int)
    axes = [start + (np.arange(count) + 0.5) * (end - start) / count for start, end, count in zip(low, high, counts, strict=True)]
    cell = float(np.prod((high - low) / counts))
    one, two = _columns(a, axes), _columns(b, axes)
    return Overlap(one.sum() * cell, two.sum() * cell, (one & two).sum() * cell, "sampled")


def _columns(mesh: Mesh, axes: list[np.ndarray]) -> np.ndarray:
    """Whether each grid point [X, Y, Z] lies inside: along z, the signed crossings below it sum to a positive winding."""
    xs, ys, zs = axes
    winding = np.zeros((len(xs), len(ys), len(zs) + 1), np.int32)
    for p, q, r in mesh.vertices[mesh.faces]:
        doubled = (q[0] - p[0]) * (r[1] - p[1]) - (q[1] - p[1]) * (r[0] - p[0])
        if doubled == 0.0:
            continue
        i0, i1 = np.searchsorted(xs, [min(p[0], q[0], r[0]), max(p[0], q[0], r[0])])
        j0, j1 = np.searchsorted(ys, [min(p[1], q[1], r[1]), max(p[1], q[1], r[1])])
        if i0 == i1 or j0 == j1:
            continue
        x, y = xs[i0:i1, None], ys[None, j0:j1]
        u = ((q[0] - x) * (r[1] - y) - (q[1] - y) * (r[0] - x)) / doubled
        v = ((r[0] - x) * (p[1] - y) - (r[1] - y) * (p[0] - x)) / doubled
        w = 1.0 - u - v
        inside = (u >= 0.0) & (v >= 0.0) & (w > 0.0)
        height = u * p[2] + v * q[2] + w * r[2]
        i, j = np.nonzero(inside)
        np.add.at(winding, (i + i0, j + j0, np.searchsorted(zs, height[i, j])), -1 if doubled > 0.0 else 1)
    return np.cumsum(winding, axis=2)[:, :, :-1] > 0
