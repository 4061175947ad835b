"""What a GGUF file holds, read back; what is refused; what is noticed."""

from __future__ import annotations

import random
import shutil
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFReader
from gguf.quants import quantize
from gguf_models import make_source, resized, tensors_of, write_tokens
from torch import Tensor

from cadmllm.corpus.types import CAD_SIZE
from cadmllm.errors import CadmllmError
from cadmllm.export.gguf_arch import architecture, hyperparameters
from cadmllm.export.gguf_file import _check_blocks, check_gguf, write_gguf
from cadmllm.export.gguf_model import gguf_logits
from cadmllm.export.gguf_tensors import BF16, F16, F32, Q8_0, Slot, packed, returned, slots, turned, unpacked
from cadmllm.export.source import Source

INNER = {"attn_q": "self_attn.q_proj", "attn_output": "self_attn.o_proj", "ffn_down": "mlp.down_proj"}
YARN = {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 9}
KINDS: dict[str, dict[str, Any]] = {"qwen3": {}, "qwen2": {}, "llama": {}, "mistral": {"sliding_window": None}}


def _write(folder: Path, dtype: str = "fp32", **options: Any) -> tuple[Source, Any, Path]:
    source = make_source(folder, **options)
    model = resized(source)
    out = write_tokens(source, folder / "out")
    return source, model, write_gguf(source, tensors_of(model), out, out / f"model-{dtype}.gguf", dtype)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Source, Any, Path]:
    """A file in 32 bit; read only."""
    return _write(tmp_path_factory.mktemp("fp32"))


@pytest.fixture(scope="module")
def in_blocks(tmp_path_factory: pytest.TempPathFactory) -> tuple[Source, Any, Path]:
    """A file in q8_0; read only."""
    return _write(tmp_path_factory.mktemp("q8"), "q8_0")


