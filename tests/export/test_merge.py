"""The merged model answers as the checkpoint does, in plain transformers, and is never in memory as a whole."""

from __future__ import annotations

import json
import weakref
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from cadmllm.corpus.types import ADDED, CAD_SIZE
from cadmllm.errors import CadmllmError
from cadmllm.export import merge
from cadmllm.export.merge import merged_tensors, needed_bytes, pieces, write_merged
from cadmllm.export.source import Source, Tensors, open_source
from cadmllm.models.weights import load_model

TEXT = 259  # items of the tests' tokenizer


def plain(source: Source, folder: Path, shard: int = 10**9, dtype: torch.dtype = torch.float32):
    """The export as somebody else loads it: transformers alone."""
    from transformers import AutoConfig, AutoModelForCausalLM

    folder.mkdir(exist_ok=True)
    write_merged(source, folder, dtype, shard)
    config = AutoConfig.from_pretrained(source.base.folder)
    config.vocab_size, config.tie_word_embeddings = source.rows, False
    config.save_pretrained(folder)
    model, report = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    return model.eval()


def same_answers(plain_model, model, answers, ids: Tensor) -> None:
    """CAD items by the checkpoint's own rows, text items by the base's output matrix, nothing for placeholders."""
    ours = answers(model, ids)
    with torch.no_grad():
        theirs = plain_model(ids).logits
    assert ours.abs().max() > 0.5
    torch.testing.assert_close(theirs[..., TEXT : TEXT + CAD_SIZE], ours, atol=1e-5, rtol=1e-5)
    assert theirs.shape[-1] == TEXT + len(ADDED)
    assert not theirs[..., TEXT + CAD_SIZE :].any()


def test_merged_answers_as_the_checkpoint_does(kept, answers, ids, tmp_path: Path):
    source = open_source(kept.folder, kept.settings)
    exported = plain(source, tmp_path / "out")
    same_answers(exported, kept.model, answers, ids)
    base = source.base.tensors
    head = base.tensor(source.base.layout.input if source.base.layout.tied else "lm_head.weight")
    assert torch.equal(exported.lm_head.weight[:TEXT], head[:TEXT])
    assert torch.equal(exported.model.embed_tokens.weight[:TEXT], base.tensor("model.embed_tokens.weight")[:TEXT])


@pytest.mark.parametrize("tied", [True, False])
def test_a_whole_model_that_was_trained(make_base, make_checkpoint, answers, ids, tied: bool, tmp_path: Path):
    base = make_base(tmp_path / "base", tied=tied)
    made = make_checkpoint(tmp_path / "checkpoint", base, lora=False)
    if tied:  # of such a base nothing but config and tokenizer is needed
        save_file({"model.norm.weight": torch.ones(32)}, base / "model.safetensors")
    source = open_source(made.folder, made.settings)
    exported = plain(source, tmp_path / "out")
    same_answers(exported, made.model, answers, ids)
    trained = made.model.llm.get_input_embeddings().weight[:TEXT]
    assert torch.equal(exported.model.embed_tokens.weight[:TEXT], trained)
    assert torch.equal(exported.lm_head.weight[:TEXT], trained) is tied
    assert any("whole language model" in note and ("lm_head" in note) is not tied for note in source.notes)


def test_biases_are_copied(make_base, make_checkpoint, answers, ids, tmp_path: Path):
    made = make_checkpoint(tmp_path / "checkpoint", make_base(tmp_path / "base", family="qwen2"))
    source = open_source(made.folder, made.settings)
    assert "model.layers.0.self_attn.q_proj.bias" in source.shapes()
    same_answers(plain(source, tmp_path / "out"), made.model, answers, ids)


def test_a_qlora_run_is_merged_into_the_base_as_its_files_have_it(make_base, make_checkpoint, answers, ids, tmp_path: Path):
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed: no 4-bit base")
    base = make_base(tmp_path / "base", hidden_size=64, intermediate_size=64, head_dim=16)
    made = make_checkpoint(tmp_path / "checkpoint", base, quantization="nf4")
    source = open_source(made.folder, made.settings)
    assert any("4 bit" in note for note in source.notes)
    sixteen = load_model(made.folder, source.settings).eval()
    same_answers(plain(source, tmp_path / "out"), sixteen, answers, ids)
    assert (answers(made.model, ids) - answers(sixteen, ids)).abs().max() > 1e-3, "the 4-bit model answers otherwise"


