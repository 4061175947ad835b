"""Point files of every kind in use to normalised clouds with normals and the way back to the file's coordinates.

`.npz`: key `points`, else `xyz`, else the first array; `normals` beside it if there; `center` and `scale` if the file was
normalised (ours are: points = (mm - center) * scale). `.npy`: one array. `.ply`: x y z, nx ny nz. Arrays are [N, 3] or
[N, 6] (position, normal). Nothing is ever unpickled.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cadmllm.cad.frame import Transform
from cadmllm.corpus import order
from cadmllm.corpus.normals import estimate_normals
from cadmllm.corpus.ply import read_vertices
from cadmllm.corpus.types import Cloud
from cadmllm.errors import CadmllmError

FEWEST = 16
LARGEST_FILE = 2**31  # bytes: 80 million points
LARGEST_NUMBER = 1e9  # beyond it float32 and squares lose their meaning
NEIGHBOURHOOD = 32_768  # points that normals are estimated from, at most
REMEDY = (
    "it must hold [N, 3] or [N, 6] finite numbers (.npz, .npy, .ply); make it anew: cadmllm data prepare ROOT --out DIR --points"
)

_CLOUD_STREAM = 77  # keeps the choice of points apart from every other use of the same seed


@dataclass(frozen=True, slots=True)
class RawCloud:
    """What a point file holds: positions [N, 3] float64, unit normals [N, 3] or None, the transform it was stored with."""

    points: np.ndarray
    normals: np.ndarray | None
    transform: Transform | None


def load_cloud(path: Path, count: int, seed: int) -> Cloud:
    """`count` points of a file in the normalised frame.

    More points than wanted: a random part of them. Fewer: all, and some of them again. A file without normals gets
    estimated ones (`normals.estimate_normals`). `Cloud.transform` leads from the coordinates that the cloud originally
    had (mm for ours, the file's own for files without a stored transform) to the normalised frame.

    Args:
        path: the file.
        count: points wanted.
        seed: of the choice, an integer >= 0.

    Raises:
        CadmllmError: E404, naming the file and what is wrong with it.
    """
    return draw_cloud(read_cloud(path), count, seed)


def draw_cloud(raw: RawCloud, count: int, seed: int) -> Cloud:
    """`count` points of a cloud that was read, see `load_cloud`."""
    step = _normalising(raw)
    everything = (raw.points - list(step.center)) * step.scale
    shuffled = np.argsort(order.stream(_CLOUD_STREAM, seed).random_raw(len(everything)), kind="stable")
    chosen = shuffled[:count]
    if len(chosen) < count:
        again = order.stream(_CLOUD_STREAM, seed, 1).random_raw(count - len(chosen)) % np.uint64(len(everything))
        chosen = np.concatenate([chosen, again.astype(np.int64)])
    points = everything[chosen]
    if raw.normals is None:
        normals = estimate_normals(points, everything[shuffled[: max(count, NEIGHBOURHOOD)]])
    else:
        normals = raw.normals[chosen]
    return Cloud(points.astype(np.float32), normals.astype(np.float32), _composed(raw.transform, step))


def read_cloud(path: Path) -> RawCloud:
    """What a point file holds, checked.

    Raises:
        CadmllmError: E404 when it is unreadable, of the wrong shape, not finite, without extent, or has under 16 points.
    """
    path = Path(path)
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise ValueError("it is larger than 2 GiB")
        if path.suffix == ".npz":
            table, normals, transform = _read_npz(path)
        elif path.suffix == ".npy":
            table, normals, transform = np.load(path, allow_pickle=False), None, None
        elif path.suffix == ".ply":
            table, normals, transform = _read_ply(path), None, None
        else:
            raise ValueError(f"the format {path.suffix!r} is unknown")
        points, normals = _checked(table, normals)
    except OSError as error:
        raise CadmllmError("E404", f"{path} cannot be read: {error.strerror or error}", REMEDY) from error
    except (ValueError, KeyError, EOFError, SyntaxError, MemoryError, OverflowError, zipfile.BadZipFile, zlib.error) as error:
        # numpy's and zipfile's readers raise all of these on broken files
        # numpy takes whatever it does not know for a pickle, and advises to load it unsafely
        pickled = "pickle" in str(error)
        said = "it is not an array of numbers in NumPy's format (pickled data is never loaded)" if pickled else str(error)[:200]
        raise CadmllmError("E404", f"{path}: {said}", REMEDY) from error
    return RawCloud(points, normals, transform)


def _read_npz(path: Path) -> tuple[np.ndarray, np.ndarray | None, Transform | None]:
    with np.load(path, allow_pickle=False) as data:
        if not isinstance(data, np.lib.npyio.NpzFile):
            raise ValueError("it is not an .npz archive")
        names = list(data.files)
        if not names:
            raise ValueError("it holds no array")
        key = next((name for name in ("points", "xyz") if name in names), names[0])
        normals = np.asarray(data["normals"]) if "normals" in names else None
        transform = None
        if "center" in names and "scale" in names:
            center, scale = np.asarray(data["center"], np.float64).ravel(), np.asarray(data["scale"], np.float64).ravel()
            if center.shape != (3,) or scale.shape != (1,) or not np.isfinite(center).all() or not 0.0 < scale[0] < math.inf:
                raise ValueError("center is not three numbers or scale is not one above zero")
            transform = Transform((float(center[0]), float(center[1]), float(center[2])), float(scale[0]))
        return np.asarray(data[key]), normals, transform


def _read_ply(path: Path) -> np.ndarray:
    found = read_vertices(path.read_bytes())
    columns = [found[name] for name in ("x", "y", "z")]
    if all(name in found for name in ("nx", "ny", "nz")):
        columns += [found[name] for name in ("nx", "ny", "nz")]
    return np.column_stack(columns)


def _checked(table: np.ndarray, normals: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None]:
    """Positions and unit normals as float64, or a ValueError."""
    if table.ndim != 2 or table.shape[1] not in (3, 6):
        raise ValueError(f"its array has the shape {list(table.shape)}, not [N, 3] or [N, 6]")
    if table.dtype.kind not in "fiu":
        raise ValueError(f"its array holds {table.dtype}, not numbers")
    if len(table) < FEWEST:
        raise ValueError(f"it has {len(table)} points, fewer than {FEWEST}")
    points = table[:, :3].astype(np.float64)
    if not np.isfinite(points).all() or np.abs(points).max() > LARGEST_NUMBER:
        raise ValueError(f"a coordinate is not finite or beyond {LARGEST_NUMBER:g}")
    if np.ptp(points, axis=0).max() <= 0.0:
        raise ValueError("all its points are the same")
    if normals is None and table.shape[1] == 6:
        normals = table[:, 3:]
    if normals is None:
        return points, None
    if normals.shape != points.shape or normals.dtype.kind not in "fiu":
        raise ValueError(f"its normals have the shape {list(normals.shape)}, its points {list(points.shape)}")
    normals = normals.astype(np.float64)
    lengths = np.linalg.norm(normals, axis=1)
    if not np.isfinite(lengths).all() or (lengths < 1e-6).mean() > 0.5:
        return points, None  # a file that stores zeros or NaN for normals has none
    lengths[lengths < 1e-6] = 1.0
    return points, normals / lengths[:, None]


def _normalising(raw: RawCloud) -> Transform:
    """What is still to be done to the file's points: box centre to the origin, longest side to 2.

    Points of our own files were normalised by the part's exact box, which a sample of its surface never quite fills: they
    stay as they are, so that cloud and program share one frame.
    """
    low, high = raw.points.min(axis=0), raw.points.max(axis=0)
    center, side = (low + high) / 2.0, float((high - low).max())
    if raw.transform is not None and 1.8 < side < 2.01 and np.abs(center).max() < 0.1:
        return Transform((0.0, 0.0, 0.0), 1.0)
    return Transform((float(center[0]), float(center[1]), float(center[2])), 2.0 / side)


def _composed(first: Transform | None, step: Transform) -> Transform:
    """`first`, then `step`, as one transform: ((x - c1) s1 - c2) s2 = (x - (c1 + c2 / s1)) s1 s2."""
    if first is None:
        return step
    moved = [a + b / first.scale for a, b in zip(first.center, step.center, strict=True)]
    return Transform((moved[0], moved[1], moved[2]), first.scale * step.scale)