@pytest.mark.parametrize("kind", KINDS)
def test_every_logit_comes_back(tmp_path: Path, kind: str) -> None:
    source, model, path = _write(tmp_path, kind=kind, **KINDS[kind])
    ids = torch.randint(0, source.rows, (2, 50), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model(ids).logits
    assert torch.equal(gguf_logits(path, source.base.layout.config.to_dict(), ids), expected)
    report = check_gguf(path, source, tensors_of(model), "fp32")
    assert report["tensors"] == report["types"]["F32"] == len(source.shapes())
    assert report["tokens"] == source.rows
    assert report["bytes"] == path.stat().st_size


@pytest.mark.parametrize(("dtype", "kind"), [("bf16", BF16), ("fp16", F16), ("q8_0", Q8_0)])
def test_matrices_are_rounded_once_and_vectors_stay(tmp_path: Path, dtype: str, kind: GGMLQuantizationType) -> None:
    _, model, path = _write(tmp_path, dtype)
    state = dict(tensors_of(model))
    held = {tensor.name: tensor for tensor in GGUFReader(path).tensors}
    pairs = {"token_embd.weight": "model.embed_tokens.weight", "output.weight": "lm_head.weight"}
    pairs |= {
        "blk.1.attn_q.weight": "model.layers.1.self_attn.q_proj.weight",
        "blk.0.ffn_down.weight": "model.layers.0.mlp.down_proj.weight",
    }
    for inside, name in pairs.items():
        assert held[inside].tensor_type == kind
        expected = quantize(state[name].numpy(), kind)  # the package's own rounding, where ours is torch's
        assert np.array_equal(np.ascontiguousarray(held[inside].data).view(np.uint8), expected.view(np.uint8))
    for inside, name in {
        "output_norm.weight": "model.norm.weight",
        "blk.0.attn_k_norm.weight": "model.layers.0.self_attn.k_norm.weight",
    }.items():
        assert held[inside].tensor_type == F32
        assert np.array_equal(held[inside].data, state[name].numpy())


def test_tensors_may_come_in_any_order(tmp_path: Path, written: tuple[Source, Any, Path]) -> None:
    source, model, path = written
    backwards: Iterator[tuple[str, Tensor]] = iter(list(tensors_of(model))[::-1])
    other = write_gguf(source, backwards, path.parent, tmp_path / path.name, "fp32")
    assert other.read_bytes() == path.read_bytes()


def test_transformers_own_reader_agrees(tmp_path: Path) -> None:
    """With heads of 128, which it takes for granted."""
    from transformers import AutoModelForCausalLM

    source, model, path = _write(tmp_path, head_dim=128, max_position_embeddings=64)
    ids = torch.randint(0, source.rows, (1, 20), generator=torch.Generator().manual_seed(0))
    theirs = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    with torch.no_grad():
        assert torch.allclose(theirs(ids).logits, model(ids).logits, atol=1e-5)


def test_keys_say_what_llama_cpp_asks(written: tuple[Source, Any, Path]) -> None:
    source, _, path = written
    fields = {key: field.contents() for key, field in GGUFReader(path).fields.items()}
    first = source.text_size
    expected = {
        "general.architecture": "qwen3",
        "general.file_type": 0,
        "general.license": "unknown",
        "qwen3.vocab_size": source.rows,
        "qwen3.context_length": 512,
        "qwen3.embedding_length": 64,
        "qwen3.block_count": 2,
        "qwen3.feed_forward_length": 96,
        "qwen3.attention.head_count": 4,
        "qwen3.attention.head_count_kv": 2,
        "qwen3.attention.key_length": 32,
        "qwen3.attention.value_length": 32,
        "qwen3.rope.freq_base": 10000.0,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.eos_token_id": first,
        "tokenizer.ggml.add_bos_token": False,
        "cadmllm.first_token": first,
        "cadmllm.token_count": CAD_SIZE,
        "cadmllm.prompt": "<|im_start|>user\nTEXT<|im_end|>\n<|im_start|>assistant\n",
    }
    assert {key: fields[key] for key in expected} == expected
    assert fields["qwen3.attention.layer_norm_rms_epsilon"] == pytest.approx(1e-6, rel=1e-6)
    assert "projectors" in fields["general.description"]
    assert "output.weight" in {tensor.name for tensor in GGUFReader(path).tensors}


def test_the_base_is_named_as_others_know_it(written: tuple[Source, Any, Path], tmp_path: Path) -> None:
    source, model, path = written
    named = replace(source, record={**source.record, "model": {"llm": "Qwen/Qwen3-8B"}})
    other = write_gguf(named, tensors_of(model), path.parent, tmp_path / "named.gguf", "fp32")
    fields = {key: field.contents() for key, field in GGUFReader(other).fields.items() if key.startswith("general.")}
    assert fields["general.name"] == "cadmllm stage1_text on Qwen3-8B"
    assert fields["general.base_model.0.organization"] == "Qwen"
    assert fields["general.base_model.0.repo_url"] == "https://huggingface.co/Qwen/Qwen3-8B"
    assert fields["general.base_model.0.description"].startswith("licence: Apache-2.0")
    assert str(tmp_path.parent) not in path.read_bytes()[:50_000].decode("latin-1"), "no path of this machine"


def test_what_is_done_otherwise_is_said(tmp_path: Path) -> None:
    source, _, _ = _write(tmp_path, "q8_0", stage=3, hidden_size=48)
    assert any("16 bit" in note and "48" not in note for note in source.notes), "rows of 48 numbers are no blocks of 32"
    assert any("NFC" in note for note in source.notes)


def test_rows_that_are_no_blocks_stay_in_16_bit(tmp_path: Path) -> None:
    source, model, path = _write(tmp_path, "q8_0", intermediate_size=80)
    report = check_gguf(path, source, tensors_of(model), "q8_0")
    assert report["types"] == {"Q8_0": 14, "F16": 2, "F32": 9}, "the two down projections"


def test_errors_of_blocks_are_half_a_step(in_blocks: tuple[Source, Any, Path]) -> None:
    source, model, path = in_blocks
    report = check_gguf(path, source, tensors_of(model), "q8_0")
    assert 0.49 < report["largest_error"] < 0.5625 + 1e-6, "half a step, and 127 / 2048 for the scale's own rounding"


def test_ties_that_float32_decides_are_no_errors(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    steps = generator.uniform(1e-4, 1e-3, (2000, 1)).astype(np.float16).astype(np.float32)  # scales that 16 bit hold exactly
    ties = (generator.integers(60, 126, (2000, 31)).astype(np.float32) + np.float32(0.5)) * steps
    values = torch.from_numpy(np.concatenate([127 * steps, np.nextafter(ties, np.float32(0))], axis=1))
    slot = Slot("w", "w", tuple(values.shape), Q8_0, 0, 0)
    kept = quantize(values.numpy(), Q8_0)
    assert 0.5 + 1e-6 < _check_blocks(tmp_path, slot, values, kept) < 0.5 + 3e-5
    kept[7, 20] += 2
    with pytest.raises(CadmllmError) as caught:
        _check_blocks(tmp_path, slot, values, kept)
    assert caught.value.code == "E721"


def test_scaling_of_positions_is_kept(tmp_path: Path) -> None:
    yarn = {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 64, "rope_theta": 5000.0, "beta_fast": 16.0}
    source, model, path = _write(tmp_path, rope_parameters=yarn)
    ids = torch.randint(0, source.rows, (1, 150), generator=torch.Generator().manual_seed(0))
    config = source.base.layout.config.to_dict()
    with torch.no_grad():
        expected = model(ids).logits
    assert torch.equal(gguf_logits(path, {**config, "rope_parameters": {}}, ids), expected), "from the file's own keys"
    fields = GGUFReader(path).fields
    assert fields["qwen3.rope.scaling.yarn_beta_fast"].contents() == 16.0
    assert fields["qwen3.rope.scaling.original_context_length"].contents() == 64


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"model_type": "gpt2"}, "gpt2"),
        ({"hidden_act": "gelu"}, "hidden_act=gelu"),
        ({"attention_bias": True}, "attention_bias"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "sliding_window"),
        ({"sliding_window": 64, "use_sliding_window": True}, "sliding_window=64"),
        ({"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}, "dynamic"),
        ({"rope_parameters": {"rope_type": "llama3", "factor": 2.0}}, "llama3"),
        ({"rope_parameters": {"rope_type": "linear", "factor": 2.0, "mrope_section": [1]}}, "mrope_section"),
        ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "partial_rotary_factor=0.5"),
        (
            {
                "rope_parameters": {
                    "rope_type": "yarn",
                    "factor": 2.0,
                    "original_max_position_embeddings": 9,
                    "attention_factor": 3.0,
                }
            },
            "3.0",
        ),
        (
            {"rope_parameters": {**YARN, "mscale": 0.7}},
            "mscale",
        ),
        (
            {"rope_parameters": {**YARN, "truncate": False}},
            "truncate",
        ),
    ],
)
def test_what_llama_cpp_would_compute_otherwise_is_refused(
    written: tuple[Source, Any, Path], change: dict[str, Any], named: str
) -> None:
    config = written[0].base.layout.config.to_dict()
    with pytest.raises(CadmllmError) as found:
        list(hyperparameters({**config, **change}, 100))
    assert found.value.code == "E723"
    assert named in found.value.message
    assert "--to merged" in found.value.remedy


