"""Clouds made worse on purpose: noise, missing parts, fewer points; the same draws at every level, so that levels compare.

Everything happens in the frame of the whole cloud (centred, longest side 2), which stays: what is measured is the loss of points,
not another placing of the part. Normals are estimated anew from the points that are left, at every level, as a real scan has
none and noise changes them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from cadmllm.corpus import order
from cadmllm.corpus.normals import estimate_normals
from cadmllm.corpus.points import NEIGHBOURHOOD, Sampling, draw_cloud, first_of, read_cloud
from cadmllm.corpus.types import Cloud
from cadmllm.errors import CadmllmError
from cadmllm.evaluate.held_out import position_of

if TYPE_CHECKING:
    from cadmllm.corpus.layout import DataSet

LONGEST = 2.0  # side of the box in the normalised frame
_NOISE, _CUT, _AGAIN = range(90, 93)  # streams of their own


@dataclass(frozen=True, slots=True)
class Spoilt:
    """A way to read clouds; nothing is spoilt by default, but normals are estimated.

    Attributes:
        noise: standard deviation of Gaussian noise on each coordinate, as a share of the longest side, >= 0.
        missing: share of the points that is cut away, 0..1 (at least 16 are left).
        how: 'half': those farthest in a random direction; 'ball': those nearest to a random point of the cloud.
        points: so many are left, drawn at random; None: as many as there are.
    """

    noise: float = 0.0
    missing: float = 0.0
    how: Literal["half", "ball"] = "half"
    points: int | None = None

    def __call__(self, dataset: DataSet, id_: str, count: int, seed: int, sampling: Sampling = "uniform") -> Cloud:
        """`count` points of the id's spoilt cloud; where fewer are left, some stand there again, as `infer` reads such a file.

        Raises:
            CadmllmError: E404 when there is none; E4xx as `points.read_cloud`.
        """
        path = dataset.cloud_path(id_)
        if path is None:
            raise CadmllmError("E404", f"{id_} has no point file", f"cadmllm data prepare {dataset.data.root} --points")
        raw = read_cloud(path)
        key = (seed, 0, 0, position_of(id_))
        # normals are not looked at: zeros spare their estimation for points that may go
        bare = replace(raw, normals=np.zeros_like(raw.points))
        whole = draw_cloud(bare, len(raw.points), order.whole(order.CLOUD, *key))
        left = self.spoil(whole.points.astype(np.float64), key)
        shown = left[first_of(left, count, sampling)]
        normals = estimate_normals(shown, left[: max(count, NEIGHBOURHOOD)])
        if len(shown) < count:
            again = np.random.default_rng([_AGAIN, *key]).integers(0, len(shown), count - len(shown))
            shown, normals = np.concatenate([shown, shown[again]]), np.concatenate([normals, normals[again]])
        return Cloud(shown.astype(np.float32), normals.astype(np.float32), whole.transform)

    def spoil(self, points: np.ndarray, key: tuple[int, ...]) -> np.ndarray:
        """What is left of points [N, 3] of the normalised frame, in their order; more of a kind leaves a part of it."""
        if self.missing > 0.0:
            points = points[self._kept(points, key)]
        if self.points is not None:
            points = points[: self.points]
        if self.noise > 0.0:
            points = points + np.random.default_rng([_NOISE, *key]).normal(0.0, self.noise * LONGEST, points.shape)
        return points

    def _kept(self, points: np.ndarray, key: tuple[int, ...]) -> np.ndarray:
        """bool [N]."""
        random = np.random.default_rng([_CUT, *key])
        if self.how == "half":
            direction = random.normal(size=3)
            away = -(points @ direction)
        else:
            away = np.linalg.norm(points - points[random.integers(len(points))], axis=1)
        gone = min(round(self.missing * len(points)), max(0, len(points) - 16))
        kept = np.ones(len(points), bool)
        kept[np.argsort(away, kind="stable")[:gone]] = False
        return kept
