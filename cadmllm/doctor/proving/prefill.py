"""Proof 5: what training computes for a sample is what generation computes for it: prefill, then tokens from the cache."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cadmllm.corpus.batch import Collator
from cadmllm.corpus.types import IGNORE
from cadmllm.doctor.check import Finding, Level, Outcome
from cadmllm.doctor.proving.labels import mixes
from cadmllm.infer.generate import evaluating

if TYPE_CHECKING:
    from cadmllm.corpus.batch import Encoded
    from cadmllm.corpus.types import Batch
    from cadmllm.doctor.proving.bench import Bench
    from cadmllm.models.fusion import CadMLLM

NAME = "prefill"
REMEDY = (
    "try another back end: --set model.attention=sdpa, or --set train.packing=false; if it stays, report it with: "
    "cadmllm doctor --deep --json"
)
UNCUT = 1 << 20  # longest prompt of inference
STEPS = 24  # supervised tokens of each sample that are compared: prefill, and so many steps from the cache less one
# largest difference of two scores at a position, over the spread (standard deviation) of the scores there
CLOSE = {"float32": 1e-3, "float16": 0.15, "bfloat16": 0.5}
USUAL = {"float32": 1e-4, "float16": 0.03, "bfloat16": 0.15}  # the same at the median position


def prove(bench: Bench) -> Outcome:
    """Scores of supervised positions: packed and trained, against prefilled and cached."""
    samples = mixes(bench)
    bench.say("scores of training and of generation")
    trained = training_scores(bench, samples)
    written = generation_scores(bench, samples)
    dtype = bench.settings.dtype
    findings, lines, largest = [], [], 0.0
    for encoded, one, other in zip(samples, trained, written, strict=True):
        away = (one - other).abs().amax(dim=1) / one.std(dim=1).clamp(min=1e-12)
        most, usual = float(away.max()), float(away.median())
        same = int((one.argmax(dim=1) == other.argmax(dim=1)).sum())
        largest = max(largest, most)
        name = f"{encoded.sample.combination} {encoded.sample.id}"
        apart = f"apart by {most:.2g} of their spread, {usual:.2g} at the median"
        lines.append(f"{name}: {apart}; the best item is the same at {same} of {len(one)} positions")
        if not (most <= CLOSE[dtype] and usual <= USUAL[dtype]):
            message = (
                f"{name}: scores of training and of generation are {apart} of {len(one)} positions (rounding in {dtype}"
                f" explains {CLOSE[dtype]:g} and {USUAL[dtype]:g}), first at {_first(away, dtype)}"
            )
            findings.append(Finding("E865", Level.FAIL, NAME, message, REMEDY))
    summary = f"training and generation give the same scores for {len(samples)} samples, apart by {largest:.1g} of their spread"
    return Outcome(summary, tuple(findings), details=tuple(lines))


def _first(away: Tensor, dtype: str) -> str:
    at = int((away > USUAL[dtype]).nonzero()[0])
    return "the prefill itself" if at == 0 else f"step {at} from the cache"


def training_scores(bench: Bench, samples: Sequence[Encoded]) -> list[Tensor]:
    """Scores [n, CAD_SIZE] of each sample's first supervised positions, as the loss of a batch sees them (float32, CPU)."""
    session = bench.session
    batch = session.collate.pack(samples) if session.windows.room.packed else session.collate.pad(samples)
    with evaluating(session.model), heard(session.model) as said, session.engine.autocast():
        session.model.loss(batch.to(session.engine.device))
    whole = torch.cat(said)
    counts = [sum(label != IGNORE for label in e.labels) for e in samples]
    return [part[:STEPS].float().cpu() for part in whole.split(counts)]


@contextmanager
def heard(model: CadMLLM) -> Generator[list[Tensor]]:
    """Every score that the head gives meanwhile."""
    said: list[Tensor] = []
    hook = model.rows.logits

    def listen(hidden: Tensor) -> Tensor:
        said.append(hook(hidden))
        return said[-1]

    model.rows.logits = listen  # an attribute of this module alone
    try:
        yield said
    finally:
        del model.rows.logits


def generation_scores(bench: Bench, samples: Sequence[Encoded]) -> list[Tensor]:
    """The same by `model.step`, as `infer.generate` calls it: left-padded prompts, then the target's own tokens one by one.

    A sample whose caption training has cut is prompted by itself, with what was left of it.
    """
    found: dict[int, Tensor] = {}
    whole = [k for k, e in enumerate(samples) if _prompts(bench, [e], UNCUT).tokens == _prompt_length(e)]
    if whole:
        batch = _prompts(bench, [samples[k] for k in whole], UNCUT)
        found |= zip(whole, _written(bench, batch, [_targets(samples[k]) for k in whole]), strict=True)
    for k, encoded in enumerate(samples):
        if k not in found:
            (found[k],) = _written(bench, _prompts(bench, [encoded], _prompt_length(encoded)), [_targets(encoded)])
    return [found[k] for k in range(len(samples))]


def _prompts(bench: Bench, samples: Sequence[Encoded], limit: int) -> Batch:
    model = bench.session.model
    tokens = model.cloud_tokens, model.image_tokens, limit
    collator = Collator(model.tokenizer, model.text_size, *tokens, model.images_together)
    return collator.prompts([e.sample for e in samples])


def _prompt_length(encoded: Encoded) -> int:
    return sum(label == IGNORE for label in encoded.labels)


def _targets(encoded: Encoded) -> list[int]:
    return [label for label in encoded.labels if label != IGNORE][:STEPS]


def _written(bench: Bench, batch: Batch, targets: Sequence[list[int]]) -> list[Tensor]:
    """Scores at each target's tokens; shorter ones go on with their last, which nobody looks at."""
    model, device = bench.session.model, bench.session.engine.device
    batch = batch.to(device)
    found: list[Tensor] = []
    with evaluating(model):
        mask, positions = batch.attention_mask, batch.position_ids
        logits, cache = model.step(model.embed(batch), None, mask, positions, None)
        found.append(logits.float().cpu())
        for step in range(max(map(len, targets)) - 1):
            tokens = torch.tensor([target[min(step, len(target) - 1)] for target in targets], device=device)
            mask = torch.cat([mask, mask.new_ones(len(targets), 1)], dim=1)
            positions = positions[:, -1:] + 1
            logits, cache = model.step(None, (tokens + model.text_size).unsqueeze(1), mask, positions, cache)
            found.append(logits.float().cpu())
    scores = torch.stack(found, dim=1)
    return [scores[k, : len(target)] for k, target in enumerate(targets)]
