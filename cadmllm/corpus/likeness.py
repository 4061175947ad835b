"""Does a cloud show the part that the kernel built? A chamfer distance, judged by what two samples of one surface differ."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cadmllm.cad.compare import nearest
from cadmllm.cad.mesh import Mesh, normalise, sample_surface
from cadmllm.corpus.points import RawCloud

DENSE = 16_384  # points that stand for the built surface
MOST = 8_192  # points of the cloud that are looked at
ALIKE = 1.02  # true clouds of 8,192 points reach 1.033, and 1.075 is allowed (docs/benchmarks.md)
CHANCE = 5.0  # over the root of the number of points: six standard deviations of what chance adds
FOREIGN = 4.0  # true clouds stay below 3.1 however they were sampled or thinned out
STORED = 1.5  # and nobody thins out those that carry the transform of `data prepare`
LOCAL = 40.0  # a single point so many mean squared distances away does not happen by chance; true clouds reach 24
ENOUGH = 1000  # points that can be judged one by one
TRIES = 16  # true clouds that few points are compared with, at most


@dataclass(frozen=True, slots=True)
class Likeness:
    """How far a cloud is from a surface, in the normalised frame (longest side of the built part: 2).

    Attributes:
        chamfer: mean squared distance from cloud to surface plus that from surface to cloud.
        ratio: `chamfer` over that of true clouds of as many points; about 1 for a true one.
        farthest: the largest distance of a point of either to the other.
        local: the square of `farthest`, over the mean square that a true cloud of as many points has there.
        points: of the cloud that were looked at.
        stored: whether the file tells how it was normalised.
    """

    chamfer: float
    ratio: float
    farthest: float
    local: float
    points: int
    stored: bool

    @property
    def alike(self) -> bool:
        """Whether it may be a true cloud."""
        chance = CHANCE / self.points**0.5
        return self.ratio <= ALIKE + chance and (self.local <= LOCAL or self.points < ENOUGH)

    @property
    def foreign(self) -> bool:
        """Whether it is the cloud of another part for certain."""
        return not self.alike and self.ratio > (STORED if self.stored else FOREIGN)


def likeness(mesh: Mesh, cloud: RawCloud) -> Likeness:
    """Compare a point file with the part it should show.

    Where the file tells how it was normalised, the comparison is made in the part's own coordinates: a cloud of the same shape in
    another size or place is found, too. Else both are centred and scaled by their boxes.

    Args:
        mesh: of the built part, mm.
        cloud: from `points.read_cloud`.
    """
    frame = normalise(mesh)
    surface = frame.apply(sample_surface(mesh, DENSE, 1)[0])
    points, stored = _in_frame(mesh, cloud)
    there, back = _squares(points, surface)
    usual = np.array([_usual(mesh, surface, len(points), stored, seed) for seed in range(2, 2 + _tries(len(points)))])
    usual_there, usual_back = usual.mean(axis=0)
    found = float(there.mean() + back.mean())
    local = float(max(there.max() / usual_there, back.max() / usual_back))
    farthest = float(np.sqrt(max(there.max(), back.max())))
    return Likeness(found, found / float(usual_there + usual_back), farthest, local, len(points), stored)


def _tries(count: int) -> int:
    return max(1, min(TRIES, MOST // count))


def _usual(mesh: Mesh, surface: np.ndarray, count: int, stored: bool, seed: int) -> tuple[float, float]:
    """The mean squares of a true cloud that came the same way: without a transform, its own box is what places it."""
    points = sample_surface(mesh, count, seed)[0]
    points = normalise(mesh).apply(points) if stored else _boxed(points)
    there, back = _squares(points, surface)
    return float(there.mean()), float(back.mean())


def _in_frame(mesh: Mesh, cloud: RawCloud) -> tuple[np.ndarray, bool]:
    """At most `MOST` points of the cloud, the same ones each time, where they belong in the normalised frame of the mesh.

    And whether the file told how it was normalised.
    """
    points = cloud.points
    if len(points) > MOST:
        points = points[np.random.default_rng(0).choice(len(points), MOST, replace=False)]
    if cloud.transform is not None and not any(remark.code == "E435" for remark in cloud.remarks):
        return normalise(mesh).apply(cloud.transform.invert(points)), True
    return _boxed(points), False


def _boxed(points: np.ndarray) -> np.ndarray:
    """Centred and scaled by their own box."""
    low, high = points.min(axis=0), points.max(axis=0)
    return (points - (low + high) / 2.0) * (2.0 / float((high - low).max()))


def _squares(points: np.ndarray, surface: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Squared nearest distances from points to surface and back."""
    return nearest(points, surface)[0] ** 2, nearest(surface, points)[0] ** 2
