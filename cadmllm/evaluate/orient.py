"""A soup of triangles made a consistently oriented manifold by cutting: what CAD-MLLM's topology metrics are counted on.

Written from the published description: Guéziec, Taubin, Lazarus, Horn, "Cutting and Stitching: Converting Sets of Polygons to
Manifold Surfaces", IEEE TVCG 7(2), 2001 (local cutting), and the reference manual of CGAL's `orient_polygon_soup`, which names
the points that it duplicates: ends of edges with more than two faces, ends of edges between faces that cannot be oriented
alike, and points whose faces do not form one disk.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import breadth_first_order, connected_components


@dataclass(frozen=True, slots=True)
class Soup:
    """Triangles after cutting.

    Attributes:
        faces: [F, 3] int64 into the vertices after cutting, neighbours oriented alike; the order is that of the given faces.
        origin: [W] int64, the given vertex that each vertex after cutting was.
        flipped: [F] bool, the faces whose direction was turned.
    """

    faces: np.ndarray
    origin: np.ndarray
    flipped: np.ndarray

    @property
    def segments(self) -> int:
        """Vertex-connected components."""
        return components(self.faces, len(self.origin))


def weld(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Make one vertex of those with equal float32 coordinates (minus zero is zero); vertices that no face uses go.

    Args:
        vertices: [V, 3] finite numbers within float32's range.
        faces: [F, 3] integer.

    Returns:
        vertices [W, 3] float64 holding float32 values, faces [F, 3] int64; a face may have become degenerate.
    """
    used, where = np.unique(faces, return_inverse=True)
    points = np.asarray(vertices)[used].astype(np.float32) + np.float32(0.0)
    key = np.zeros(len(points), np.int64)
    for axis in range(3):  # a number for each distinct (x), (x, y), (x, y, z)
        values, place = np.unique(points[:, axis], return_inverse=True)
        key = np.unique(key * max(len(values), 1) + place.ravel(), return_inverse=True)[1].ravel()
    _, first = np.unique(key, return_index=True)
    return points[first].astype(np.float64), key[where.reshape(-1, 3)]


def orient(faces: np.ndarray) -> Soup:
    """Cut what is not manifold and turn faces so that neighbours agree; the first face of each piece keeps its direction.

    An edge of exactly two faces joins them, unless they cannot agree (a Moebius strip is cut once, at the place where a
    breadth-first walk from its first face closes). The faces around a vertex that hang together by such edges share it;
    each other group of faces gets a vertex of its own.

    Args:
        faces: [F, 3] integer, three different vertices each.
    """
    faces = np.asarray(faces, np.int64)
    count = len(faces)
    here, there, same = _joined(faces)
    flip = _flips(here // 3, there // 3, same, count)
    agree = (flip[here // 3] ^ flip[there // 3]) == same
    here, there, same = here[agree], there[agree], same[agree]
    after_here, after_there = _after(here), _after(there)
    pairs = np.concatenate(
        [
            np.column_stack([here, np.where(same, there, after_there)]),
            np.column_stack([after_here, np.where(same, after_there, there)]),
        ]
    )
    amount, label = connected_components(_graph(pairs, 3 * count), directed=False)
    origin = np.zeros(amount, np.int64)
    origin[label] = faces.ravel()
    turned = label.reshape(-1, 3).astype(np.int64)
    turned[flip] = turned[flip][:, ::-1]
    return Soup(turned, origin, flip)


def components(faces: np.ndarray, count: int) -> int:
    """Vertex-connected components of faces [F, 3] over `count` vertices."""
    pairs = np.concatenate([faces[:, :2], faces[:, 1:]])
    return int(connected_components(_graph(pairs, count), directed=False)[0])


def dangling(faces: np.ndarray) -> np.ndarray:
    """The edges [E, 2] (vertex indices) that exactly one of the faces [F, 3] has."""
    ends = np.sort(np.stack([faces, np.roll(faces, -1, axis=1)], axis=-1).reshape(-1, 2), axis=1)
    edges, uses = np.unique(ends[:, 0] * (int(faces.max(initial=0)) + 1) + ends[:, 1], return_counts=True)
    return np.stack(np.divmod(edges[uses == 1], int(faces.max(initial=0)) + 1), axis=-1)


def _graph(pairs: np.ndarray, count: int) -> coo_matrix:
    return coo_matrix((np.ones(len(pairs), np.int32), (pairs[:, 0], pairs[:, 1])), shape=(count, count))


def _after(corner: np.ndarray) -> np.ndarray:
    """The next corner of the same face; corner 3 f + k is that of face f at its k-th vertex."""
    return corner - corner % 3 + (corner % 3 + 1) % 3


def _joined(faces: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The edges with exactly two faces: the corners [E], [E] from which they start in each, and whether both run the same way."""
    start, end = faces.ravel(), np.roll(faces, -1, axis=1).ravel()
    key = np.minimum(start, end) * (int(faces.max(initial=0)) + 1) + np.maximum(start, end)
    order = np.argsort(key, kind="stable")
    _, first, uses = np.unique(key[order], return_index=True, return_counts=True)
    place = first[uses == 2]
    here, there = order[place], order[place + 1]
    return here, there, start[here] == start[there]


def _flips(one: np.ndarray, two: np.ndarray, same: np.ndarray, count: int) -> np.ndarray:
    """Which faces [F] are turned so that all edges of a breadth-first tree over the faces agree.

    Args:
        one, two: [E] the faces that an edge joins; `same`: whether they run along it the same way.
    """
    if not count:
        return np.zeros(0, bool)
    piece = connected_components(_graph(np.column_stack([one, two]), count), directed=False)[1]
    firsts = np.unique(piece, return_index=True)[1]
    roots = np.column_stack([np.full(len(firsts), count), firsts])  # one walk over all pieces, from a face that is none
    graph = _graph(np.concatenate([np.column_stack([one, two]), roots]), count + 1)
    parent = breadth_first_order(graph.tocsr(), count, directed=False)[1].astype(np.int64)
    parent[count] = count
    pair = np.minimum(one, two) * count + np.maximum(one, two)
    pairs, first = np.unique(pair, return_index=True)
    face = np.flatnonzero(parent[:count] != count)
    turned = np.zeros(count + 1, bool)
    wanted = np.minimum(face, parent[face]) * count + np.maximum(face, parent[face])
    turned[face] = same[first[np.searchsorted(pairs, wanted)]]
    while np.any(parent != count):  # pointer doubling: each round halves the way to the root
        turned ^= turned[parent]
        parent = parent[parent]
    return turned[:count]
