"""Cross-entropy over supervised positions only, a chunk of rows at a time."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from cadmllm.corpus.types import IGNORE
from cadmllm.models.rows import AddedRows

CHUNK = 4096  # rows whose logits live at once: 4096 x 1,600 x 4 bytes = 26 MB


def supervised_loss(hidden: Tensor, labels: Tensor, rows: AddedRows, chunk: int = CHUNK) -> tuple[Tensor, int]:
    """Sum of the cross-entropy over the supervised positions, and their number.

    Args:
        hidden: [B, T, H], the decoder's last hidden states.
        labels: [B, T]; labels[b, t] is the CAD index standing at t, answered for by hidden[b, t - 1]; else IGNORE.
        rows: the head.
        chunk: logits of at most so many rows exist at a time; they are computed again in the backward pass.

    Returns:
        (sum, count); sum is a float32 scalar that carries gradients, 0 when nothing is supervised.
    """
    targets = labels[:, 1:]
    chosen = targets != IGNORE
    return summed_loss(hidden[:, :-1][chosen], targets[chosen], rows, chunk)


def summed_loss(states: Tensor, targets: Tensor, rows: AddedRows, chunk: int = CHUNK) -> tuple[Tensor, int]:
    """The same of states [n, H] that answer for targets [n]."""
    total = states.float().sum() * 0.0
    for start in range(0, len(targets), chunk):
        part = slice(start, start + chunk)
        total = total + checkpoint(_chunk_loss, states[part], targets[part], rows, use_reentrant=False)
    return total, len(targets)


def _chunk_loss(states: Tensor, targets: Tensor, rows: AddedRows) -> Tensor:
    return F.cross_entropy(rows.logits(states), targets, reduction="sum")
