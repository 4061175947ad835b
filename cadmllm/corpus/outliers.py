"""Points of a cloud that belong to no surface: strays far from their neighbours, and small clusters apart from the rest.

First the statistical outlier removal of Rusu et al., "Towards 3D Point Cloud Based Object Maps for Household Environments"
(Robotics and Autonomous Systems 56, 2008, section 5.1), as PCL's `StatisticalOutlierRemoval` and Open3D's
`remove_statistical_outlier` have it: the mean distance of each point to its k nearest neighbours is compared with
mean + ratio * deviation over all points. Its weakness is that outliers raise both numbers themselves. Here they are estimated
from the median and the median absolute deviation (times 1.4826, the factor for a normal distribution: Rousseeuw and Croux,
"Alternatives to the Median Absolute Deviation", JASA 88, 1993), which do not move until half of the points are outliers.

What is left is joined where points are near each other; groups of few points that touch nothing else are left out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

NEIGHBOURS = 16
RATIO = 5.0  # deviations above the typical distance; the surface samples of data/ lose nothing (docs/inference.md)
NEAR = 4.0  # typical distances to the farthest of the k neighbours that still join two points
SMALL = 0.01  # share of all points below which a group that touches nothing is left out
MOST_REMOVED = 0.4  # share of the points; where more look like outliers, the cloud is left as it is
FEWEST = 64  # points below which nothing can be said


@dataclass(frozen=True, slots=True)
class Cleaned:
    """What cleaning found.

    Attributes:
        keep: [N] bool; all True where `refused`.
        strays: points far from their neighbours.
        clustered: points in small groups apart.
        refused: why nothing is removed, '' where something was or nothing had to be.
    """

    keep: np.ndarray
    strays: int
    clustered: int
    refused: str = ""


def find_outliers(points: np.ndarray, *, neighbours: int = NEIGHBOURS, ratio: float = RATIO) -> Cleaned:
    """Which points to keep.

    Args:
        points: [N, 3] float64, finite.
        neighbours: k, without the point itself.
        ratio: deviations above the typical mean distance at which a point is a stray.
    """
    count = len(points)
    everything = np.ones(count, bool)
    if count < FEWEST:
        return Cleaned(everything, 0, 0, f"of fewer than {FEWEST} points no outlier can be told")
    from scipy.spatial import KDTree

    distances, nearest = KDTree(points).query(points, k=min(neighbours, count - 1) + 1)
    mean = distances[:, 1:].mean(axis=1)
    typical = float(np.median(mean))
    deviation = 1.4826 * float(np.median(np.abs(mean - typical)))
    stray = mean > typical + ratio * deviation
    apart = _apart(distances, nearest, ~stray, NEAR * typical)
    keep = ~(stray | apart)
    removed = count - int(keep.sum())
    if removed > MOST_REMOVED * count:
        said = f"{removed:,} of {count:,} points look like outliers, more than {MOST_REMOVED:.0%}: none is removed"
        return Cleaned(everything, 0, 0, said)
    return Cleaned(keep, int(stray.sum()), int(apart.sum()))


def _apart(distances: np.ndarray, nearest: np.ndarray, kept: np.ndarray, reach: float) -> np.ndarray:
    """Kept points in groups of under `SMALL` of all kept ones; points are of one group where a neighbour is within `reach`."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    count, k = nearest.shape
    near = (distances[:, 1:] <= reach) & kept[:, None] & kept[nearest[:, 1:]]
    rows = np.repeat(np.arange(count), k - 1)[near.ravel()]
    graph = coo_matrix((np.ones(len(rows), np.int8), (rows, nearest[:, 1:][near])), shape=(count, count))
    group = connected_components(graph, directed=False)[1]
    size = np.bincount(group[kept], minlength=int(group.max()) + 1)
    return kept & (size[group] < SMALL * kept.sum())
