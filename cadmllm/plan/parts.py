"""What a stage's model is made of: every part with its number of parameters, from shapes alone. Arithmetic only, no torch."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cadmllm.cad.vocabulary import VOCABULARY
from cadmllm.places import bundled
from cadmllm.plan.sizes import LlmShape, cached, shape_of

if TYPE_CHECKING:
    from cadmllm.settings import Settings

HEAD_ROWS = len(VOCABULARY)  # rows of the head: the CAD vocabulary
INPUT_ROWS = HEAD_ROWS + 2  # and the placeholders of a cloud's and an image's features
POINTS_STAGE, IMAGES_STAGE = 2, 3  # from which on the model has the branch
MICHELANGELO = (64_012_800, 768)  # parameters of the published encoder, width of a feature
MICHELANGELO_TOKENS = 257  # that it gives: of the shape, and of 256 places
PIXELS = 224  # side of a view
VIEWS = 8  # embeddings of a perceiver's views (models/resampler.py)
OCTAVES = 8  # of the fourier encoder


class UnknownShape(LookupError):
    """A model whose size nobody can say here: its configuration is not on this machine and it is not in a table."""


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the model.

    Attributes:
        name: 'linear layers', 'input embedding', 'norms', 'LoRA', 'added rows', 'point encoder', 'point projector', ...
        component: as `CadMLLM.parameter_groups` calls it: 'llm', 'rows', 'projectors' or 'encoders'.
        parameters: how many.
        trained: whether the stage trains it.
        branch: 'points', 'images' or ''.
        held: not trained, but of the checkpoint, so that it stands in 32 bit and is saved (an encoder, `train.encoder_lr=0`).
    """

    name: str
    component: str
    parameters: int
    trained: bool
    branch: str = ""
    held: bool = False


