"""Meshes of known volume and position, without the kernel."""

from __future__ import annotations

import numpy as np

from cadmllm.cad.mesh import Mesh


def mesh_of(vertices: np.ndarray, faces: np.ndarray) -> Mesh:
    none = np.zeros(len(faces), np.int32)
    return Mesh(np.asarray(vertices, np.float64), np.asarray(faces, np.int32), none, none.copy())


def box(size=(1.0, 1.0, 1.0), at=(0.0, 0.0, 0.0)) -> Mesh:
    """A box with its lowest corner at `at`."""
    import trimesh

    made = trimesh.creation.box(size)
    return mesh_of(np.asarray(made.vertices) + np.asarray(size) / 2.0 + at, made.faces)


def ball(radius: float, at=(0.0, 0.0, 0.0), subdivisions: int = 4) -> Mesh:
    import trimesh

    made = trimesh.creation.icosphere(subdivisions=subdivisions, radius=radius)
    return mesh_of(np.asarray(made.vertices) + at, made.faces)


def joined(*meshes: Mesh) -> Mesh:
    """Several shells in one soup, as an STL file has them."""
    bases = np.cumsum([0, *(len(mesh.vertices) for mesh in meshes)])
    faces = [mesh.faces + base for mesh, base in zip(meshes, bases, strict=False)]
    return mesh_of(np.concatenate([mesh.vertices for mesh in meshes]), np.concatenate(faces))


def flipped(mesh: Mesh) -> Mesh:
    return mesh_of(mesh.vertices, mesh.faces[:, ::-1])


def moved(mesh: Mesh, by=(0.0, 0.0, 0.0), scale: float = 1.0) -> Mesh:
    return mesh_of(mesh.vertices * scale + np.asarray(by), mesh.faces)


def without(mesh: Mesh, *faces: int) -> Mesh:
    return mesh_of(mesh.vertices, np.delete(mesh.faces, faces, axis=0))
