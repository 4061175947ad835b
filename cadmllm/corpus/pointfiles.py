"""What a point file holds, before anything is asked of the points: .npz .npy .ply .pcd and text to one table."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cadmllm.cad.frame import Transform
from cadmllm.corpus.arrays import Archive, array_of
from cadmllm.corpus.limits import LARGEST_FILE, TooMany
from cadmllm.corpus.pcd import read_pcd
from cadmllm.corpus.ply import read_header, read_vertices
from cadmllm.corpus.rawfile import AGAIN, ends_in_zeros, read_raw
from cadmllm.corpus.xyz import read_text
from cadmllm.errors import CadmllmError

TEXTS = (".xyz", ".txt", ".csv", ".asc", ".pts")
FORMATS = (".npz", ".npy", ".ply", ".pcd", *TEXTS)
REMEDY = (
    "it must hold [N, 3] or [N, 6] finite numbers (.npz, .npy, .ply); make it anew: cadmllm data prepare ROOT --out DIR --points"
)
_MISSING_SHARE = 0.01  # of a table's rows that are zeros at its end: that many have not arrived


@dataclass(frozen=True, slots=True)
class Table:
    """What a point file holds.

    Attributes:
        points: positions [N, 3], any number type.
        normals: [N, 3] as stored, any number type, or None.
        transform: that the file says it was normalised with, or None.
        notes: what was left out while it was read.
        faces: of a .ply that is a mesh, of which only the vertices were taken.
    """

    points: np.ndarray
    normals: np.ndarray | None
    transform: Transform | None
    notes: tuple[str, ...] = ()
    faces: int = 0


def read_table(path: Path) -> Table:
    """Read a point file, see `table_of`.

    Raises:
        CadmllmError: E404 (unreadable, another format), E420 to E422, E424 (`rawfile.read_raw`), E430, E437 (`table_of`).
    """
    return table_of(read_raw(path, LARGEST_FILE, "E404", REMEDY), path)


def table_of(raw: bytes, path: Path) -> Table:
    """What the bytes of a point file hold: key `points` of an .npz, else `xyz`, else its first array; columns 4 to 6 are normals.

    Args:
        raw: all of the file.
        path: its name, whose ending says the format.

    Raises:
        CadmllmError: E404 (unreadable, another format), E422 (cut short), E430 (wrong shape or type), E437 (more points than
            are read, or a header that claims them).
    """
    try:
        table = _read(path.suffix.lower(), raw)
    except EOFError as error:
        raise CadmllmError("E422", f"{path} is cut short: {error}", AGAIN) from error
    except TooMany as error:
        raise CadmllmError("E437", f"{path}: {error}", "give fewer, e.g. every tenth: an encoder sees a few thousand") from error
    except (ValueError, OverflowError, MemoryError) as error:
        if ends_in_zeros(raw):
            message = f"{path} ends in zeros: its download has not ended or has failed ({error})"
            raise CadmllmError("E422", message, AGAIN) from error
        raise CadmllmError("E404", f"{path}: {str(error)[:200]}", REMEDY) from error
    columns, normals = table.points, table.normals
    if reason := misshapen(columns, normals):
        raise CadmllmError("E430", f"{path}: {reason}", REMEDY)
    if ends_in_zeros(raw) and (missing := _rows_of_zeros(columns)):
        message = f"{path}: its last {missing:,} of {len(columns):,} points are zeros: its download has not ended or has failed"
        raise CadmllmError("E422", message, AGAIN)
    return split(table)


def split(table: Table) -> Table:
    """The same with [N, 3] points: columns 4 to 6 of [N, 6] are normals where there are no others."""
    columns, normals = table.points, table.normals
    return replace(table, points=columns[:, :3], normals=columns[:, 3:] if normals is None and columns.shape[1] == 6 else normals)


def _read(suffix: str, raw: bytes) -> Table:
    if suffix == ".npz":
        return _from_npz(raw)
    if suffix == ".npy":
        return Table(array_of(raw), None, None)
    if suffix == ".ply":
        return Table(columns_of(read_vertices(raw)), None, None, faces=read_header(raw).faces)
    if suffix == ".pcd":
        points, normals, notes = read_pcd(raw)
        return Table(points, normals, None, notes)
    if suffix in TEXTS:
        points, normals, notes = read_text(raw)
        return Table(points, normals, None, notes)
    raise ValueError(f"the format {suffix!r} is unknown")


def _from_npz(raw: bytes) -> Table:
    data = Archive(raw, LARGEST_FILE)
    if not data.names:
        raise ValueError("it holds no array")
    key = next((name for name in ("points", "xyz") if name in data.names), data.names[0])
    normals = data["normals"] if "normals" in data.names else None
    transform = None
    if "center" in data.names and "scale" in data.names:
        transform = _transform(data["center"], data["scale"])
    return Table(data[key], normals, transform)


def _transform(center: np.ndarray, scale: np.ndarray) -> Transform:
    good = center.size == 3 and scale.size == 1 and center.dtype.kind in "fiu" and scale.dtype.kind in "fiu"
    if good:
        x, y, z = (float(value) for value in center.ravel())
        size = float(scale.ravel()[0])
        if all(map(math.isfinite, (x, y, z))) and 0.0 < size < math.inf:
            return Transform((x, y, z), size)
    raise ValueError("center is not three numbers or scale is not one above zero")


def columns_of(found: dict[str, np.ndarray]) -> np.ndarray:
    """[N, 6] of x y z nx ny nz, or [N, 3] where the vertices of a .ply have no normals. Raises `ValueError` without x y z."""
    names = [name for name in ("x", "y", "z", "nx", "ny", "nz") if name in found]
    if names[:3] != ["x", "y", "z"]:
        raise ValueError("its vertices have no x, y and z")
    return np.column_stack([found[name] for name in (names if len(names) == 6 else names[:3])])


def misshapen(table: np.ndarray, normals: np.ndarray | None) -> str:
    """What is wrong with a table's shape or type, '' if nothing is."""
    if table.ndim != 2 or table.shape[1] not in (3, 6):
        return f"its array has the shape {list(table.shape)}, not [N, 3] or [N, 6]"
    if table.dtype.kind not in "fiu":
        return f"its array holds {table.dtype}, not numbers"
    if normals is not None and (normals.shape != (len(table), 3) or normals.dtype.kind not in "fiu"):
        return f"its normals are {normals.dtype} {list(normals.shape)}, its points {list(table.shape)}"
    return ""


def _rows_of_zeros(table: np.ndarray) -> int:
    """Rows of zeros at a table's end, if they are too many for a sample of a surface; else 0."""
    filled = np.flatnonzero(table.any(axis=1))
    missing = len(table) - (int(filled[-1]) + 1 if len(filled) else 0)
    return missing if len(filled) and missing > max(4, _MISSING_SHARE * len(table)) else 0
