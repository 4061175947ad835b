"""What a person gives to generate from: a text, pictures, scans and meshes, turned into a `Sample`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from cadmllm.corpus.prompt import BARE_REQUEST, clean_caption
from cadmllm.corpus.types import Sample
from cadmllm.errors import CadmllmError

if TYPE_CHECKING:
    from cadmllm.corpus.points import RawCloud, Sampling
    from cadmllm.models.fusion import CadMLLM

MOST_CLOUDS = 16


@dataclass(frozen=True, slots=True)
class Shown:
    """What a model is shown.

    Attributes:
        sample: the text, the pictures and at most one cloud.
        described: each input for the record: kind, file (not of values), sha256, and its points, triangles or pixels.
        notes: what deserves to be said: estimated normals, outliers, what was left out or assumed.
        raw: all points of the cloud, so that others can be drawn without reading again.
        drawn_as: (count, seed, sampling) of the points in the sample.
    """

    sample: Sample
    described: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    raw: RawCloud | None = None
    drawn_as: tuple[int, int, str] | None = None

    def drawn(self, point_count: int, seed: int, sampling: Sampling = "uniform") -> Shown:
        """The same with another draw of points: the checkpoint says how many its encoder sees, and which."""
        if self.raw is None or self.drawn_as == (point_count, seed, sampling):
            return self
        from cadmllm.corpus.points import draw_cloud

        sample = replace(self.sample, clouds=(draw_cloud(self.raw, point_count, seed, sampling),))
        return replace(self, sample=sample, drawn_as=(point_count, seed, sampling))


def read_inputs(
    text: str | None,
    images: Iterable[Any],
    clouds: Iterable[Any],
    *,
    point_count: int,
    seed: int,
    sampling: Sampling = "uniform",
    name: str = "prompt",
    units: str = "mm",
    clean: bool = False,
) -> Shown:
    """Read everything that was given, and refuse by name what cannot be used.

    Args:
        text: the prompt; None or blank is allowed beside a cloud or an image, and `BARE_REQUEST` stands for it.
        images: views of one part: paths, PIL images, arrays [H, W, 3] or [H, W, 4] uint8 (or float 0..1).
        clouds: scans or meshes of one part in one frame, which become one cloud: paths, arrays [N, 3] or [N, 6] (position,
            normal), `cad.mesh.Mesh`, `trimesh.Trimesh`.
        point_count: points drawn from it.
        seed: of that draw.
        sampling: which points (`corpus.points.draw_cloud`).
        name: id of the sample; random numbers of sampling depend on it.
        units: of the clouds' numbers, a key of `cad.kernel.UNITS`; glTF, 3MF and our own .npz say theirs themselves.
        clean: leave outliers of scans out (points that are drawn from a mesh have none).

    Returns:
        The sample; `Cloud.transform` leads from millimetres to the normalised frame.

    Raises:
        CadmllmError: E703 when there is nothing; E408 for the text; E405, E440, E441, E444 for an image; E404, E430 to E433,
            E437, E438 for a cloud; E420 to E422, E424 for a file; E831 for a Windows path; E705 for a unit.
    """
    pictures, scans = _several(images), _several(clouds)
    blank = text is None or (isinstance(text, str) and not text.strip())
    if blank and not pictures and not scans:
        raise CadmllmError(
            "E703",
            "there is nothing to generate from",
            'cadmllm infer --prompt "a flange with six holes" (or --image F, or --pc F)',
        )
    caption = clean_caption(BARE_REQUEST if blank else text)
    views, described, notes = [], [], []
    if pictures:
        from cadmllm.infer.pictures import read_views

        views, described, notes = read_views(pictures)
    shows = ("text", *(["point_cloud"] if scans else []), *(["image"] if pictures else []))
    shown = Shown(Sample(name, "+".join(shows), caption, None, images=tuple(views)), described, notes)
    return _with_cloud(shown, scans, units, seed, clean).drawn(point_count, seed, sampling) if scans else shown


def _with_cloud(shown: Shown, values: tuple[Any, ...], units: str, seed: int, clean: bool) -> Shown:
    from cadmllm.infer.clouds import cleaned, merged, read_scan

    if len(values) > MOST_CLOUDS:
        message = f"{len(values)} point clouds were given"
        raise CadmllmError("E404", message, f"give at most {MOST_CLOUDS} scans of one part, or merge them beforehand")
    scans = [read_scan(value, number, units, seed) for number, value in enumerate(values, 1)]
    cloud, notes = merged(scans)
    if clean and all(scan.mesh for scan in scans):
        notes = (*notes, "cleaning: points that are drawn from a mesh have no outliers")
    elif clean:
        cloud, more = cleaned(cloud, seed)
        notes = (*notes, *more)
    return replace(
        shown,
        described=[*shown.described, *(scan.record for scan in scans)],
        notes=[*shown.notes, *(note for scan in scans for note in scan.notes), *notes],
        raw=cloud,
    )


def _several(values: object) -> tuple[Any, ...]:
    """A tuple of what was given: a list, a tuple or what a generator gives; anything else (a path, an array) is one value."""
    if values is None:
        return ()
    return tuple(values) if isinstance(values, (list, tuple, Iterator)) else (values,)


def check_modalities(sample: Sample, model: CadMLLM, checkpoint: str) -> None:
    """Refuse a cloud or an image that the model has no encoder for, and more images than it reads.

    Raises:
        CadmllmError: E701 naming the stage that adds the encoder; E707.
    """
    for given, encoder, what, stage in (
        (sample.clouds, model.points, "point clouds", 2),
        (sample.images, model.images, "images", 3),
    ):
        if given and encoder is None:
            raise CadmllmError(
                "E701",
                f"{checkpoint} has no encoder for {what}: stage {stage} of the curriculum adds it",
                f"train it: cadmllm train {'stage2 stage3' if stage == 3 else 'stage2'}, or name one that has it: --checkpoint D",
            )
    if model.images_together:
        from cadmllm.models.resampler import check_views

        check_views(sample.image_count, where=checkpoint)
