"""Faces of any number of corners to triangles."""

from __future__ import annotations

import numpy as np

from cadmllm.corpus.limits import at_most_triangles

MOST_CORNERS = 10_000  # of a polygon that is not convex: cutting takes the square of them at worst


def triangles(vertices: np.ndarray, corners: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Triangles of polygons, oriented as these.

    Convex polygons become fans; others are cut by manifold3d in the plane of their mean normal (Newell's), so that none of
    their triangles lies outside.

    Args:
        vertices: [V, 3].
        corners: vertex indices of all polygons, one behind the other [sum of sizes].
        sizes: corners of each [F]; those of fewer than three are left out.

    Returns:
        [T, 3] int64.

    Raises:
        TooMany: more triangles than are read.
        ValueError: an index that names no vertex, a polygon that cannot be cut.
    """
    if len(corners) and not 0 <= int(corners.min()) <= int(corners.max()) < len(vertices):
        wrong = int(np.flatnonzero((corners < 0) | (corners >= len(vertices)))[0])
        face = int(np.searchsorted(np.cumsum(sizes), wrong, side="right"))
        raise ValueError(f"face {face + 1} names vertex {int(corners[wrong])} (from 0), and there are {len(vertices):,} vertices")
    at_most_triangles(int(np.maximum(sizes - 2, 0).sum()))
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64)
    found = []
    for size in np.unique(sizes[sizes >= 3]):
        begin = starts[sizes == size]
        polygons = corners[begin[:, None] + np.arange(size)]
        if size > 3 and len(hollow := np.flatnonzero(~_convex(vertices[polygons]))):
            found += [_cut(vertices, polygons[k]) for k in hollow]
            polygons = np.delete(polygons, hollow, axis=0)
        fans = [polygons[:, [0, k, k + 1]] for k in range(1, int(size) - 1)]
        found.append(np.stack(fans, axis=1).reshape(-1, 3))
    return np.concatenate(found) if found else np.zeros((0, 3), np.int64)


def _normals(points: np.ndarray) -> np.ndarray:
    """[F, 3], Newell's normal of polygons [F, K, 3] about their first corner."""
    around = points - points[:, :1]
    return np.cross(around, np.roll(around, -1, axis=1)).sum(axis=1)


def _convex(points: np.ndarray) -> np.ndarray:
    """[F] whether polygons [F, K, 3] turn the same way at every corner."""
    ahead = np.roll(points, -1, axis=1) - points
    turns = np.einsum("fki,fi->fk", np.cross(ahead, np.roll(ahead, -1, axis=1)), _normals(points))
    return (turns >= -1e-9 * np.abs(turns).max(axis=1, keepdims=True, initial=1e-300)).all(axis=1)


def _cut(vertices: np.ndarray, polygon: np.ndarray) -> np.ndarray:
    """Triangles [T, 3] of one polygon that is not convex."""
    from manifold3d import triangulate

    if len(polygon) > MOST_CORNERS:
        raise ValueError(f"a face that is not convex has {len(polygon):,} corners, more than the {MOST_CORNERS:,} that are cut")
    points = vertices[polygon]
    normal = _normals(points[None])[0]
    length = float(np.linalg.norm(normal))
    if not 0.0 < length < np.inf:
        return np.zeros((0, 3), np.int64)
    normal = normal / length
    across = np.cross(normal, np.eye(3)[np.abs(normal).argmin()])
    flat = (points - points.mean(axis=0)) @ np.column_stack([across, np.cross(normal, across)])
    try:
        found = triangulate([flat])
    except RuntimeError as error:
        raise ValueError(f"a face of {len(polygon)} corners cannot be cut into triangles ({str(error)[:80]})") from error
    return polygon[np.asarray(found, np.int64).reshape(-1, 3)]