@pytest.mark.parametrize("base_dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_sums_are_rounded_once(make_base, make_checkpoint, base_dtype, dtype, tmp_path: Path):
    base = make_base(tmp_path / "base", dtype=base_dtype)
    made = make_checkpoint(tmp_path / "checkpoint", base)
    source = open_source(made.folder, made.settings)
    before, state = load_file(base / "model.safetensors"), load_file(made.folder / "model.safetensors")
    merged = dict(merged_tensors(source, dtype))
    name = "model.layers.1.mlp.up_proj"
    up, down = state["llm.layers.1.mlp.up_proj.lora_B.weight"], state["llm.layers.1.mlp.up_proj.lora_A.weight"]
    wide = before[f"{name}.weight"].double() + up.double() @ down.double() * 2.0
    assert before[f"{name}.weight"].dtype == base_dtype
    assert merged[f"{name}.weight"].dtype == dtype
    step = torch.finfo(dtype).eps / 2 * wide.abs() + 1e-6
    assert ((merged[f"{name}.weight"].double() - wide).abs() <= step).all()
    assert torch.equal(merged["model.norm.weight"], before["model.norm.weight"].float().to(dtype))
    assert torch.equal(merged["lm_head.weight"][TEXT : TEXT + CAD_SIZE], state["rows.output"].to(dtype))


def test_names_and_order_are_those_of_transformers(kept):
    from transformers import AutoConfig, AutoModelForCausalLM

    source = open_source(kept.folder, kept.settings)
    config = AutoConfig.from_pretrained(kept.base)
    config.vocab_size, config.tie_word_embeddings = source.rows, False
    state = AutoModelForCausalLM.from_config(config).state_dict()
    assert [(name, value.shape) for name, value in merged_tensors(source, torch.float32)] == [
        (name, value.shape) for name, value in state.items()
    ]


def test_shards_and_their_index(kept, answers, ids, tmp_path: Path):
    source = open_source(kept.folder, kept.settings)
    same_answers(plain(source, tmp_path / "out", shard=250_000), kept.model, answers, ids)
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    files = sorted((tmp_path / "out").glob("*.safetensors"))
    assert [path.name for path in files] == [f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
    assert set(index["weight_map"].values()) == {path.name for path in files}
    held = {}
    for path in files:
        state = load_file(path)
        with safe_open(path, "pt") as file:
            assert file.metadata() == {"format": "pt"}
        assert {index["weight_map"][name] for name in state} == {path.name}
        size = sum(value.nbytes for value in state.values())
        assert size <= 250_000 or len(state) == 1
        held |= state
    assert index["metadata"]["total_size"] == sum(value.nbytes for value in held.values())
    assert sorted(held) == sorted(source.shapes())


def test_one_shard_is_one_file_without_an_index(kept, tmp_path: Path):
    source = open_source(kept.folder, kept.settings)
    assert write_merged(source, tmp_path, torch.bfloat16, 10**9) == [tmp_path / "model.safetensors"]
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


class Counting(Tensors):
    """Counts the numbers that are in memory at a time, among those that were read."""

    live = peak = 0

    def _read(self, name: str, shape: tuple[int, ...], start: int) -> Tensor:
        value = super()._read(name, shape, start)
        Counting.live += value.numel()
        Counting.peak = max(Counting.peak, Counting.live)
        weakref.finalize(value, self._gone, value.numel())
        return value

    @staticmethod
    def _gone(numbers: int) -> None:
        Counting.live -= numbers


def test_a_few_rows_at_a_time_are_in_memory(kept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(merge, "PIECE", 256)
    monkeypatch.setattr(Counting, "live", 0)
    monkeypatch.setattr(Counting, "peak", 0)
    source = open_source(kept.folder, kept.settings)
    for part in (source, source.base):
        counting, held = Counting(()), part.state if isinstance(part, Source) else part.tensors
        counting.places = held.places
        setattr(part, "state" if isinstance(part, Source) else "tensors", counting)
    write_merged(source, tmp_path, torch.float32, 10**9)
    adapters = 2 * 4 * (32 + 48)  # the pair of the layer at work and that of the layer before
    assert 0 < Counting.peak <= 2 * 256 + adapters
    assert Counting.live == 0
    monkeypatch.undo()
    whole = load_file(tmp_path / "model.safetensors")
    for name, value in merged_tensors(open_source(kept.folder, kept.settings), torch.float32):
        torch.testing.assert_close(whole[name], value, atol=1e-6, rtol=1e-6)


def test_pieces_are_small(kept, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(merge, "PIECE", 100)
    source = open_source(kept.folder, kept.settings)
    for name, shape in source.shapes().items():
        sizes = [piece.shape for piece in pieces(source, name, torch.bfloat16)]
        assert sum(size[0] for size in sizes) == shape[0]
        assert all(size.numel() <= max(100, size[-1]) for size in sizes)


def changed(folder: Path, out: Path, **tensors: Tensor) -> Path:
    """A checkpoint of which some tensors ('.' written as '__') are others."""
    out.mkdir()
    state = load_file(folder / "model.safetensors") | {name.replace("__", "."): value for name, value in tensors.items()}
    save_file(state, out / "model.safetensors", {"format": "pt"})
    (out / "model.json").write_text((folder / "model.json").read_text())
    return out


def test_what_float16_cannot_hold_is_refused(kept, tmp_path: Path):
    name = "llm__layers__0__mlp__up_proj__lora_B__weight"
    folder = changed(kept.folder, tmp_path / "huge", **{name: torch.full((48, 4), 3e6)})
    source = open_source(folder, kept.settings)
    with pytest.raises(CadmllmError) as caught:
        write_merged(source, tmp_path, torch.float16, 10**9)
    assert caught.value.code == "E723"
    assert "model.layers.0.mlp.up_proj.weight" in caught.value.message
    assert "65504" in caught.value.message
    assert "--dtype bf16" in caught.value.remedy
    write_merged(source, tmp_path, torch.bfloat16, 10**9)


def test_numbers_that_are_not_finite_are_refused(kept, tmp_path: Path):
    rows = torch.zeros(CAD_SIZE, 32)
    rows[7, 3] = float("nan")
    source = open_source(changed(kept.folder, tmp_path / "broken", rows__output=rows), kept.settings)
    with pytest.raises(CadmllmError, match=r"lm_head\.weight") as caught:
        write_merged(source, tmp_path, torch.float32, 10**9)
    assert caught.value.code == "E508"
    with pytest.raises(Exception, match="(?i)incomplete|offset|large|small|header"):
        load_file(tmp_path / "model.safetensors")  # what was written until then is no weights file


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
def test_the_room_that_is_needed_is_known_beforehand(kept, dtype: str, tmp_path: Path):
    source = open_source(kept.folder, kept.settings)
    written = write_merged(source, tmp_path, merge.DTYPES[dtype], 10**9)
    needed = needed_bytes(source, "merged", dtype) - merge.PAPERS
    taken = sum(path.stat().st_size for path in written)
    assert 0 <= taken - needed < 10_000  # the header
    assert needed_bytes(source, "gguf", "q8_0") < needed_bytes(source, "gguf", "bf16") < needed_bytes(source, "gguf", "fp32")


SHAPES = st.fixed_dictionaries(
    {
        "heads": st.sampled_from([(1, 1), (2, 1), (4, 2), (3, 3)]),
        "head_dim": st.sampled_from([4, 8]),
        "hidden": st.sampled_from([8, 24, 40]),
        "inner": st.integers(1, 33),
        "rank": st.integers(1, 9),
        "alpha": st.integers(1, 64),
        "rows": st.sampled_from([TEXT, TEXT + 1, TEXT + 1000, TEXT + len(ADDED) - 1, TEXT + len(ADDED), TEXT + len(ADDED) + 77]),
        "tied": st.booleans(),
        "piece": st.integers(1, 5000),
    }
)


@settings(max_examples=15)
@given(shape=SHAPES)
def test_any_shape(make_base, make_checkpoint, tmp_path_factory, shape):
    folder, (heads, keys) = tmp_path_factory.mktemp("shape"), shape["heads"]
    base = make_base(
        folder / "base",
        tied=shape["tied"],
        vocab_size=shape["rows"],
        hidden_size=shape["hidden"],
        intermediate_size=shape["inner"],
        num_attention_heads=heads,
        num_key_value_heads=keys,
        head_dim=shape["head_dim"],
        num_hidden_layers=1,
    )
    made = make_checkpoint(folder / "checkpoint", base, r=shape["rank"], alpha=shape["alpha"])
    source = open_source(made.folder, made.settings)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(merge, "PIECE", shape["piece"])
        write_merged(source, folder, torch.float32, 10**9)
    merged, before = load_file(folder / "model.safetensors"), load_file(base / "model.safetensors")
    state = load_file(made.folder / "model.safetensors")
    rows, end = max(shape["rows"], TEXT + len(ADDED)), TEXT + len(ADDED)
    head = before["model.embed_tokens.weight" if shape["tied"] else "lm_head.weight"]
    for name, value in merged.items():
        own = name.replace("model.", "llm.", 1).removesuffix(".weight")
        if name in ("model.embed_tokens.weight", "lm_head.weight"):
            text, ours = (head, state["rows.output"]) if name == "lm_head.weight" else (before[name], state["rows.input"])
            assert value.shape == (rows, shape["hidden"])
            assert torch.equal(value[:TEXT], text[:TEXT])
            assert torch.equal(value[TEXT : TEXT + len(ours)], ours)
            assert not value[TEXT + len(ours) : end].any()
            assert torch.equal(value[end:], text[end:])
        elif f"{own}.lora_A.weight" in state:
            product = state[f"{own}.lora_B.weight"] @ state[f"{own}.lora_A.weight"]
            torch.testing.assert_close(value, before[name] + product * shape["alpha"] / shape["rank"], atol=1e-5, rtol=1e-5)
        else:
            assert torch.equal(value, before[name])
