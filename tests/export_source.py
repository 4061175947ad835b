"""A checkpoint as training leaves it, on a base that is made in a moment, for tests of exports."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cadmllm.settings import Settings

META: dict[str, Any] = {
    "stage": 1,
    "name": "stage1_text",
    "step": 40,
    "total_steps": 40,
    "started_from": "/home/ada lovelace/runs/stage0_model",
    "base": "/home/ada lovelace/base",
    "samples": 207,
    "left_out": {"E404": 2},
    "groups": [
        {"component": "llm", "branch": "", "parameters": 9000, "lr": 0.0002, "weight_decay": 0.0},
        {"component": "rows", "branch": "", "parameters": 1000, "lr": 0.0002, "weight_decay": 0.0},
    ],
    "loss_begin": 6.5,
    "loss_end": 0.4326360203657931,
    "seconds": 47.3,
    "supervised_tokens": 45208,
    "shown": {"text": 320},
    "baseline": {"text": 7.25, "all": 7.25},
    "val_loss": {"text": 1.1931542086314006, "all": 1.1931542086314006},
    "judged": {"text": 0.875, "all": 0.875},
    "finished": True,
    "made_with": {"cadmllm": "0.1.0"},
    "made_at": "2026-11-22T14:44:05+00:00",
}
DATA: dict[str, Any] = {
    "root": "/home/ada lovelace/Omni-CAD",
    "synthetic": 0,
    "index_sha256": "c4" * 32,
    "ids": 229,
    "found": {"captions": 229, "programs": 229},
    "train": {"ids": 207, "sha256": "cc" * 32},
    "held_out": {"ids": 22, "sha256": "8b" * 32},
    "left_out": {"E404": 2},
    "modalities": {"text": 207, "point_cloud": 200, "image": 0},
}


def make_checkpoint(folder: Path, base: Path | str, *, lora: bool = True, stage: int = 1, **model: object) -> Settings:
    """Save a model of a stage, whose LoRA and rows are not what they start as, with the papers of a run."""
    import torch

    from cadmllm.models.fusion import build_model
    from cadmllm.models.stages import write_manifest
    from cadmllm.models.weights import save_model
    from cadmllm.settings import Settings

    small = {"points_encoder": "fourier", "point_count": 64, "point_tokens": 8, "fourier_width": 32, "image_encoder": "tiny"}
    options: Any = {"llm": str(base), **small, "image_bridge": "mlp", **model}
    settings = Settings(model=options, lora={"enabled": lora, "r": 4, "alpha": 8}, dtype="float32", device="cpu")  # ty: ignore[invalid-argument-type]
    torch.manual_seed(1)
    trained = build_model(settings, stage)
    with torch.no_grad():
        for name, parameter in trained.named_parameters():
            if "lora_" in name or name.startswith("rows."):
                parameter.normal_(0.0, 0.2 if "lora_" in name else 0.5)
    save_model(trained, folder, META)
    trained.tokenizer.save_pretrained(folder)
    for name, content in (("training_metadata.json", META), ("data.json", DATA), ("settings.json", {"dtype": "float32"})):
        (folder / name).write_text(json.dumps(content))
    write_manifest(folder)
    return settings


def hostile(base: Path, folder: Path) -> Path:
    """A copy of a base that asks for its own code, holds some, and a pickle."""
    shutil.copytree(base, folder)
    for name in ("config.json", "tokenizer_config.json"):
        content = json.loads((folder / name).read_text())
        content["auto_map"] = {
            "AutoConfig": "evil.Config",
            "AutoModelForCausalLM": "evil.Model",
            "AutoTokenizer": ["evil.T", None],
        }
        (folder / name).write_text(json.dumps(content))
    (folder / "evil.py").write_text(f"open({str(folder / 'ran')!r}, 'w').close()\n")
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch ran'\ntR.")
    return folder
