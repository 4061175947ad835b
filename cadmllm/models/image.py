"""Views to features: DINOv2, pretrained and frozen, or a tiny one of the same class trained here.

What the tiny one adds: it needs no download, so that all three stages run anywhere. It learns from the views of the data set
alone; it is there to prove the path, not to see as well as 300 million images taught the real one to.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from cadmllm.errors import CadmllmError
from cadmllm.models.backbone import LOAD_ERRORS, first_line, quiet_transformers
from cadmllm.settings import Settings

if TYPE_CHECKING:
    from transformers import Dinov2Model

PIXELS = 224  # side of what it sees, as `corpus/pixels.py` cuts it


class ImageEncoder(nn.Module):
    """DINOv2's patch features of a view, pooled to `tokens` of them.

    tokens = n * n: the patch grid averaged down to n x n (no pooling when n is the grid). tokens = n * n + 1: the CLS token
    before them. So 257 is all that a real DINOv2 gives (patch 14, 224 pixels); 16 or 17 make eight views affordable.

    Args:
        dino: a Dinov2Model.
        tokens: features a view.
    """

    def __init__(self, dino: Dinov2Model, tokens: int) -> None:
        super().__init__()
        self.dino, self.tokens, self.width = dino, tokens, dino.config.hidden_size
        self.grid = PIXELS // cast(int, dino.config.patch_size)
        self.side = math.isqrt(tokens)
        self.with_cls = self.side * self.side != tokens
        if tokens != self.side * self.side + int(self.with_cls) or self.side > self.grid:
            raise CadmllmError(
                "E102",
                f"model.image_tokens is {tokens}, which is neither n*n nor n*n + 1 with n up to {self.grid}",
                f"--set model.image_tokens={self.grid * self.grid + 1} (all), or 16",
            )

    def forward(self, pixels: Tensor) -> Tensor:
        """Features [I, tokens, width] of normalised pixels [I, 3, 224, 224]."""
        hidden = self.dino(pixels.to(self.dino.dtype)).last_hidden_state
        patches = hidden[:, 1:].transpose(1, 2).unflatten(2, (self.grid, self.grid))
        pooled = patches if self.side == self.grid else adaptive_avg_pool2d(patches, self.side)
        pooled = pooled.flatten(2).transpose(1, 2)
        return torch.cat([hidden[:, :1], pooled], dim=1) if self.with_cls else pooled


def tiny_dino() -> Dinov2Model:
    """A fresh DINOv2 of 0.45 million parameters: 8 x 8 patches of 28 pixels, width 96, three layers."""
    from transformers import Dinov2Config, Dinov2Model

    config = Dinov2Config(
        hidden_size=96, num_hidden_layers=3, num_attention_heads=4, mlp_ratio=2, patch_size=28, image_size=PIXELS
    )
    return Dinov2Model(config)


def build_image_encoder(settings: Settings) -> tuple[ImageEncoder, int, bool]:
    """(encoder, width of a feature, whether it is frozen) by `settings.model.image_encoder`.

    Raises:
        CadmllmError: E502 when DINOv2 cannot be loaded, E507 when it lacks weights; E102 for an impossible `model.image_tokens`.
    """
    model = settings.model
    if model.image_encoder == "tiny":
        encoder = _encoder(tiny_dino(), settings)
        return encoder, encoder.width, False
    frozen = not model.train_encoders
    dtype = getattr(torch, settings.dtype) if frozen else torch.float32
    encoder = _encoder(load_dino(model.image_encoder, dtype), settings)
    return encoder, encoder.width, frozen


def _encoder(dino: Dinov2Model, settings: Settings) -> ImageEncoder:
    """All patches without CLS where the perceiver reads them, else `model.image_tokens` of them."""
    model, grid = settings.model, PIXELS // cast(int, dino.config.patch_size)
    return ImageEncoder(dino, grid * grid if model.image_bridge == "perceiver" else model.image_tokens)


def load_dino(name: str, dtype: torch.dtype) -> Dinov2Model:
    """DINOv2 from a hub name or a folder, its weights in `dtype`.

    Raises:
        CadmllmError: E502 when it cannot be loaded, E507 when it lacks weights.
    """
    from transformers import AutoConfig, Dinov2Config, Dinov2Model

    folder = Path(name).expanduser()
    if not folder.is_dir() and (folder.exists() or name.startswith((".", "/", "~")) or name.count("/") != 1):
        raise _refused(name, "there is no such folder")
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise _refused(name, "the folder has no config.json")
    try:
        with quiet_transformers():
            config = AutoConfig.from_pretrained(folder if folder.is_dir() else name, trust_remote_code=False)
            if not isinstance(config, Dinov2Config):
                raise _refused(name, f"it is a {config.model_type}, not a dinov2")
            source = folder if folder.is_dir() else name
            loaded: Any = Dinov2Model.from_pretrained(source, config=config, dtype=dtype, output_loading_info=True)
    except LOAD_ERRORS as error:
        raise _refused(name, first_line(error)) from error
    dino, report = loaded
    missing = sorted(report["missing_keys"])
    if missing:
        raise _refused(name, f"its weights lack {missing[0]} and {len(missing) - 1} more", "E507")
    return dino


def _refused(name: str, reason: str, code: str = "E502") -> CadmllmError:
    return CadmllmError(
        code,
        f"image encoder {name}: {reason}",
        "give a hub name or a local folder of DINOv2: `--set model.image_encoder=facebook/dinov2-large`,"
        " or train the small one that needs no download: `--set model.image_encoder=tiny`",
    )
