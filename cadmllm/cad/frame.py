"""The transform that normalises a part, kept so that results can be mapped back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cadmllm.cad.program import Point3

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, slots=True)
class Transform:
    """normalised = (x - center) * scale: mm into the cube [-1, 1], the longest side of the box being 2.

    Attributes:
        center: centre of the bounding box, mm.
        scale: 2 / longest side, 1/mm.
    """

    center: Point3
    scale: float

    def apply(self, points: np.ndarray) -> np.ndarray:
        """Points [N, 3] in mm to the normalised frame, float64."""
        return (points - list(self.center)) * self.scale

    def invert(self, points: np.ndarray) -> np.ndarray:
        """Normalised points [N, 3] back to mm, float64."""
        return points / self.scale + list(self.center)
