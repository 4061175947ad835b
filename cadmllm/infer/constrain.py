"""The grammar as a mask over logits: whatever is sampled under it is a complete program within the budget.

One table does the work. `cost[s, v]` is the fewest tokens that an answer still needs if token v is taken in state s: v itself
and the shortest way to the end from where it leads; a token that the grammar forbids costs more than any budget. A row in state
s with r tokens left may therefore take exactly the tokens with `cost[s] <= r`: grammar and length limit in one comparison, and
there always is one, as the shortest way to the end stays within r by induction.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cadmllm.errors import CadmllmError

FORBIDDEN = np.iinfo(np.int16).max  # of `cost`: more than any budget


@dataclass(frozen=True, slots=True)
class Tables:
    """A finite-state grammar on a device.

    Attributes:
        cost: [S, V] int16, fewest tokens to the end when taking token v in state s, v included; `FORBIDDEN` where not allowed;
            0 for a row that is done, which is left alone.
        next: [S, V] int32, the state after the token; `done` leads to itself.
        start, done: the first state, and the one after the end token.
    """

    cost: Tensor
    next: Tensor
    start: int
    done: int

    @property
    def shortest(self) -> int:
        """Tokens of the shortest complete answer, the end token included."""
        return int(self.cost[self.start].min())


def tables(
    allowed: np.ndarray, following: np.ndarray, to_end: np.ndarray, start: int, done: int, device: torch.device | str
) -> Tables:
    """Put a grammar's arrays into the form that decoding needs.

    Args:
        allowed: bool [S, V].
        following: int [S, V], the next state; read only where allowed.
        to_end: int [S], fewest tokens from a state to the end, end token included; 0 in `done`.
        start, done: states.
        device: where logits live.
    """
    reached = to_end[np.where(allowed, following, done)].astype(np.int64) + 1
    cost = np.where(allowed & (reached < FORBIDDEN), reached, FORBIDDEN).astype(np.int16)
    cost[done] = 0
    states = np.where(allowed, following, done).astype(np.int32)
    return Tables(torch.from_numpy(cost).to(device), torch.from_numpy(states).to(device), int(start), int(done))


def cad_tables(device: torch.device | str) -> Tables:
    """The grammar of `cad/grammar.py` on `device`."""
    from cadmllm.cad import grammar

    return tables(grammar.ALLOWED, grammar.NEXT, grammar.TO_END, grammar.START, grammar.DONE, device)


class Constraint:
    """The states of a batch of answers that are being written.

    Args:
        tables: the grammar.
        batch: B, answers written side by side.
        budget: most tokens of each answer, the end token included.

    Raises:
        CadmllmError: E102 when no complete program fits into the budget.
    """

    def __init__(self, tables: Tables, batch: int, budget: int) -> None:
        if budget < tables.shortest:
            raise CadmllmError(
                "E102",
                f"infer.max_new_tokens is {budget}, and the shortest program has {tables.shortest} tokens",
                f"cadmllm infer --max-new-tokens {max(512, tables.shortest)} ...",
            )
        self.tables = tables
        self.left = min(budget, FORBIDDEN - 1)
        self.state = torch.full((batch,), tables.start, dtype=torch.long, device=tables.cost.device)

    def mask(self, logits: Tensor) -> Tensor:
        """Logits [B, V] with -inf wherever a token would leave the grammar or the budget; rows that are done are left alone."""
        return logits.masked_fill(self.tables.cost.index_select(0, self.state) > self.left, float("-inf"))

    def update(self, tokens: Tensor) -> None:
        """Take one token a row, [B] int64; rows that are done stay done."""
        self.state = self.tables.next[self.state, tokens].long()
        self.left = max(0, self.left - 1)

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows alone, in this order."""
        self.state = self.state[rows]

    @property
    def done(self) -> Tensor:
        """[B] bool: which answers are complete."""
        return self.state == self.tables.done
