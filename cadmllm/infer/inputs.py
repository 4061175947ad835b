"""What a person gives to generate from: a text, pictures, a point cloud, turned into a `Sample`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cadmllm.corpus.pixels import load_rgb
from cadmllm.corpus.prompt import BARE_REQUEST, clean_caption
from cadmllm.corpus.types import Cloud, Sample
from cadmllm.errors import CadmllmError

if TYPE_CHECKING:
    import numpy as np

    from cadmllm.models.fusion import CadMLLM

MESHES = frozenset({".stl", ".obj", ".off", ".glb", ".gltf", ".3mf"})
SLIMMEST = 20.0  # sides' ratio: the encoder sees a square cut from the middle, and of a slimmer picture nothing
MOST_IMAGES = 16


def sample_of(
    prompt: str | None, images: Sequence[Path], cloud: Path | None, *, point_count: int, seed: int, name: str = "prompt"
) -> Sample:
    """Read everything that was given.

    Args:
        prompt: the text; None or blank is allowed beside a cloud or an image, and `BARE_REQUEST` stands for it.
        images: picture files, any format that Pillow reads.
        cloud: a point file (.npz, .npy, .ply, ...), mm.
        point_count: points drawn from it.
        seed: of that draw.
        name: id of the sample; random numbers of sampling depend on it.

    Raises:
        CadmllmError: E703 when there is nothing; E404, E405, E408, E42x, E43x, E44x for a file or text that cannot be used.
    """
    text = (prompt or "").strip()
    if not text and not images and cloud is None:
        raise CadmllmError(
            "E703",
            "there is nothing to generate from",
            'cadmllm infer --prompt "a flange with six holes" (or --image F, or --pc F)',
        )
    if len(images) > MOST_IMAGES:
        raise CadmllmError("E405", f"{len(images)} images were given", f"give at most {MOST_IMAGES} views of one part")
    combination = "+".join(("text", *(["point_cloud"] if cloud else []), *(["image"] if images else [])))
    return Sample(
        id=name,
        combination=combination,
        caption=clean_caption(text or BARE_REQUEST, "--prompt"),
        target=None,
        clouds=(read_cloud(cloud, point_count, seed),) if cloud is not None else (),
        images=tuple(read_image(path) for path in images),
    )


def read_image(path: Path) -> np.ndarray:
    """A picture as RGB uint8 [H, W, 3]: turned as its EXIF says, transparency laid on white, the first frame of several.

    Raises:
        CadmllmError: as `pixels.load_rgb`; E405 when it is slimmer than 1 : `SLIMMEST`.
    """
    pixels = load_rgb(path)
    height, width = pixels.shape[:2]
    if max(height, width) > SLIMMEST * min(height, width):
        raise CadmllmError(
            "E405",
            f"{path} is {width} x {height} pixels, of which the square that the encoder sees shows nearly nothing",
            "crop the picture to the part",
        )
    return pixels


def read_cloud(path: Path, count: int, seed: int) -> Cloud:
    """`count` points of a file with normals, normalised, with the transform back to the file's coordinates (mm).

    Raises:
        CadmllmError: E404 when the file is a mesh; as `points.read_cloud`.
    """
    if path.suffix.lower() in MESHES:
        raise CadmllmError(
            "E404",
            f"{path} is a mesh, and --pc takes points",
            "save surface points of it, e.g. with trimesh: np.save('points.npy', trimesh.load_mesh(F).sample(8192))",
        )
    from cadmllm.corpus.points import load_cloud

    return load_cloud(path, count, seed)


def check_modalities(sample: Sample, model: CadMLLM, checkpoint: str) -> None:
    """Refuse a cloud or an image that the model has no encoder for.

    Raises:
        CadmllmError: E701 naming the stage that adds the encoder.
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
