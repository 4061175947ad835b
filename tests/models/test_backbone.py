import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from cadmllm.errors import CadmllmError
from cadmllm.models.backbone import LORA_TARGETS, ROWS_FILE, load_backbone
from cadmllm.models.fusion import build_model
from cadmllm.models.record import vocabulary_hash
from cadmllm.models.rows import AddedRows


def refused(settings, code: str = "E501") -> CadmllmError:
    with pytest.raises(CadmllmError) as caught:
        load_backbone(settings)
    assert caught.value.code == code
    return caught.value


def test_lora_stands_on_the_seven_linears_and_nothing_else_trains(settings):
    backbone = load_backbone(settings())
    trained = [name for name, p in backbone.model.named_parameters() if p.requires_grad]
    assert {name.split(".")[-4] for name in trained} == set(LORA_TARGETS)
    assert len(trained) == 2 * 7 * 2
    assert not any("lm_head" in name for name, _ in backbone.model.named_parameters())


def test_without_lora_everything_trains_in_float32(settings):
    chosen = settings(lora=False)
    chosen.dtype = "bfloat16"
    parameters = list(load_backbone(chosen).model.parameters())
    assert all(p.requires_grad and p.dtype == torch.float32 for p in parameters)


def test_a_frozen_base_is_held_in_the_settings_type(settings):
    chosen = settings()
    chosen.dtype = "bfloat16"
    frozen = {p.dtype for p in load_backbone(chosen).model.parameters() if not p.requires_grad}
    assert frozen == {torch.bfloat16}


def test_the_tokenizer_is_left_as_it_came(settings):
    backbone = load_backbone(settings())
    assert backbone.text_size == len(backbone.tokenizer) == 259


@pytest.mark.parametrize("name", ["./nowhere", "/no/such/folder", "nowhere", "a/b/c"])
def test_a_folder_that_is_missing(settings, name: str):
    error = refused(settings(llm=name))
    assert name in error.message
    assert "model.llm" in error.remedy


def test_a_hub_name_without_a_network(settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "cadmllm-test/absent" in refused(settings(llm="cadmllm-test/absent")).message


@pytest.fixture
def broken(base: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(base, tmp_path / "broken"))


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
@pytest.mark.parametrize("damage", ["gone", "empty", "cut"])
def test_a_base_with_a_bad_file(settings, broken: Path, name: str, damage: str):
    file = broken / name
    data = file.read_bytes()
    file.unlink()
    if damage != "gone":
        file.write_bytes(b"" if damage == "empty" else data[: len(data) // 2])
    assert str(broken) in refused(settings(llm=str(broken))).message


def test_a_weight_that_is_missing_is_not_started_at_random(settings, broken: Path):
    weights = load_file(broken / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, broken / "model.safetensors", {"format": "pt"})
    assert "layers.1.mlp.up_proj.weight" in refused(settings(llm=str(broken))).message


def test_another_architecture(settings, broken: Path):
    config = {"model_type": "dinov2", "architectures": ["Dinov2Model"]}
    (broken / "config.json").write_text(json.dumps(config))
    refused(settings(llm=str(broken)))


def test_a_configuration_of_other_types(settings, broken: Path):
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps(config | {"hidden_size": "32"}))
    assert "hidden_size" in refused(settings(llm=str(broken))).message


def test_a_tokenizer_larger_than_the_embedding(settings, broken: Path):
    config = json.loads((broken / "config.json").read_text()) | {"vocab_size": 200}
    (broken / "config.json").write_text(json.dumps(config))
    weights = load_file(broken / "model.safetensors")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        weights[name] = weights[name][:200].clone()
    save_file(weights, broken / "model.safetensors", {"format": "pt"})
    assert "259" in refused(settings(llm=str(broken))).message


def test_nf4_without_bitsandbytes_says_how_to_get_it(settings, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert refused(settings(quantization="nf4")).remedy == "pip install 'cadmllm[qlora]'"


def test_rows_that_the_base_brings_along(settings, broken: Path):
    rows = AddedRows(259, 32, seed=5)
    state = {name: p.detach().half() for name, p in rows.named_parameters()}
    save_file(state, broken / ROWS_FILE, {"vocabulary": vocabulary_hash()})
    found = load_backbone(settings(llm=str(broken))).rows_init
    assert found is not None
    assert torch.equal(found["input"], state["input"].float())
    save_file(state, broken / ROWS_FILE, {"vocabulary": "another"})
    refused(settings(llm=str(broken)), "E504")
    (broken / ROWS_FILE).write_bytes(b"nonsense")
    refused(settings(llm=str(broken)))


def test_the_fingerprint_knows_other_weights_but_not_another_type(settings, make_base, tmp_path: Path):
    one, chosen = load_backbone(settings()).fingerprint, settings(lora=False)
    assert load_backbone(chosen).fingerprint == one
    other = load_backbone(settings(llm=str(make_base(tmp_path / "other", seed=1)))).fingerprint
    assert other["weights"] != one["weights"]
    assert other["config"] == one["config"]
    assert other["tokenizer"] == one["tokenizer"]


def test_loras_inputs_are_not_copied_under_autocast_and_nothing_changes(settings, make_batch):
    from peft.tuners.lora import LoraLayer

    chosen = settings()
    chosen.dtype = "bfloat16"
    found = []
    for copies in (False, True):
        model = build_model(chosen, 1)
        linears = [module for module in model.modules() if isinstance(module, LoraLayer)]
        assert len(linears) == 14
        for module in linears:
            module.forward = module.forward.plain  # peft's own
            if copies:
                del module._cast_input_dtype
        kept: dict[int, int] = {}
        save = lambda tensor, kept=kept: kept.update({tensor.untyped_storage().data_ptr(): tensor.nbytes}) or tensor  # noqa: E731
        with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor), torch.autocast("cpu", torch.bfloat16):
            loss, _ = model.loss(make_batch(model.text_size))
        loss.backward()
        gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        found.append((loss.detach(), gradients, sum(kept.values())))
    (loss, gradients, kept), (loss_copied, gradients_copied, kept_copied) = found
    assert torch.equal(loss, loss_copied)
    assert all(torch.equal(value, gradients_copied[name]) for name, value in gradients.items())
    assert kept < kept_copied
    with torch.no_grad():  # answers are computed without autocast, on weights of both types
        assert torch.isfinite(model.eval().loss(make_batch(model.text_size))[0])
        assert torch.isfinite(build_model(chosen, 1).eval().loss(make_batch(model.text_size))[0])
