"""How large a language model is: parameters and bytes of its weights, from its shape alone. Arithmetic only, no torch."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

GIB = 2**30
NF4_BYTES = 0.5 + 1 / 64 + 1 / (64 * 256) * 4  # 4 bits, an 8-bit scale for 64 weights, a 32-bit one for 256 scales
_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}


@dataclass(frozen=True, slots=True)
class LlmShape:
    """What decides the size of a decoder of the Llama family (Llama, Mistral, Qwen2, Qwen3).

    Attributes:
        layers, hidden, mlp: number of blocks, width, inner width of the MLP.
        heads, kv_heads, head_dim: of the attention.
        vocabulary: rows of the embedding.
        tied: whether input and output embedding are one matrix.
        qk_norm: queries and keys are normalised a head at a time (Qwen3).
        qkv_bias: their projections have a bias (Qwen2).
        out_bias: so has the projection of what attention gives (attention_bias of Llama and Qwen3).
        mlp_bias: so have the three of the MLP (Llama may).
        window: tokens that attention looks back; 0: all of them (Mistral may look back less far; it costs no less memory).
        kind: `model_type` of its configuration.
    """

    layers: int
    hidden: int
    mlp: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    tied: bool
    qk_norm: bool = True
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    window: int = 0
    kind: str = "qwen3"

    @property
    def query(self) -> int:
        """Width of all query heads."""
        return self.heads * self.head_dim

    @property
    def key(self) -> int:
        """Width of all key heads, and of all value heads."""
        return self.kv_heads * self.head_dim

    @property
    def linear_parameters(self) -> int:
        """Weights of the seven linear layers of all blocks."""
        return self.layers * self.hidden * (2 * self.query + 2 * self.key + 3 * self.mlp)

    @property
    def norm_parameters(self) -> int:
        """Weights of the norms, and biases where there are some: vectors, which are never quantised."""
        layer = 2 * self.hidden + (2 * self.head_dim if self.qk_norm else 0)
        layer += self.query + 2 * self.key if self.qkv_bias else 0
        layer += self.hidden if self.out_bias else 0
        layer += 2 * self.mlp + self.hidden if self.mlp_bias else 0
        return self.layers * layer + self.hidden

    @property
    def embedding_parameters(self) -> int:
        """Weights of the input embedding and, where it is a matrix of its own, the output embedding."""
        return self.vocabulary * self.hidden * (1 if self.tied else 2)

    @property
    def parameters(self) -> int:
        """All weights but the norms, which are below 0.01 %."""
        return self.linear_parameters + self.embedding_parameters

    def lora_parameters(self, rank: int) -> int:
        """Weights of LoRA on the seven linear layers."""
        ends = 2 * (self.hidden + self.query) + 2 * (self.hidden + self.key) + 3 * (self.hidden + self.mlp)
        return self.layers * rank * ends

    def weight_bytes(self, dtype: str, quantization: str, *, head: bool) -> int:
        """Bytes of the weights on the device: NF4 shrinks the linear layers, the embeddings stay in `dtype`.

        `head`: with the output matrix. Training does without it, as the head is the CAD vocabulary alone.
        """
        wide = _BYTES[dtype]
        linear = NF4_BYTES if quantization == "nf4" else wide
        embeddings = self.embedding_parameters if head else self.vocabulary * self.hidden
        return int(self.linear_parameters * linear + embeddings * wide)


_QWEN3 = 151_936
KNOWN = {
    "Qwen/Qwen3-0.6B": LlmShape(28, 1024, 3072, 16, 8, 128, _QWEN3, True),
    "Qwen/Qwen3-1.7B": LlmShape(28, 2048, 6144, 16, 8, 128, _QWEN3, True),
    "Qwen/Qwen3-4B": LlmShape(36, 2560, 9728, 32, 8, 128, _QWEN3, True),
    "Qwen/Qwen3-8B": LlmShape(36, 4096, 12288, 32, 8, 128, _QWEN3, False),
    "Qwen/Qwen3-14B": LlmShape(40, 5120, 17408, 40, 8, 128, _QWEN3, False),
    "Qwen/Qwen3-32B": LlmShape(64, 5120, 25600, 64, 8, 128, _QWEN3, False),
}


EXACT = ("qwen2", "qwen3", "llama", "mistral")  # kinds whose every parameter is counted here; of others nothing is said


def shape_of(name: str) -> LlmShape | None:
    """The shape of a model: from its config.json where the model is on this machine, else from the table of Qwen3 models.

    Args:
        name: hub name or local folder.

    Returns:
        None where the model is not known, or its configuration is not one of the kinds in `EXACT`.
    """
    folder = Path(name) if Path(name).is_dir() else cached(name)
    if folder is not None and (folder / "config.json").is_file():
        return _from_config(folder / "config.json")
    return KNOWN.get(name)


def cached(name: str) -> Path | None:
    """The newest snapshot of a hub model in the local Hugging Face cache, or None."""
    home = Path(os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "huggingface")
    hub = Path(os.environ.get("HF_HUB_CACHE") or home / "hub")
    snapshots = [p for p in (hub / f"models--{name.replace('/', '--')}" / "snapshots").glob("*") if p.is_dir()]
    return max(snapshots, key=lambda path: path.stat().st_mtime, default=None)


def _from_config(path: Path) -> LlmShape | None:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        kind = config["model_type"]
        return shape_from(config) if kind in EXACT else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ZeroDivisionError):
        return None  # not a decoder of this kind: nobody can say its size


def shape_from(config: Mapping[str, Any]) -> LlmShape:
    """The shape that a configuration of one of the kinds in `EXACT` describes; what it leaves out is as transformers has it.

    Raises:
        KeyError, TypeError, ValueError: a number that every configuration says is not there, or is none.
    """
    kind, heads, hidden = str(config["model_type"]), int(config["num_attention_heads"]), int(config["hidden_size"])
    biased = bool(config.get("attention_bias", False))
    windowed = kind == "mistral" or bool(config.get("use_sliding_window", False))
    shape = LlmShape(
        layers=int(config["num_hidden_layers"]),
        hidden=hidden,
        mlp=int(config["intermediate_size"]),
        heads=heads,
        kv_heads=int(config.get("num_key_value_heads") or heads),
        head_dim=int(config.get("head_dim") or (128 if kind == "qwen3" else hidden // heads)),
        vocabulary=int(config["vocab_size"]),
        tied=bool(config.get("tie_word_embeddings", False)),
        qk_norm=kind == "qwen3",
        qkv_bias=kind == "qwen2" or (biased and kind != "mistral"),  # Qwen2 has them whatever its configuration says
        out_bias=biased and kind in ("llama", "qwen3"),
        mlp_bias=bool(config.get("mlp_bias", False)) and kind == "llama",
        window=int(config.get("sliding_window") or 0) if windowed else 0,
        kind=kind,
    )
    numbers = (shape.layers, shape.hidden, shape.mlp, shape.heads, shape.kv_heads, shape.head_dim, shape.vocabulary)
    if min(numbers) < 1:
        raise ValueError("a model without layers, heads or words")
    return shape
