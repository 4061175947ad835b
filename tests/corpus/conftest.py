"""A byte-level tokenizer with Qwen's control tokens, and small data sets on disk."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(scope="session")
def tokenizer():
    """One token a byte, plus control tokens that a careless prompt would let through."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE(vocab={c: k for k, c in enumerate(alphabet)}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    names = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>")
    inner.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<|endoftext|>")


@pytest.fixture(scope="session")
def text_size(tokenizer) -> int:
    return len(tokenizer)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three parts: a with everything, b with points alone, c with text alone."""
    from PIL import Image

    from cadmllm.cad import omnicad
    from cadmllm.corpus.parts import generate

    root = tmp_path / "set"
    for name in ("json", "txt", "img", "pcd"):
        (root / name / "0000").mkdir(parents=True)
    (root / "txt" / "0000").rmdir()
    entries = []
    for name, part in zip("abc", generate(3, 0), strict=True):
        omnicad.write_json(part.program, root / "json" / "0000" / f"{name}.json")
        entries.append({"id": f"0000/{name}", "text caption": f"part {name}", "text caption short": f"short {name}"})
    (root / "txt" / "0000.json").write_text(json.dumps(entries))
    rng = np.random.default_rng(0)
    for name in "ab":
        np.savez(root / "pcd" / "0000" / f"{name}.npz", points=ball(rng, 200))
    for k in range(8):
        view = Image.new("RGB", (64, 64), (k, k, k))
        view.paste((200, 200, 200), (16, 16, 48, 48))
        view.save(root / "img" / "0000" / f"a_{k:03d}.png")
    return root


def ball(rng: np.random.Generator, count: int) -> np.ndarray:
    """Points on the unit sphere."""
    points = rng.normal(size=(count, 3))
    return points / np.linalg.norm(points, axis=1, keepdims=True)
