"""A save without a model: 40 numbers that tell the step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from cadmllm.train.checkpoint import Snapshot, step_saves


class Tokenizer:
    """Writes what a tokenizer would."""

    def save_pretrained(self, folder: Path) -> None:
        (folder / "tokenizer.json").write_text('{"version": "1.0"}')


def snapshot(step: int, **more: torch.Tensor) -> Snapshot:
    """What a stage has after `step` of 9 steps, with `more` weights."""
    tokenizer: Any = Tokenizer()
    place: Any = {"stage": 1, "step": step, "total_steps": 9, "fingerprint": {"a": 1}, "scaler": {}, "companions": {}}
    return Snapshot(
        weights={"rows.input": torch.full((4, 5), float(step)), "llm.lora_A": torch.arange(20.0) + step, **more},
        record={"format": 1, "stage": 1, "vocabulary": "v", "base": {}, "lora": {}, "model": {"llm": "tiny"}},
        meta={"step": step},
        texts={"settings.json": "{}\n", "README.md": f"# after step {step}\n"},
        tokenizer=tokenizer,
        place=place,
        optimizer={"rows.input/exp_avg": torch.full((4, 5), -float(step))},
    )


def names(stage_dir: Path) -> list[str]:
    """The step saves of a stage, oldest first."""
    return [path.name for path in step_saves(stage_dir)]
