"""Distances between shapes."""

from __future__ import annotations

import numpy as np

from cadmllm.cad.mesh import Mesh


def _manifold(mesh: Mesh):
    import manifold3d

    parts = []
    for solid in np.unique(mesh.solid_ids):
        faces = mesh.faces[mesh.solid_ids == solid]
        used, where = np.unique(faces, return_inverse=True)
        raw = manifold3d.Mesh64(
            vert_properties=np.ascontiguousarray(mesh.vertices[used]),
            tri_verts=where.reshape(-1, 3).astype(np.uint64),
        )
        part = manifold3d.Manifold(raw)
        if part.status() != manifold3d.Error.NoError:
            return None
        parts.append(part)
    return (
        manifold3d.Manifold.batch_boolean(parts, manifold3d.OpType.Add)
        if len(parts) > 1
        else parts[0]
    )


def mesh_iou(a: Mesh, b: Mesh) -> float:
    """Volume of the intersection over volume of the union; NaN if either mesh is not a closed manifold."""
    one, two = _manifold(a), _manifold(b)
    if one is None or two is None:
        return float("nan")
    common = (one ^ two).volume()
    union = one.volume() + two.volume() - common
    return float(common / union) if union > 0.0 else float("nan")
