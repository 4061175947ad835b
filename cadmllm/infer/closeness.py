"""How far a part's surface is from a given cloud, sharp enough to tell candidates apart that differ by a hole's diameter.

Between samples of two equal surfaces the chamfer distance is not zero: it is the spacing of the points, under which small
differences vanish, and its squares are ruled by what a scan did not reach. So candidates are ranked by the same distance with the
spacing taken out and without squares:
    there: from each point of the cloud to the nearest of the candidate's triangles themselves;
    back: from samples of the candidate's surface to the cloud, which is known at its points alone: the distance to the tangent
          plane of the nearest point, or by how much that point is farther away than neighbours in a cloud are, whichever is more
          (a plate where the scan has a hole lies in the right plane, but far from any point);
    distance: mean of there + mean of back.
The field's own chamfer distance is reported beside it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cadmllm.cad.frame import Transform
from cadmllm.cad.mesh import Mesh

DENSE = 8_192  # samples of a candidate's surface
TRIED = 3  # triangles a point of the cloud is measured to: those of the nearest samples
REACH = 2.5  # median distances between neighbours within which 99 % of a surface's points have one of a random cloud
SURE = 2.0  # standard errors from which a difference is one


@dataclass(frozen=True, slots=True)
class Closeness:
    """What separates a candidate from the cloud, in the normalised frame (half the longest side: 1).

    Attributes:
        distance: what candidates are ranked by; 0 for a perfect one and a cloud without noise.
        chamfer: mean squared nearest distance from cloud to samples plus that from samples to cloud (`cad.compare.chamfer`).
        there: [N] of the cloud's points.
        back: [M] of the candidate's samples.
    """

    distance: float
    chamfer: float
    there: np.ndarray
    back: np.ndarray

    def tells_from(self, best: Closeness) -> bool:
        """Whether this one is worse than `best` by more than chance.

        The cloud's points are the same for both, so that their differences are compared one by one. The samples are not, but run
        over the surface in order: neighbours differ by chance alone, and what a scan has missed at one end is no chance.
        """
        paired = self.there - best.there
        variance = paired.var() / len(paired) + _chance(self.back) + _chance(best.back)
        return self.distance - best.distance > SURE * float(np.sqrt(variance))


def _chance(values: np.ndarray) -> float:
    """Variance of a sorted sample's mean, by successive differences (Wolter, "Introduction to Variance Estimation", ch. 8)."""
    return float(np.mean(np.diff(values) ** 2)) / 2.0 / len(values) if len(values) > 1 else 0.0


class CloudDistance:
    """Distances to one cloud, whose tree is built once.

    Args:
        points: [N, 3] in the normalised frame, N >= 2 different ones.
        normals: [N, 3] unit.
    """

    def __init__(self, points: np.ndarray, normals: np.ndarray) -> None:
        from scipy.spatial import KDTree

        points = np.asarray(points, dtype=np.float64)
        kept = np.sort(np.unique(points, axis=0, return_index=True)[1])  # a small cloud was filled up with copies
        self.points, self.normals = points[kept], np.asarray(normals, dtype=np.float64)[kept]
        self.tree = KDTree(self.points)
        self.spacing = float(np.median(self.tree.query(self.points, k=2)[0][:, 1]))

    def of(self, mesh: Mesh, frame: Transform) -> Closeness:
        """Measure a candidate.

        Args:
            mesh: of the candidate.
            frame: what brings its coordinates into the cloud's.
        """
        from scipy.spatial import KDTree

        triangles = frame.apply(mesh.vertices)[mesh.faces]
        samples, owner = _spread(triangles)
        apart, index = KDTree(samples).query(self.points, k=TRIED)
        there = np.sqrt(_to_triangles(self.points[:, None], triangles[owner[index]]).min(axis=1))
        away, which = self.tree.query(samples)
        off_plane = np.abs(np.einsum("ij,ij->i", samples - self.points[which], self.normals[which]))
        back = np.maximum(off_plane, away - REACH * self.spacing)
        chamfer = float(np.mean(apart[:, 0] ** 2) + np.mean(away**2))
        return Closeness(float(there.mean() + back.mean()), chamfer, there, back)


def _spread(triangles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`DENSE` points over triangles [F, 3, 3], evenly by area, the same each time, and the triangle of each."""
    a, b, c = np.moveaxis(triangles, 1, 0)
    areas = np.linalg.norm(np.cross(b - a, c - a), axis=1)
    random = np.random.default_rng(0)
    # a share of the area each, so that no face has more of them than it should
    shares = (np.arange(DENSE) + random.random(DENSE)) / DENSE
    owner = np.minimum(np.searchsorted(np.cumsum(areas) / areas.sum(), shares, side="right"), len(areas) - 1)
    root, along = np.sqrt(random.random((DENSE, 1))), random.random((DENSE, 1))
    return (1.0 - root) * a[owner] + root * (1.0 - along) * b[owner] + root * along * c[owner], owner


def _to_triangles(points: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """Squared distances from points [..., 3] to triangles [..., 3, 3]: to the plane above the inside, else to the nearest side.

    Barycentric coordinates of the foot of the perpendicular (Ericson, "Real-Time Collision Detection", 2005, section 3.4).
    """
    a, b, c = np.moveaxis(triangles, -2, 0)
    ab, ac, ap = b - a, c - a, points - a
    normal = np.cross(ab, ac)
    area = np.maximum(np.einsum("...i,...i->...", normal, normal), 1e-300)
    w = np.einsum("...i,...i->...", np.cross(ab, ap), normal) / area
    v = np.einsum("...i,...i->...", np.cross(ap, ac), normal) / area
    inside = (w >= 0.0) & (v >= 0.0) & (v + w <= 1.0)
    plane = np.einsum("...i,...i->...", ap, normal) ** 2 / area
    sides = np.minimum(np.minimum(_to_side(points, a, b), _to_side(points, b, c)), _to_side(points, c, a))
    return np.where(inside, plane, sides)


def _to_side(points: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    along = end - start
    length = np.maximum(np.einsum("...i,...i->...", along, along), 1e-300)
    share = np.clip(np.einsum("...i,...i->...", points - start, along) / length, 0.0, 1.0)
    off = points - start - share[..., None] * along
    return np.einsum("...i,...i->...", off, off)
