"""What encoders are shown, by id: the clouds in their fixed draws and the views, with what their files were like."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cadmllm.corpus import normals, pixels, points
from cadmllm.corpus.features import digest_of, stamp_of
from cadmllm.corpus.sample import SEED_SCHEME, fixed_seed
from cadmllm.errors import CadmllmError

if TYPE_CHECKING:
    from cadmllm.corpus.layout import DataSet

MODALITY = {"points": "point_cloud", "images": "image"}  # of a part of a feature store


class Source(NamedTuple):
    """The files of an id: its cloud, or its views in order.

    Their paths are kept as what they have in common and their ends, which most ids share: paths of millions of views would
    fill gigabytes.
    """

    id: str
    stem: str
    ends: tuple[str, ...]

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files."""
        return tuple(Path(self.stem + end) for end in self.ends)


@dataclass(frozen=True, slots=True)
class Loaded:
    """An id's inputs of an encoder.

    Attributes:
        source: whose.
        stamp, digest: of its files when they were read.
        rows: a draw or a view each: (points, normals) or (pixels,), float32; None where it could not be read.
        problems: (row, code, message) of those.
    """

    source: Source
    stamp: str
    digest: str
    rows: list[tuple[np.ndarray, ...] | None]
    problems: list[tuple[int, str, str]]


class Sources:
    """Inputs by number, for a loader (`sources[k]`), in this or another process.

    Args:
        part: 'points' or 'images'.
        listed: what to load.
        point_count: points of a draw.
        draws: draws of a cloud.
        sampling: which of its points (`points.draw_cloud`).
    """

    def __init__(
        self, part: str, listed: Sequence[Source], point_count: int, draws: int, sampling: points.Sampling = "uniform"
    ) -> None:
        self.part, self.listed, self.point_count, self.draws, self.sampling = part, listed, point_count, draws, sampling

    def __len__(self) -> int:
        return len(self.listed)

    def __getitem__(self, place: int) -> Loaded:
        source = self.listed[place]
        try:
            stamp, digest = stamp_of(source.paths), digest_of(source.paths)
        except OSError as error:
            code = "E404" if self.part == "points" else "E405"
            message = f"{error.filename} cannot be read: {error.strerror}"
            return Loaded(source, "00" * 16, "00" * 16, [None] * self.rows(source), [(0, code, message)])
        rows, problems = self._clouds(source) if self.part == "points" else self._views(source)
        return Loaded(source, stamp, digest, rows, problems)

    def rows(self, source: Source) -> int:
        """Rows of features that a source has."""
        return self.draws if self.part == "points" else len(source.ends)

    def _clouds(self, source: Source) -> tuple[list[tuple[np.ndarray, ...] | None], list[tuple[int, str, str]]]:
        try:
            raw = points.read_cloud(source.paths[0])
        except CadmllmError as error:
            return [None] * self.draws, [(0, error.code, error.message)]
        seeds = map(fixed_seed, range(self.draws))
        clouds = [points.draw_cloud(raw, self.point_count, seed, self.sampling) for seed in seeds]
        return [(cloud.points, cloud.normals) for cloud in clouds], []

    def _views(self, source: Source) -> tuple[list[tuple[np.ndarray, ...] | None], list[tuple[int, str, str]]]:
        rows: list[tuple[np.ndarray, ...] | None] = []
        problems = []
        for number, path in enumerate(source.paths):
            try:
                rows.append((pixels.to_pixels(pixels.load_view(path)),))
            except CadmllmError as error:
                rows.append(None)
                problems.append((number, error.code, error.message))
        return rows, problems


def sources_of(dataset: DataSet, part: str, ids: Sequence[str]) -> Iterator[Source]:
    """The files of those ids that have the modality, in order; what leads out of the data set is noted there and left out."""
    shared: dict[tuple[str, ...], tuple[str, ...]] = {}
    for id_ in ids:
        if MODALITY[part] not in dataset.modalities(id_):
            continue
        try:
            cloud = dataset.cloud_path(id_) if part == "points" else None
            paths = [str(path) for path in (dataset.view_paths(id_) if part == "images" else [cloud] if cloud else [])]
        except CadmllmError as error:
            dataset.note(error, id_)
            continue
        if paths:
            stem = os.path.commonprefix(paths) if len(paths) > 1 else paths[0].removesuffix(os.path.splitext(paths[0])[1])
            ends = tuple(path[len(stem) :] for path in paths)
            yield Source(id_, stem, shared.setdefault(ends, ends))


def inputs_of(part: str, point_count: int, draws: int, sampling: points.Sampling = "uniform") -> dict[str, int]:
    """What the inputs of an encoder depend on, for a `Recipe`; uniform sampling is the one that has no name there."""
    if part == "images":
        return {"pixels": pixels.VERSION}
    return {
        "point_count": point_count,
        "draws": draws,
        "seeds": SEED_SCHEME,
        "points": points.VERSION,
        "normals": normals.VERSION,
        **({"farthest": points.CANDIDATES} if sampling == "farthest" else {}),
    }
