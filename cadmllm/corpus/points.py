"""Point files of every kind in use to normalised clouds with normals and the way back to the file's coordinates.

`.npz`: key `points`, else `xyz`, else the first array; `normals` beside it if there; `center` and `scale` if the file was
normalised (ours are: points = (mm - center) * scale). `.npy`: one array. `.ply`: x y z, nx ny nz. `.pcd` and text: `corpus/pcd`,
`corpus/xyz`. Arrays are [N, 3] or [N, 6] (position, normal). Nothing is ever unpickled.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from cadmllm.cad.frame import Transform
from cadmllm.corpus import order
from cadmllm.corpus.facts import Flaw, Level
from cadmllm.corpus.farthest import farthest_points
from cadmllm.corpus.normals import estimate_normals
from cadmllm.corpus.pointfiles import REMEDY, Table, read_table
from cadmllm.corpus.types import Cloud
from cadmllm.errors import CadmllmError

FEWEST = 16
LARGEST_NUMBER = 1e9  # beyond it float32 and squares lose their meaning
NEIGHBOURHOOD = 32_768  # points that normals are estimated from, at most
THIN = 1e-4  # of the longest side: the coordinate grid of programs is about as fine, so no solid is thinner
SPARE = 0.1  # share of points that may be left out for want of a normal before all normals are estimated

VERSION = 1  # of `draw_cloud`; raise it when it gives other points, since cached features are then of another input
CANDIDATES = 4  # times the points wanted: among so many, drawn at random, those far from each other are looked for
_CLOUD_STREAM = 77  # keeps the choice of points apart from every other use of the same seed

Sampling = Literal["uniform", "farthest"]


@dataclass(frozen=True, slots=True)
class RawCloud:
    """What a point file holds, fit for use.

    Attributes:
        points: positions [N, 3] float64, N >= 16.
        normals: unit normals [N, 3] float64, or None where the file has none that can be used.
        transform: that the file was stored with, or None.
        remarks: what is worth knowing about it though it is used (E434 to E436, E438).
    """

    points: np.ndarray
    normals: np.ndarray | None
    transform: Transform | None
    remarks: tuple[Flaw, ...] = ()


def load_cloud(path: Path, count: int, seed: int, sampling: Sampling = "uniform") -> Cloud:
    """`count` points of a file in the normalised frame.

    More points than wanted: a random part of them, or those of it that lie far from each other (`corpus/farthest`). Fewer: all,
    and some of them again. A file without normals gets
    estimated ones (`normals.estimate_normals`). `Cloud.transform` leads from the coordinates that the cloud originally
    had (mm for ours, the file's own for files without a stored transform) to the normalised frame.

    Args:
        path: the file.
        count: points wanted.
        seed: of the choice, an integer >= 0; of 'farthest' it chooses the candidates and the first point.
        sampling: 'uniform' or 'farthest', the setting `model.point_sampling`.

    Raises:
        CadmllmError: as `read_cloud`.
    """
    return draw_cloud(read_cloud(path), count, seed, sampling)


def draw_cloud(raw: RawCloud, count: int, seed: int, sampling: Sampling = "uniform") -> Cloud:
    """`count` points of a cloud that was read, see `load_cloud`."""
    step = _normalising(raw.points, raw.transform)
    everything = (raw.points - list(step.center)) * step.scale
    shuffled = np.argsort(order.stream(_CLOUD_STREAM, seed).random_raw(len(everything)), kind="stable")
    chosen = shuffled[: CANDIDATES * count] if sampling == "farthest" else shuffled[:count]
    chosen = chosen[first_of(everything[chosen], count, sampling)]
    if len(chosen) < count:
        again = order.stream(_CLOUD_STREAM, seed, 1).random_raw(count - len(chosen)) % np.uint64(len(everything))
        chosen = np.concatenate([chosen, again.astype(np.int64)])
    points = everything[chosen]
    if raw.normals is None:
        normals = estimate_normals(points, everything[shuffled[: max(count, NEIGHBOURHOOD)]])
    else:
        normals = raw.normals[chosen]
    return Cloud(points.astype(np.float32), normals.astype(np.float32), _composed(raw.transform, step))


def first_of(shuffled: np.ndarray, count: int, sampling: Sampling) -> np.ndarray:
    """Rows of at most `count` of points [N, 3] in random order: the first ones, or of the first `CANDIDATES` times as many the
    first and those farthest from each other."""
    if sampling == "uniform" or len(shuffled) <= count:
        return np.arange(min(count, len(shuffled)))
    return farthest_points(shuffled[: CANDIDATES * count], count)


def read_cloud(path: Path) -> RawCloud:
    """What a point file holds, checked.

    Raises:
        CadmllmError: naming the file and what is wrong with it: E404 (unreadable or of another format), E420 (no regular
            file), E421 (empty), E422 (cut short), E424 (a placeholder), E437 (too many points); as `checked`.
    """
    path = Path(path)
    return checked(read_table(path), path)


def checked(table: Table, path: Path | str) -> RawCloud:
    """What a table holds, fit for use.

    Args:
        table: of positions, and normals if there are any.
        path: the file it is from, or what to call it in a message.

    Raises:
        CadmllmError: E431 (not finite), E432 (under 16 points), E433 (all the same, or on one line).
    """
    # a column a coordinate: what is asked of 100,000 points along them takes a fifth of the time
    points = np.asfortranarray(table.points, dtype=np.float64)

    def refuse(code: str, why: str) -> CadmllmError:
        return CadmllmError(code, f"{path}: {why}", REMEDY)

    if len(points) < FEWEST:
        raise refuse("E432", f"it has {len(points)} points, fewer than {FEWEST}")
    far = max(float(points.max()), -float(points.min()))
    if not far <= LARGEST_NUMBER:  # NaN is not
        wild = int((~(np.abs(points) <= LARGEST_NUMBER)).any(axis=1).sum())
        raise refuse("E431", f"{wild:,} of {len(points):,} points are not finite or beyond {LARGEST_NUMBER:g}")
    thick, wide, long = _spread(points)
    if long <= 1e-12 * far:
        raise refuse("E433", "all its points are the same")
    if wide < THIN * long:
        raise refuse("E433", "all its points lie on one line")
    remarks = _frame_remarks(points, table.transform, path)
    if thick < THIN * long:
        flat = "all its points lie in one plane, as those of no solid do: it was sampled from a drawing or has lost a coordinate"
        remarks.append(_remark("E434", "warn", path, flat))
    if table.faces:
        vertices = f"it is a mesh of {table.faces:,} faces: its vertices alone are taken, not points of its surface"
        remarks.append(_remark("E438", "warn", path, vertices))
    keep, normals, remark = _unit_normals(table, path)
    remarks += [remark] if remark else []
    return RawCloud(points if keep is None else points[keep], normals, table.transform, tuple(remarks))


def _remark(code: str, level: Level, path: Path | str, what: str) -> Flaw:
    return Flaw(code, level, str(path), f"{path}: {what}")


def _spread(points: np.ndarray) -> tuple[float, float, float]:
    """How far points reach along their three principal axes, least first."""
    around = (points - points.mean(axis=0)).T
    _, axes = np.linalg.eigh(around @ around.T)
    reach = np.sort(np.ptp(axes.T @ around, axis=1))
    return float(reach[0]), float(reach[1]), float(reach[2])


def _frame_remarks(points: np.ndarray, transform: Transform | None, path: Path | str) -> list[Flaw]:
    step = _normalising(points, transform)
    if max(map(abs, step.center)) <= 0.05 and 0.99 <= step.scale <= 1.06:
        return []
    does = "it is centred and scaled to [-1, 1] when it is read"
    if transform is not None:
        return [_remark("E435", "warn", path, f"it says how it was normalised, but its points are not within [-1, 1]: {does}")]
    return [_remark("E435", "info", path, f"its longest side is {2.0 / step.scale:.6g}, not 2: {does}")]


def _unit_normals(table: Table, path: Path | str) -> tuple[np.ndarray | None, np.ndarray | None, Flaw | None]:
    """(rows that are kept or None for all, their unit normals or None if they must be estimated, what is to be said)."""
    if table.normals is None:
        return None, None, _remark("E436", "info", path, "it has no normals: they are estimated when it is read")
    normals = table.normals.astype(np.float64)
    lengths = np.sqrt(np.einsum("ni,ni->n", normals, normals))
    usable = (lengths > 1e-6) & (lengths < np.inf)  # NaN is neither
    typical = float(np.median(lengths[usable])) if usable.any() else 1.0
    alike = usable & (np.abs(lengths - typical) < 0.05 * typical)
    if alike.mean() < 1.0 - SPARE or alike.sum() < FEWEST:
        what = "colours or something else" if usable.mean() > 0.5 else "zeros or not finite"
        return None, None, _remark("E436", "warn", path, f"its normals are {what}, not unit vectors: estimated ones are used")
    missing = int((~alike).sum())
    unit = normals[alike] / lengths[alike, None]
    if missing:
        said = _remark(
            "E436", "warn", path, f"{missing:,} of {len(lengths):,} normals are no unit vectors: these points are left out"
        )
    else:
        odd = abs(typical - 1.0) > 0.01
        said = _remark("E436", "info", path, f"its normals have the length {typical:.3g}: they are brought to 1") if odd else None
    return (alike if missing else None), unit, said


def _normalising(points: np.ndarray, transform: Transform | None) -> Transform:
    """What is still to be done to the file's points: box centre to the origin, longest side to 2.

    Points of our own files were normalised by the part's exact box, which a sample of its surface never quite fills: they
    stay as they are, so that cloud and program share one frame.
    """
    low, high = points.min(axis=0), points.max(axis=0)
    center, side = (low + high) / 2.0, float((high - low).max())
    if transform is not None and 1.8 < side < 2.01 and np.abs(center).max() < 0.1:
        return Transform((0.0, 0.0, 0.0), 1.0)
    return Transform((float(center[0]), float(center[1]), float(center[2])), 2.0 / side)


def _composed(first: Transform | None, step: Transform) -> Transform:
    """`first`, then `step`, as one transform: ((x - c1) s1 - c2) s2 = (x - (c1 + c2 / s1)) s1 s2."""
    if first is None:
        return step
    moved = [a + b / first.scale for a, b in zip(first.center, step.center, strict=True)]
    return Transform((moved[0], moved[1], moved[2]), first.scale * step.scale)
