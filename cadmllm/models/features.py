"""The frozen encoders by themselves: run once over clouds and views, and recognised again by what their weights are."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import Tensor, nn

from cadmllm.errors import CadmllmError
from cadmllm.models.backbone import pick_device
from cadmllm.plan.sizes import cached
from cadmllm.settings import Settings

if TYPE_CHECKING:
    from cadmllm.models.image import ImageEncoder

# what of a Dinov2Config its tensors do not tell and its features depend on
_CONFIG = ("num_attention_heads", "layer_norm_eps", "hidden_act", "patch_size", "image_size", "use_swiglu_ffn")


def why_trained(settings: Settings, part: str) -> str:
    """Why the encoder of a part ('points', 'images') is trained along and has no features to keep; '' where it is frozen."""
    model = settings.model
    if part == "points" and model.points_encoder == "fourier":
        return "model.points_encoder=fourier"
    if part == "images" and model.image_encoder == "tiny":
        return "model.image_encoder=tiny"
    return "model.train_encoders=true" if model.train_encoders else ""


def refuse_trained(settings: Settings, part: str) -> None:
    """Raise E472 when the encoder of a part is trained: its features change with every step."""
    reason = why_trained(settings, part)
    if reason:
        frozen = {"points": "model.points_encoder=michelangelo", "images": "model.image_encoder=facebook/dinov2-large"}[part]
        raise CadmllmError(
            "E472",
            f"the encoder of {'clouds' if part == 'points' else 'views'} is being trained ({reason}):"
            " its features change at every step and cannot be cached",
            f"use a frozen one: --set {frozen} --set model.train_encoders=false; or train without data.features",
        )


def encoder_name(settings: Settings, part: str) -> tuple[str, str]:
    """(kind of the frozen encoder, where it comes from)."""
    model = settings.model
    return ("michelangelo", str(model.points_checkpoint)) if part == "points" else ("dinov2", model.image_encoder)


def feature_tokens(settings: Settings, part: str) -> int:
    """Features of a cloud or of a view."""
    return settings.model.point_tokens if part == "points" else settings.model.image_tokens


def files_hash(settings: Settings, part: str) -> str:
    """SHA-256 of the files of a frozen encoder; '' when they are not on this machine.

    Nothing is loaded or downloaded. Other files may hold the same weights (a state dict and the checkpoint it was cut from).
    """
    _, source = encoder_name(settings, part)
    path = Path(source).expanduser()
    if part == "points":
        files = [path] if path.is_file() else []
    else:
        folder = path if path.is_dir() else cached(source)
        files = _weight_files(folder) if folder is not None else []
    if not files:
        return ""
    found = hashlib.sha256()
    for file in files:
        with file.open("rb") as content:
            found.update(hashlib.file_digest(content, "sha256").digest())
    return found.hexdigest()


def _weight_files(folder: Path) -> list[Path]:
    """config.json and the weights that transformers takes: safetensors where there are any; [] where there are none."""
    weights = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
    config = folder / "config.json"
    return [config, *weights] if weights and config.is_file() else []


class FrozenEncoder:
    """A frozen encoder on the device and in the precision of the settings, as training would run it.

    Args:
        settings: `model`, `dtype` and `device` are read.
        part: 'points' or 'images'.

    Attributes:
        width: of a feature.
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
