"""A healthy run in a folder of its own, put on the bench in this process, so that a test can break a piece of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from scene import build

from cadmllm.console import Console
from cadmllm.corpus.layout import open_dataset
from cadmllm.doctor.proving.bench import Bench, Intent

torch.set_num_threads(1)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Bench]:
    """`bench(**{"lora.enabled": True})`: stage 3 of that run; `stages` and `intent` are as said."""
    (tmp_path / "scene").mkdir()
    scene = build(tmp_path / "scene", monkeypatch)

    def make(stages: tuple[int, ...] = (1, 2, 3), intent: Intent | None = None, **values: object) -> Bench:
        scene.values = {"train.val_samples": 4, **values}
        settings = scene.settings()
        folder = tmp_path / "proofs"
        folder.mkdir(exist_ok=True)
        return Bench(settings, stages, open_dataset(settings.data), folder, Console(quiet=True), intent)

    return make


LORA = {"lora.enabled": True, "lora.r": 4, "lora.alpha": 8}


@pytest.fixture
def lora() -> dict[str, object]:
    """Settings of LoRA on the scene's base."""
    return dict(LORA)
