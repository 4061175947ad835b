"""Normals of a bare point cloud. Encoders are trained with unit normals; zeros in their place are out of distribution.

Parts are mostly flat faces that meet in sharp edges, and thin plates. A plane through all of a point's neighbours, the usual
estimate (Hoppe et al., "Surface Reconstruction from Unorganized Points", SIGGRAPH 1992), is wrong wherever these lie on two
faces. So many planes stand for election at each point, and the one counts that most neighbours lie on: the idea of Boulch and
Marlet, "Fast and Robust Normal Estimation for Point Clouds with Sharp Features" (SGP 2012). Signs: `corpus/orient`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cadmllm.corpus.orient import signs

NEIGHBOURS = 10  # of the first plane; more reach over more edges
POOL = 20  # neighbours that vote
VERSION = 2  # of the estimates; raise it when they change, since cached features are then of another input
_PAIRS = np.array([(a, b) for a in range(7) for b in range(a)])  # of the nearest neighbours: a plane through the point each
_LENT = 12  # nearest points whose planes stand for election, too
_NEAR = 0.08  # of the neighbourhood's radius: how far a voter may be from a plane
_FLAT = 0.1  # thickness over width of a neighbourhood below which nothing needs to be chosen
_NOISY = 0.01  # of the radius: the tenth of the points that fit best is off by more: no surface is so rough
_LEFT = 2.5  # deviations of the noise by which points of one face may lie on different levels
_SMOOTHED = np.cos(np.radians(40.0))  # normals further apart than this are of different faces


def estimate_normals(points: np.ndarray, cloud: np.ndarray) -> np.ndarray:
    """Outward unit normals of surface points.

    Points that stand there several times get one normal. The order of the points does not matter, and no sum depends on the
    number of threads: the same points get the same normals.

    Args:
        points: [N, 3] in the normalised frame, those that need normals, finite.
        cloud: [M, 3] in the same frame, M >= 4: what they were drawn from.

    Returns:
        [N, 3] float64, unit length.
    """
    alone, where = np.unique(points, axis=0, return_inverse=True)
    around = _Around.of(alone, cloud)
    if around.noisy():
        directions, placed, slack = _smooth(around.wider(), alone)
    else:
        directions, placed, slack = _sharp(around, alone), alone, 0.0
    return (directions * signs(placed, directions, slack)[:, None])[where.reshape(-1)]


@dataclass(frozen=True, slots=True)
class _Around:
    """Points [N, 3], the cloud, and of each point its nearest of the cloud: `offsets` [N, K, 3] from it, `reach` [N] of the
    neighbourhood."""

    points: np.ndarray
    cloud: np.ndarray
    offsets: np.ndarray
    reach: np.ndarray

    @classmethod
    def of(cls, points: np.ndarray, cloud: np.ndarray, count: int = POOL + 1, within: int = NEIGHBOURS) -> _Around:
        from scipy.spatial import KDTree

        distances, nearest = KDTree(cloud).query(points, k=np.arange(1, min(count, len(cloud)) + 1))
        reach = distances[:, min(within, distances.shape[1]) - 1]
        if not reach.all():  # neighbours that are all one point span no plane
            distinct = np.unique(cloud, axis=0)
            if len(distinct) < len(cloud):
                return cls.of(points, distinct, count, within)
        return cls(points, cloud, cloud[nearest] - points[:, None], np.maximum(reach, 1e-12))

    def noisy(self) -> bool:
        """Whether points are off their surface: even where the surface is flat no plane holds a point and 5 neighbours."""
        some = slice(None, None, max(1, len(self.points) // 512))
        offsets = self.offsets[some, 1 : NEIGHBOURS + 3]
        if offsets.shape[1] < NEIGHBOURS + 2 or len(self.cloud) < 4 * POOL:
            return False  # so few points may be as far apart as the surface bends
        planes, good = _through(offsets)
        off = np.sort(np.abs(np.einsum("nci,nki->nck", planes, offsets)), axis=2)[:, :, 5]
        best = np.where(good, off, np.inf).min(axis=1) / self.reach[some]
        return bool(np.quantile(best, 0.1) > _NOISY)

    def wider(self) -> _Around:
        """With as many neighbours as bring the tilt by noise down, for the smoothing that follows."""
        _, spread, _ = _fitted(self.offsets[:, :16])
        ratio = float(np.median(np.sqrt(spread[:, 0] / np.maximum(spread[:, 1], 1e-300))))
        count = int(np.clip(16.0 * ratio / 0.2, 16, max(16, min(48, len(self.cloud) // 16))))
        return _Around.of(self.points, self.cloud, count, count)


def _sharp(around: _Around, points: np.ndarray) -> np.ndarray:
    """Directions [N, 3] of points that lie on their surface."""
    from scipy.spatial import KDTree

    offsets, near = around.offsets, _NEAR * around.reach
    directions, spread, _ = _fitted(offsets[:, :NEIGHBOURS])
    hard = np.flatnonzero(np.sqrt(spread[:, 0]) > _FLAT * np.sqrt(spread[:, 1]))
    if len(hard):
        own = directions[hard, None]
        _, lenders = KDTree(points).query(points[hard], k=np.arange(1, min(_LENT, len(points)) + 1))
        planes, good = _through(offsets[hard, 1:])
        planes = np.concatenate([own, directions[lenders], np.where(good[..., None], planes, own)], axis=1)
        height = np.einsum("nci,nki->nck", planes.astype(np.float32), offsets[hard].astype(np.float32))
        share = (height / near[hard].astype(np.float32)[:, None, None]) ** 2
        votes = (np.maximum(1.0 - share, 0.0) ** 2).sum(axis=2) + 0.5 * np.maximum(1.0 - 100.0 * share, 0.0).sum(axis=2)
        votes[:, 0] *= 1.15  # its own plane is the mean of many: another must be better, not as good
        directions[hard] = planes[np.arange(len(hard)), np.argmax(votes, axis=1)]
        for _ in range(2):
            directions[hard] = _refitted(offsets[hard], directions[hard], near[hard])
    return directions


def _through(offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Unit normals [N, C, 3] of planes through each point and two neighbours, and which are well defined [N, C]."""
    pairs = _PAIRS[_PAIRS.max(axis=1) < offsets.shape[1]]
    one, two = offsets[:, pairs[:, 0]], offsets[:, pairs[:, 1]]
    x, y, z = (one[..., a] * two[..., b] - one[..., b] * two[..., a] for a, b in ((1, 2), (2, 0), (0, 1)))
    length = np.sqrt(x * x + y * y + z * z)
    good = length > 0.1 * np.sqrt(np.einsum("nci,nci->nc", one, one) * np.einsum("nci,nci->nc", two, two)) + 1e-24
    return np.stack([x, y, z], axis=2) / np.where(good, length, 1.0)[..., None], good


