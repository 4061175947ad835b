"""What a point file holds, before anything is asked of the points: .npz, .npy and .ply to one table."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cadmllm.cad.frame import Transform
from cadmllm.corpus.arrays import Archive, array_of
from cadmllm.corpus.ply import read_vertices
from cadmllm.corpus.rawfile import AGAIN, ends_in_zeros, read_raw
from cadmllm.errors import CadmllmError

LARGEST_FILE = 2**30  # bytes: 40 million points
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
    """

    points: np.ndarray
    normals: np.ndarray | None
    transform: Transform | None


def read_table(path: Path) -> Table:
    """Read a point file: key `points` of an .npz, else `xyz`, else its first array; columns 4 to 6 are normals.

    Raises:
        CadmllmError: E404 (unreadable, another format), E420 to E422, E424 (`rawfile.read_raw`), E430 (wrong shape or type).
    """
    raw = read_raw(path, LARGEST_FILE, "E404", REMEDY)
    try:
        table, normals, transform = _read(path.suffix, raw)
    except EOFError as error:
        raise CadmllmError("E422", f"{path} is cut short: {error}", AGAIN) from error
    except (ValueError, OverflowError, MemoryError) as error:
        if ends_in_zeros(raw):
            message = f"{path} ends in zeros: its download has not ended or has failed ({error})"
            raise CadmllmError("E422", message, AGAIN) from error
        raise CadmllmError("E404", f"{path}: {str(error)[:200]}", REMEDY) from error
    if reason := _misshapen(table, normals):
        raise CadmllmError("E430", f"{path}: {reason}", REMEDY)
    if ends_in_zeros(raw) and (missing := _rows_of_zeros(table)):
        message = f"{path}: its last {missing:,} of {len(table):,} points are zeros: its download has not ended or has failed"
        raise CadmllmError("E422", message, AGAIN)
    if normals is None and table.shape[1] == 6:
        normals = table[:, 3:]
    return Table(table[:, :3], normals, transform)


def _read(suffix: str, raw: bytes) -> tuple[np.ndarray, np.ndarray | None, Transform | None]:
    if suffix == ".npz":
        return _from_npz(raw)
    if suffix == ".npy":
        return array_of(raw), None, None
    if suffix == ".ply":
        return _from_ply(raw), None, None
    raise ValueError(f"the format {suffix!r} is unknown")


def _from_npz(raw: bytes) -> tuple[np.ndarray, np.ndarray | None, Transform | None]:
    data = Archive(raw, LARGEST_FILE)
    if not data.names:
        raise ValueError("it holds no array")
    key = next((name for name in ("points", "xyz") if name in data.names), data.names[0])
    normals = data["normals"] if "normals" in data.names else None
    transform = None
    if "center" in data.names and "scale" in data.names:
        transform = _transform(data["center"], data["scale"])
    return data[key], normals, transform


def _transform(center: np.ndarray, scale: np.ndarray) -> Transform:
    good = center.size == 3 and scale.size == 1 and center.dtype.kind in "fiu" and scale.dtype.kind in "fiu"
    if good:
        x, y, z = (float(value) for value in center.ravel())
        size = float(scale.ravel()[0])
        if all(map(math.isfinite, (x, y, z))) and 0.0 < size < math.inf:
            return Transform((x, y, z), size)
    raise ValueError("center is not three numbers or scale is not one above zero")


def _from_ply(raw: bytes) -> np.ndarray:
    found = read_vertices(raw)
    names = [name for name in ("x", "y", "z", "nx", "ny", "nz") if name in found]
    if names[:3] != ["x", "y", "z"]:
        raise ValueError("its vertices have no x, y and z")
    return np.column_stack([found[name] for name in (names if len(names) == 6 else names[:3])])


def _misshapen(table: np.ndarray, normals: np.ndarray | None) -> str:
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