def test_a_window_that_is_never_reached_is_none(written: tuple[Source, Any, Path]) -> None:
    config = {**written[0].base.layout.config.to_dict(), "sliding_window": 64, "use_sliding_window": False}
    assert architecture(config).name == "qwen3"
    assert architecture({**config, "model_type": "mistral", "sliding_window": 4096}).name == "llama"


def test_four_bit_names_the_two_commands(written: tuple[Source, Any, Path]) -> None:
    source = written[0]
    with pytest.raises(CadmllmError) as found:
        slots(source.base.layout.config.to_dict(), source.shapes(), "q4_k_m")
    assert found.value.code == "E723"
    assert "cadmllm export --to gguf --dtype bf16" in found.value.remedy
    assert "llama-quantize DIR/model-bf16.gguf DIR-q4_k_m.gguf Q4_K_M" in found.value.remedy


def test_a_tensor_without_a_place_is_named(written: tuple[Source, Any, Path]) -> None:
    source = written[0]
    with pytest.raises(CadmllmError, match=r"no place for model.layers.0.extra.weight \[4, 4\]"):
        slots(source.base.layout.config.to_dict(), {**source.shapes(), "model.layers.0.extra.weight": (4, 4)}, "fp32")


@pytest.mark.parametrize(("kind", "value"), [(F16, 1e5), (BF16, float("nan")), (F32, float("inf")), (Q8_0, 1e7), (BF16, 3.4e38)])
def test_values_that_a_type_cannot_hold_are_refused(kind: GGMLQuantizationType, value: float) -> None:
    tensor = torch.ones(4, 32)
    tensor[1, 3] = value
    with pytest.raises(CadmllmError) as found:
        list(packed(Slot("a.weight", "b.weight", (4, 32), kind, 0, 0), tensor))
    assert found.value.code == "E723"
    assert "a.weight" in found.value.message