def _smooth(around: _Around, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Directions [N, 3] of points with noise, the points brought to their surface [N, 3], and how far apart they may
    lie on one face.

    The plane of a neighbour may be taken, as above; then each normal becomes the mean of those near it that may be of the same
    face, a few times: bilateral filtering of normals (Jones, Durand and Desbrun, SIGGRAPH 2003, in its simplest form).
    """
    from scipy.spatial import KDTree

    directions, spread, centres = _fitted(around.offsets)
    sigma = float(np.median(np.sqrt(spread[:, 0])))
    _, nearest = KDTree(points).query(points, k=np.arange(1, min(24, len(points)) + 1))
    lent = nearest[:, :_LENT]
    planes = directions[lent]
    away = np.einsum("nci,nci->nc", planes, points[lent] + centres[lent] - points[:, None])
    height = np.einsum("nci,nki->nck", planes.astype(np.float32), around.offsets.astype(np.float32))
    height -= away[..., None].astype(np.float32)
    votes = (np.maximum(1.0 - (height / np.float32(2.5 * sigma + 1e-12)) ** 2, 0.0) ** 2).sum(axis=2)
    votes *= np.maximum(1.0 - (away / (2.5 * sigma + 1e-12)) ** 2, 0.0)
    directions = planes[np.arange(len(points)), np.argmax(votes, axis=1)]
    step = points[nearest] - points[:, None]
    for _ in range(4):
        cosine = np.einsum("nki,ni->nk", directions[nearest], directions)
        rise = np.einsum("nki,ni->nk", step, directions) / (3.0 * sigma + 1e-12)
        weight = np.maximum(np.abs(cosine) - _SMOOTHED, 0.0) * np.maximum(1.0 - rise**2, 0.0) * np.sign(cosine)
        mean = np.einsum("nk,nki->ni", weight, directions[nearest])
        directions = mean / np.linalg.norm(mean, axis=1, keepdims=True)  # its own weight is above zero: never a zero vector
    height = np.einsum("nki,ni->nk", around.offsets, directions)
    weight = np.maximum(1.0 - (height / (3.0 * sigma + 1e-12)) ** 2, 0.0) + 1e-9
    level = np.einsum("nk,nk->n", weight, height) / weight.sum(axis=1)
    return directions, points + level[:, None] * directions, _LEFT * sigma


def _fitted(offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of neighbourhoods [N, K, 3]: directions of least variance [N, 3], variances [N, 3], least first, and means [N, 3]."""
    centres = offsets.mean(axis=1)
    spread = offsets - centres[:, None]
    values, vectors = np.linalg.eigh(np.einsum("nki,nkj->nij", spread, spread) / offsets.shape[1])
    return vectors[:, :, 0], np.maximum(values, 0.0), centres


def _refitted(offsets: np.ndarray, directions: np.ndarray, near: np.ndarray) -> np.ndarray:
    """The planes fitted once more to those neighbours that lie near them; as they were where too few do."""
    height = np.einsum("nki,ni->nk", offsets, directions)
    weight = np.maximum(1.0 - (height / near[:, None]) ** 2, 0.0) ** 2 + 1e-9
    total = weight.sum(axis=1)
    spread = offsets - (np.einsum("nk,nki->ni", weight, offsets) / total[:, None])[:, None]
    values, vectors = np.linalg.eigh(np.einsum("nki,nkj->nij", spread * (weight / total[:, None])[..., None], spread))
    good = (total >= 3.5) & (values[:, 1] > 0.01 * values[:, 2])
    return np.where(good[:, None], vectors[:, :, 0], directions)
