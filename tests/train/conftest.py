"""A tiny base, generated parts, and settings under which a stage takes a second."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_base import make_base

from cadmllm.console import Console
from cadmllm.corpus import synth
from cadmllm.corpus.layout import DataSet, open_dataset
from cadmllm.settings import DataSettings, Settings

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny base folder; read only."""
    return make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def parts(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    """26 generated parts, 4 of them held out, with random clouds (but every third) and views (but every fourth)."""
    root = tmp_path_factory.mktemp("parts")
    synth.write_dataset(root, 26, 0)
    rng = np.random.default_rng(0)
    for kind in ("pcd", "img"):
        (root / kind / "0000").mkdir(parents=True)
    for number in range(26):
        if number % 3:
            normals = rng.normal(size=(256, 3))
            normals /= np.linalg.norm(normals, axis=1, keepdims=True)
            np.savez(root / f"pcd/0000/{number:08d}.npz", points=rng.uniform(-1, 1, (256, 3)), normals=normals)
        for view in range(8 if number % 4 else 0):
            pixels = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / f"img/0000/{number:08d}_{view:03d}.png")
    (root / "val.txt").write_text("".join(f"0000/{number:08d}\n" for number in range(4)))
    return open_dataset(DataSettings(root=root))


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
                "image_bridge": "mlp",
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
