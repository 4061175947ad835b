"""A model that costs nothing: what it says depends on every visible token, its place and the features, as a real one's does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import pytest
import torch
from torch import Tensor, nn

from cadmllm.cad.vocabulary import END
from cadmllm.corpus.types import ADDED, CAD_SIZE, Batch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from cadmllm.models.fusion import CadMLLM

WIDTH = 16
TEXT_SIZE = 300


class Bytes:
    """A tokenizer of 8-bit characters with what the collator asks of one."""

    pad_token_id = 0

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        return [2 + byte for byte in text.encode()]


@dataclass
class Sums:
    """The cache of the fake below: a running sum a row, [B, WIDTH]; see `models.cache.RowCache`."""

    total: Tensor

    def taken(self, rows: list[int], first: int) -> tuple[Sums, int]:
        return Sums(self.total[rows]), first

    def keep(self, rows: list[int], first: int) -> int:
        self.total = self.total[rows]
        return first


class FakeModel(nn.Module):
    """Running sums of token features over the visible prefix, a nonlinearity, and a head over the CAD vocabulary.

    Args:
        seed: of the weights.
        sharpness: scale of the scores.
        ending: added to the score of the end token.
    """

    def __init__(self, seed: int = 0, sharpness: float = 4.0, ending: float = 0.0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.rows = nn.Parameter(torch.randn(TEXT_SIZE + len(ADDED), WIDTH, generator=generator))
        self.turn = nn.Parameter(torch.randn(WIDTH, WIDTH, generator=generator))
        self.head = nn.Parameter(torch.randn(WIDTH, CAD_SIZE, generator=generator) * sharpness)
        self.tokenizer, self.text_size = Bytes(), TEXT_SIZE
        self.cloud_tokens, self.image_tokens, self.images_together = 3, 5, False
        self.points = self.images = nn.Identity()
        self.ending = torch.zeros(CAD_SIZE).index_fill_(0, torch.tensor(END), ending)
        self.positions = 0
        self.room = 1 << 20  # most rows that fit into its memory
        self.steps = self.prompts = self.rows_read = 0

    @property
    def device(self) -> torch.device:
        return self.rows.device

    def embed(self, batch: Batch) -> Tensor:
        embeds = self.rows[batch.input_ids]
        for values in (batch.points, batch.pixels):
            if values is not None:
                embeds = embeds + values.double().sum().float()
        return embeds

    def step(
        self, embeds: Tensor | None, ids: Tensor | None, mask: Tensor, positions: Tensor, cache: Sums | None
    ) -> tuple[Tensor, Sums]:
        if embeds is None:
            assert ids is not None
            assert bool((ids >= self.text_size).all())
            embeds = self.rows[ids]
        assert positions.shape == embeds.shape[:2]
        assert bool((mask.sum(dim=1) == positions[:, -1] + 1).all())
        if len(embeds) > self.room:
            raise torch.OutOfMemoryError(f"{len(embeds)} rows")
        self.steps += 1
        self.rows_read += len(embeds)
        self.prompts += len(embeds) if cache is None else 0
        seen = mask[:, -embeds.shape[1] :].unsqueeze(-1).to(embeds.dtype)
        features = torch.sin(embeds @ self.turn + positions.unsqueeze(-1) * 0.37) * seen
        total = features.double().sum(dim=1) + (cache.total if cache is not None else 0.0)
        return torch.tanh(total.float()) @ self.head + self.ending, Sums(total)


@pytest.fixture(scope="session")
def fake() -> type[FakeModel]:
    """The class; tests of several rooms cannot import each other's helpers by path."""
    return FakeModel


@pytest.fixture(scope="session")
def tiny_qwen3() -> CadMLLM:
    """A real decoder of width 32 with random weights behind the tokenizer above; read only."""
    from transformers import Qwen3Config, Qwen3Model

    from cadmllm.models.backbone import Backbone
    from cadmllm.models.fusion import CadMLLM
    from cadmllm.models.rows import AddedRows
    from cadmllm.settings import Settings

    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=TEXT_SIZE,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=1024,
    )
    backbone = Backbone(cast("PreTrainedModel", Qwen3Model(config)), cast("Any", Bytes()), TEXT_SIZE, None, None, {})
    return CadMLLM(backbone, AddedRows(TEXT_SIZE, 32, std=0.4), None, None, 1, Settings(device="cpu", dtype="float32")).eval()
