"""Scans and meshes that a person gives, to one cloud of surface points in millimetres."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cadmllm.cad.kernel import UNITS
from cadmllm.cad.mesh import Mesh
from cadmllm.corpus import meshes, pointfiles
from cadmllm.corpus.limits import LARGEST_FILE, MOST_POINTS
from cadmllm.corpus.outliers import find_outliers
from cadmllm.corpus.points import RawCloud, checked
from cadmllm.corpus.rawfile import read_raw
from cadmllm.errors import CadmllmError
from cadmllm.infer.given import advising, described, path_of, printable

MOST_CLEANED = 262_144  # points that outliers are looked for among: an encoder sees a few thousand
_TAKEN = f"give points ({' '.join(pointfiles.FORMATS)}) or a mesh ({' '.join(meshes.FORMATS)})"
_SOLIDS = (".step", ".stp", ".iges", ".igs", ".brep", ".sldprt", ".ipt", ".x_t", ".fcstd", ".f3d", ".catpart")
_SCANS = (".las", ".laz", ".e57", ".ptx", ".fls", ".rcp", ".zfs", ".drc")
REMEDIES = {
    "E404": _TAKEN,
    "E420": "name the file itself: folders, pipes and devices are not read",
    "E421": "export or download the file again",
    "E430": "give [N, 3] positions, or [N, 6] positions and normals, as numbers",
    "E431": "remove the points that are not finite: points = points[numpy.isfinite(points).all(axis=1)]",
    "E432": "give at least 16 points; a few thousand say most",
    "E433": "give points of the whole surface",
    "E437": "give fewer, e.g. every tenth (points[::10]): an encoder sees a few thousand",
}


@dataclass(frozen=True, slots=True)
class Scan:
    """One scan or mesh.

    Attributes:
        cloud: in millimetres, or as its stored transform leads there.
        record: for the answer's record.
        notes: what deserves to be said.
        mesh: its points are drawn from triangles, so none of them is an outlier.
    """

    cloud: RawCloud
    record: dict[str, Any]
    notes: tuple[str, ...]
    mesh: bool = False


def read_scan(value: object, number: int, units: str, seed: int) -> Scan:
    """One scan or mesh.

    Args:
        value: a path (str or Path), an array [N, 3] or [N, 6], a `cad.mesh.Mesh` (mm) or a `trimesh.Trimesh`.
        number: of it, from 1, for what has no name.
        units: of the numbers where a file does not say it itself, a key of `cad.kernel.UNITS`.
        seed: of the points that are drawn from a mesh.

    Raises:
        CadmllmError: E404, E420 to E422, E424, E430 to E433, E437, E438; E831 (a Windows path).
    """
    if units not in UNITS:
        raise CadmllmError("E705", f"the unit {str(units)[:20]!r} is unknown", f"name one of {' '.join(UNITS)}")
    name = f"point cloud {number}"
    if isinstance(value, (str, os.PathLike)):
        path = path_of(value, "E404")
        _refuse_formats(path)
    elif not isinstance(value, (np.ndarray, Mesh)):
        return _from_trimesh(value, name, units, seed)
    with advising(REMEDIES):
        if isinstance(value, (str, os.PathLike)):
            return _from_file(path, UNITS[units], seed)
        if isinstance(value, np.ndarray):
            return _from_array(value, name, UNITS[units])
        surface = meshes.surface_of(value.vertices, value.faces, name)
        return _from_mesh(surface, name, described("mesh", None, [value.vertices, value.faces]), seed)


def merged(scans: Sequence[Scan]) -> tuple[RawCloud, tuple[str, ...]]:
    """Scans of one part in one frame as one cloud, and what there is to say. One alone stays as it is.

    Where all were normalised by the same transform it is kept, else all are brought to millimetres.
    """
    if len(scans) == 1:
        return scans[0].cloud, ()
    clouds = [scan.cloud for scan in scans]
    same = all(cloud.transform == clouds[0].transform for cloud in clouds)
    together = sum(len(cloud.points) for cloud in clouds)
    if together > MOST_POINTS:
        message = f"{len(scans)} point clouds have {together:,} points together, more than the {MOST_POINTS:,} that are read"
        raise CadmllmError("E437", message, REMEDIES["E437"])
    points = np.concatenate([cloud.points if same else _millimetres(cloud) for cloud in clouds])
    notes = [f"{len(scans)} point clouds are taken for scans of one part in one frame: {len(points):,} points together"]
    without = sum(cloud.normals is None for cloud in clouds)
    normals = None if without else np.concatenate([cloud.normals for cloud in clouds if cloud.normals is not None])
    if 0 < without < len(clouds):
        notes.append(f"{without} of {len(clouds)} point clouds have no normals: those of all are estimated")
    return RawCloud(points, normals, clouds[0].transform if same else None), tuple(notes)


def cleaned(cloud: RawCloud, seed: int) -> tuple[RawCloud, tuple[str, ...]]:
    """The cloud without its outliers (`corpus/outliers`), and how many these were.

    Of more than `MOST_CLEANED` points a random part is taken, which is said.
    """
    notes: list[str] = []
    count = len(cloud.points)
    if count > MOST_CLEANED:
        cloud = _rows(cloud, np.sort(np.random.default_rng(seed).choice(count, MOST_CLEANED, replace=False)))
        notes.append(f"cleaning: {MOST_CLEANED:,} of {count:,} points are taken, at random")
        count = MOST_CLEANED
    found = find_outliers(cloud.points)
    if found.refused:
        return cloud, (*notes, f"cleaning: {found.refused}")
    left = int(found.keep.sum())
    said = f"cleaning: {count - left:,} of {count:,} points are left out"
    if left < count:
        said += f" ({found.strays:,} strays, {found.clustered:,} in small groups apart)"
    return _rows(cloud, np.flatnonzero(found.keep)) if left < count else cloud, (*notes, said)


def _millimetres(cloud: RawCloud) -> np.ndarray:
    return cloud.points if cloud.transform is None else cloud.transform.invert(cloud.points)


def _rows(cloud: RawCloud, rows: np.ndarray) -> RawCloud:
    return replace(cloud, points=cloud.points[rows], normals=None if cloud.normals is None else cloud.normals[rows])


def _refuse_formats(path: Path) -> None:
    """Raise E404 for what is neither points nor a mesh by its name."""
    suffix, name = path.suffix.lower(), printable(str(path))
    if suffix in _SOLIDS:
        message = f"{name} is a solid of a CAD program, and points or triangles are taken"
        raise CadmllmError("E404", message, "export it as .stl from the CAD program, and name that")
    if suffix in _SCANS:
        remedy = "save it as .ply, .pcd or .xyz (CloudCompare does), and name that"
        raise CadmllmError("E404", f"{name} is of a format of scanners ({suffix}), which is not read", remedy)
    if suffix not in (*pointfiles.FORMATS, *meshes.FORMATS):
        if os.path.exists(path) and not os.path.isfile(path):
            raise CadmllmError("E420", f"{name} is no regular file: it is not opened", REMEDIES["E420"])
        what = f"the ending {printable(suffix)} is unknown" if suffix else "a name without an ending says no format"
        raise CadmllmError("E404", f"{name}: {what}", _TAKEN)


def _from_file(path: Path, millimetres: float, seed: int) -> Scan:
    raw = read_raw(path, LARGEST_FILE, "E404", _TAKEN)
    if meshes.is_mesh(raw, path):
        surface = meshes.read_surface(raw, path)
        surface = surface if surface.millimetres is not None else _scaled(surface, millimetres)
        record = described("mesh", path, raw, **({"unit": surface.unit} if surface.unit else {}))
        return _from_mesh(surface, str(path), record, seed)
    table = pointfiles.table_of(raw, path)
    cloud = checked(table, path)
    notes = [f"{path}: {note}" for note in table.notes]
    if cloud.transform is None:
        cloud = replace(cloud, points=cloud.points * millimetres)
    elif millimetres != 1.0:
        notes.append(f"{path}: it holds its own transform from millimetres: the given unit is not applied")
    record = described("point cloud", path, raw, points=len(cloud.points))
    return Scan(cloud, record, _said(cloud, notes))


def _said(cloud: RawCloud, notes: Sequence[str]) -> tuple[str, ...]:
    # that a cloud is scaled (E435) is no news here: the transform back is kept
    remarks = [remark.message for remark in cloud.remarks if remark.code != "E435"]
    return tuple(printable(note) for note in (*notes, *remarks))


def _from_array(value: np.ndarray, name: str, millimetres: float) -> Scan:
    if len(value.shape) and value.shape[0] > MOST_POINTS:
        raise CadmllmError("E437", f"{name} has {value.shape[0]:,} points, more than the {MOST_POINTS:,} that are read", "")
    if reason := pointfiles.misshapen(value, None):
        raise CadmllmError("E430", f"{name}: {reason}", "")
    cloud = checked(pointfiles.split(pointfiles.Table(value, None, None)), name)
    record = described("point cloud", None, [value], points=len(cloud.points))
    return Scan(replace(cloud, points=cloud.points * millimetres), record, _said(cloud, ()))


def _from_mesh(surface: meshes.Surface, name: str, record: dict[str, Any], seed: int) -> Scan:
    cloud, notes = meshes.raw_cloud(surface, name, seed)
    record = {**record, "triangles": len(surface.mesh.faces), "points": len(cloud.points)}
    return Scan(cloud, record, tuple(printable(note) for note in (*surface.notes, *notes)), mesh=True)


def _from_trimesh(value: object, name: str, units: str, seed: int) -> Scan:
    import trimesh

    if not isinstance(value, trimesh.Trimesh):
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        remedy = "give a path, a numpy array [N, 3] or [N, 6], a cadmllm Mesh or a trimesh.Trimesh (a Scene: scene.to_mesh())"
        raise CadmllmError("E430", f"{name} is a {kind}", remedy)
    vertices, faces = np.asarray(value.vertices), np.asarray(value.faces)
    surface = meshes.surface_of(vertices, faces, name)
    scale = UNITS[units]
    if value.units is not None:
        scale *= trimesh.units.unit_conversion(value.units, "millimeters") / scale
        surface = replace(surface, notes=(*surface.notes, f"{name}: its unit is {value.units}, as it says itself"))
    return _from_mesh(_scaled(surface, scale), name, described("mesh", None, [vertices, faces]), seed)


def _scaled(surface: meshes.Surface, factor: float) -> meshes.Surface:
    return replace(surface, mesh=replace(surface.mesh, vertices=surface.mesh.vertices * factor))
