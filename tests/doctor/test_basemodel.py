"""The base model: where it is looked for, how much of it is missing, whether its parts agree, and how it is recognised."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest
from made_checkpoints import edit_json, in_hub, write_safetensors
from scene import Scene, build

from cadmllm.doctor import basemark, decoder
from cadmllm.doctor.basemark import base_mark
from cadmllm.doctor.basemodel import check_base
from cadmllm.doctor.cache import Cache
from cadmllm.doctor.check import Level, Outcome, Situation
from cadmllm.doctor.decoder import decoder_tensors, quantised
from cadmllm.doctor.hub import hub_cache, locate, snapshot
from cadmllm.doctor.vocabulary import misfit, read_vocabulary
from cadmllm.errors import CadmllmError
from cadmllm.plan.sizes import KNOWN
from cadmllm.settings import Settings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


@pytest.fixture
def scene(tmp_path, monkeypatch) -> Scene:
    return build(tmp_path, monkeypatch)


def looked_at(scene: Scene) -> Outcome:
    try:
        return check_base(scene.situation())
    except CadmllmError as error:
        return _as_outcome(error)


def _as_outcome(error: CadmllmError) -> Outcome:
    from cadmllm.doctor.check import Finding

    return Outcome(findings=(Finding(error.code, Level.FAIL, "base-model", error.message, error.remedy),))


def found(scene: Scene) -> tuple[str, str, str]:
    (finding,) = looked_at(scene).findings
    return finding.code, finding.message, finding.remedy


def test_a_healthy_one(scene):
    outcome = looked_at(scene)
    assert outcome.level is Level.OK
    assert "259 items" in outcome.summary
    assert "2 layers of width 32, vocabulary of 272 rows" in outcome.details[1]


def test_the_bundled_base(scene):
    scene.values["model.llm"] = "tiny"
    assert looked_at(scene).level is Level.OK


def test_where_the_hub_keeps_models():
    assert hub_cache({"HF_HUB_CACHE": "/a", "HF_HOME": "/b"}) == Path("/a")
    assert hub_cache({"HUGGINGFACE_HUB_CACHE": "/a", "HF_HOME": "/b"}) == Path("/a")
    assert hub_cache({"HF_HOME": "/b"}) == Path("/b/hub")
    assert hub_cache({"XDG_CACHE_HOME": "/c"}) == Path("/c/huggingface/hub")
    assert hub_cache({"HOME": "/h"}) == Path("/h/.cache/huggingface/hub")


def test_a_model_of_the_hub(scene):
    scene.values["model.llm"] = "Qwen/Qwen3-8B"
    scene.environ["HF_HOME"] = str(scene.folder / "hf")
    code, message, remedy = found(scene)
    assert (code, message) == ("E501", "Qwen/Qwen3-8B is not on this machine")
    assert "hf download Qwen/Qwen3-8B" in remedy
    assert "(15.6 GiB)" in remedy
    assert "--set model.llm=DIR" in remedy
    scene.environ["HF_HUB_OFFLINE"] = "1"
    _, message, remedy = found(scene)
    assert "HF_HUB_OFFLINE forbids downloads" in message
    assert "env -u HF_HUB_OFFLINE " in remedy


def test_one_of_its_name_nearby_is_offered(scene):
    shutil.copytree(scene.base, scene.folder / "models" / "Qwen3-8B")
    scene.values["model.llm"] = "Qwen/Qwen3-8B"
    outcome = looked_at(scene)
    (fix,) = outcome.fixes
    assert (fix.kind, fix.name, fix.value) == ("setting", "model.llm", str(scene.folder / "models" / "Qwen3-8B"))
    assert f"--set model.llm={fix.value}" in outcome.findings[0].remedy


def test_the_snapshot_that_main_points_to(scene):
    good = in_hub(scene, scene.base)
    other = good.parent / "newer"
    other.mkdir()
    assert locate("acme/base", scene.environ).folder == good
    assert looked_at(scene).level is Level.OK
    (good.parent.parent / "refs" / "main").write_text("../../elsewhere")
    assert snapshot(good.parent.parent) in (good, other)


def test_how_much_of_the_shards_is_missing(scene):
    snap = in_hub(scene, scene.base)
    (snap / "model.safetensors").unlink()
    held = {f"t{n}": f"model-{n}-of-3.safetensors" for n in (1, 2, 3)}
    (snap / "model.safetensors.index.json").write_text(json.dumps({"metadata": {"total_size": 3 << 30}, "weight_map": held}))
    write_safetensors(snap / "model-1-of-3.safetensors", {"t1": ("BF16", (1 << 29,))})
    (snap.parent.parent / "blobs" / "x.incomplete").write_bytes(bytes(1 << 20))
    code, message, remedy = found(scene)
    assert code == "E501"
    assert "lacks model-2-of-3.safetensors, model-3-of-3.safetensors; 2.0 GiB of 3.0 GiB are still" in message
    assert "1.0 MiB of it are half-way" in message
    assert "hf download acme/base model-2-of-3.safetensors model-3-of-3.safetensors" in remedy


def test_all_names_of_qwen3_8b_and_a_tensor_too_few(scene):
    shape = KNOWN["Qwen/Qwen3-8B"]
    wanted = {f"model.{name}": ("BF16", size) for name, size in decoder_tensors(shape).items()}
    sizes = {"hidden_size": 4096, "num_hidden_layers": 36, "vocab_size": 151936, "intermediate_size": 12288}
    edit_json(scene.base / "config.json", **sizes, num_attention_heads=32, num_key_value_heads=8, head_dim=128)
    write_safetensors(scene.base / "model.safetensors", wanted)
    assert looked_at(scene).level is Level.OK
    del wanted["model.layers.7.self_attn.q_norm.weight"]
    write_safetensors(scene.base / "model.safetensors", wanted)
    code, message, _ = found(scene)
    assert code == "E506"
    assert "lack layers.7.self_attn.q_norm.weight" in message
    write_safetensors(scene.base / "model.safetensors", {k: v for k, v in wanted.items() if ".layers.35." not in k})
    assert "says 36 layers, the weights hold 35" in found(scene)[1]


@pytest.mark.parametrize("kind", ["qwen2", "qwen3", "llama", "mistral"])
def test_names_and_shapes_are_those_of_transformers_in_its_order(kind):
    import torch
    from transformers import AutoConfig, AutoModel

    from cadmllm.plan.sizes import shape_from

    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes |= {"num_key_value_heads": 2, "vocab_size": 50, "head_dim": 8}
    config = AutoConfig.for_model(kind, **sizes)
    with torch.device("meta"):
        model = AutoModel.from_config(config)
    there = [(name, tuple(value.shape)) for name, value in model.named_parameters()]
    wanted = decoder_tensors(shape_from(config.to_dict()))
    assert dict(there) == wanted
    assert [item for item in there if len(item[1]) == 1] == [item for item in wanted.items() if len(item[1]) == 1]


def test_quantised_weights():
    assert quantised({}, "none") == ""
    assert quantised({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "nf4") == "gptq, 4 bit"
    assert quantised({"quantization_config": {"load_in_4bit": True}}, "nf4") == ""
    assert quantised({"quantization_config": {"load_in_4bit": True}}, "none") == "bitsandbytes"


def test_a_quantised_model_is_told_what_to_name_instead(scene):
    folder = scene.base.rename(scene.folder / "Qwen3-8B-AWQ")
    edit_json(folder / "config.json", quantization_config={"quant_method": "awq", "bits": 4})
    scene.values["model.llm"] = str(folder)
    code, message, remedy = found(scene)
    assert (code, "awq, 4 bit" in message) == ("E501", True)
    assert "--set model.llm=Qwen/Qwen3-8B --set model.quantization=nf4" in remedy


def test_a_tokenizer_is_read_as_transformers_reads_it(scene, tmp_path):
    from transformers import AutoTokenizer

    cache = Cache(tmp_path / "doctor.json")
    known = read_vocabulary(scene.base, cache)
    size = len(cast("PreTrainedTokenizerFast", AutoTokenizer.from_pretrained(scene.base)))
    assert (known.size, known.top, known.chat) == (size, size - 1, True)
    assert misfit(known, size) == ""
    assert misfit(known, size - 1)
    edit_json(scene.base / "tokenizer_config.json", pad_token="<|another|>")
    known = read_vocabulary(scene.base, cache)
    assert known.size == size + 1 == len(cast("PreTrainedTokenizerFast", AutoTokenizer.from_pretrained(scene.base)))
    assert known.digest == ""


@pytest.mark.parametrize("lora", [True, False])
@pytest.mark.parametrize("name", ["base", "tiny"])
def test_the_mark_is_the_one_that_checkpoints_note(scene, monkeypatch, name, lora):
    from cadmllm.models.backbone import load_backbone

    if name == "tiny":
        scene.values["model.llm"] = "tiny"
    scene.values["lora.enabled"] = lora
    noted = load_backbone(scene.settings()).fingerprint
    monkeypatch.setattr(basemark, "run_probe", None)  # float32 and float16, which need nobody else's eyes
    assert base_mark(scene.situation(), noted) == noted


@pytest.mark.long
def test_what_differs_is_looked_at_as_transformers_does(scene):
    from cadmllm.models.backbone import load_backbone

    noted = load_backbone(scene.settings()).fingerprint
    found = base_mark(scene.situation(), {**noted, "weights": "another"})
    assert found == noted


def test_a_kind_that_is_not_known_beforehand_is_asked_about_once(scene, monkeypatch):
    edit_json(scene.base / "config.json", model_type="qwen2_moe")
    scene.fresh = False
    situation = scene.situation()
    from cadmllm.doctor.basemodel import base_files

    asked = []

    def answer(*args: object, **options: object):
        asked.append(args)
        return decoder_answer

    from cadmllm.doctor.probe import Probe

    decoder_answer = Probe([{"wrong": ""}], "", "")
    monkeypatch.setattr(decoder, "run_probe", answer)
    situation.cache = Cache(scene.folder / "doctor.json")
    assert decoder.unsupported(situation, base_files(situation)) == ""
    assert decoder.unsupported(situation, base_files(situation)) == ""
    assert len(asked) == 1


def test_without_torch_known_kinds_are_examined_all_the_same(tmp_path, scene):
    situation = Situation(Settings(model={"llm": str(scene.base)}), broken={"torch", "transformers"})
    assert check_base(situation).level is Level.OK
