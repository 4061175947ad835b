"""Keys and values in place: the same numbers as transformers' own cache and as no cache at all, whatever rows come and go."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModel, DynamicCache

from cadmllm.corpus.types import CAD_SIZE, Batch
from cadmllm.models.attention import _use, register
from cadmllm.models.cache import BLOCK, InPlaceCache, InPlaceLayer, TheirCache, empty_cache
from cadmllm.models.fusion import build_model

torch.set_num_threads(1)

WIDTH = 32
SHAPE = {
    "vocab_size": 64,
    "hidden_size": WIDTH,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
}
SLIDING = {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 1}
DECODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen3": ("qwen3", {}),
    "qwen2": ("qwen2", {}),
    "llama": ("llama", {}),
    "qwen3, one layer looks back 9 tokens": ("qwen3", SLIDING),
    "mistral, all layers look back 9 tokens": ("mistral", {"sliding_window": 9}),
}
LINEAR = {
    "layer_types": ["linear_attention", "full_attention"],
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "num_experts": 0,
    "decoder_sparse_step": 100,
}


def decoder(kind: str, changes: dict[str, Any]) -> Any:
    torch.manual_seed(3)
    model = AutoModel.from_config(AutoConfig.for_model(kind, **SHAPE, **changes), attn_implementation="sdpa").eval()
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model


class Reader:
    """Feeds a decoder left-padded rows of embeddings, a token at a time, with a cache."""

    def __init__(self, model: Any, embeds: Tensor, lengths: list[int], cache: Any) -> None:
        self.model, self.embeds, self.cache = model, embeds, cache
        longest = max(lengths)
        self.mask = torch.tensor([[0] * (longest - n) + [1] * n for n in lengths])
        self.at = torch.tensor(lengths)[:, None]  # tokens read of each row
        padded = torch.stack(
            [torch.cat([torch.ones(longest - n, WIDTH), row[:n]]) for row, n in zip(embeds, lengths, strict=True)]
        )
        self.states = self.read(padded, (self.mask.cumsum(1) - 1).clamp(min=0))

    @torch.no_grad()
    def read(self, embeds: Tensor, positions: Tensor) -> Tensor:
        out = self.model(
            inputs_embeds=embeds, attention_mask=self.mask, position_ids=positions, past_key_values=self.cache, use_cache=True
        )
        return out.last_hidden_state[:, -1]

    def step(self) -> Tensor:
        token = torch.stack([row[int(n)] for row, n in zip(self.embeds, self.at, strict=True)])[:, None]
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(self.mask), 1)], 1)
        self.states = self.read(token, self.at)
        self.at = self.at + 1
        return self.states

    def choose(self, rows: list[int], dropped: int) -> None:
        self.mask, self.at, self.embeds = self.mask[rows, dropped:], self.at[rows], self.embeds[rows]


@torch.no_grad()
def alone(model: Any, row: Tensor) -> Tensor:
    """The last state of a row by itself, without a cache."""
    return model(inputs_embeds=row[None], use_cache=False).last_hidden_state[0, -1]


@pytest.mark.parametrize("name", DECODERS)
def test_the_same_as_transformers_own_cache_and_as_none(name: str) -> None:
    model = decoder(*DECODERS[name])
    embeds, lengths = torch.randn(3, 120, WIDTH), [4, 13, 9]
    ours, theirs = (Reader(model, embeds, lengths, c) for c in (empty_cache(model.config), DynamicCache(config=model.config)))
    assert isinstance(ours.cache, InPlaceCache)
    torch.testing.assert_close(ours.states, theirs.states, rtol=1e-5, atol=1e-5)
    for _ in range(100):  # the room grows on the way
        torch.testing.assert_close(ours.step(), theirs.step(), rtol=1e-5, atol=1e-5)
    for row, n in enumerate(lengths):
        torch.testing.assert_close(ours.states[row], alone(model, embeds[row, : n + 100]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", DECODERS)
def test_rows_come_and_go(name: str) -> None:
    model = decoder(*DECODERS[name])
    embeds = torch.randn(4, 90, WIDTH)
    reader = Reader(model, embeds, [14, 2, 5, 6], empty_cache(model.config))
    before = reader.cache.layers[0].keys.clone()
    other, dropped = reader.cache.taken([1, 3, 3, 2, 1], 8)  # without the longest: 8 tokens are padding in all of them
    assert (dropped, other.get_seq_length()) == (8, 6)
    assert torch.equal(before, reader.cache.layers[0].keys)
    reader.cache, reader.embeds = other, embeds
    reader.choose([1, 3, 3, 2, 1], dropped)
    reader.embeds = torch.cat([reader.embeds[:, :6], torch.randn(5, 84, WIDTH)], 1)  # from there on, each its own way
    for row in range(5):
        n = int(reader.at[row])
        reader.embeds[row, :n] = embeds[[1, 3, 3, 2, 1][row], :n]
    for _ in range(10):
        reader.step()
    # rows 0 and 2 leave: the last two fill their places
    reader.choose([4, 1, 3], reader.cache.keep([4, 1, 3], 1))
    for _ in range(BLOCK):
        reader.step()
    reader.choose([0], reader.cache.keep([0], 0))
    reader.step()
    torch.testing.assert_close(reader.states[0], alone(model, reader.embeds[0, : int(reader.at[0])]), rtol=1e-4, atol=1e-5)


def test_another_kind_of_layer_keeps_transformers_own_cache() -> None:
    model = decoder("qwen3_next", LINEAR)
    embeds, lengths = torch.randn(3, 40, WIDTH), [5, 9, 7]
    reader = Reader(model, embeds, lengths, empty_cache(model.config))
    assert isinstance(reader.cache, TheirCache)
    reader.cache, dropped = reader.cache.taken([2, 0, 1], 0)
    reader.choose([2, 0, 1], dropped)
    reader.step()
    reader.choose([2, 1], reader.cache.keep([2, 1], 2))
    reader.step()
    for row, which in enumerate((1, 0)):
        wanted = alone(model, embeds[which, : lengths[which] + 2])
        torch.testing.assert_close(reader.states[row], wanted, rtol=1e-4, atol=1e-4)


def test_nothing_is_moved_between_blocks_and_room_follows_what_is_written() -> None:
    layer = InPlaceLayer()
    states = torch.randn(2, 3, 1, 8)
    layer.update(torch.randn(2, 3, 100, 8), torch.randn(2, 3, 100, 8))
    moves, moved, last = 0, 0, layer.rooms[0].data_ptr()
    for written in range(101, 4001):
        keys, values = layer.update(states, states)
        assert keys.shape == values.shape == (2, 3, written, 8)
        assert keys.data_ptr() == layer.rooms[0].data_ptr()
        if layer.rooms[0].data_ptr() != last:
            moves, moved, last = moves + 1, moved + written - 1, layer.rooms[0].data_ptr()
        assert layer.rooms[0].shape[2] <= written * 1.25 + 2 * BLOCK
    assert moves <= 18
    assert moved <= 5 * 4000
    assert torch.equal(layer.update(states, states)[0][:, :, 100:], states.expand(-1, -1, 3901, -1))
    assert layer.get_seq_length() == 4001


def test_transformers_own_ways_of_choosing_rows_work_too() -> None:
    states = torch.randn(3, 2, 5, 8)
    cache = InPlaceCache()
    cache.update(states, -states, 0)
    cache.batch_repeat_interleave(2)
    cache.batch_select_indices(torch.tensor([5, 0, 2]))
    cache.reorder_cache(cast("torch.LongTensor", torch.tensor([2, 1, 0])))
    cache.crop(-1)
    keys, values = cache.update(states[[1, 0, 2], :, 4:], -states[[1, 0, 2], :, 4:], 0)
    assert torch.equal(keys, states[[1, 0, 2]])
    assert torch.equal(values, -keys)
    cache.reset()
    assert cache.get_seq_length() == 0
    assert torch.equal(cache.update(states, states, 0)[0], states)


def steps(model: Any, cache: Any) -> Tensor:
    """Scores of two left-padded prompts and six tokens behind them."""
    generator = torch.Generator().manual_seed(5)
    prompts = [torch.randint(1, model.text_size, (n,), generator=generator) for n in (4, 7)]
    ids = torch.stack([torch.cat([torch.zeros(7 - len(p), dtype=torch.int64), p]) for p in prompts])
    mask = torch.stack([torch.tensor([0] * (7 - len(p)) + [1] * len(p)) for p in prompts])
    batch = Batch(ids, mask, (mask.cumsum(1) - 1).clamp(min=0), None)
    answer = torch.randint(0, CAD_SIZE, (2, 6), generator=generator) + model.text_size
    with torch.no_grad():
        embeds = model.embed(batch).to(next(p.dtype for p in model.llm.parameters() if p.dtype.is_floating_point))
        logits, cache = model.step(embeds, None, mask, batch.position_ids, cache)
        found, positions = [logits], batch.position_ids
        for t in range(6):
            mask, positions = torch.cat([mask, mask.new_ones(2, 1)], 1), positions[:, -1:] + 1
            logits, cache = model.step(None, answer[:, t : t + 1], mask, positions, cache)
            found.append(logits)
    return torch.stack(found)


@pytest.mark.parametrize("attention", ["sdpa", "varlen", "eager"])
def test_with_lora_and_every_attention(settings, attention: str) -> None:
    model = build_model(settings(), 1).eval()
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.ndim == 2:
            parameter.data += 0.02 * torch.randn_like(parameter)  # LoRA's B starts at zero
    register()
    _use(model.llm, attention)
    ours = steps(model, None)
    torch.testing.assert_close(ours, steps(model, DynamicCache(config=model.llm.config)), rtol=1e-5, atol=1e-5)
    _use(model.llm, "sdpa")
    torch.testing.assert_close(ours, steps(model, None), rtol=1e-4, atol=1e-4)


def test_with_weights_in_four_bits(settings) -> None:
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed: pip install 'cadmllm[qlora]'")
    chosen = settings(quantization="nf4")
    chosen.dtype = "bfloat16"
    model = build_model(chosen, 1).eval()
    torch.testing.assert_close(steps(model, None), steps(model, DynamicCache(config=model.llm.config)), rtol=1e-5, atol=1e-5)


def test_the_model_says_how_far_its_positions_go(settings) -> None:
    model = build_model(settings(), 1)
    assert model.positions == 512
    del model.llm.config.max_position_embeddings
    assert model.positions == 0
