"""Distances between shapes: chamfer, F-score, normal consistency over surface points; `overlap` of solids is beside it.

None of these normalises: bring both shapes into one frame first (the evaluation centres them and scales the longest side of
the box to 1; FACTS of the project, table "Metrics").
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cadmllm.cad.overlap import Overlap, mesh_iou, overlap

__all__ = ["Match", "Overlap", "chamfer", "f_score", "match", "mesh_iou", "nearest", "normal_consistency", "overlap"]


def nearest(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each point of a [N, 3], the distance [N] to its nearest point of b [M, 3], and that point's index [N]."""
    from scipy.spatial import KDTree

    # half the time of a balanced tree for points that are spread over a surface; distances are the same
    distance, index = KDTree(b, balanced_tree=False, compact_nodes=False).query(a)
    return distance, index


@dataclass(frozen=True, slots=True)
class Match:
    """Nearest neighbours of two point sets, both ways: every distance is read from it, so that each tree is built once.

    Attributes:
        there: [N] from each point of the first to its nearest of the second, in the points' unit.
        there_at: [N] the index of that point.
        back, back_at: [M] the other way.
    """

    there: np.ndarray
    there_at: np.ndarray
    back: np.ndarray
    back_at: np.ndarray

    @property
    def chamfer(self) -> float:
        """See `chamfer`."""
        return float(np.mean(self.there**2) + np.mean(self.back**2))

    def f_score(self, threshold: float) -> float:
        """See `f_score`."""
        precision, recall = float(np.mean(self.there <= threshold)), float(np.mean(self.back <= threshold))
        return 2.0 * precision * recall / (precision + recall) if precision + recall > 0.0 else 0.0

    def normal_consistency(self, normals_a: np.ndarray, normals_b: np.ndarray) -> float:
        """See `normal_consistency`."""
        there = np.abs(np.sum(normals_a * normals_b[self.there_at], axis=1)).mean()
        back = np.abs(np.sum(normals_b * normals_a[self.back_at], axis=1)).mean()
        return float((there + back) / 2.0)


def match(a: np.ndarray, b: np.ndarray) -> Match:
    """Nearest neighbours of points a [N, 3] and b [M, 3], N and M > 0."""
    return Match(*nearest(a, b), *nearest(b, a))


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
    return match(a, b).chamfer


def f_score(a: np.ndarray, b: np.ndarray, threshold: float) -> float:
    """Harmonic mean of precision and recall of points within `threshold` (Knapitsch et al., "Tanks and Temples", 2017, eq. 5).

    Args:
        a: predicted points [N, 3], N > 0.
        b: true points [M, 3], M > 0.
        threshold: a distance in the points' unit; a point exactly that far counts.

    Returns:
        0..1.
    """
    return match(a, b).f_score(threshold)


def normal_consistency(a: np.ndarray, normals_a: np.ndarray, b: np.ndarray, normals_b: np.ndarray) -> float:
    """Mean absolute cosine of the normals at nearest neighbours, averaged over both ways (Mescheder et al., CVPR 2019, sec. 4).

    Args:
        a, b: points [N, 3] and [M, 3].
        normals_a, normals_b: unit normals of the same shapes.

    Returns:
        0..1; 1 where all surfaces are parallel.
    """
    return match(a, b).normal_consistency(normals_a, normals_b)