@pytest.mark.parametrize("kind", [F32, F16, BF16])
def test_unpacked_undoes_packed(kind: GGMLQuantizationType) -> None:
    slot = Slot("q_proj.weight", "b.weight", (16, 32), kind, 2, 0)
    value = torch.randn(16, 32, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16).to(torch.float16).float()
    [(rows, array)] = packed(slot, value)
    assert rows == slice(0, 16)
    assert torch.equal(unpacked(slot, array), value)


def test_a_matrix_is_packed_some_rows_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    slot = Slot("o_proj.weight", "b.weight", (7, 32), Q8_0, 0, 0)
    value = torch.randn(7, 32, generator=torch.Generator().manual_seed(0))
    [(_, whole)] = packed(slot, value)
    monkeypatch.setattr("cadmllm.export.gguf_tensors.PIECE", 70)
    pieces = list(packed(slot, value))
    assert [rows for rows, _ in pieces] == [slice(0, 2), slice(2, 4), slice(4, 6), slice(6, 7)]
    assert np.array_equal(np.concatenate([array for _, array in pieces]), whole)


def test_rows_of_a_head_are_turned_from_halves_to_pairs() -> None:
    rows = torch.arange(8)[:, None]
    assert turned(rows, 2).flatten().tolist() == [0, 2, 1, 3, 4, 6, 5, 7]
    assert torch.equal(returned(turned(rows, 2), 2), rows)
    assert torch.equal(turned(rows, 0), rows)


def _fails(path: Path, source: Source, model: Any, dtype: str, tokens: Path) -> CadmllmError:
    with pytest.raises(CadmllmError) as found:
        check_gguf(path, source, tensors_of(model), dtype, tokens)
    assert str(path) in found.value.message
    return found.value


def test_a_file_cut_short_is_noticed(tmp_path: Path, written: tuple[Source, Any, Path]) -> None:
    source, model, path = written
    whole = path.read_bytes()
    draw = random.Random(0)
    for size in [0, 3, 4, 20, len(whole) - 1, len(whole) - 40, *(draw.randrange(len(whole)) for _ in range(6))]:
        short = tmp_path / "short.gguf"
        short.write_bytes(whole[:size])
        assert _fails(short, source, model, "fp32", path.parent).code == "E722", size
    long = tmp_path / "long.gguf"
    long.write_bytes(whole + b"\0")
    assert "bytes" in _fails(long, source, model, "fp32", path.parent).message


