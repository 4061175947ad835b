"""DINOv2 from folders and the hub's cache, in every precision; and what is not one, by name."""

from __future__ import annotations

import json
import pickle
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from transformers import (
    Dinov2Config,
    Dinov2ForImageClassification,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
)

from cadmllm.errors import CadmllmError
from cadmllm.models.dino import load_dino, tiny_dino
from cadmllm.models.image import ImageEncoder

# the published shapes (patch 14, positions of 518 pixels), narrow: small, base, large, and the giant's gated MLPs
SIZES = {
    "small": {"num_hidden_layers": 12, "hidden_size": 12, "num_attention_heads": 6},
    "base": {"num_hidden_layers": 12, "hidden_size": 24, "num_attention_heads": 12},
    "large": {"num_hidden_layers": 24, "hidden_size": 32, "num_attention_heads": 16},
    "giant": {"num_hidden_layers": 40, "hidden_size": 24, "num_attention_heads": 12, "use_swiglu_ffn": True},
}
OFFICIAL = {  # preprocessor_config.json of facebook/dinov2-*
    "crop_size": {"height": 224, "width": 224},
    "do_center_crop": True,
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.485, 0.456, 0.406],
    "image_processor_type": "BitImageProcessor",
    "image_std": [0.229, 0.224, 0.225],
    "resample": 3,
    "rescale_factor": 0.00392156862745098,
    "size": {"shortest_edge": 256},
}


