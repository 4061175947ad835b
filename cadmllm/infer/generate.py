"""Writing answers: prompts in, CAD tokens out, batched, with a key-value cache, under the grammar.

An answer depends on its sample, its copy, the seed and the settings alone, not on what else is in the batch: prompts are
left-padded and padding is masked, every answer draws its random numbers from a generator of its own, and what leaves the batch
leaves nothing behind. (So in float32; bfloat16 rounds differently in batches of different shapes, and two all but equally likely
tokens may then change places.)
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from cadmllm.cad.vocabulary import END
from cadmllm.corpus.batch import Collator
from cadmllm.corpus.prompt import encode_prompt, features_of
from cadmllm.errors import CadmllmError
from cadmllm.infer.constrain import Constraint, Tables, cad_tables
from cadmllm.infer.sampler import Sampler, keys_of, uniforms

if TYPE_CHECKING:
    from transformers import Cache

    from cadmllm.corpus.types import Sample
    from cadmllm.models.cache import RowCache
    from cadmllm.models.fusion import CadMLLM

Watch = Callable[[int, Sequence[int]], None]
NO_LIMIT = 1 << 20  # tokens of a prompt: what the model has room for is asked before


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model wrote.

    Attributes:
        tokens: CAD vocabulary indices, the end token included when there is one.
        finished: whether the end token was reached; always so under the grammar.
        log_likelihood: natural logarithm of the probability of the tokens, given the prompt, at temperature 1 (and, under the
            grammar, among the tokens it allows).
        prompt_tokens: tokens of the prompt, features included, padding not.
    """

    tokens: tuple[int, ...]
    finished: bool
    log_likelihood: float
    prompt_tokens: int

    @property
    def mean_log_likelihood(self) -> float:
        """Log-likelihood a token, which compares answers of different lengths; 0 is certainty, lower is less likely."""
        return self.log_likelihood / len(self.tokens)