@pytest.mark.parametrize("which", ["written", "in_blocks"])
def test_a_changed_byte_is_noticed(tmp_path: Path, which: str, request: pytest.FixtureRequest) -> None:
    source, model, path = request.getfixturevalue(which)
    dtype = "fp32" if which == "written" else "q8_0"
    whole, reader = bytearray(path.read_bytes()), GGUFReader(path)
    draw = random.Random(1)
    infos = min(tensor.field.offset for tensor in reader.tensors)
    places = [draw.randrange(infos) for _ in range(8)]  # keys and tokens
    places += [draw.randrange(infos, reader.tensors[-1].field.offset) for _ in range(6)]  # names, shapes, types
    places += [tensor.data_offset + draw.randrange(tensor.n_bytes) for tensor in reader.tensors[::6]]
    for place in places:
        other = tmp_path / "other.gguf"
        whole[place] ^= 1 << draw.randrange(8)
        other.write_bytes(whole)
        whole[place] = path.read_bytes()[place]
        if other.read_bytes() != path.read_bytes():
            code = _fails(other, source, model, dtype, path.parent).code
            assert code == ("E721" if place >= reader.data_offset else "E722"), place


def test_another_model_is_noticed(written: tuple[Source, Any, Path]) -> None:
    source, _, path = written
    error = _fails(path, source, resized(source, seed=9), "fp32", path.parent)
    assert error.code == "E721"
    assert "token_embd.weight differs in" in error.message
    other = replace(source, record={**source.record, "stage": 2})
    assert "general.name" in _fails(path, other, resized(source), "fp32", path.parent).message


def test_another_vocabulary_is_noticed(tmp_path: Path, written: tuple[Source, Any, Path]) -> None:
    source, model, path = written
    shutil.copytree(path.parent, tmp_path / "tokens")
    file = tmp_path / "tokens" / "tokenizer.json"
    file.write_text(file.read_text().replace("<think>", "<thunk>"))
    error = _fails(path, source, model, "fp32", tmp_path / "tokens")
    assert error.code == "E722"
    assert "entry" in error.message


def test_one_tensor_is_in_memory_at_a_time(tmp_path: Path, written: tuple[Source, Any, Path]) -> None:
    source, model, path = written
    alive: list[weakref.ref[Tensor]] = []

    def made() -> Iterator[tuple[str, Tensor]]:
        for name, value in model.state_dict().items():
            assert not any(reference() is not None for reference in alive), "the one before is held while the next is made"
            value = value.clone()
            alive.append(weakref.ref(value))
            yield name, value
            del value

    write_gguf(source, made(), path.parent, tmp_path / "again.gguf", "bf16")
    check_gguf(tmp_path / "again.gguf", source, made(), "bf16", path.parent)
    assert len(alive) == 2 * len(source.shapes())


@pytest.mark.parametrize("key", ["vocab_size", "embedding_length", "block_count", "feed_forward_length", "attention.key_length"])
def test_keys_that_speak_of_another_model_are_noticed_before_it_is_made(
    tmp_path: Path, written: tuple[Source, Any, Path], key: str
) -> None:
    source, _, path = written
    other = tmp_path / "other.gguf"
    shutil.copyfile(path, other)
    reader = GGUFReader(other, "r+")
    reader.fields[f"qwen3.{key}"].parts[-1][0] = 2**31
    reader.data.flush()
    with pytest.raises(CadmllmError, match="its keys say") as found:
        gguf_logits(other, source.base.layout.config.to_dict(), torch.zeros(1, 1, dtype=torch.long))
    assert found.value.code == "E722"


def test_a_hostile_number_of_heads_is_no_zero(tmp_path: Path, written: tuple[Source, Any, Path]) -> None:
    source, _, path = written
    other = tmp_path / "other.gguf"
    shutil.copyfile(path, other)
    reader = GGUFReader(other, "r+")
    reader.fields["qwen3.attention.head_count"].parts[-1][0] = 0
    reader.data.flush()
    with pytest.raises(CadmllmError, match="attn_q"):
        gguf_logits(other, source.base.layout.config.to_dict(), torch.zeros(1, 1, dtype=torch.long))