@dataclass(frozen=True, slots=True)
class Vit:
    """A DINOv2: layers, width, inner width over width, tokens of a view, whether its MLPs are gated (SwiGLU)."""

    layers: int
    width: int
    ratio: int = 4
    patch: int = 14
    image: int = 518
    gated: bool = False

    @property
    def parameters(self) -> int:
        """All of them, the mask token included."""
        w = self.width
        embeddings = 2 * w + ((self.image // self.patch) ** 2 + 1) * w + 3 * self.patch**2 * w + w
        inner = self.ratio * w
        if self.gated:
            inner = (int(inner * 2 / 3) + 7) // 8 * 8
            mlp = w * 2 * inner + 2 * inner + inner * w + w
        else:
            mlp = 2 * w * inner + inner + w
        layer = 4 * (w * w + w) + mlp + 6 * w  # attention, MLP, two norms, two layer scales
        return embeddings + self.layers * layer + 2 * w


TINY_VIT = Vit(3, 96, 2, 28, 224)  # models/image.py, `tiny_dino`
KNOWN_VITS = {
    "facebook/dinov2-small": Vit(12, 384),
    "facebook/dinov2-base": Vit(12, 768),
    "facebook/dinov2-large": Vit(24, 1024),
    "facebook/dinov2-giant": Vit(40, 1536, gated=True),
}


def llm_shape(settings: Settings) -> LlmShape:
    """The shape of `model.llm`.

    Raises:
        UnknownShape: it is neither on this machine nor in the table of Qwen3 models.
    """
    name = settings.model.llm
    shape = shape_of(str(bundled("checkpoints/tiny-base")) if name == "tiny" else name)
    if shape is None:
        raise UnknownShape(f"the size of {name} is unknown here: it is not on this machine, nor in the table of Qwen3 models")
    return shape


def vit_shape(settings: Settings) -> Vit:
    """The shape of `model.image_encoder`.

    Raises:
        UnknownShape: likewise.
    """
    name = settings.model.image_encoder
    if name == "tiny":
        return TINY_VIT
    folder = Path(name).expanduser()
    folder = folder if folder.is_dir() else cached(name)
    if folder is not None and (folder / "config.json").is_file():
        try:
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            return Vit(
                int(config["num_hidden_layers"]),
                int(config["hidden_size"]),
                int(config.get("mlp_ratio", 4)),
                int(config.get("patch_size", 14)),
                int(config.get("image_size", 518)),
                bool(config.get("use_swiglu_ffn", False)),
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            raise UnknownShape(f"{folder / 'config.json'} is not that of a DINOv2") from None
    if name in KNOWN_VITS:
        return KNOWN_VITS[name]
    raise UnknownShape(f"the size of {name} is unknown here: it is not on this machine, nor in the table of DINOv2 models")


def projector_parameters(width: int, hidden: int) -> int:
    """LayerNorm, Linear, GELU, Linear from an encoder's width to the language model's."""
    return 2 * width + width * hidden + hidden + hidden * hidden + hidden


def resampler_parameters(width: int, hidden: int, tokens: int, inner: int, layers: int, views: int = 1) -> int:
    """Of `models/resampler.py`: norms, embeddings of views, blocks of latents that attend to features, and a projector."""
    ends = 2 * width + (views * width if views > 1 else 0) + width * inner + inner + 2 * inner + tokens * inner
    block = 4 * inner * inner + 8 * inner * inner + 5 * inner + 4 * inner  # attention, MLP with its biases, two norms
    return ends + layers * block + projector_parameters(inner, hidden)


def resampled(settings: Settings, branch: str) -> bool:
    """Whether a resampler stands between the encoder of a branch ('points', 'images') and the language model."""
    model = settings.model
    if branch == "images":
        return model.image_bridge == "perceiver"
    return model.points_encoder == "michelangelo" and model.point_tokens not in (1, MICHELANGELO_TOKENS)


def given_tokens(settings: Settings, branch: str) -> int:
    """Features that an encoder (of clouds: the published one) hands on for a cloud or a view.

    Raises:
        UnknownShape: the patches of an image encoder are not known here.
    """
    model = settings.model
    if resampled(settings, branch):
        return (PIXELS // vit_shape(settings).patch) ** 2 if branch == "images" else MICHELANGELO_TOKENS
    return model.image_tokens if branch == "images" else model.point_tokens


def fourier_parameters(width: int) -> int:
    """Of the `fourier` point encoder: a two-layer network for patches, and one for tokens."""
    patch = max(16, width // 4)
    inside = 3 + 6 * OCTAVES + 3 + patch
    return 7 * patch + patch + patch * patch + patch + inside * width + width + width * width + width


def parts_of(settings: Settings, stage: int, from_store: Collection[str] | None = None) -> list[Part]:
    """The parts of a stage's model. Their sum is what `build_model` loads, to the last parameter (a test builds both).

    Args:
        settings: resolved settings.
        stage: 1, 2 or 3; encoders of later stages are not loaded.
        from_store: branches whose features come from `data.features`; their frozen encoders are not loaded. None: both
            where that is set.

    Raises:
        UnknownShape: the size of a model is not known here.
    """
    shape, lora, model = llm_shape(settings), settings.lora, settings.model
    stored = set(from_store) if from_store is not None else {"points", "images"} if settings.data.features else set()
    parts = [
        Part("linear layers", "llm", shape.linear_parameters, not lora.enabled),
        Part("input embedding", "llm", shape.vocabulary * shape.hidden, not lora.enabled),
        Part("norms", "llm", shape.norm_parameters, not lora.enabled),
    ]
    if lora.enabled:
        parts.append(Part("LoRA", "llm", shape.lora_parameters(lora.r), True))
    parts.append(Part("added rows", "rows", (INPUT_ROWS + HEAD_ROWS) * shape.hidden, True))
    if stage >= POINTS_STAGE:
        fourier = model.points_encoder == "fourier"
        count, width = (fourier_parameters(model.fourier_width), model.fourier_width) if fourier else MICHELANGELO
        trained = fourier or model.train_encoders
        parts += _branch(settings, "points", (count, width, trained), shape.hidden, stored)
    if stage >= IMAGES_STAGE:
        vit = vit_shape(settings)
        trained = model.image_encoder == "tiny" or model.train_encoders
        parts += _branch(settings, "images", (vit.parameters, vit.width, trained), shape.hidden, stored)
    return parts


def _branch(settings: Settings, branch: str, encoder: tuple[int, int, bool], hidden: int, stored: set[str]) -> list[Part]:
    """Encoder (parameters, width of a feature, whether it is trained) and projector or resampler."""
    count, width, trained = encoder
    model, word = settings.model, branch.removesuffix("s")
    if resampled(settings, branch):
        tokens, views = (model.image_tokens, VIEWS) if branch == "images" else (model.point_tokens, 1)
        bridge = resampler_parameters(width, hidden, tokens, model.resampler_width, model.resampler_layers, views)
        projector = Part(f"{word} resampler", "projectors", bridge, True, branch)
    else:
        projector = Part(f"{word} projector", "projectors", projector_parameters(width, hidden), True, branch)
    if branch in stored and not trained:
        return [projector]
    held = trained and settings.train.encoder_lr == 0
    return [Part(f"{word} encoder", "encoders", count, trained and not held, branch, held), projector]


def branch_widths(settings: Settings, stage: int) -> dict[str, int]:
    """Width of a feature by branch."""
    model, widths = settings.model, {}
    if stage >= POINTS_STAGE:
        widths["points"] = model.fourier_width if model.points_encoder == "fourier" else MICHELANGELO[1]
    if stage >= IMAGES_STAGE:
        widths["images"] = vit_shape(settings).width
    return widths
