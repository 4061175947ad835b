"""What encoders take while they run, in the plan."""

from __future__ import annotations

import pytest
import torch

from cadmllm.doctor.proving.live import Live
from cadmllm.models.dino import PIXELS
from cadmllm.models.image import CHUNK as VIEWS
from cadmllm.models.image import ImageEncoder
from cadmllm.models.michelangelo import CHUNK as CLOUDS
from cadmllm.models.michelangelo import MichelangeloEncoder
from cadmllm.plan import moving
from cadmllm.plan.bridging import Shown
from cadmllm.plan.moving import _passing
from cadmllm.settings import Settings


def test_as_many_are_worked_on_at_once_as_the_models_say():
    assert (moving.CLOUDS_AT_ONCE, moving.VIEWS_AT_ONCE) == (CLOUDS, VIEWS)


@pytest.mark.parametrize("clouds", [1, CLOUDS + 3])
def test_clouds_take_what_is_counted(clouds: int):
    encoder = MichelangeloEncoder(257, 192, 768, 3, 1).eval()
    inputs = torch.rand(clouds, 1024, 3), torch.rand(clouds, 1024, 3)
    settings = Settings(model={"point_count": 1024})
    with Live([*encoder.parameters(), *inputs]) as live, torch.no_grad():
        encoder(*inputs)
    features = clouds * 257 * 192 * 4
    planned = _passing(settings, {"points": 192}, Shown(0, clouds), ["points"], 4)
    assert 0.8 * (live.peak - features) < planned < 1.5 * live.peak
    assert _passing(settings, {"points": 192}, Shown(0, clouds), [], 4) == 0.0


def test_views_take_what_is_counted():
    from transformers import Dinov2Config, Dinov2Model

    config = Dinov2Config(hidden_size=96, num_hidden_layers=1, num_attention_heads=4, patch_size=14, image_size=PIXELS)
    encoder = ImageEncoder(Dinov2Model(config).eval(), 256)
    pixels = torch.rand(3, 3, PIXELS, PIXELS)
    with Live([*encoder.parameters(), pixels]) as live, torch.no_grad():
        encoder(pixels)
    planned = _passing(Settings(), {"images": 96}, Shown(0, 0, 3, 1), ["images"], 4)
    assert 0.8 * live.peak < planned < 1.5 * live.peak
