"""Tiny bases and checkpoints over them, made on the spot: `make_base`, `make_checkpoint`, `answers`."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cadmllm.corpus.types import CAD_SIZE
from cadmllm.models.fusion import CadMLLM, build_model
from cadmllm.models.weights import save_model
from cadmllm.settings import Settings

torch.set_num_threads(1)


@dataclass
class Checkpoint:
    """A checkpoint folder, the settings it was made under, its base, and the model as it was saved."""

    folder: Path
    settings: Settings
    base: Path
    model: CadMLLM


def _make_tokenizer(folder: Path, *, extra: str = "<|im_end|>") -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(alphabet)}, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    raw.add_special_tokens(["<|endoftext|>", "<|im_start|>", extra])
    PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<|endoftext|>", eos_token=extra).save_pretrained(folder)


def _make_base(
    folder: Path,
    *,
    tied: bool = False,
    dtype: torch.dtype = torch.float32,
    family: str = "qwen3",
    seed: int = 0,
    shard: str = "5GB",
    extra: str = "<|im_end|>",
    **shape: Any,
) -> Path:
    """A random causal LM with a tokenizer of 259 items, saved as transformers saves one; qwen2: with biases on q, k and v."""
    from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

    chosen = {
        "vocab_size": 272,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "initializer_range": 0.1,
        "tie_word_embeddings": tied,
        **({"head_dim": 8} if family == "qwen3" else {}),
        **shape,
    }
    torch.manual_seed(seed)
    model = Qwen3ForCausalLM(Qwen3Config(**chosen)) if family == "qwen3" else Qwen2ForCausalLM(Qwen2Config(**chosen))
    for value in model.parameters():
        if value.ndim == 1:  # trained models have norms and biases of their own
            value.data += 0.1 * torch.randn(value.shape)
    model.to(dtype).save_pretrained(folder, max_shard_size=shard)
    _make_tokenizer(folder, extra=extra)
    return folder


def _make_checkpoint(folder: Path, base: Path, *, stage: int = 1, lora: bool = True, r: int = 4, alpha: int = 8, **model: Any):
    settings = Settings(
        model={
            "llm": str(base),
            "points_encoder": "fourier",
            "point_count": 64,
            "point_tokens": 8,
            "fourier_width": 32,
            "image_encoder": "tiny",
            "image_tokens": 4,
            "image_bridge": "mlp",
            **model,
        },  # ty: ignore[invalid-argument-type]
        lora={"enabled": lora, "r": r, "alpha": alpha},  # ty: ignore[invalid-argument-type]
        dtype="float32",
        device="cpu",
    )
    made = build_model(settings, stage)
    torch.manual_seed(1)
    with torch.no_grad():
        for name, value in made.named_parameters():
            if "lora_B" in name or not lora:
                value += 0.1 * torch.randn(value.shape)
    made.eval()
    save_model(made, folder, {})
    return Checkpoint(folder, settings, base, made)


@torch.no_grad()
def _answers(model: CadMLLM, ids: Tensor) -> Tensor:
    """Scores [B, T, CAD_SIZE] of the checkpoint's own model."""
    hidden = model.llm(inputs_embeds=model.rows.embed(ids, model.llm.get_input_embeddings())).last_hidden_state
    return model.rows.logits(hidden)


def _ids(text_size: int) -> Tensor:
    """Two rows of 24 ids, text and added items mixed."""
    return torch.randint(0, text_size + CAD_SIZE, (2, 24), generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="session")
def make_base() -> Callable[..., Path]:
    """The function above."""
    return _make_base


@pytest.fixture(scope="session")
def make_checkpoint() -> Callable[..., Checkpoint]:
    """The function above."""
    return _make_checkpoint


@pytest.fixture(scope="session")
def answers() -> Callable[[CadMLLM, Tensor], Tensor]:
    """The function above."""
    return _answers


@pytest.fixture(scope="session")
def ids() -> Tensor:
    """The function above, for these bases."""
    return _ids(259)


@pytest.fixture(scope="session", params=["tied", "untied"])
def kept(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A checkpoint of stage 1 with LoRA over a tied and over an untied base; read only."""
    tied = request.param == "tied"
    base = _make_base(tmp_path_factory.mktemp("base"), tied=tied, shard="20KB")
    return _make_checkpoint(tmp_path_factory.mktemp("checkpoint"), base)


@pytest.fixture(scope="session")
def rewrite() -> Callable[..., None]:
    """`rewrite(folder / 'model.json', lora={...})`: change entries of a JSON file."""

    def change(path: Path, **entries: Any) -> None:
        held = json.loads(path.read_text())
        path.write_text(json.dumps({**held, **entries}))

    return change
