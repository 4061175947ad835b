from pathlib import Path

import pytest
import torch
from transformers import Dinov2Config, Dinov2Model

from cadmllm.errors import CadmllmError
from cadmllm.models.dino import tiny_dino
from cadmllm.models.image import ImageEncoder, build_image_encoder


@pytest.fixture(scope="module")
def dino(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DINOv2 folder as the hub has them: patch 14, positions for 518 pixels."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("dino")
    config = Dinov2Config(hidden_size=24, num_hidden_layers=1, num_attention_heads=2, mlp_ratio=2, image_size=518, patch_size=14)
    Dinov2Model(config).save_pretrained(folder)
    return folder


def pixels(count: int = 2) -> torch.Tensor:
    return torch.randn(count, 3, 224, 224, generator=torch.Generator().manual_seed(0))


def test_a_pretrained_encoder_is_frozen_and_gives_257_tokens(settings, dino: Path):
    chosen = settings(image_encoder=str(dino), image_tokens=257)
    encoder, width, frozen = build_image_encoder(chosen)
    assert (width, frozen) == (24, True)
    with torch.no_grad():
        features = encoder(pixels())
        assert torch.equal(features, Dinov2Model.from_pretrained(dino)(pixels()).last_hidden_state)
    assert features.shape == (2, 257, 24)


def test_pooling_averages_patches_of_the_same_place(settings, dino: Path):
    whole = build_image_encoder(settings(image_encoder=str(dino), image_tokens=256))[0]
    some = build_image_encoder(settings(image_encoder=str(dino), image_tokens=17))[0]
    with torch.no_grad():
        patches = whole(pixels()).view(2, 16, 16, 24)
        pooled = some(pixels())
    torch.testing.assert_close(pooled[:, 1 + 6], patches[:, 4:8, 8:12].mean(dim=(1, 2)))


@pytest.mark.parametrize("tokens", [3, 66, 100, 257])
def test_numbers_of_tokens_that_cannot_be_had(settings, tokens: int):
    with pytest.raises(CadmllmError) as caught:
        build_image_encoder(settings(image_tokens=tokens))
    assert caught.value.code == "E102"
    assert str(tokens) in caught.value.message


def test_the_tiny_encoder_trains(settings):
    encoder, width, frozen = build_image_encoder(settings(image_tokens=16))
    assert (width, frozen) == (96, False)
    encoder(pixels()).square().mean().backward()
    assert all(p.grad is not None for name, p in encoder.named_parameters() if "mask_token" not in name)
    assert sum(p.numel() for p in encoder.parameters()) < 600_000


@pytest.mark.parametrize("name", ["./nowhere", "dinov2", "cadmllm-test/absent"])
def test_an_encoder_that_is_not_there(settings, name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(CadmllmError) as caught:
        build_image_encoder(settings(image_encoder=name))
    assert caught.value.code == "E502"
    assert name in caught.value.message


@pytest.mark.parametrize("damage", ["config.json", "model.safetensors"])
def test_a_folder_with_a_broken_file(settings, dino: Path, tmp_path: Path, damage: str):
    for file in dino.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes()[: 40 if file.name == damage else None])
    with pytest.raises(CadmllmError) as caught:
        build_image_encoder(settings(image_encoder=str(tmp_path)))
    assert caught.value.code == "E502"


def test_another_class_of_model(settings, base: Path):
    with pytest.raises(CadmllmError, match="qwen3, not a dinov2"):
        build_image_encoder(settings(image_encoder=str(base)))


def test_the_grid_of_the_tiny_encoder():
    assert ImageEncoder(tiny_dino(), 65).grid == 8
