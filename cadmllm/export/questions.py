"""What a model answers to the fixed prompts: scores of the CAD items at each position of a fixed answer and of a greedy one."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from cadmllm.corpus.batch import Collator
from cadmllm.corpus.types import ADDED, CAD_SIZE, IMAGE, POINTS, Batch, Sample
from cadmllm.export.compare import GREEDY

if TYPE_CHECKING:
    from cadmllm.models.branches import Branch
    from cadmllm.models.fusion import CadMLLM

LIMIT = 1 << 20  # nothing is cut


@dataclass(frozen=True, slots=True)
class Answered:
    """A prompt and what the checkpoint made of it.

    Attributes:
        sample: what was shown; its target is the fixed answer.
        prompt: token ids.
        greedy: CAD indices that it writes under the grammar, the end included; empty where it was not asked to.
        logits: [fixed + greedy positions, CAD_SIZE] float32 on the CPU.
    """

    sample: Sample
    prompt: list[int]
    greedy: tuple[int, ...]
    logits: Tensor


def ask(model: CadMLLM, samples: Sequence[Sample], told: Callable[[str], None], *, greedy: bool = True) -> list[Answered]:
    """The checkpoint's answers; prompts that leave no room in the decoder's positions are left out, which is told.

    Args:
        model: the checkpoint's.
        samples: with their fixed answers.
        told: is told what is left out.
        greedy: have it write answers of its own as well, side by side, which takes `GREEDY` passes.
    """
    from cadmllm.infer.generate import generate, prompt_length

    collator = collator_of(model)
    fitting = []
    model.eval()
    for sample in samples:
        assert sample.target is not None
        needed = prompt_length(model, sample) + max(len(sample.target), GREEDY)
        if model.positions and needed > model.positions:
            told(f"the prompt {sample.id} needs {needed} positions and the language model has {model.positions}: left out")
            continue
        fitting.append(sample)
    written = [answer.tokens for answer in generate(model, fitting, max_new_tokens=GREEDY)] if greedy else [()] * len(fitting)
    found = []
    for sample, answer in zip(fitting, written, strict=True):
        assert sample.target is not None
        logits = [_own(model, collator, sample, tokens) for tokens in _answers(sample, answer)]
        prompt = collator.encode(sample).ids[: -len(sample.target)]
        found.append(Answered(sample, prompt, answer, torch.cat(logits)))
    return found


def _answers(sample: Sample, greedy: tuple[int, ...]) -> list[np.ndarray]:
    assert sample.target is not None
    return [sample.target, np.array(greedy)] if greedy else [sample.target]


def collator_of(model: CadMLLM) -> Collator:
    """Prompts as the model reads them."""
    return Collator(
        model.tokenizer, model.text_size, model.cloud_tokens, model.image_tokens, LIMIT, together=model.images_together
    )


def without_lora(model: CadMLLM, one: Answered) -> Tensor:
    """What the checkpoint would answer if LoRA had not arrived: logits as in `Answered`."""
    collator = collator_of(model)
    llm: Any = model.llm
    with llm.disable_adapter():
        return torch.cat([_own(model, collator, one.sample, tokens) for tokens in _answers(one.sample, one.greedy)])


@torch.no_grad()
def _own(model: CadMLLM, collator: Collator, sample: Sample, tokens: np.ndarray) -> Tensor:
    batch = collator([replace(sample, target=tokens)]).to(model.device)
    hidden = model.llm(inputs_embeds=model.embed(batch), use_cache=False).last_hidden_state
    return model.rows.logits(hidden[0, -len(tokens) - 1 : -1]).cpu()


class Plain:
    """A causal language model as anybody loads it, with the export's own projectors in front.

    Args:
        causal: of `AutoModelForCausalLM`, perhaps inside a `PeftModel`; resized.
        branches: 'points' and 'images', from the export's files.
        collator: of the checkpoint; its tokenizer gives the ids.
        text_size: id of the first added item.
    """

    def __init__(self, causal: Any, branches: Mapping[str, Branch], collator: Collator, text_size: int) -> None:
        self.causal, self.branches, self.collator, self.text_size = causal.eval(), branches, collator, text_size

    @torch.no_grad()
    def logits(self, one: Answered) -> Tensor:
        """As `Answered.logits`."""
        return torch.cat([self._scores(one.sample, tokens) for tokens in _answers(one.sample, one.greedy)])

    def _scores(self, sample: Sample, tokens: np.ndarray) -> Tensor:
        embedding = self.causal.get_input_embeddings()
        batch = self.collator([replace(sample, target=tokens)]).to(embedding.weight.device)
        embeds = embedding(batch.input_ids)
        for placeholder, features in self._features(batch):
            places = (batch.input_ids == self.text_size + ADDED.index(placeholder)).unsqueeze(-1)
            embeds = embeds.masked_scatter(places, features.to(embeds.dtype))
        kept = self.causal(inputs_embeds=embeds, use_cache=False, logits_to_keep=len(tokens) + 1).logits
        return kept[0, :-1, self.text_size : self.text_size + CAD_SIZE].float().cpu()

    def _features(self, batch: Batch) -> list[tuple[str, Tensor]]:
        found = []
        if batch.points is not None:
            found.append((POINTS, self.branches["points"](batch.points, batch.normals)))
        if batch.pixels is not None:
            found.append((IMAGE, self.branches["images"](batch.pixels, counts=batch.image_counts)))
        return found


def freed(device: torch.device) -> None:
    """Give memory back that nobody names any more."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
