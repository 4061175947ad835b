"""The frozen encoders by themselves: run once over clouds and views, and recognised again by what their weights are."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import Tensor, nn

from cadmllm.models.backbone import pick_device
from cadmllm.models.frozen import refuse_trained
from cadmllm.settings import Settings

if TYPE_CHECKING:
    from cadmllm.models.image import ImageEncoder
    from cadmllm.models.michelangelo import MichelangeloEncoder

# what of a Dinov2Config its tensors do not tell and its features depend on
_CONFIG = ("num_attention_heads", "layer_norm_eps", "hidden_act", "patch_size", "image_size", "use_swiglu_ffn")


class FrozenEncoder:
    """A frozen encoder on the device and in the precision of the settings, as training would run it.

    Args:
        settings: `model`, `dtype` and `device` are read.
        part: 'points' or 'images'.

    Attributes:
        tokens, width: features that it gives for a cloud or a view, and the width of one.
        weights: SHA-256 of its tensors, names and types, and of what they were run with.

    Raises:
        CadmllmError: E472 when it is trained, E502 when it cannot be loaded, E102 for an impossible number of tokens.
    """

    def __init__(self, settings: Settings, part: str) -> None:
        refuse_trained(settings, part)
        self.device = pick_device(settings)
        self.dtype = settings.dtype
        self.part = part
        self._encoder, self.width, _ = _build(settings, part)
        images = part == "images"
        self.tokens = cast("ImageEncoder", self._encoder).tokens if images else cast("MichelangeloEncoder", self._encoder).keep
        self.weights = _state_hash(self._encoder, part)
        self._encoder.to(self.device).eval()

    @torch.inference_mode()
    def __call__(self, inputs: Sequence[tuple[np.ndarray, ...]], dtype: str) -> np.ndarray:
        """Features of a batch.

        Args:
            inputs: (points [N, 3], normals [N, 3]) a cloud, (pixels [3, 224, 224],) a view; float32.
            dtype: of the result: 'bfloat16', 'float16', 'float32'.

        Returns:
            [B, tokens, width]; bfloat16 as uint16 that holds its bits, which numpy lacks.
        """
        tensors = [torch.from_numpy(np.stack(column)).to(self.device) for column in zip(*inputs, strict=True)]
        with _autocast(self.device, self.dtype):
            features: Tensor = self._encoder(*tensors)
        features = features.to(getattr(torch, dtype)).cpu().contiguous()
        return (features.view(torch.uint16) if dtype == "bfloat16" else features).numpy()


def _build(settings: Settings, part: str) -> tuple[nn.Module, int, bool]:
    if part == "points":
        from cadmllm.models.points import build_points_encoder

        return build_points_encoder(settings)
    from cadmllm.models.image import build_image_encoder

    return build_image_encoder(settings)


def _autocast(device: torch.device, dtype: str) -> AbstractContextManager:
    """As `train.step.Engine.autocast`: features must be those that training would compute."""
    return contextlib.nullcontext() if dtype == "float32" else torch.autocast(device.type, dtype=getattr(torch, dtype))


def _state_hash(encoder: nn.Module, part: str) -> str:
    found = hashlib.sha256()
    if part == "images":
        config = cast("ImageEncoder", encoder).dino.config
        found.update(json.dumps({name: str(getattr(config, name)) for name in _CONFIG}, sort_keys=True).encode())
    for name, value in sorted(encoder.state_dict().items()):
        found.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        found.update(value.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy().data)
    return found.hexdigest()
