"""How far a part's surface is from a given cloud: a chamfer distance, made for telling candidates apart."""

from __future__ import annotations

import numpy as np

from cadmllm.cad.frame import Transform
from cadmllm.cad.mesh import Mesh, sample_surface

DENSE = 16_384  # points that stand for a candidate's surface


class CloudDistance:
    """Distances to one cloud, whose tree is built once.

    Args:
        points: [N, 3] in the normalised frame, N > 0.
    """

    def __init__(self, points: np.ndarray) -> None:
        from scipy.spatial import KDTree

        self.points = np.asarray(points, dtype=np.float64)
        self.tree = KDTree(self.points)
        self.noise = 0.0

    def of(self, mesh: Mesh, frame: Transform) -> float:
        """Mean squared distance from cloud to surface plus that from surface to cloud, in the normalised frame.

        Args:
            mesh: of the candidate.
            frame: what brings its coordinates into the cloud's.
        """
        from scipy.spatial import KDTree

        surface = frame.apply(sample_surface(mesh, DENSE, 0)[0])
        there = KDTree(surface).query(self.points)[0]
        back = self.tree.query(surface)[0]
        return float(np.mean(there**2) + np.mean(back**2))
