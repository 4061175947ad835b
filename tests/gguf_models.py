"""Plain causal language models with the resized matrices of an export, made on the spot, and the `Source` that describes them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from cadmllm.corpus.types import ADDED
from cadmllm.export.source import Source, Tensors, find_base
from cadmllm.export.tokenizer import write_tokenizer
from cadmllm.models.record import vocabulary_hash
from cadmllm.settings import Settings

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TINY = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
}
SENTENCES = (
    "A plate with four holes of 3 mm.",
    "a plate with a hole",
    "Make a round plate that's 12.5 mm thick",
    "holes and plates",
)


def make_tokenizer(folder: Path, rules: str = "qwen2", merges: int = 60) -> None:
    """A byte-level BPE tokenizer that learnt a few merges, with the control tokens of prompts."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    from cadmllm.export.gguf_tokens import _ENDINGS, _REST

    split = {
        "qwen2": _ENDINGS + r"\p{N}" + _REST,
        "llama-bpe": _ENDINGS + r"\p{N}{1,3}" + _REST,
        "smollm": r"\p{N}",
    }.get(rules)
    raw = Tokenizer(models.BPE())
    stages: list[Any] = [pre_tokenizers.Split(Regex(split), "isolated")] if split else []
    stages.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=rules in ("smollm", "gpt-2")))
    raw.pre_tokenizer = pre_tokenizers.Sequence(stages)
    raw.normalizer = normalizers.NFC()
    raw.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=256 + merges, initial_alphabet=alphabet, show_progress=False)
    raw.train_from_iterator(SENTENCES * 3, trainer)
    raw.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    raw.add_tokens(["<think>"])
    if rules == "llama-bpe":
        changed = json.loads(raw.to_str())
        changed["model"]["ignore_merges"] = True
        raw = Tokenizer.from_str(json.dumps(changed))
    PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<|endoftext|>", eos_token="<|im_end|>").save_pretrained(folder)


def make_model(kind: str, vocab_size: int, *, seed: int = 0, **options: Any) -> PreTrainedModel:
    """A random causal language model of a kind that GGUF files hold."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(seed)
    sizes = {**TINY, **({"head_dim": 32} if kind == "qwen3" else {}), **options}
    config = AutoConfig.for_model(kind, vocab_size=vocab_size, tie_word_embeddings=False, **sizes)
    model = AutoModelForCausalLM.from_config(config).eval()
    for value in model.parameters():
        if value.ndim == 1:  # norms and biases of trained models are no ones and zeros
            value.data += 0.1 * torch.randn(value.shape)
    return model


def make_source(folder: Path, kind: str = "qwen3", rules: str = "qwen2", stage: int = 1, rows: int = 0, **options: Any) -> Source:
    """A base in `folder / 'base'`, and what an export of a checkpoint over it would be made of (its weights aside).

    Args:
        folder: empty.
        kind, options: of the model.
        rules: of the tokenizer.
        stage: of the checkpoint.
        rows: of the base's vocabulary matrices; 0: a few more than its tokenizer has items.
    """
    from transformers import PreTrainedTokenizerFast

    base = folder / "base"
    base.mkdir(parents=True)
    make_tokenizer(base, rules)
    text_size = len(PreTrainedTokenizerFast.from_pretrained(base))
    make_model(kind, rows or text_size + 5, **options).save_pretrained(base)
    record = {
        "stage": stage,
        "vocabulary": vocabulary_hash(),
        "model": {"llm": str(base)},
        "lora": {"enabled": True, "r": 4, "alpha": 8},
    }
    return Source(folder, record, Tensors(()), find_base(str(base)), Settings())


def resized(source: Source, seed: int = 1) -> PreTrainedModel:
    """The merged model that an export would hold: random, with the rows and sizes of `source`."""
    config = source.base.layout.config.to_dict()
    kept = {key: value for key, value in config.items() if key not in ("vocab_size", "tie_word_embeddings", "model_type")}
    return make_model(config["model_type"], source.rows, seed=seed, **kept)


def tensors_of(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """As `export.merge.merged_tensors` gives them."""
    for name, value in model.state_dict().items():
        yield name, value.detach().clone()


def write_tokens(source: Source, folder: Path) -> Path:
    """The exported tokenizer in a new folder."""
    folder.mkdir(parents=True, exist_ok=True)
    write_tokenizer(source.base.tokenizer, source.text_size, folder)
    return folder


assert len(ADDED) == 1602
