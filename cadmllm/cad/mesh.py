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
        solid_ids: [F] int32, the solid of each triangle, 0..
        edges: the B-rep edges as polylines [K, 3] float64, mm (no seams).
    """

    vertices: np.ndarray
    faces: np.ndarray
    face_ids: np.ndarray
    solid_ids: np.ndarray
    edges: list[np.ndarray] = field(default_factory=list)

    @classmethod
    def welded(cls, vertices, faces, face_ids, solid_ids, edges) -> Mesh:
        """A mesh whose coincident vertices of one solid are one; triangles that collapse are dropped."""
        owner = np.zeros(len(vertices), np.int64)
        owner[faces] = solid_ids[:, None]
        size = np.ptp(vertices, axis=0).max()
        keys = np.column_stack([np.round(vertices / (1e-9 * size)), owner])
        _, first, where = np.unique(
            keys, axis=0, return_index=True, return_inverse=True
        )
        corners = where.reshape(-1)[faces]
        a, b, c = corners.T
        kept = (a != b) & (b != c) & (c != a)
        return cls(
            vertices[first],
            corners[kept].astype(np.int32),
            face_ids[kept].astype(np.int32),
            solid_ids[kept].astype(np.int32),
            edges,
        )

    @property
    def box(self) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest corner, mm."""
        return self.vertices.min(axis=0), self.vertices.max(axis=0)


def normalise(mesh: Mesh) -> Transform:
    """The transform into the cube [-1, 1] about the centre of the mesh's box."""
    low, high = mesh.box
    center = (low + high) / 2.0
    return Transform(
        (float(center[0]), float(center[1]), float(center[2])),
        float(2.0 / (high - low).max()),
    )
