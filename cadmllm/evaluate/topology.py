"""The topology metrics of CAD-MLLM (Xu et al., arXiv 2411.04954): is a mesh one piece, closed, and free of itself.

The official tool counts on a mesh that it made from the file's triangles: vertices with equal float32 coordinates are one,
neighbours are oriented alike, and what is not manifold is cut (`evaluate.orient`). The same is done here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cadmllm.errors import CadmllmError
from cadmllm.evaluate.intersect import self_intersecting
from cadmllm.evaluate.orient import dangling, orient, weld

if TYPE_CHECKING:
    from cadmllm.cad.mesh import Mesh

LARGEST = 1e30  # coordinates beyond have squares outside float32's range, in which the tool works


@dataclass(frozen=True, slots=True)
class Topology:
    """What the official tool prints of one mesh, raw.

    Attributes:
        segments: vertex-connected components after cutting. Good: as many as the part has solids.
        dangling_edge_length: summed length of edges with one face, over half the longest side of the box. Good: 0.
        flux_enclosure_error: |sum over faces of area x unit normal . (1, 1, 1)|, in the square of the unit. Good: 0. NaN if a
            face has no area (its unit normal is 0/0 in the original, too).
        self_intersecting_faces: faces in at least one pair that meets beyond what it shares. Good: 0.
        faces: triangles of the file.
        longest_side: of the box of the used vertices, in the unit.
    """

    segments: int
    dangling_edge_length: float
    flux_enclosure_error: float
    self_intersecting_faces: int
    faces: int
    longest_side: float

    @property
    def dang_el(self) -> float:
        """DangEL: the same at any size, as it is measured by half the longest side."""
        return self.dangling_edge_length

    @property
    def sir(self) -> float:
        """SIR: share of faces that intersect, 0..1."""
        return self.self_intersecting_faces / self.faces if self.faces else float("nan")

    @property
    def flux_ee(self) -> float:
        """FluxEE of the mesh scaled to longest side 1: areas go with the square."""
        return self.flux_enclosure_error / self.longest_side**2 if self.longest_side else float("nan")


def topology(vertices: np.ndarray, faces: np.ndarray) -> Topology:
    """Measure a soup of triangles as it is in its file.

    Faces that lost a corner in welding are counted (as faces, as intersecting, and in the flux, which they make NaN) but join
    nothing: what remains when they are taken away is oriented and cut. The original refuses or repairs such files.

    Args:
        vertices: [V, 3] in any unit; vertices that no face uses do not matter.
        faces: [F, 3] indices.

    Raises:
        CadmllmError: E712 where a used coordinate is not a finite number below 1e30, or an index is out of range.
    """
    points, corners = weld(*_checked(vertices, faces))
    whole = _whole(corners)
    soup = orient(corners[whole])
    placed = points[soup.origin]
    collapsed = int((~whole).sum())
    longest = float(np.ptp(points, axis=0).max()) if len(points) else 0.0
    edges = placed[dangling(soup.faces)]
    length = float(np.linalg.norm(edges[:, 0] - edges[:, 1], axis=1).sum())
    return Topology(
        segments=soup.segments,
        dangling_edge_length=length / (longest / 2.0) if length else 0.0,
        flux_enclosure_error=float("nan") if collapsed else _flux(placed[soup.faces]),
        self_intersecting_faces=int(self_intersecting(placed, soup.faces).sum()) + collapsed,
        faces=len(corners),
        longest_side=longest,
    )


def segments(vertices: np.ndarray, faces: np.ndarray) -> int:
    """The number of segments alone, for a truth of which nothing else is asked; arguments and errors as for `topology`."""
    corners = weld(*_checked(vertices, faces))[1]
    return orient(corners[_whole(corners)]).segments


def seg_e(answer: Topology, segments_of_truth: int) -> int:
    """SegE of one answer: |S(answer) - S(truth)|."""
    return abs(answer.segments - segments_of_truth)


def reported(answer: Mesh, truth: Mesh) -> dict[str, float]:
    """The four columns of a report (keys of `metrics.METRICS`), at longest side 1; flux_ee is NaN with a degenerate face.

    Raises:
        CadmllmError: E712 as `topology`.
    """
    of_answer = topology(answer.vertices, answer.faces)
    return {
        "seg_e": float(seg_e(of_answer, segments(truth.vertices, truth.faces))),
        "dang_el": of_answer.dang_el,
        "sir": of_answer.sir,
        "flux_ee": of_answer.flux_ee,
    }


def _checked(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The arrays in their shapes, or E712."""
    vertices, faces = np.asarray(vertices, np.float64).reshape(-1, 3), np.asarray(faces, np.int64).reshape(-1, 3)
    remedy = "export the mesh again"
    if len(faces) and not (faces.min() >= 0 and faces.max() < len(vertices)):
        worst = faces.min() if faces.min() < 0 else faces.max()
        raise CadmllmError("E712", f"a triangle names vertex {worst}, but there are {len(vertices)}", remedy)
    wild = int((~(np.abs(vertices[np.unique(faces)]) <= LARGEST)).any(axis=1).sum())
    if wild:
        raise CadmllmError("E712", f"{wild} vertices of the mesh are not finite numbers, or beyond {LARGEST:g}", remedy)
    return vertices, faces


def _whole(faces: np.ndarray) -> np.ndarray:
    """Which faces [F] bool have three different vertices."""
    a, b, c = faces.T
    return (a != b) & (b != c) & (c != a)


def _flux(corners: np.ndarray) -> float:
    """|sum of area x unit normal . (1, 1, 1)| over triangles [F, 3, 3]; area x unit normal is half the cross product."""
    cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    if (~cross.any(axis=1)).any():
        return float("nan")
    return abs(float(cross.sum())) / 2.0
