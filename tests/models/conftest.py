"""Tiny Qwen3 bases made on the spot, and batches over them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from cadmllm.corpus.types import CAD_SIZE, IGNORE, Batch
from cadmllm.settings import Settings

torch.set_num_threads(1)


def _make_base(folder: Path, *, seed: int = 0, tied: bool = False) -> Path:
    """A random Qwen3 causal LM of width 32 with a byte-level tokenizer, saved as transformers saves one."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(alphabet)}, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    raw.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<|endoftext|>", eos_token="<|im_end|>")
    config = Qwen3Config(
        vocab_size=272,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=512,
        tie_word_embeddings=tied,
    )
    torch.manual_seed(seed)
    model = Qwen3ForCausalLM(config)
    for name, value in model.named_parameters():
        if value.ndim == 1:  # trained models have norms of their own; the fingerprint reads them
            value.data += 0.1 * torch.randn(value.shape)
        assert name
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def make_base() -> Callable[..., Path]:
    """The function above."""
    return _make_base


@pytest.fixture(scope="session")
def make_batch() -> Callable[..., Batch]:
    """The function below."""
    return _make_batch


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny base folder; read only."""
    return _make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture
def settings(base: Path) -> Callable[..., Settings]:
    """Settings for the tiny base: `settings(lora=False, **model_settings)`."""

    def make(lora: bool = True, **model: object) -> Settings:
        options = {
            "llm": str(base),
            "points_encoder": "fourier",
            "point_count": 64,
            "point_tokens": 8,
            "fourier_width": 32,
            "image_encoder": "tiny",
            "image_bridge": "mlp",
            "image_tokens": 4,
        }
        return Settings(
            model={**options, **model},  # ty: ignore[invalid-argument-type]
            lora={"enabled": lora, "r": 4, "alpha": 8},  # ty: ignore[invalid-argument-type]
            dtype="float32",
            device="cpu",
        )

    return make


def _make_batch(text_size: int, *, clouds: int = 0, images: int = 0, seed: int = 0) -> Batch:
    """Two right-padded samples of different lengths; the first shows all clouds and images."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda high, count: torch.randint(0, high, (count,), generator=generator).tolist()  # noqa: E731
    features = [text_size + CAD_SIZE] * (clouds * 8) + [text_size + CAD_SIZE + 1] * (images * 4)
    rows, labels = [], []
    for prompt, target in ((features + draw(text_size, 5), draw(CAD_SIZE, 6)), (draw(text_size, 3), draw(CAD_SIZE, 4))):
        rows.append(prompt + [text_size + t for t in target])
        labels.append([IGNORE] * len(prompt) + target)
    longest = max(map(len, rows))
    mask = torch.tensor([[1] * len(r) + [0] * (longest - len(r)) for r in rows])
    return Batch(
        input_ids=torch.tensor([r + [0] * (longest - len(r)) for r in rows]),
        attention_mask=mask,
        position_ids=(mask.cumsum(1) - 1).clamp(min=0),
        labels=torch.tensor([r + [IGNORE] * (longest - len(r)) for r in labels]),
        points=torch.rand(clouds, 64, 3, generator=generator) * 2 - 1 if clouds else None,
        normals=torch.nn.functional.normalize(torch.randn(clouds, 64, 3, generator=generator), dim=-1) if clouds else None,
        pixels=torch.randn(images, 3, 224, 224, generator=generator) if images else None,
        ids=["0000/a", "0000/b"],
        combinations=["text", "text"],
    )
