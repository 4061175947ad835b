"""Small Qwen3 models with the real one's ratios."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from cadmllm.settings import Settings

torch.set_num_threads(1)
SHAPE = {"hidden_size": 128, "intermediate_size": 384, "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 32}


@pytest.fixture(scope="session")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """`qwen(layers)`: a base folder of so many layers; read only."""
    from tiny_base import make_base
    from transformers import Qwen3Config, Qwen3Model

    made: dict[int, Path] = {}

    def make(layers: int) -> Path:
        if layers not in made:
            made[layers] = make_base(tmp_path_factory.mktemp(f"qwen{layers}"))
            config = Qwen3Config(vocab_size=272, num_hidden_layers=layers, max_position_embeddings=4096, **SHAPE)
            Qwen3Model(config).save_pretrained(made[layers])
        return made[layers]

    return make


@pytest.fixture
def settings(qwen: Callable[[int], Path]) -> Callable[..., Settings]:
    """`settings(layers, dtype, lora={...}, ...)` on a CPU, with encoders that need no download."""

    def make(layers: int = 2, dtype: str = "bfloat16", **groups: dict) -> Settings:
        values: dict[str, Any] = {
            "model": {
                "llm": str(qwen(layers)),
                "points_encoder": "fourier",
                "point_tokens": 8,
                "image_encoder": "tiny",
                "image_bridge": "mlp",
                "image_tokens": 4,
            },
            "lora": {"enabled": True, "r": 8, "alpha": 16},
        }
        for group, changed in groups.items():
            values[group] = {**values.get(group, {}), **changed}
        return Settings(dtype=dtype, device="cpu", **values)  # ty: ignore[invalid-argument-type]

    return make
