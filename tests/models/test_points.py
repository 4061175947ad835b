"""The point encoder that the settings ask for."""

from pathlib import Path

import pytest
import torch
from encoders import make_michelangelo

from cadmllm.errors import CadmllmError
from cadmllm.models.michelangelo import MichelangeloEncoder
from cadmllm.models.points import build_points_encoder


def cloud(count: int = 50) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(2, count, 3, generator=generator) * 2 - 1, torch.randn(2, count, 3, generator=generator)


def test_building_by_settings(settings, tmp_path: Path):
    make_michelangelo(tmp_path / "m.pt")
    chosen = settings(points_encoder="michelangelo", points_checkpoint=tmp_path / "m.pt", point_tokens=3)
    encoder, width, frozen = build_points_encoder(chosen)
    assert (width, frozen) == (64, True)
    assert encoder(*cloud()).shape == (2, 9, 64)  # a resampler makes 3 of them
    shape = build_points_encoder(settings(**{**chosen.model.model_dump(), "point_tokens": 1}))[0]
    assert torch.equal(shape(*cloud()), encoder(*cloud())[:, :1])
    for bad in ({"point_tokens": 10}, {"points_encoder": "fourier", "point_tokens": 65}):
        with pytest.raises(CadmllmError) as caught:
            build_points_encoder(settings(**{**chosen.model.model_dump(), **bad}))
        assert caught.value.code == "E102"


def test_the_words_of_the_settings_are_the_shape_token_and_all_of_the_published_ones(settings, tmp_path: Path):
    state = MichelangeloEncoder(257, 64, 64, 1, 1).state_dict()
    torch.save({name: torch.randn_like(value) * 0.1 for name, value in state.items()}, tmp_path / "m.pt")
    for word, tokens in (("shape", 1), ("all", 257)):
        chosen = settings(points_encoder="michelangelo", points_checkpoint=tmp_path / "m.pt", point_tokens=word)
        assert build_points_encoder(chosen)[0](*cloud()).shape == (2, tokens, 64)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_frozen_one_has_the_type_of_the_run_and_a_trained_one_32_bits(settings, tmp_path: Path, dtype: str):
    make_michelangelo(tmp_path / "m.pt")
    chosen = settings(points_encoder="michelangelo", points_checkpoint=tmp_path / "m.pt", point_tokens=9)
    chosen.dtype = dtype
    for trained, wanted in ((False, getattr(torch, dtype)), (True, torch.float32)):
        chosen.model.train_encoders = trained
        encoder, _, frozen = build_points_encoder(chosen)
        assert frozen is not trained
        assert {parameter.dtype for parameter in encoder.parameters()} == {wanted}
