"""What is opened for an export, and everything that is refused: broken, changed, of another base, not here."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from cadmllm.errors import CadmllmError
from cadmllm.export.source import find_base, open_source
from cadmllm.models.weights import load_model


@pytest.fixture
def copied(kept, tmp_path: Path):
    """The checkpoint and its base, to be spoilt: (folder, base, settings that name it)."""
    base = Path(shutil.copytree(kept.base, tmp_path / "base"))
    folder = Path(shutil.copytree(kept.folder, tmp_path / "checkpoint"))
    record = json.loads((folder / "model.json").read_text())
    record["model"]["llm"] = str(base)
    (folder / "model.json").write_text(json.dumps(record))
    settings = kept.settings.model_copy(deep=True)
    settings.model.llm = str(base)
    return folder, base, settings


def refused(folder: Path, settings, code: str) -> CadmllmError:
    with pytest.raises(CadmllmError) as caught:
        open_source(folder, settings)
    assert caught.value.code == code, caught.value.message
    assert caught.value.remedy
    return caught.value


def spoil(folder: Path, **tensors: torch.Tensor | None) -> None:
    """Change ('.' written as '__') or, with None, take away tensors of the checkpoint."""
    state = load_file(folder / "model.safetensors")
    for name, value in tensors.items():
        state.pop(name.replace("__", "."), None)
        if value is not None:
            state[name.replace("__", ".")] = value
    save_file(state, folder / "model.safetensors", {"format": "pt"})


def test_what_a_source_knows(kept):
    notes: list[str] = []
    source = open_source(kept.folder, kept.settings, notes)
    assert (source.stage, source.lora, source.scale, source.text_size, source.rows, source.width) == (1, True, 2.0, 259, 1861, 32)
    assert source.pair("model.layers.0.mlp.up_proj.weight") == (
        "llm.layers.0.mlp.up_proj.lora_A.weight",
        "llm.layers.0.mlp.up_proj.lora_B.weight",
    )
    assert source.pair("model.norm.weight") is None
    assert source.notes is notes
    assert any("ties" in note for note in notes) is source.base.layout.tied
    assert len(list(source.base.folder.glob("*.safetensors"))) > 2, "the base of these tests lies in shards"


@pytest.mark.parametrize("stage", [2, 3])
def test_later_stages(make_checkpoint, kept, stage: int, tmp_path: Path):
    made = make_checkpoint(tmp_path, kept.base, stage=stage)
    source = open_source(made.folder, made.settings)
    assert source.stage == stage
    assert any(name.startswith("points.projector.") for name in source.state.names())


def test_the_bundled_base():
    base = find_base("tiny")
    assert base.layout.tied
    assert base.text_size == len(base.tokenizer) == 1164


def test_a_broken_checkpoint(copied):
    folder, _, settings = copied
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:-5])
    assert "model.safetensors" in refused(folder, settings, "E503").message
    (folder / "model.safetensors").write_bytes(b"\x80\x04pickle, perhaps")
    refused(folder, settings, "E503")
    (folder / "model.safetensors").write_bytes(whole)
    (folder / "model.json").write_text("{")
    refused(folder, settings, "E503")
    refused(folder / "nowhere", settings, "E503")


def test_tensors_that_are_missing_unknown_or_of_another_shape(copied):
    folder, _, settings = copied
    spoil(folder, llm__extra__weight=torch.zeros(2))
    assert "llm.extra.weight" in refused(folder, settings, "E504").message
    spoil(folder, llm__extra__weight=None, points__surprise=torch.zeros(2))
    assert "points.surprise" in refused(folder, settings, "E504").message
    spoil(folder, points__surprise=None, rows__input=torch.zeros(1602, 31))
    assert "(1602, 31), and (1602, 32)" in refused(folder, settings, "E504").message
    spoil(folder, rows__input=torch.zeros(1602, 32, dtype=torch.int64))
    assert "I64" in refused(folder, settings, "E504").message
    spoil(folder, rows__input=torch.zeros(1602, 32), llm__layers__1__self_attn__q_proj__lora_B__weight=None)
    assert "llm.layers.1.self_attn.q_proj.lora_B.weight" in refused(folder, settings, "E504").message


def test_a_later_stage_without_its_projector(copied, rewrite):
    folder, _, settings = copied
    rewrite(folder / "model.json", stage=2)
    assert "points.projector" in refused(folder, settings, "E504").message


def test_a_record_that_says_something_else(copied, rewrite):
    folder, _, settings = copied
    rewrite(folder / "model.json", lora={"enabled": True, "r": 5, "alpha": 8})
    assert "lora_A" in refused(folder, settings, "E504").message
    rewrite(folder / "model.json", lora={"enabled": True, "r": "4", "alpha": 8})
    refused(folder, settings, "E504")
    rewrite(folder / "model.json", lora={"enabled": True, "r": 0, "alpha": 8})
    refused(folder, settings, "E504")
    rewrite(folder / "model.json", lora={"enabled": True, "r": 4, "alpha": 8}, vocabulary="0123456789abcdef")
    assert "vocabulary" in refused(folder, settings, "E504").message


def same_words_as_loading(folder: Path, settings, part: str) -> None:
    error = refused(folder, settings, "E504")
    with pytest.raises(CadmllmError) as caught:
        load_model(folder, settings)
    assert (error.message, error.remedy) == (caught.value.message, caught.value.remedy)
    assert f"({part})" in error.message


def test_another_base_is_refused_in_the_words_of_loading(copied, make_base, kept):
    folder, base, settings = copied
    tied = open_source(kept.folder, kept.settings).base.layout.tied
    for part, other in (
        ("weights", {"seed": 7}),
        ("tokenizer", {"extra": "<|other|>"}),
        ("config", {"intermediate_size": 50}),
    ):
        shutil.rmtree(base)
        make_base(base, tied=tied, **other)
        same_words_as_loading(folder, settings, part)


def test_the_fingerprint_does_not_depend_on_the_type_of_the_files(copied, make_base, make_checkpoint, tmp_path: Path):
    for dtype in (torch.bfloat16, torch.float16):
        base = make_base(tmp_path / str(dtype), dtype=dtype, family="qwen2")
        made = make_checkpoint(tmp_path / f"of {dtype}", base)
        source = open_source(made.folder, made.settings)
        assert source.record["base"] == made.model.fingerprint


def test_a_base_whose_files_are_not_whole(copied):
    folder, base, settings = copied
    index = base / "model.safetensors.index.json"
    text = index.read_text()
    shard = sorted(base.glob("model-*.safetensors"))[1]
    held = shard.read_bytes()
    shard.write_bytes(held[:-1])
    assert shard.name in refused(folder, settings, "E505").message
    shard.unlink()
    assert shard.name in refused(folder, settings, "E724").message
    shard.write_bytes(held)
    for name in ("../base/" + shard.name, str(shard), "..", "sub/" + shard.name, "model.bin", 3):
        index.write_text(text.replace(json.dumps(shard.name), json.dumps(name)))
        assert repr(name) in refused(folder, settings, "E506").message
    index.write_text("{}")
    refused(folder, settings, "E506")
    index.write_text(text)
    open_source(folder, settings)


def test_a_base_that_its_config_does_not_describe(copied, rewrite):
    folder, base, settings = copied
    shard = next(path for path in base.glob("model-*.safetensors") if "model.layers.1.self_attn.k_norm.weight" in load_file(path))
    state = load_file(shard)
    value = state.pop("model.layers.1.self_attn.k_norm.weight")
    save_file(state, shard)
    assert "k_norm" in refused(folder, settings, "E506").message
    save_file(state | {"model.layers.1.self_attn.k_norm.weight": value[:4].clone()}, shard)
    assert "k_norm" in refused(folder, settings, "E506").message
    save_file(state | {"model.layers.1.self_attn.k_norm.weight": value.to(torch.float8_e4m3fn)}, shard)
    assert "F8_E4M3" in refused(folder, settings, "E724").message
    save_file(state | {"model.layers.1.self_attn.k_norm.weight": value, "model.mtp.weight": value.clone()}, shard)
    assert any("model.mtp.weight" in note for note in open_source(folder, settings).notes)
    rewrite(base / "config.json", model_type="no such model")
    refused(folder, settings, "E501")


def test_a_quantised_base_and_the_command_that_mends_it(copied, rewrite, kept):
    folder, base, settings = copied
    rewrite(base / "config.json", quantization_config={"quant_method": "awq"})
    error = refused(folder, settings, "E724")
    assert "awq" in error.message
    assert f"cadmllm export --checkpoint {folder} --to merged --set model.llm=" in error.remedy
    settings.model.llm = str(kept.base)  # as the remedy says
    notes: list[str] = []
    source = open_source(folder, settings, notes)
    assert source.base.folder == kept.base
    assert source.settings.model.llm == str(kept.base)
    assert any(str(kept.base) in note and "awq" in note for note in notes)


def test_the_plain_model_of_a_quantised_one_is_named(tmp_path: Path, make_base, rewrite):
    for name, plain in (
        ("Qwen3-8B-AWQ", "Qwen/Qwen3-8B"),
        ("Qwen3-4B-unsloth-bnb-4bit", "Qwen/Qwen3-4B"),
        ("mine", "NAME_OR_FOLDER"),
    ):
        rewrite(make_base(tmp_path / name) / "config.json", quantization_config={"quant_method": "x"})
        with pytest.raises(CadmllmError) as caught:
            find_base(str(tmp_path / name))
        assert f"--set model.llm={plain}" in caught.value.remedy


def test_a_base_of_pickles_is_not_opened(copied):
    folder, base, settings = copied
    for path in base.glob("model*"):
        path.unlink()
    assert "no model.safetensors" in refused(folder, settings, "E724").message
    (base / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch /tmp/never'\ntR.")
    error = refused(folder, settings, "E724")
    assert "pickle" in error.message
    assert "save_pretrained" in error.remedy
    assert "--set model.llm=base-safetensors" in error.remedy


def test_a_base_that_has_gone_is_taken_from_where_the_settings_say(copied, kept):
    folder, base, settings = copied
    shutil.rmtree(base)
    assert "no such folder" in refused(folder, settings, "E724").message
    settings.model.llm = str(kept.base)
    notes: list[str] = []
    assert open_source(folder, settings, notes).base.name == str(kept.base)
    assert any("no such folder" in note for note in notes)
    settings.model.llm = "tiny"
    error = refused(folder, settings, "E724")
    assert "no such folder" in error.message
    assert "tiny is another base" in error.message


def test_a_base_without_its_output_matrix(make_checkpoint, tmp_path: Path, make_base):
    base = make_base(tmp_path / "base")
    state = load_file(base / "model.safetensors")
    state.pop("lm_head.weight")
    save_file({name.removeprefix("model."): value for name, value in state.items()}, base / "model.safetensors")
    made = make_checkpoint(tmp_path / "checkpoint", base)
    assert "lm_head.weight" in refused(made.folder, made.settings, "E724").message


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub, and no network."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def test_a_base_of_the_hub(copied, rewrite, cache: Path, monkeypatch: pytest.MonkeyPatch):
    folder, base, settings = copied
    record = json.loads((folder / "model.json").read_text())
    rewrite(folder / "model.json", model=record["model"] | {"llm": "someone/small"})
    settings.model.llm = "someone/small"
    error = refused(folder, settings, "E724")
    assert "hf download someone/small" in error.remedy
    assert "cannot be fetched" in error.message
    place = cache / "models--someone--small"
    snapshot = place / "snapshots" / "0123456789012345678901234567890123456789"
    shutil.copytree(base, snapshot)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(snapshot.name)
    source = open_source(folder, settings)
    assert (source.base.name, source.base.folder) == ("someone/small", snapshot)
    shard = min(snapshot.glob("model-*.safetensors"))
    shard.unlink()  # a download that was cut short
    assert "hf download someone/small" in refused(folder, settings, "E724").remedy
    monkeypatch.setattr("huggingface_hub.list_repo_files", lambda name: ["config.json", "pytorch_model.bin"])
    error = refused(folder, settings, "E724")
    assert "pickle" in error.message
    assert "someone/small" in error.remedy
    assert "--set model.llm=small-safetensors" in error.remedy
