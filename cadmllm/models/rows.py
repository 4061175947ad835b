"""The added vocabulary: input rows for what is read, output rows for what is predicted, both ours and in 32 bit.

The base model's embedding matrix is never resized or copied: ids below `text_size` are looked up there, ids from
`text_size` on are looked up here, and logits are computed over the CAD vocabulary alone (exact, as decoding is masked to
it). This replaces PEFT's trainable token indices, which copy the whole matrix in every forward pass.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cadmllm.cad.vocabulary import FINE_BASE, GRID, NUMBER_BASE
from cadmllm.corpus.types import ADDED, CAD_SIZE

OCTAVES = 8  # the shortest wave spans eight levels (2 * 512 / 2**7), so neighbours are alike but not equal


def initial_rows(width: int, std: float, seed: int) -> Tensor:
    """Starting rows [len(ADDED), width], float32.

    Numbers are ordered, so a level's row is a smooth function of the level: sines and cosines of
    pi * 2**k * (level - zero) / half for k < OCTAVES plus the level itself, through one fixed random projection. What is
    learnt about one level then says something about its neighbours from the first step. Fine numbers likewise, through
    another projection. Commands and placeholders are normal. Every row is scaled to an elementwise standard deviation of `std`.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(len(ADDED), width, generator=generator)
    levels = (torch.arange(GRID.levels, dtype=torch.float32) - GRID.zero) / GRID.half
    fines = torch.arange(1, GRID.fine, dtype=torch.float32) / GRID.fine
    for base, values, octaves in ((NUMBER_BASE, levels, OCTAVES), (FINE_BASE + 1, fines, 3)):
        waves = math.pi * values[:, None] * 2.0 ** torch.arange(octaves)
        features = torch.cat([values[:, None], waves.sin(), waves.cos()], dim=1)
        rows[base : base + len(values)] = features @ torch.randn(features.shape[1], width, generator=generator)
    return rows / rows.std(dim=1, keepdim=True) * std


class AddedRows(nn.Module):
    """Rows of the added items.

    Args:
        text_size: ids below it belong to the base model's tokenizer; item k of `ADDED` has id text_size + k.
        width: hidden size H of the language model.
        std: elementwise standard deviation of the starting rows (the base embedding's).
        seed: of the starting rows.
    """

    def __init__(self, text_size: int, width: int, std: float = 0.02, seed: int = 0) -> None:
        super().__init__()
        self.text_size = text_size
        self.input = nn.Parameter(initial_rows(width, std, seed))
        self.output = nn.Parameter(initial_rows(width, std, seed)[:CAD_SIZE].clone())

    def embed(self, ids: Tensor, base: nn.Embedding) -> Tensor:
        """Embeddings [..., H] of ids [...] in the base embedding's type, on the device of `ids`.

        The base embedding may stand on another device (in RAM): only the rows looked up are moved.
        """
        added = ids >= self.text_size
        text = base(ids.masked_fill(added, 0).to(base.weight.device)).to(ids.device)
        ours = F.embedding((ids - self.text_size).clamp(min=0), self.input).to(text.dtype)
        return torch.where(added.unsqueeze(-1), ours, text)

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores [..., CAD_SIZE] of the CAD vocabulary from hidden states [..., H], in float32 whatever came in."""
        with torch.autocast(hidden.device.type, enabled=False):
            return F.linear(hidden.float(), self.output.float())
