"""Triangle meshes of parts: welding, surface samples, the normalising transform, STL and GLB files. No kernel needed."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from cadmllm.cad.frame import Transform


@dataclass(slots=True)
class Mesh:
    """Closed triangle meshes of the solids of a part, outward oriented.

    Attributes:
        vertices: [V, 3] float64, mm; welded within a solid, never across solids.
        faces: [F, 3] int32, counter-clockwise seen from outside.
        face_ids: [F] int32, the B-rep face of each triangle, 0.. over the whole part.
        solid_ids: [F] int32, the solid of each triangle, 0.. in the order of the kernel's solids.
        edges: the B-rep edges as polylines [K, 3] float64, mm (seams of closed surfaces are left out).
    """

    vertices: np.ndarray
    faces: np.ndarray
    face_ids: np.ndarray
    solid_ids: np.ndarray
    edges: list[np.ndarray] = field(default_factory=list)

    @property
    def box(self) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest corner [3], mm."""
        return self.vertices.min(axis=0), self.vertices.max(axis=0)

    @property
    def closed(self) -> bool:
        """Whether each directed edge has its opposite, so that the triangles bound a volume."""
        a, b = self.faces, np.roll(self.faces, -1, axis=1)
        count = len(self.vertices)
        there = np.sort((a.astype(np.int64) * count + b).ravel())
        back = np.sort((b.astype(np.int64) * count + a).ravel())
        return len(there) > 0 and bool(np.array_equal(there, back))


def weld(vertices: np.ndarray, faces: np.ndarray, pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Make one vertex of those that `pairs` join.

    Args:
        vertices: [V, 3] float64.
        faces: [F, 3] integer.
        pairs: [P, 2] integer, vertex indices that are one point.

    Returns:
        vertices [V', 3] that are in use, faces [F', 3] int32 without those that collapsed, and the kept rows [F'] of `faces`.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    count = len(vertices)
    graph = coo_matrix((np.ones(len(pairs), np.int8), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    group = connected_components(graph, directed=False)[1]
    corners = group[faces]
    a, b, c = corners.T
    kept = np.flatnonzero((a != b) & (b != c) & (c != a))
    used, where = np.unique(corners[kept], return_inverse=True)
    first = np.full(count, count, np.int64)
    np.minimum.at(first, group, np.arange(count))
    return vertices[first[used]], where.reshape(-1, 3).astype(np.int32), kept


def normalise(mesh: Mesh) -> Transform:
    """The transform into the cube [-1, 1] about the centre of the mesh's box."""
    low, high = mesh.box
    center = (low + high) / 2.0
    return Transform((float(center[0]), float(center[1]), float(center[2])), float(2.0 / (high - low).max()))