def generate(
    model: CadMLLM,
    samples: Sequence[Sample],
    *,
    max_new_tokens: int,
    temperature: float | Sequence[float] = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    grammar: bool = True,
    batch_size: int = 16,
    copies: int = 1,
    watch: Watch | None = None,
    note: Callable[[str], None] | None = None,
) -> list[Answer]:
    """Answer every sample, once or several times.

    Args:
        model: in any mode; it is evaluated without gradients and left in the mode it was in.
        samples: what is shown to the model; targets are not read.
        max_new_tokens: longest answer, the end token included.
        temperature: 0 is greedy; or one for each copy.
        top_p: nucleus: the smallest set of most likely tokens whose probabilities sum to this is drawn from.
        seed: of sampling. Copies draw different numbers, and so do samples with the same id; copy 0 is the answer that the
            sample has without other copies.
        grammar: False lets the model write what it likes (to measure what it learned), and answers may not parse.
        batch_size: most answers written side by side; those that are done make room for nobody, but cost nothing more.
        copies: answers of each sample. Its prompt is encoded and read once for all of them.
        watch: called as `watch(row, tokens)` after each step for each answer that grew, with its place in the list returned and
            all its tokens so far (a list that goes on growing: copy it to keep it).
        note: told when memory ran out and half as many answers are written side by side; the answers that were underway begin
            anew, for `watch`, too. None: `torch.OutOfMemoryError` is raised instead.

    Returns:
        Answers grouped by sample: copy k of sample i at i * copies + k.

    Raises:
        CadmllmError: E102 when no complete program fits into `max_new_tokens`, or when a prompt and it exceed the positions of
            the decoder; E408 when a prompt does by itself; E704 when the model computes no finite scores.
    """
    temperatures = [float(t) for t in temperature] if isinstance(temperature, Sequence) else [float(temperature)] * copies
    assert len(temperatures) == copies > 0, "a temperature for each copy"
    for sample in samples:
        check_room(model, sample, max_new_tokens)
    tables = cad_tables(model.device) if grammar else None
    keys = keys_of([sample.id for sample in samples], seed, copies)
    writer = _Writer(model, samples, keys, temperatures, top_p, max_new_tokens, tables, watch)
    answers: list[Answer] = []
    size = batch_size
    with evaluating(model):
        while len(answers) < len(keys):
            first = len(answers) // copies
            some = range(first, min(len(samples), first + max(1, size // copies)))
            try:
                found = writer.write(some, size)
            except torch.OutOfMemoryError:
                if size == 1 or note is None:
                    raise
                found = None
            if found is None:  # not in the handler: the error holds on to what took the memory
                assert note is not None
                _free(model.device)
                size //= 2
                note(f"out of memory for {2 * size} answers side by side: {size}")
            else:
                answers += found
    return answers


def prompt_length(model: CadMLLM, sample: Sample) -> int:
    """Tokens of a sample's prompt, features of clouds and images included."""
    features = features_of(sample, model.cloud_tokens, model.image_tokens, model.images_together)
    return len(encode_prompt(model.tokenizer, model.text_size, sample.caption, *features, limit=NO_LIMIT))


def check_room(model: CadMLLM, sample: Sample, max_new_tokens: int) -> None:
    """Refuse a prompt that leaves no room for its answer in the positions that the decoder was made for.

    Raises:
        CadmllmError: E102 where a smaller `infer.max_new_tokens` mends it, E408 where the prompt itself is too long.
    """
    if not model.positions:
        return
    prompt = prompt_length(model, sample)
    left = model.positions - prompt
    if left >= max_new_tokens:
        return
    has = f"{sample.id}: the prompt has {prompt:,} tokens"
    if left < 16:  # the least that infer.max_new_tokens may be
        raise CadmllmError(
            "E408", f"{has}, and the language model {model.positions:,} positions", "shorten the text, or show fewer images"
        )
    raise CadmllmError(
        "E102",
        f"{has}: with infer.max_new_tokens {max_new_tokens:,} that is more than the {model.positions:,} positions"
        " of the language model",
        f"--max-new-tokens {left}, or a shorter prompt",
    )


@dataclass(slots=True)
class _Growing:
    """An answer while it is written; `row` is its place in what is returned."""

    row: int
    prompt: int
    tokens: list[int] = field(default_factory=list)
    likelihood: float = 0.0

    def grow(self, token: int, gained: float) -> None:
        if math.isnan(gained):
            raise CadmllmError(
                "E704",
                "the model's scores are not finite numbers",
                "train again from an earlier checkpoint, or use --set dtype=float32",
            )
        self.tokens.append(token)
        self.likelihood += gained

    def answer(self) -> Answer:
        return Answer(tuple(self.tokens), self.tokens[-1] == END, self.likelihood, self.prompt)


@dataclass(frozen=True, slots=True)
class _Read:
    """N prompts that the decoder has read: scores [N, V] of the first token, cache, mask [N, T], lengths."""

    logits: Tensor
    cache: RowCache
    mask: Tensor
    lengths: list[int]


@dataclass(frozen=True, slots=True)
class _Writer:
    """What all answers have in common; `keys` say what numbers each draws, `temperatures` are those of a sample's copies."""

    model: CadMLLM
    samples: Sequence[Sample]
    keys: list[str]
    temperatures: list[float]
    top_p: float
    budget: int
    tables: Tables | None
    watch: Watch | None

    def write(self, which: range, size: int) -> list[Answer]:
        """All answers to some samples, at most `size` side by side."""
        copies = len(self.temperatures)
        rows = range(which.start * copies, which.stop * copies)
        read = self._read(which)
        answers: list[Answer] = []
        for first in range(0, len(rows), size):
            some = rows[first : first + size]
            answers += self._side_by_side(read, [row // copies - which.start for row in some], some)
        return answers

    def _read(self, which: range) -> _Read:
        model = self.model
        collator = Collator(
            model.tokenizer, model.text_size, model.cloud_tokens, model.image_tokens, NO_LIMIT, model.images_together
        )
        batch = collator.prompts(self.samples[which.start : which.stop]).to(model.device)
        mask = batch.attention_mask
        logits, cache = model.step(model.embed(batch), None, mask, batch.position_ids, None)
        return _Read(logits, cast("RowCache", cache), mask, mask.sum(dim=1).tolist())

    def _side_by_side(self, read: _Read, sources: list[int], rows: range) -> list[Answer]:
        """Answers `rows`, each after the prompt at its place in `sources`."""
        growing = [_Growing(row, read.lengths[source]) for row, source in zip(rows, sources, strict=True)]
        side = _Side(self, read, sources, growing)
        for step in range(self.budget):
            side.grow(step)
            if self.watch is not None:
                for one in side.growing:
                    self.watch(one.row, one.tokens)
            if step + 1 == self.budget or not side.leave():
                break
            side.read()
        return [one.answer() for one in growing]


class _Side:
    """Answers that are written side by side; `growing` are those that have not ended.

    Args:
        writer: whose they are.
        read: the prompts.
        sources: the place of each answer's prompt in them.
        growing: the answers, without a token as yet.
    """

    def __init__(self, writer: _Writer, read: _Read, sources: list[int], growing: list[_Growing]) -> None:
        self.model, self.growing = writer.model, list(growing)
        device, count = read.mask.device, len(growing)
        self.constraint = Constraint(writer.tables, count, writer.budget) if writer.tables is not None else None
        heat = [writer.temperatures[one.row % len(writer.temperatures)] for one in growing]
        draws = uniforms([writer.keys[one.row] for one in growing], writer.budget if any(heat) else 0)
        self.sampler = Sampler(heat, writer.top_p, draws.to(device))
        chosen = torch.tensor(sources, device=device)
        if len(writer.temperatures) == 1:  # nobody else asks for it
            self.cache, dropped = read.cache, 0
        else:
            self.cache, dropped = read.cache.taken(sources, read.mask.shape[1] - max(one.prompt for one in growing))
        self.logits, self.mask = read.logits[chosen], read.mask[chosen, dropped:]
        self.tokens = chosen
        self.positions = self.mask.sum(dim=1, keepdim=True) - 1  # of the latest token

    def grow(self, step: int) -> None:
        """The next token of each."""
        logits = self.logits.float()
        if self.constraint is not None:
            logits = self.constraint.mask(logits)
        self.tokens = self.sampler.choose(logits, step)
        scores = logits.double()
        gained = scores.gather(1, self.tokens.unsqueeze(1)).squeeze(1) - scores.logsumexp(dim=-1)
        if self.constraint is not None:
            self.constraint.update(self.tokens)
        both = torch.stack([self.tokens.double(), gained], dim=1).tolist()  # one look at the device a step
        for one, (token, gain) in zip(self.growing, both, strict=True):
            one.grow(int(token), gain)

    def leave(self) -> bool:
        """Those that have ended go; False when nobody is left."""
        stays = [one.tokens[-1] != END for one in self.growing]
        if all(stays) or not any(stays):
            return any(stays)
        rows = filled_up(stays)
        self.growing = [self.growing[row] for row in rows]
        chosen = torch.tensor(rows, device=self.tokens.device)
        padding = self.mask.shape[1] - max(one.prompt + len(one.tokens) - 1 for one in self.growing)
        dropped = self.cache.keep(rows, padding)
        self.tokens, self.mask, self.positions = self.tokens[chosen], self.mask[chosen, dropped:], self.positions[chosen]
        self.sampler.keep(chosen)
        if self.constraint is not None:
            self.constraint.keep(chosen)
        return True

    def read(self) -> None:
        """The decoder reads the latest tokens."""
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(self.growing), 1)], dim=1)
        self.positions = self.positions + 1
        ids = (self.tokens + self.model.text_size).unsqueeze(1)
        self.logits, cache = self.model.step(None, ids, self.mask, self.positions, cast("Cache", self.cache))
        self.cache = cast("RowCache", cache)


def filled_up(stays: Sequence[bool]) -> list[int]:
    """Which row comes to which place when those that do not stay leave: the last ones fill the gaps, the others stay put."""
    rows = [row for row, stay in enumerate(stays) if stay]
    count = len(rows)
    behind = iter([row for row in rows if row >= count])
    return [row if stays[row] else next(behind) for row in range(count)]


def _free(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


@contextmanager
def evaluating(model: CadMLLM) -> Generator[None]:
    """Evaluation mode without gradients; the mode before is put back."""
    training = model.training
    model.eval()
    try:
        # not inference_mode: what a model caches in it (rotary tables) could not be trained with afterwards
        with torch.no_grad():
            yield
    finally:
        model.train(training)
