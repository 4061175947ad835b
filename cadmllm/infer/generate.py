"""Writing answers: prompts in, CAD tokens out, batched, with a key-value cache, under the grammar.

An answer depends on its sample, the seed and the settings alone, not on what else is in the batch: prompts are left-padded and
padding is masked, and every sample draws its random numbers from a generator of its own. (So in float32; bfloat16 rounds
differently in batches of different shapes, and two all but equally likely tokens may then change places.)
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cadmllm.cad.vocabulary import END
from cadmllm.corpus.batch import Collator
from cadmllm.errors import CadmllmError
from cadmllm.infer.constrain import Constraint, Tables, cad_tables

if TYPE_CHECKING:
    from cadmllm.corpus.types import Batch, Sample
    from cadmllm.models.fusion import CadMLLM


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model wrote.

    Attributes:
        tokens: CAD vocabulary indices, the end token included when there is one.
        finished: whether the end token was reached; always so under the grammar.
        log_likelihood: natural logarithm of the probability of the tokens, given the prompt, at temperature 1 (and, under the
            grammar, among the tokens it allows). Divide by `len(tokens)` to compare answers of different lengths.
        prompt_tokens: tokens of the prompt, features included, padding not.
    """

    tokens: tuple[int, ...]
    finished: bool
    log_likelihood: float
    prompt_tokens: int


def generate(
    model: CadMLLM,
    samples: Sequence[Sample],
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    grammar: bool = True,
    batch_size: int = 16,
) -> list[Answer]:
    """Answer every sample.

    Args:
        model: in any mode; it is evaluated without gradients and left in the mode it was in.
        samples: what is shown to the model; targets are not read.
        max_new_tokens: longest answer, the end token included.
        temperature: 0 is greedy.
        top_p: nucleus: the smallest set of most likely tokens whose probabilities sum to this is drawn from.
        seed: of sampling; the n-th sample with the same id draws different numbers from the first.
        grammar: False lets the model write what it likes (to measure what it learned), and answers may not parse.
        batch_size: answers written side by side.

    Returns:
        An answer a sample, in order.

    Raises:
        CadmllmError: E102 when no complete program fits into `max_new_tokens`; E704 when the model computes no finite scores.
    """
    device = model.device
    tables = cad_tables(device) if grammar else None
    collator = Collator(model.tokenizer, model.text_size, model.cloud_tokens, model.image_tokens, 1 << 20)
    draws = _uniforms([sample.id for sample in samples], seed, max_new_tokens) if temperature > 0.0 else None
    answers: list[Answer] = []
    with evaluating(model):
        for first in range(0, len(samples), batch_size):
            group = slice(first, first + batch_size)
            batch = collator.prompts(samples[group]).to(device)
            sampler = Sampler(temperature, top_p, draws[group].to(device) if draws is not None else None)
            answers += _write(model, batch, max_new_tokens, sampler, tables)
    return answers


class Sampler:
    """Chooses a token a row: greedy, or from the nucleus at a temperature by numbers drawn beforehand.

    Args:
        temperature: 0 is greedy.
        top_p: nucleus, in (0, 1].
        draws: [B, steps] float64 in [0, 1), one a row and step; None when greedy.
    """

    def __init__(self, temperature: float, top_p: float, draws: Tensor | None) -> None:
        self.temperature, self.top_p, self.draws = temperature, top_p, draws

    def choose(self, logits: Tensor, step: int) -> Tensor:
        """Tokens [B] int64 for logits [B, V] (float32, -inf where forbidden)."""
        if self.draws is None:
            return logits.argmax(dim=-1)
        shares, order = torch.softmax(logits.double() / self.temperature, dim=-1).sort(dim=-1, descending=True, stable=True)
        total = shares.cumsum(dim=-1)
        kept = (total - shares < self.top_p) & (shares > 0.0)
        kept[:, 0] = True
        count = kept.sum(dim=-1, keepdim=True)
        mass = total.gather(1, count - 1)
        place = torch.searchsorted(total, self.draws[:, step : step + 1] * mass, right=True)
        return order.gather(1, place.minimum(count - 1)).squeeze(1)


def _write(model: CadMLLM, batch: Batch, budget: int, sampler: Sampler, tables: Tables | None) -> list[Answer]:
    """The loop: one batch of prompts to its answers."""
    rows, device = batch.input_ids.shape[0], batch.input_ids.device
    constraint = Constraint(tables, rows, budget) if tables is not None else None
    done = torch.zeros(rows, dtype=torch.bool, device=device)
    likelihood = torch.zeros(rows, dtype=torch.float64, device=device)
    written: list[Tensor] = []
    mask, positions = batch.attention_mask, batch.position_ids
    logits, cache = model.step(model.embed(batch), None, mask, positions, None)
    for step in range(budget):
        logits = logits.float()
        if constraint is not None:
            logits = constraint.mask(logits)
        tokens = torch.where(done, END, sampler.choose(logits, step))
        gained = torch.log_softmax(logits.double(), dim=-1).gather(1, tokens.unsqueeze(1)).squeeze(1)
        likelihood += torch.where(done, 0.0, gained)
        written.append(tokens)
        done = done | (tokens == END)
        if constraint is not None:
            constraint.update(tokens)
        if step + 1 == budget or bool(done.all()):
            break
        mask = torch.cat([mask, mask.new_ones(rows, 1)], dim=1)
        positions = positions[:, -1:] + 1
        logits, cache = model.step(None, (tokens + model.text_size).unsqueeze(1), mask, positions, cache)
    return _answers(torch.stack(written, dim=1), likelihood, batch.attention_mask.sum(dim=1))


def _answers(tokens: Tensor, likelihood: Tensor, prompts: Tensor) -> list[Answer]:
    answers = []
    for row, gained, prompt in zip(tokens.tolist(), likelihood.tolist(), prompts.tolist(), strict=True):
        if math.isnan(gained):
            raise CadmllmError(
                "E704",
                "the model's scores are not finite numbers",
                "train again from an earlier checkpoint, or use --set dtype=float32",
            )
        finished = END in row
        answers.append(Answer(tuple(row[: row.index(END) + 1] if finished else row), finished, gained, prompt))
    return answers


def _uniforms(ids: Sequence[str], seed: int, steps: int) -> Tensor:
    """Numbers in [0, 1) for every sample and step, [N, steps] float64, by seed, id and how often the id stood before."""
    seen: Counter[str] = Counter()
    rows = []
    for name in ids:
        key = hashlib.blake2b(f"{seed}/{seen[name]}/{name}".encode("utf-8", "surrogatepass"), digest_size=7).digest()
        seen[name] += 1
        generator = torch.Generator().manual_seed(int.from_bytes(key, "little"))
        rows.append(torch.rand(steps, generator=generator, dtype=torch.float64))
    return torch.stack(rows) if rows else torch.empty(0, steps, dtype=torch.float64)


@contextmanager
def evaluating(model: CadMLLM) -> Generator[None]:
    training = model.training
    model.eval()
    try:
        # not inference_mode: what a model caches in it (rotary tables) could not be trained with afterwards
        with torch.no_grad():
            yield
    finally:
        model.train(training)
