"""Mesh files to triangles, and triangles to surface points with the normals of the triangles that they lie on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cadmllm.cad.mesh import Mesh, normalise, sample_surface
from cadmllm.corpus import ply
from cadmllm.corpus.gltf import read_gltf
from cadmllm.corpus.limits import TooMany, at_most_triangles
from cadmllm.corpus.meshfiles import read_obj, read_off, read_ply, read_stl
from cadmllm.corpus.normals import estimate_normals
from cadmllm.corpus.points import LARGEST_NUMBER, NEIGHBOURHOOD, THIN, RawCloud
from cadmllm.corpus.rawfile import AGAIN
from cadmllm.corpus.threemf import read_3mf
from cadmllm.errors import CadmllmError

FORMATS = (".stl", ".obj", ".off", ".glb", ".gltf", ".3mf")  # and .ply, where it has faces
SURFACE = 65_536  # points that are drawn from a surface
REMEDY = "export the mesh again from the program that made it, as binary .stl; or give points of its surface (.npz, .ply, .xyz)"
_ODD = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0xD6E8FEB86659FD93], dtype=np.uint64)
_DISAGREE = 0.005  # share of edges whose two triangles face opposite ways, from which on orientations are not trusted


@dataclass(frozen=True, slots=True)
class Surface:
    """The triangles of a file, all of its parts together.

    Attributes:
        mesh: finite, with area; millimetres once `millimetres` are a unit.
        millimetres: of the file's unit, where its format says it (glTF, 3MF); None where it is for the user to say.
        unit: what the file says, for the record.
        notes: what was assumed or left out.
        disagreement: share of directed edges that several triangles run along the same way, which those that agree on what
            is outside never do.
    """

    mesh: Mesh
    millimetres: float | None = None
    unit: str | None = None
    notes: tuple[str, ...] = ()
    disagreement: float = 0.0


def is_mesh(raw: bytes, path: Path) -> bool:
    """Whether a file is read as a mesh: by its name, a .ply by its faces."""
    suffix = path.suffix.lower()
    if suffix != ".ply":
        return suffix in FORMATS
    try:
        return ply.read_header(raw).faces > 0
    except (ValueError, EOFError):
        return False  # the reader of points says what is wrong with it


def read_surface(raw: bytes, path: Path) -> Surface:
    """The triangles in the bytes of a mesh file. Nothing outside it is opened: no materials, pictures or buffers elsewhere.

    Args:
        raw: all of the file.
        path: its name, whose ending says the format.

    Returns:
        glTF and 3MF in millimetres (and glTF with +Z up); others in the file's numbers.

    Raises:
        CadmllmError: E404 (unreadable), E422 (cut short), E438 (no area, not finite, too many triangles, a face that names a
            vertex that is not there, or anything else that makes it unusable).
    """
    suffix = path.suffix.lower()
    try:
        if suffix == ".3mf":
            vertices, faces, scale, unit = read_3mf(raw)
            said = (scale, unit, (f"{path}: its unit is the {unit}, as the file says",))
        elif suffix in (".glb", ".gltf"):
            vertices, faces = read_gltf(raw)
            said = (1000.0, "meter", (f"{path} is in metres and +Y up, as glTF demands: read as millimetres, +Z up",))
        else:
            reader = {".stl": read_stl, ".obj": read_obj, ".off": read_off, ".ply": read_ply}[suffix]
            vertices, faces = reader(raw)
            said = (None, None, ())
    except EOFError as error:
        raise CadmllmError("E422", f"{path} is cut short: {error}", AGAIN) from error
    except TooMany as error:
        raise CadmllmError("E438", f"{path}: {error}", "export it more coarsely: a few thousand triangles say all") from error
    except (ValueError, OverflowError, MemoryError) as error:
        raise CadmllmError("E438", f"{path}: {str(error)[:200]}", REMEDY) from error
    found = surface_of(vertices, faces, str(path))
    return replace(found, millimetres=said[0], unit=said[1], notes=(*said[2], *found.notes))


def surface_of(vertices: np.ndarray, faces: np.ndarray, name: str) -> Surface:
    """A surface from arrays, checked and, where it can be told, facing outwards.

    Args:
        vertices: [V, 3] numbers.
        faces: [F, 3] whole numbers.
        name: what to call it in a message.

    Returns:
        The triangles as they were, or all of them turned round, which is said.

    Raises:
        CadmllmError: E438.
    """
    vertices, faces = np.asarray(vertices), np.asarray(faces)

    def refuse(why: str) -> CadmllmError:
        return CadmllmError("E438", f"{name}: {why}", REMEDY)

    if vertices.ndim != 2 or vertices.shape[1] != 3 or vertices.dtype.kind not in "fiu":
        raise refuse(f"its vertices are {vertices.dtype} {list(vertices.shape)}, not [V, 3] numbers")
    if not faces.size:
        raise refuse("it has no faces")
    if faces.ndim != 2 or faces.shape[1] != 3 or faces.dtype.kind not in "iu":
        raise refuse(f"its faces are {faces.dtype} {list(faces.shape)}, not [F, 3] whole numbers")
    try:
        at_most_triangles(len(faces))
    except TooMany as error:
        raise refuse(str(error)) from error
    if int(faces.min()) < 0 or int(faces.max()) >= len(vertices):
        wrong = int(np.flatnonzero(((faces < 0) | (faces >= len(vertices))).any(axis=1))[0])
        raise refuse(f"triangle {wrong + 1} names the vertices {faces[wrong].tolist()}, and there are {len(vertices):,}")
    vertices = vertices.astype(np.float64)
    wild = np.flatnonzero(~(np.abs(vertices) <= LARGEST_NUMBER).all(axis=1))
    if len(wild) and np.isin(faces, wild).any():
        raise refuse(f"{len(wild):,} of {len(vertices):,} vertices are not finite or beyond {LARGEST_NUMBER:g}")
    used = np.zeros(len(vertices), bool)
    used[faces.ravel()] = True
    if not used.all():
        vertices, faces = vertices[used], (np.cumsum(used) - 1)[faces]
    faces = faces.astype(np.int32)
    side = float(np.ptp(vertices, axis=0).max())
    if not _area(vertices, faces) > THIN * THIN * side * side or side <= 1e-12 * float(np.abs(vertices).max()):
        raise refuse(f"its {len(faces):,} triangles have no area")
    zeros = np.zeros(len(faces), np.int32)
    mesh = Mesh(vertices, faces, zeros, zeros)
    return _outwards(mesh, name)


def raw_cloud(surface: Surface, name: str, seed: int, count: int = SURFACE) -> tuple[RawCloud, tuple[str, ...]]:
    """Points of a surface, uniform by area, with the true normals of their triangles.

    Args:
        surface: as `surface_of` gives it.
        name: what to call it in a message.
        seed: of the draw.
        count: points.

    Returns:
        The cloud in the frame of the mesh's own box, exactly, with the transform there; and what there is to say. Where
        neighbouring triangles of the file face opposite ways, each normal is turned to the side from which it can be seen.
    """
    points, normals = sample_surface(surface.mesh, count, seed)
    frame = normalise(surface.mesh)
    points = frame.apply(points)
    if surface.disagreement <= _DISAGREE:
        return RawCloud(points, normals, frame), ()
    seen = estimate_normals(points, points[:NEIGHBOURHOOD])
    normals = normals * np.where(np.einsum("ni,ni->n", normals, seen) < 0.0, -1.0, 1.0)[:, None]
    said = f"at {surface.disagreement:.1%} of its edges triangles face opposite ways: normals are turned to the visible side"
    return RawCloud(points, normals, frame), (f"{name}: {said}",)


def _area(vertices: np.ndarray, faces: np.ndarray) -> float:
    corners = vertices[faces]
    return float(np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1).sum() / 2.0)


def _outwards(mesh: Mesh, name: str) -> Surface:
    """The mesh, turned inside out where it is closed and encloses a negative volume."""
    closed, disagreement = _edges(mesh)
    if closed:
        corners = (mesh.vertices - mesh.vertices.mean(axis=0))[mesh.faces]
        volume = np.einsum("fi,fi->f", corners[:, 0], np.cross(corners[:, 1], corners[:, 2])).sum() / 6.0
        if volume < 0.0:
            turned = replace(mesh, faces=np.ascontiguousarray(mesh.faces[:, ::-1]))
            return Surface(turned, notes=(f"{name}: its triangles face inwards: they are turned round",))
    return Surface(mesh, disagreement=disagreement)


def _edges(mesh: Mesh) -> tuple[bool, float]:
    """Whether each directed edge has its opposite; share of those that several triangles run along the same way."""
    faces = _joined(mesh).astype(np.int64)
    faces = faces[(faces != np.roll(faces, 1, axis=1)).all(axis=1)]
    if not len(faces):
        return False, 0.0
    count = len(mesh.vertices)
    ahead = np.roll(faces, -1, axis=1)
    there, back = (faces * count + ahead).ravel(), (ahead * count + faces).ravel()
    there.sort()
    back.sort()
    return bool(np.array_equal(there, back)), float((there[1:] == there[:-1]).mean())


def _joined(mesh: Mesh) -> np.ndarray:
    """The faces [F, 3] with one number for all vertices in the same place (as 32-bit floats, in which STL keeps them)."""
    places = np.ascontiguousarray(mesh.vertices.astype(np.float32) + np.float32(0.0))  # -0 becomes 0
    # one number for three: rows themselves are sorted ten times as slowly, and of 10^7 two meet by chance once in 10^5 meshes
    mixed = (places.view(np.uint32).astype(np.uint64) * _ODD).sum(axis=1, dtype=np.uint64)
    _, number = np.unique(mixed, return_inverse=True)
    return number[mesh.faces]
