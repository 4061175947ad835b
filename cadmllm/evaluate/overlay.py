"""Truth and answer in one picture: grey what both have, red what is missing, blue what is too much; thin layers are faint."""

from __future__ import annotations

from typing import Any

import numpy as np

from cadmllm.cad.mesh import Mesh, normalise, sample_surface
from cadmllm.cad.render import render

COMMON, MISSING, SURPLUS = (206.0, 212.0, 220.0), (222.0, 74.0, 66.0), (64.0, 122.0, 206.0)
CREASE = np.cos(np.radians(25.0))  # a larger angle between triangles is an edge
SLIVER = 2e-4  # of the union: two triangulations of one curved face leave such shells
FAINT, FULL = 0.003, 0.025  # of the longest side: a layer so thin is as good as common; from here on it has its full colour
SAMPLES = 20_000  # points of a surface that a thickness is measured against
APART = 0.025  # of the longest side: what is farther is no neighbour, so that its plane says nothing


def creased(vertices: np.ndarray, faces: np.ndarray) -> Mesh:
    """Bare triangles as a mesh that can be drawn: faces end and edges run where neighbours meet at an angle.

    Args:
        vertices: [V, 3]; a corner that triangles share is one vertex.
        faces: [F, 3].
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    count = len(faces)
    corners = vertices[faces]
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-300)
    ends = np.sort(faces[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), axis=1)
    owner = np.repeat(np.arange(count), 3)
    order = np.lexsort((ends[:, 1], ends[:, 0]))
    ends, owner = ends[order], owner[order]
    first = np.flatnonzero((ends[:-1] == ends[1:]).all(axis=1))  # an edge and the same edge of a neighbour
    a, b = owner[first], owner[first + 1]
    sharp = np.einsum("ij,ij->i", normal[a], normal[b]) < CREASE
    smooth = coo_matrix((np.ones(int((~sharp).sum()), np.int8), (a[~sharp], b[~sharp])), shape=(count, count))
    groups = connected_components(smooth, directed=False)[1]
    edges = list(vertices[ends[first[sharp]]])
    return Mesh(vertices, faces.astype(np.int32), groups.astype(np.int32), np.zeros(count, np.int32), edges)


def drawable(mesh: Mesh) -> Mesh:
    """The mesh, with edges found where it brings none, as from a file of triangles."""
    return mesh if mesh.edges else creased(mesh.vertices, mesh.faces)


def draw_overlay(truth: Mesh, answer: Mesh, size: int, view: int = 0) -> np.ndarray | None:
    """Both solids in the frame in which IoU is measured (centred, longest side 1), [size, size, 3] uint8 RGB.

    Returns:
        None where a mesh bounds no volume, so that there is nothing to take away from the other.
    """
    one, two = _solid(truth), _solid(answer)
    if one is None or two is None:
        return None
    parts = [(one ^ two, COMMON), (one - two, MISSING), (two - one, SURPLUS)]
    union = sum(part.volume() for part, _ in parts)
    meshes, tints = [], []
    for part, tint in parts:
        for piece in part.decompose() if tint is not COMMON else [part]:
            if piece.volume() > (SLIVER * union if tint is not COMMON else 0.0):
                meshes.append(_mesh(piece))
                share = np.ones((len(meshes[-1].faces), 1))
                if tint is not COMMON:
                    thick = _thickness(meshes[-1], piece, two if tint is MISSING else one)
                    share = np.clip((thick - FAINT) / (FULL - FAINT), 0.0, 1.0)[:, None]
                tints.append(np.array(COMMON) * (1.0 - share) + np.array(tint) * share)
    if not meshes:
        return None
    return render(_together(meshes), view, size, tints=np.concatenate(tints))


def _solid(mesh: Mesh) -> Any | None:
    """The union of the mesh's solids, normalised; None if one of them is not closed."""
    import manifold3d

    points = normalise(mesh).apply(mesh.vertices) / 2.0
    parts = []
    for solid in np.unique(mesh.solid_ids):
        used, where = np.unique(mesh.faces[mesh.solid_ids == solid], return_inverse=True)
        corners = np.ascontiguousarray(where.reshape(-1, 3), np.uint64)
        part = manifold3d.Manifold(manifold3d.Mesh64(np.ascontiguousarray(points[used]), corners))
        if part.status() != manifold3d.Error.NoError:
            return None
        parts.append(part)
    return manifold3d.Manifold.batch_boolean(parts, manifold3d.OpType.Add)


def _mesh(solid: Any) -> Mesh:
    found = solid.to_mesh64()
    return creased(np.asarray(found.vert_properties)[:, :3], np.asarray(found.tri_verts).astype(np.int64))


def _thickness(mesh: Mesh, piece: Any, other: Any) -> np.ndarray:
    """How thick a difference is at each of its triangles [F]: the piece's mean thickness, or how far the other's surface is.

    The mean thickness 2 V / A shows a plug in a hole, the distance a boss that hangs on a thin skin.
    """
    from scipy.spatial import KDTree

    surface, normals = sample_surface(_mesh(other), SAMPLES, 0)
    corners = mesh.vertices[mesh.faces]
    asked = np.concatenate([corners, corners.mean(axis=1, keepdims=True)], axis=1).reshape(-1, 3)
    far, at = KDTree(surface).query(asked)
    # points of a surface are as far apart as thin layers are thick: of near ones the plane through them counts
    plane = np.abs(np.einsum("ij,ij->i", asked - surface[at], normals[at]))
    away = np.where(far < APART, plane, far).reshape(-1, 4).max(axis=1)
    return np.maximum(away, 2.0 * piece.volume() / piece.surface_area())


def _together(meshes: list[Mesh]) -> Mesh:
    """Several meshes as one: a face of one is no face of another."""
    bases = np.cumsum([0, *(len(mesh.vertices) for mesh in meshes)]).tolist()
    groups = np.cumsum([0, *(int(mesh.face_ids.max()) + 1 for mesh in meshes)]).tolist()
    return Mesh(
        np.concatenate([mesh.vertices for mesh in meshes]),
        np.concatenate([mesh.faces + base for mesh, base in zip(meshes, bases, strict=False)]).astype(np.int32),
        np.concatenate([mesh.face_ids + base for mesh, base in zip(meshes, groups, strict=False)]).astype(np.int32),
        np.concatenate([mesh.solid_ids for mesh in meshes]),
        [edge for mesh in meshes for edge in mesh.edges],
    )
