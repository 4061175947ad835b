"""Farthest point sampling: points of a cloud that lie far from each other.

Eldar, Lindenbaum, Porat and Zeevi, "The Farthest Point Strategy for Progressive Image Sampling" (IEEE Transactions on Image
Processing 6(9), 1997): each point is the one farthest from all chosen before it. With n candidates and k chosen, the plain
way computes n k distances. Here a point that is chosen is compared only with those within the distance that is still open,
which a k-d tree finds: the choice is the same, and the work shrinks with each step.
"""

from __future__ import annotations

import numpy as np

_PLAIN = 64  # first steps, whose distances reach over most of the cloud: the tree would save nothing


def farthest_points(points: np.ndarray, count: int) -> np.ndarray:
    """Rows of `count` points, beginning with the first one; each next is the farthest from those before, the first of equals.

    Args:
        points: [N, 3], finite.
        count: 1..N.

    Returns:
        [count] int64, all different.
    """
    from scipy.spatial import KDTree

    points = np.ascontiguousarray(points, dtype=np.float64)
    open_ = np.full(len(points), np.inf)  # squared distance to the nearest chosen point; -1 once chosen
    chosen = np.zeros(count, np.int64)
    tree = None
    for step in range(1, count):
        last = chosen[step - 1]
        if step <= _PLAIN:
            away = points - points[last]
            np.minimum(open_, np.einsum("ni,ni->n", away, away), out=open_)
        else:
            tree = tree or KDTree(points)
            reach = float(np.sqrt(max(open_[last], 0.0))) * (1.0 + 1e-9)
            rows = np.array(tree.query_ball_point(points[last], reach), np.int64)
            away = points[rows] - points[last]
            open_[rows] = np.minimum(open_[rows], np.einsum("ni,ni->n", away, away))
        open_[last] = -1.0
        chosen[step] = int(np.argmax(open_))
    return chosen
