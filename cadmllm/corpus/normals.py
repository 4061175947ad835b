"""Normals of a bare point cloud. Encoders are trained with unit normals; zeros in their place are out of distribution."""

from __future__ import annotations

import itertools

import numpy as np

NEIGHBOURS = 16
VERSION = 1  # of the estimates; raise it when they change, since cached features are then of another input
CELLS = 64  # of the depth image, a side
_SIDES = [np.array(s, dtype=np.float64) for s in itertools.product((-1, 0, 1), repeat=3) if any(s)]
DIRECTIONS = [side / np.linalg.norm(side) for side in _SIDES]  # 26: towards faces, edges and corners of the cube


def estimate_normals(points: np.ndarray, cloud: np.ndarray) -> np.ndarray:
    """Outward unit normals of surface points by local plane fits.

    The direction is the one of least variance among the 16 nearest points of `cloud`. Its sign comes from visibility: the
    cloud is looked at from 26 sides through a 64 x 64 depth image, and a point's normal faces the sides that see it
    (weighted by how squarely they do). Where the sides disagree or none sees the point, the normal faces away from the
    centre of the cloud's box: right for convex parts and for thin plates, a guess deep inside a hole.

    Args:
        points: [N, 3] in the normalised frame, those that need normals.
        cloud: [M, 3] in the same frame, M >= 4: what they were drawn from.

    Returns:
        [N, 3] float64, unit length.
    """
    from scipy.spatial import KDTree

    k = min(NEIGHBOURS, len(cloud))
    _, nearest = KDTree(cloud).query(points, k=k)
    around = cloud[nearest]
    around = around - around.mean(axis=1, keepdims=True)
    _, vectors = np.linalg.eigh(np.einsum("nki,nkj->nij", around, around))
    normals = vectors[:, :, 0]  # eigenvalues ascend
    votes = _votes(points, normals, cloud)
    away = np.einsum("ni,ni->n", normals, points - (cloud.min(axis=0) + cloud.max(axis=0)) / 2.0)
    sign = np.where(np.abs(votes) > 0.3, votes, away)
    return normals * np.where(sign < 0.0, -1.0, 1.0)[:, None]


def _votes(points: np.ndarray, normals: np.ndarray, cloud: np.ndarray) -> np.ndarray:
    """[N]: sum over the sides that see a point squarely enough of the cosine between its normal and that side."""
    reach = float(np.abs(cloud).max()) * 1.75  # the half diagonal of the cube, rounded up
    cell = 2.0 * reach / CELLS
    votes = np.zeros(len(points))
    for direction in DIRECTIONS:
        across = np.cross(direction, [0.0, 0.0, 1.0] if abs(direction[2]) < 0.9 else [1.0, 0.0, 0.0])
        across /= np.linalg.norm(across)
        frame = np.column_stack([across, np.cross(direction, across)])
        nearest = np.full(CELLS * CELLS, -np.inf)
        np.maximum.at(nearest, _cells(cloud @ frame, reach, cell), cloud @ direction)
        seen = points @ direction >= nearest[_cells(points @ frame, reach, cell)] - cell
        cosine = normals @ direction
        votes += np.where(seen & (np.abs(cosine) > 0.5), cosine, 0.0)
    return votes


def _cells(flat: np.ndarray, reach: float, cell: float) -> np.ndarray:
    """The cell index of each projected point."""
    at = np.clip(((flat + reach) / cell).astype(np.int64), 0, CELLS - 1)
    return at[:, 0] * CELLS + at[:, 1]
