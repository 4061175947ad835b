"""How far an answer's surface and volume are from the truth's: the distances of the field, each by its own protocol.

One draw of surface points a shape and one search for nearest neighbours a protocol serve all of them; the same pair, number
and seed give the same values.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cadmllm.cad.compare import Match, match
from cadmllm.cad.mesh import Mesh, sample_surface
from cadmllm.cad.overlap import overlap

Value = float | str

POINTS = 8192  # cadrille
DEEPCAD_POINTS = 2000
DEEPCAD_REACH = 0.75  # of the half side of DeepCAD's cube: its NORM_FACTOR
THRESHOLDS = (0.01, 0.02, 0.05)  # of the longest side


@dataclass(frozen=True, slots=True)
class Surface:
    """Points drawn uniformly by area, and the frame that their mesh's box gives.

    Attributes:
        centred: points [N, 3] in the frame of cadrille and CAD-Recode: the box centred, its longest side 1.
        normals: [N, 3] unit normals of their triangles.
        center: [3] of the box, mm.
        side: longest side of the box, mm, > 0.
        reach: largest absolute coordinate of the box, mm, > 0.
    """

    centred: np.ndarray
    normals: np.ndarray
    center: np.ndarray
    side: float
    reach: float

    @property
    def points(self) -> np.ndarray:
        """[N, 3] mm, where they are."""
        return self.centred * self.side + self.center

    @property
    def in_cube(self) -> np.ndarray:
        """2,000 points about the part's own origin, its farthest coordinate at 0.75 (DeepCAD's scaling of every model)."""
        return self.points[:DEEPCAD_POINTS] * (DEEPCAD_REACH / self.reach)


def surface(mesh: Mesh, points: int, seed: int) -> Surface:
    """Draw `points` (at least DeepCAD's 2,000) from a mesh with area."""
    low, high = used_box(mesh)
    drawn, normals = sample_surface(centred(mesh), max(points, DEEPCAD_POINTS), seed)
    reach = float(np.maximum(np.abs(low), np.abs(high)).max())
    return Surface(drawn, normals, (low + high) / 2.0, float((high - low).max()), reach)


def used_box(mesh: Mesh) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest corner [3] of the vertices that triangles have, mm."""
    used = mesh.vertices[np.unique(mesh.faces)]
    return used.min(axis=0), used.max(axis=0)


def centred(mesh: Mesh, like: Mesh | None = None) -> Mesh:
    """The mesh with its own box (or that of another mesh, `like`) centred on the origin and scaled to longest side 1."""
    low, high = used_box(like or mesh)
    vertices = (mesh.vertices - (low + high) / 2.0) / float((high - low).max())
    return Mesh(vertices, mesh.faces, mesh.face_ids, mesh.solid_ids)


def geometry(answer: Mesh, truth: Mesh, *, points: int = POINTS, seed: int = 0) -> dict[str, Value]:
    """Distances as reports print them: each mesh centred on its own box and scaled to longest side 1 (`cd_deepcad`: see there).

    * `iou`: volume of the intersection over that of the union, solids of a part united; `iou_method`: exact | sampled.
    * `cd`: mean squared distance to the nearest point, one way plus the other (cadrille, ICLR 2026). The answer's points and
      the truth's are drawn separately, so that a perfect answer has the distance that two draws have: about 0.00016.
    * `cd_deepcad`: the same sum over 2,000 points, not centred: each model scaled about its own origin so that its farthest
      coordinate is 0.75 (Wu et al., DeepCAD, ICCV 2021). It sees where the part lies, the others do not.
    * `f_score_T`: harmonic mean of precision and recall of points within T of the longest side.
    * `normal_consistency`: mean absolute cosine of the normals at nearest neighbours, both ways.

    Args:
        answer, truth: with area, in any unit each.
        points: drawn from each surface.
        seed: of both draws.

    Returns:
        {key of `metrics.METRICS`: value}; iou is NaN where neither bounds a volume.
    """
    one, two = surface(answer, points, 2 * seed), surface(truth, points, 2 * seed + 1)
    found = match(one.centred[:points], two.centred[:points])
    common = overlap(centred(answer), centred(truth))
    return {
        "iou": common.iou,
        "iou_method": common.method,
        "cd": found.chamfer,
        "cd_deepcad": match(one.in_cube, two.in_cube).chamfer,
        **{f"f_score_{t}": found.f_score(t) for t in THRESHOLDS},
        "normal_consistency": _consistency(found, one, two, points),
    }


def raw_geometry(a: Mesh, b: Mesh, *, points: int = POINTS, seed: int = 0) -> dict[str, Value | dict[str, float]]:
    """Distances of two meshes where they are and as large as they are, in their own unit.

    Both surfaces are drawn from with the same random numbers: a mesh and itself have distance 0 and F-score 1.

    Returns:
        `chamfer_distance` (mean squared nearest distance, one way plus the other, in the square of the unit), `iou`,
        `iou_method`, `f_score` ({"0.01": ...}: points within 0.01 of the unit), `f_score_relative` (within that share of the
        longest side of b) and `normal_consistency`.
    """
    one, two = surface(a, points, seed), surface(b, points, seed)
    found = match(one.points[:points], two.points[:points])
    common = overlap(centred(a, like=b), centred(b))  # the ratio does not depend on the frame, the booleans' tolerance does
    return {
        "chamfer_distance": found.chamfer,
        "iou": common.iou,
        "iou_method": common.method,
        "f_score": {str(t): found.f_score(t) for t in THRESHOLDS},
        "f_score_relative": {str(t): found.f_score(t * two.side) for t in THRESHOLDS},
        "normal_consistency": _consistency(found, one, two, points),
    }


def floor(truth: Mesh, *, points: int = POINTS, seed: int = 0) -> dict[str, Value]:
    """The truth against itself with other points: what a perfect answer gets. cadrille prints 0.16 for `cd` x 1000 (mean)."""
    return geometry(truth, truth, points=points, seed=seed)


def _consistency(found: Match, one: Surface, two: Surface, points: int) -> float:
    return found.normal_consistency(one.normals[:points], two.normals[:points])
