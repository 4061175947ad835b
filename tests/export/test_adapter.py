"""The adapter folder, loaded with peft alone, answers as the checkpoint does; so does what stands beside it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cadmllm.corpus.types import ADDED, CAD_SIZE
from cadmllm.errors import CadmllmError
from cadmllm.export import merge
from cadmllm.export.adapter import adapter_config, public_name, write_adapter
from cadmllm.export.merge import merged_tensors, needed_bytes
from cadmllm.export.parts import write_parts
from cadmllm.export.source import open_source

TEXT = 259


@pytest.fixture
def source(kept):
    """The checkpoint over a tied and an untied base, opened."""
    return open_source(kept.folder, kept.settings)


def with_peft(base: Path, folder: Path, rows: int):
    """The script of the model card."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, tie_word_embeddings=False)
    model.resize_token_embeddings(rows, mean_resizing=False)
    return PeftModel.from_pretrained(model, folder).eval()


def test_peft_loads_lora_and_both_matrices(source, kept, answers, ids, tmp_path: Path):
    written = write_adapter(source, tmp_path, torch.float32)
    assert [path.name for path in written] == ["adapter_config.json", "adapter_model.safetensors"]
    model = with_peft(kept.base, tmp_path, source.rows)
    ours = answers(kept.model, ids)
    with torch.no_grad():
        theirs = model(ids).logits
    torch.testing.assert_close(theirs[..., TEXT : TEXT + CAD_SIZE], ours, atol=1e-5, rtol=1e-5)
    merged = dict(merged_tensors(source, torch.float32))
    inner = model.base_model.model
    assert torch.equal(inner.model.embed_tokens.weight, merged["model.embed_tokens.weight"])
    assert torch.equal(inner.lm_head.weight, merged["lm_head.weight"])
    assert inner.lm_head.weight.data_ptr() != inner.model.embed_tokens.weight.data_ptr()
    together = model.merge_and_unload().state_dict()
    for name, value in merged.items():
        torch.testing.assert_close(together[name], value, atol=1e-6, rtol=1e-5)


def test_nothing_in_the_file_is_unknown_to_peft(source, kept, tmp_path: Path):
    from peft import get_peft_model_state_dict

    write_adapter(source, tmp_path, torch.float32)
    model = with_peft(kept.base, tmp_path, source.rows)
    theirs = get_peft_model_state_dict(model, save_embedding_layers=True)
    ours = load_file(tmp_path / "adapter_model.safetensors")
    assert sorted(ours) == sorted(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_lora_stays_as_it_was_trained_unless_16_bit_are_asked_for(source, kept, tmp_path: Path):
    write_adapter(source, tmp_path, torch.bfloat16)
    state = load_file(tmp_path / "adapter_model.safetensors")
    trained = load_file(kept.folder / "model.safetensors")
    name = "layers.0.mlp.up_proj.lora_B.weight"
    assert torch.equal(state[f"base_model.model.model.{name}"], trained[f"llm.{name}"])
    assert state["base_model.model.lm_head.weight"].dtype == torch.bfloat16
    source.settings.export.dtype = "bf16"
    write_adapter(source, tmp_path, torch.bfloat16)
    assert {value.dtype for value in load_file(tmp_path / "adapter_model.safetensors").values()} == {torch.bfloat16}


def test_the_config_is_pefts_own(source, tmp_path: Path):
    from peft import LoraConfig, PeftConfig

    write_adapter(source, tmp_path / ".", torch.float32)
    read = PeftConfig.from_pretrained(tmp_path)
    assert isinstance(read, LoraConfig)
    assert (read.r, read.lora_alpha, read.task_type, read.inference_mode) == (4, 8, "CAUSAL_LM", True)
    held = json.loads((tmp_path / "adapter_config.json").read_text())
    assert held == json.loads(json.dumps(adapter_config(source)))
    assert str(Path(source.base.folder).parent) not in json.dumps(held), "nobody's folders stand in it"
    read.save_pretrained(tmp_path)
    again = json.loads((tmp_path / "adapter_config.json").read_text())
    assert again.keys() == held.keys()
    assert sorted(again.pop("target_modules")) == sorted(held.pop("target_modules"))
    assert again == held


def test_what_a_base_is_called_elsewhere(tmp_path: Path):
    (tmp_path / "My Base").mkdir()
    assert public_name("Qwen/Qwen3-8B") == "Qwen/Qwen3-8B"
    assert public_name("tiny") == "tiny"
    assert public_name(str(tmp_path / "My Base")) == "My Base"
    assert public_name("/home/me/.cache/huggingface/hub/models--Qwen--Qwen3-8B/snapshots/b968826d") == "Qwen/Qwen3-8B"


def test_without_lora_there_is_no_adapter(make_checkpoint, kept, tmp_path: Path):
    made = make_checkpoint(tmp_path, kept.base, lora=False)
    with pytest.raises(CadmllmError) as caught:
        write_adapter(open_source(made.folder, made.settings), tmp_path, torch.float32)
    assert caught.value.code == "E723"
    assert "--to merged" in caught.value.remedy
    assert not (tmp_path / "adapter_config.json").exists()


@pytest.mark.parametrize(("stage", "train"), [(1, False), (2, False), (3, False), (3, True)])
def test_projectors_and_trained_encoders(make_checkpoint, kept, stage: int, train: bool, tmp_path: Path):
    made = make_checkpoint(tmp_path / "checkpoint", kept.base, stage=stage, train_encoders=train)
    source = open_source(made.folder, made.settings)
    (tmp_path / "out").mkdir()
    written = write_parts(source, tmp_path / "out", torch.bfloat16)
    trained = load_file(made.folder / "model.safetensors")
    beside = {name for name in trained if name.startswith(("points.", "images."))}
    held = {}
    for path in written:
        kind = {"projectors.safetensors": "projector", "encoders.safetensors": "encoder"}[path.name]
        state = load_file(path)
        assert {name.split(".")[1] for name in state} == {kind}
        held |= state
    assert set(held) == beside
    assert all(torch.equal(held[name], trained[name]) for name in held)
    assert (stage == 1) == (not written)
    branches = {name.split(".")[0] for name in held}
    assert branches == {1: set(), 2: {"points"}, 3: {"points", "images"}}[stage]


def test_the_room_for_an_adapter_is_known_beforehand(make_checkpoint, kept, tmp_path: Path):
    made = make_checkpoint(tmp_path / "checkpoint", kept.base, stage=2)
    source = open_source(made.folder, made.settings)
    written = [*write_adapter(source, tmp_path, torch.bfloat16), *write_parts(source, tmp_path, torch.bfloat16)]
    taken = sum(path.stat().st_size for path in written)
    assert 0 <= taken - (needed_bytes(source, "adapter", "bf16") - merge.PAPERS) < 20_000
    assert source.rows == TEXT + len(ADDED)
