"""Views to features: what DINOv2 makes of each patch, pooled where that is asked for."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from cadmllm.errors import CadmllmError
from cadmllm.models.dino import PIXELS, load_dino, tiny_dino
from cadmllm.settings import Settings

if TYPE_CHECKING:
    from transformers import Dinov2Model

CHUNK = 32  # views at a time


class ImageEncoder(nn.Module):
    """DINOv2's patch features of a view, pooled to `tokens` of them.

    tokens = n * n: the patch grid averaged down to n x n (no pooling when n is the grid). tokens = n * n + 1: the CLS token
    before them. So 257 is all that a real DINOv2 gives (patch 14, 224 pixels); 16 or 17 make eight views affordable.

    Args:
        dino: a Dinov2Model.
        tokens: features a view.

    Attributes:
        width: of a feature.
        grid: patches a side.
        chunk: views that are worked on at once, which bounds memory; the features are the same but for rounding.
    """

    def __init__(self, dino: Dinov2Model, tokens: int) -> None:
        super().__init__()
        self.dino, self.tokens, self.width = dino, tokens, dino.config.hidden_size
        self.chunk = CHUNK
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
        return torch.cat([self._features(some) for some in pixels.split(self.chunk)])

    def _features(self, pixels: Tensor) -> Tensor:
        hidden = self.dino(pixels.to(self.dino.dtype)).last_hidden_state
        patches = hidden[:, 1:].transpose(1, 2).unflatten(2, (self.grid, self.grid))
        pooled = patches if self.side == self.grid else adaptive_avg_pool2d(patches, self.side)
        pooled = pooled.flatten(2).transpose(1, 2)
        return torch.cat([hidden[:, :1], pooled], dim=1) if self.with_cls else pooled


def build_image_encoder(settings: Settings) -> tuple[ImageEncoder, int, bool]:
    """(encoder, width of a feature, whether it is frozen) by `settings.model.image_encoder`.

    Raises:
        CadmllmError: E502, E507, E508 when DINOv2 cannot be loaded or is not whole; E102 for an impossible `model.image_tokens`.
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
