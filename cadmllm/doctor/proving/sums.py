"""Whether a tensor is bit for bit what it was, without keeping a copy of it."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

CHUNK = 1 << 20  # values looked at at once: 24 MiB of working memory, so that a card that is nearly full can be looked at
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_ODD = 2_654_435_761  # Knuth's multiplicative hash, modulo 2**64 by overflow


@torch.no_grad()
def checksums(tensors: Iterable[tuple[str, Tensor]]) -> dict[str, tuple[int, int]]:
    """Two sums of each tensor's bits, by name: of its values as whole numbers, and of those weighted by a hash of their place.

    Exact (modulo 2**64) on every device, so equal tensors have equal sums; a changed bit changes the first.
    """
    found = [(name, _sums(tensor)) for name, tensor in tensors]
    return {name: (int(pair[0]), int(pair[1])) for name, pair in ((name, pair.tolist()) for name, pair in found)}


def _sums(tensor: Tensor) -> Tensor:
    flat = tensor.detach().contiguous().reshape(-1).view(_BITS[tensor.element_size()])
    total = torch.zeros(2, dtype=torch.int64, device=tensor.device)
    for start in range(0, flat.numel(), CHUNK):
        values = flat[start : start + CHUNK].to(torch.int64)
        places = torch.arange(start + 1, start + 1 + len(values), device=values.device) * _ODD
        total += torch.stack([values.sum(), (values * (places | 1)).sum()])
    return total
