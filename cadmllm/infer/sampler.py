"""Choosing a token a row: the most likely one, or one drawn at a temperature by numbers that belong to the answer alone."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor


class Sampler:
    """Chooses a token a row.

    Args:
        temperatures: B of them, one a row; 0 is greedy.
        top_p: nucleus, in (0, 1].
        draws: [B, steps] float64 in [0, 1), one a row and step; read only where the temperature is above 0.
    """

    def __init__(self, temperatures: Sequence[float], top_p: float, draws: Tensor) -> None:
        self.temperature = torch.tensor(temperatures, dtype=torch.float64, device=draws.device).unsqueeze(1)
        self.top_p, self.draws = top_p, draws
        self._settle()

    def _settle(self) -> None:
        self.greedy = self.temperature[:, 0] == 0.0
        self.divisor = self.temperature.masked_fill(self.temperature == 0.0, 1.0)
        self.draw = not bool(self.greedy.all())

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows alone, in this order."""
        self.temperature, self.draws = self.temperature[rows], self.draws[rows]
        self._settle()

    def choose(self, logits: Tensor, step: int) -> Tensor:
        """Tokens [B] int64 for logits [B, V] (float32, -inf where forbidden)."""
        best = logits.argmax(dim=-1)
        if not self.draw:
            return best
        shares = torch.softmax(logits.double() / self.divisor, dim=-1)
        if self.top_p < 1.0:
            shares = nucleus(shares, self.top_p)
        # in the order of the vocabulary: two tokens all but equally likely do not change places with the last bit of a score
        total = shares.cumsum(dim=-1)
        mass = total[:, -1:].contiguous()
        place = torch.searchsorted(total, self.draws[:, step : step + 1] * mass, right=True)
        last = torch.searchsorted(total, mass)  # of those that may be drawn: a number that rounds up to the mass is its
        return torch.where(self.greedy, best, torch.minimum(place, last).squeeze(1).clamp(max=logits.shape[1] - 1))


def nucleus(shares: Tensor, top_p: float) -> Tensor:
    """Probabilities [B, V] with 0 outside the smallest set of most likely tokens that sums to `top_p` (Holtzman et al. 2020)."""
    sorted_, order = shares.sort(dim=-1, descending=True, stable=True)
    kept = sorted_.cumsum(dim=-1) - sorted_ < top_p
    kept[:, 0] = True
    return torch.zeros_like(shares).scatter(1, order, sorted_ * kept)


def uniforms(keys: Sequence[str], steps: int) -> Tensor:
    """Numbers in [0, 1), [N, steps] float64: a row is a function of its key alone, and longer ones begin as shorter ones do."""
    rows = torch.empty(len(keys), steps, dtype=torch.float64)
    for row, key in zip(rows, keys, strict=True):
        digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=7).digest()
        row.uniform_(generator=torch.Generator().manual_seed(int.from_bytes(digest, "little")))
    return rows


def keys_of(ids: Sequence[str], seed: int, copies: int) -> list[str]:
    """What the random numbers of each answer are drawn by, copy k of sample i at i * copies + k.

    The seed, the id, how often it stood before, and the number of the copy: the same for copy 0 as where there is no other.
    """
    seen: Counter[str] = Counter()
    keys = []
    for name in ids:
        keys += [f"{seed}/{seen[name]}{f'.{copy}' if copy else ''}/{name}" for copy in range(copies)]
        seen[name] += 1
    return keys
