"""The tiny base's corpus: generated parts and their captions, a tokenizer trained on them, and batches of alike lengths."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from cadmllm.cad.tokens import encode
from cadmllm.corpus import synth
from cadmllm.corpus.prompt import encode_prompt
from cadmllm.corpus.types import IGNORE

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
WINDOW = 64  # batches' worth of samples sorted by length together


@dataclass(frozen=True, slots=True)
class Corpus:
    """Parts as numbers: targets[k] of part k, prompts[style][k]."""

    targets: list[np.ndarray]
    prompts: list[list[np.ndarray]]


def train_tokenizer(captions: list[str], size: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE (any text can be written), digits one by one as in Qwen, its three control tokens."""
    raw = Tokenizer(models.BPE())
    raw.normalizer = normalizers.NFC()
    digits = pre_tokenizers.Split(Regex(r"\p{N}"), "isolated")
    raw.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    raw.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False, min_frequency=5
    )
    raw.train_from_iterator(captions, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        pad_token=SPECIAL[0],
        eos_token=SPECIAL[2],
        model_max_length=2048,
        clean_up_tokenization_spaces=False,
    )


def read_parts(count: int, seed: int) -> tuple[list[np.ndarray], list[list[str]]]:
    """Targets and, style by style, captions of generated parts."""
    targets, captions = [], []
    for part in synth.generate(count, seed):
        targets.append(np.array(encode(part.program).tokens, dtype=np.int16))
        captions.append(list(part.captions.values()))
    return targets, [list(style) for style in zip(*captions, strict=True)]


def tokenise(tokenizer: PreTrainedTokenizerFast, targets: list[np.ndarray], captions: list[list[str]]) -> Corpus:
    """Captions through the prompt builder."""
    size = len(tokenizer)
    prompts = [[np.array(encode_prompt(tokenizer, size, text), dtype=np.int16) for text in style] for style in captions]
    return Corpus(targets, prompts)


def batches(corpus: Corpus, epoch: int, seed: int, tokens: int, longest: int) -> Iterator[list[tuple[int, int]]]:
    """(style, part) pairs of each batch of an epoch: every part once, its style changing by the epoch; lengths alike."""
    rng = np.random.default_rng((seed, epoch))
    styles = len(corpus.prompts)
    order = rng.permutation(len(corpus.targets))
    pairs = [((int(k) + epoch) % styles, int(k)) for k in order]
    length = {(s, k): len(corpus.prompts[s][k]) + len(corpus.targets[k]) for s, k in pairs}
    pairs = [pair for pair in pairs if length[pair] <= longest]
    per_window = WINDOW * max(1, tokens // 80)
    found: list[list[tuple[int, int]]] = []
    for start in range(0, len(pairs), per_window):
        group: list[tuple[int, int]] = []
        for pair in sorted(pairs[start : start + per_window], key=length.__getitem__):
            if group and (len(group) + 1) * length[pair] > tokens:
                found.append(group)
                group = []
            group.append(pair)
        found.append(group)
    yield from (found[i] for i in rng.permutation(len(found)))


def collate(corpus: Corpus, pairs: list[tuple[int, int]], text_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(ids, labels) [B, T], right-padded, as `corpus/batch.py` makes them."""
    rows = [(corpus.prompts[s][k], corpus.targets[k]) for s, k in pairs]
    longest = max(len(p) + len(t) for p, t in rows)
    ids = np.zeros((len(rows), longest), dtype=np.int64)
    labels = np.full((len(rows), longest), IGNORE, dtype=np.int64)
    for i, (prompt, target) in enumerate(rows):
        end = len(prompt) + len(target)
        ids[i, : len(prompt)], ids[i, len(prompt) : end] = prompt, text_size + target.astype(np.int64)
        labels[i, len(prompt) : end] = target
    return torch.from_numpy(ids), torch.from_numpy(labels)
