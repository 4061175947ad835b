"""A tiny base, generated parts held in memory, and settings under which a stage takes a second."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_base import make_base

from cadmllm.cad.frame import Transform
from cadmllm.console import Console
from cadmllm.corpus import synth
from cadmllm.corpus.types import Cloud
from cadmllm.settings import Settings

torch.set_num_threads(1)


class MemoryDataSet:
    """Generated parts with random clouds and views: every third part has no cloud, every fourth no view."""

    def __init__(self, count: int, seed: int = 0) -> None:
        self.parts = {part.id: part for part in synth.generate(count, seed)}
        self.ids = sorted(self.parts)
        self.problems: list[object] = []

    def split(self) -> tuple[list[str], list[str]]:
        held_out = max(1, len(self.ids) // 6)
        return self.ids[held_out:], self.ids[:held_out]

    def modalities(self, id_: str) -> frozenset[str]:
        number = int(id_.rsplit("/", 1)[-1])
        return frozenset({"text"} | ({"point_cloud"} if number % 3 else set()) | ({"image"} if number % 4 else set()))

    def caption(self, id_: str, pick: int) -> str:
        texts = sorted(self.parts[id_].captions.values())
        return texts[pick % len(texts)]

    def program(self, id_: str):
        return self.parts[id_].program

    def cloud(self, id_: str, count: int, seed: int) -> Cloud:
        rng = np.random.default_rng([seed, int(id_.rsplit("/", 1)[-1])])
        normals = rng.normal(size=(count, 3))
        normals /= np.linalg.norm(normals, axis=1, keepdims=True)
        points = rng.uniform(-1, 1, (count, 3)).astype(np.float32)
        return Cloud(points, normals.astype(np.float32), Transform((0.0, 0.0, 0.0), 1.0))

    def view_count(self, id_: str) -> int:
        return 8 if "image" in self.modalities(id_) else 0

    def view(self, id_: str, k: int) -> np.ndarray:
        rng = np.random.default_rng([k, int(id_.rsplit("/", 1)[-1])])
        return rng.integers(0, 256, (224, 224, 3), dtype=np.uint8)

    def note(self, error: Exception, id_: str) -> None:
        self.problems.append((error, id_))


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny base folder; read only."""
    return make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def parts() -> MemoryDataSet:
    """26 parts: 22 to train on, 4 held out."""
    return MemoryDataSet(26)


@pytest.fixture
def settings(base: Path, tmp_path: Path) -> Callable[..., Settings]:
    """Settings for one epoch of 6 steps a stage: `settings(lora={...}, train={...})` changes groups."""

    def make(**groups: dict) -> Settings:
        values: dict[str, dict] = {
            "model": {
                "llm": str(base),
                "points_encoder": "fourier",
                "point_count": 64,
                "point_tokens": 8,
                "fourier_width": 32,
                "image_encoder": "tiny",
                "image_tokens": 4,
            },
            "lora": {"enabled": True, "r": 4, "alpha": 8},
            "train": {"batch_size": 2, "accumulation": 2, "max_seq_length": 512, "warmup_steps": 2, "val_samples": 4},
            "stages": {str(n): {"epochs": 1, "lr": 1e-3} for n in (1, 2, 3)},
            "run": {"dir": tmp_path / "run"},
        }
        values["stages"]["2"]["probabilities"] = {"text": 0.3, "text+point_cloud": 0.7}
        values["stages"]["3"]["probabilities"] = {"text": 0.2, "text+point_cloud": 0.3, "text+image": 0.5}
        for group, changed in groups.items():
            values[group] = {**values.get(group, {}), **changed}
        return Settings(dtype="float32", device="cpu", **values)  # ty: ignore[invalid-argument-type]

    return make


@pytest.fixture
def console() -> Console:
    """A console that keeps what it was told: `console.err.getvalue()`."""
    return Console(out=io.StringIO(), err=io.StringIO())
