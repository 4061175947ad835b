"""The point encoder that the settings ask for: Michelangelo's pretrained one, or the small one that is trained here."""

from __future__ import annotations

import torch
from torch import nn

from cadmllm.errors import CadmllmError
from cadmllm.models.fourier import FourierPoints
from cadmllm.models.michelangelo import load_michelangelo
from cadmllm.settings import Settings


def build_points_encoder(settings: Settings) -> tuple[nn.Module, int, bool]:
    """(encoder, width of a feature, whether it is frozen) by `settings.model.points_encoder`.

    Raises:
        CadmllmError: E502, E507, E508 when Michelangelo's file is missing or wrong; E102 when `model.point_tokens` cannot be had.
    """
    model = settings.model
    if model.points_encoder == "fourier":
        if model.point_tokens > model.point_count:
            raise _too_many(model.point_tokens, model.point_count, "there are points (model.point_count)")
        encoder = FourierPoints(model.point_tokens, model.fourier_width)
        return encoder, encoder.width, False
    frozen = not model.train_encoders
    dtype = getattr(torch, settings.dtype) if frozen else torch.float32
    michelangelo = load_michelangelo(model.points_checkpoint, dtype)
    if model.point_tokens > michelangelo.tokens:
        raise _too_many(model.point_tokens, michelangelo.tokens, "the Michelangelo encoder gives")
    michelangelo.keep = 1 if model.point_tokens == 1 else michelangelo.tokens  # fewer than all are made by a resampler
    return michelangelo, michelangelo.width, frozen


def _too_many(wanted: int, there: int, what: str) -> CadmllmError:
    return CadmllmError("E102", f"model.point_tokens is {wanted}, more than {what}: {there}", f"--set model.point_tokens={there}")
