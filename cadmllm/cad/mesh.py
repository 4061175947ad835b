"""Triangle meshes of parts: welding, surface samples, the normalising transform, STL and GLB files. No kernel needed."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from cadmllm.cad.files import whole
from cadmllm.cad.frame import Transform
from cadmllm.cad.kernel import UNITS


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


def sample_surface(mesh: Mesh, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Points drawn uniformly by area from the surface, with the normals of their triangles.

    Uniform in a triangle by the square-root map (Osada et al., "Shape Distributions", 2002, eq. 1).

    Args:
        mesh: any mesh with area.
        count: how many points.
        seed: of the generator; the same mesh, count and seed give the same points.

    Returns:
        points [count, 3] float64, mm, and outward unit normals [count, 3] float64.
    """
    corners = mesh.vertices[mesh.faces]
    cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    doubled = np.linalg.norm(cross, axis=1)
    random = np.random.default_rng(seed)
    chosen = np.searchsorted(np.cumsum(doubled) / doubled.sum(), random.random(count), side="right")
    chosen = np.minimum(chosen, len(doubled) - 1)
    root, along = np.sqrt(random.random((count, 1))), random.random((count, 1))
    a, b, c = corners[chosen, 0], corners[chosen, 1], corners[chosen, 2]
    points = (1.0 - root) * a + root * (1.0 - along) * b + root * along * c
    return points, cross[chosen] / doubled[chosen, None]


def normalise(mesh: Mesh) -> Transform:
    """The transform into the cube [-1, 1] about the centre of the mesh's box."""
    low, high = mesh.box
    center = (low + high) / 2.0
    return Transform((float(center[0]), float(center[1]), float(center[2])), float(2.0 / (high - low).max()))


def stl_bytes(mesh: Mesh, unit: str = "mm") -> bytes:
    """A binary STL file with its numbers in `unit` (a key of `kernel.UNITS`); the format has no place to say which."""
    import trimesh

    content = trimesh.Trimesh(mesh.vertices / UNITS[unit], mesh.faces, process=False).export(file_type="stl")
    assert isinstance(content, bytes)
    return content


def glb_bytes(mesh: Mesh, name: str = "part") -> bytes:
    """A binary glTF 2.0 file: metres and +Y up, as the format demands, so that (x, y, z) mm becomes (x, z, -y) / 1000 m.

    Each B-rep face has vertices of its own: flat faces look flat and edges stay sharp in every viewer.
    """
    import trimesh
    from trimesh.visual import TextureVisuals
    from trimesh.visual.material import PBRMaterial

    count = len(mesh.vertices)
    keys, where = np.unique(mesh.face_ids[:, None].astype(np.int64) * count + mesh.faces, return_inverse=True)
    x, y, z = mesh.vertices[keys % count].T / 1000.0
    steel = PBRMaterial(name="steel", baseColorFactor=[176, 190, 205, 255], metallicFactor=0.1, roughnessFactor=0.6)
    look = TextureVisuals(material=steel)
    part = trimesh.Trimesh(np.column_stack([x, z, -y]), where.reshape(-1, 3), process=False, visual=look)
    scene = trimesh.Scene()
    scene.add_geometry(part, node_name=name, geom_name=name)
    return scene.export(file_type="glb", include_normals=True)


def write_stl(mesh: Mesh, path: str | Path, unit: str = "mm") -> None:
    """Write `stl_bytes`, whole or not at all. Raises `CadmllmError` E303."""
    with whole(path) as aside:
        aside.write_bytes(stl_bytes(mesh, unit))


def write_glb(mesh: Mesh, path: str | Path, name: str = "part") -> None:
    """Write `glb_bytes`, whole or not at all. Raises `CadmllmError` E303."""
    with whole(path) as aside:
        aside.write_bytes(glb_bytes(mesh, name))