def make(folder: Path, size: str = "small", layers: int = 2) -> Path:
    torch.manual_seed(0)
    shape = {**SIZES[size], "num_hidden_layers": layers}
    Dinov2Model(Dinov2Config(image_size=518, patch_size=14, **shape)).save_pretrained(folder)  # ty: ignore[invalid-argument-type]
    (folder / "preprocessor_config.json").write_text(json.dumps(OFFICIAL))
    return folder


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the hub has them; read only."""
    return make(tmp_path_factory.mktemp("dino"))


@pytest.fixture
def mine(small: Path, tmp_path: Path) -> Path:
    """A copy of it to harm."""
    return shutil.copytree(small, tmp_path / "mine")


def pixels(count: int = 2) -> torch.Tensor:
    return torch.randn(count, 3, 224, 224, generator=torch.Generator().manual_seed(0))


def refused(name: str | Path, code: str = "E502", dtype: torch.dtype = torch.float32) -> CadmllmError:
    with pytest.raises(CadmllmError) as caught:
        load_dino(str(name), dtype)
    assert caught.value.code == code, caught.value
    assert str(name) in caught.value.message
    assert "model.image_encoder=" in caught.value.remedy
    return caught.value


@pytest.mark.parametrize("size", SIZES)
def test_the_published_kinds_load_and_answer_as_transformers_do(tmp_path: Path, size: str):
    make(tmp_path, size)
    dino = load_dino(str(tmp_path), torch.float32).eval()
    assert dino.config._attn_implementation == "sdpa"
    with torch.no_grad():
        wanted = Dinov2Model.from_pretrained(tmp_path, attn_implementation="eager").eval()(pixels()).last_hidden_state
        torch.testing.assert_close(ImageEncoder(dino, 257)(pixels()), wanted, rtol=1e-4, atol=1e-4)
    assert wanted.shape == (2, 257, SIZES[size]["hidden_size"])


# of features of size 0.8 that leave a LayerNorm: the worst of 6,168, and their mean
@pytest.mark.parametrize(("dtype", "worst", "mean"), [(torch.bfloat16, 0.2, 0.02), (torch.float16, 0.02, 0.0025)])
def test_in_16_bits_answers_are_close(small: Path, dtype: torch.dtype, worst: float, mean: float):
    exact, coarse = (ImageEncoder(load_dino(str(small), kind).eval(), 257) for kind in (torch.float32, dtype))
    with torch.no_grad():
        found = coarse(pixels())
        away = (found.float() - exact(pixels())).abs()
    assert found.dtype == dtype
    assert float(away.max()) < worst
    assert float(away.mean()) < mean


def test_the_tiny_one_uses_the_same_attention():
    assert tiny_dino().config._attn_implementation == "sdpa"


def test_features_do_not_depend_on_the_chunk(small: Path):
    encoder = ImageEncoder(load_dino(str(small), torch.float32).eval(), 17)
    with torch.no_grad():
        whole = encoder(pixels(5))
        for chunk in (1, 2, 5):
            encoder.chunk = chunk
            torch.testing.assert_close(encoder(pixels(5)), whole, rtol=0, atol=1e-5)


def test_a_hub_name_is_read_from_the_hubs_cache(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    commit = "f" * 40
    cache = tmp_path / "hub" / "models--facebook--dinov2-small"
    shutil.copytree(small, cache / "snapshots" / commit)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    state = load_dino("facebook/dinov2-small", torch.float32).state_dict()
    wanted = load_dino(str(small), torch.float32).state_dict()
    assert all(torch.equal(state[name], value) for name, value in wanted.items())
    refused("facebook/dinov2-base")
    path = cache / "snapshots" / commit / "preprocessor_config.json"
    path.write_text(json.dumps(OFFICIAL | {"size": {"shortest_edge": 518}}))
    error = refused("facebook/dinov2-small")
    assert "518" in error.message
    assert "mv " not in error.remedy
    path.unlink()
    assert load_dino("facebook/dinov2-small", torch.float32).dtype == torch.float32


def test_weights_of_torch_save_are_read_as_tensors_alone(mine: Path, small: Path, tmp_path: Path):
    class Trap:
        def __reduce__(self):
            return Path.touch, (tmp_path / "ran",)

    state = Dinov2Model.from_pretrained(mine).state_dict()
    (mine / "model.safetensors").unlink()
    torch.save(state, mine / "pytorch_model.bin")
    loaded, wanted = load_dino(str(mine), torch.bfloat16), load_dino(str(small), torch.bfloat16)
    assert loaded.dtype == torch.bfloat16
    assert all(torch.equal(value, wanted.state_dict()[name]) for name, value in loaded.state_dict().items())
    torch.save({**state, "trap": Trap()}, mine / "pytorch_model.bin")
    refused(mine)
    (mine / "pytorch_model.bin").write_bytes(pickle.dumps(Trap(), 2))
    refused(mine)
    with zipfile.ZipFile(mine / "pytorch_model.bin", "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("archive/data.pkl", bytes(2**24))
    assert "is packed" in refused(mine).message
    assert not (tmp_path / "ran").exists()


def test_other_models_are_refused_by_name(tmp_path: Path):
    torch.manual_seed(0)
    registers = Dinov2WithRegistersConfig(
        hidden_size=12, num_hidden_layers=1, num_attention_heads=2, image_size=518, patch_size=14
    )
    Dinov2WithRegistersModel(registers).save_pretrained(tmp_path / "registers")
    assert "dinov2_with_registers, not a dinov2" in refused(tmp_path / "registers").message
    # the same weights under the configuration of the plain one: register tokens would be left out without a word
    config = json.loads((tmp_path / "registers" / "config.json").read_text())
    (tmp_path / "registers" / "config.json").write_text(json.dumps({**config, "model_type": "dinov2"}))
    assert "embeddings.register_tokens" in refused(tmp_path / "registers", "E507").message
    own = {"model_type": "dinov9", "auto_map": {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}}
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "config.json").write_text(json.dumps(own))
    (tmp_path / "own" / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    refused(tmp_path / "own")
    assert not (tmp_path / "ran").exists()


def test_a_classifier_on_top_is_left_out(tmp_path: Path):
    torch.manual_seed(0)
    config = Dinov2Config(hidden_size=12, num_hidden_layers=1, num_attention_heads=2, image_size=518, patch_size=14)
    Dinov2ForImageClassification(config).save_pretrained(tmp_path)
    assert load_dino(str(tmp_path), torch.float32).config.hidden_size == 12


def test_weights_that_lack_something_are_of_another_shape_or_not_finite(mine: Path):
    from safetensors.torch import load_file, save_file

    file = mine / "model.safetensors"
    whole = load_file(file)
    save_file({name: value for name, value in whole.items() if name != "layernorm.weight"}, file, {"format": "pt"})
    assert "layernorm.weight" in refused(mine, "E507").message
    save_file({**whole, "layernorm.weight": torch.zeros(5)}, file, {"format": "pt"})
    refused(mine)
    save_file({**whole, "layernorm.weight": torch.full((12,), torch.nan)}, file, {"format": "pt"})
    assert "layernorm.weight" in refused(mine, "E508").message
    save_file({**whole, "layernorm.weight": torch.full((12,), 1e5)}, file, {"format": "pt"})
    assert "not finite in float16" in refused(mine, "E508", torch.float16).message
    assert load_dino(str(mine), torch.bfloat16).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("patch_size", 0),
        ("patch_size", 15),
        ("hidden_size", 10**9),
        ("num_hidden_layers", -1),
        ("image_size", "518"),
        ("patch_size", [14]),
        ("hidden_act", "no such function"),
        ("num_attention_heads", 5),
        ("mlp_ratio", -1),
        ("out_indices", [99]),
    ],
)
def test_a_configuration_that_cannot_be(mine: Path, key: str, value: object):
    config = json.loads((mine / "config.json").read_text())
    (mine / "config.json").write_text(json.dumps({**config, key: value}))
    refused(mine)


def test_pictures_that_its_folder_wants_otherwise_are_not_passed_over(mine: Path):
    file = mine / "preprocessor_config.json"
    file.write_text(json.dumps(OFFICIAL | {"crop_size": {"height": 518, "width": 518}}))
    error = refused(mine)
    assert "crop_size is {'height': 518, 'width': 518}, not 224 x 224" in error.message
    assert f"mv '{file}' '{file}.off'" in error.remedy
    file.rename(f"{file}.off")
    assert load_dino(str(mine), torch.float32).config.patch_size == 14
