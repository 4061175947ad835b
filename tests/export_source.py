"""The papers of a run, with paths and names as people have them, and a base that must not be trusted."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

META: dict[str, Any] = {
    "stage": 1,
    "name": "stage1_text",
    "step": 40,
    "total_steps": 40,
    "started_from": "/home/xyz zy/runs/stage0_model",
    "base": "C:\\Users\\xyzzy\\my base",
    "samples": 207,
    "left_out": {"E404": 2},
    "loss_begin": 6.5,
    "loss_end": 0.4326360203657931,
    "seconds": 47.3,
    "supervised_tokens": 45208,
    "shown": {"text": 320},
    "baseline": {"text": 7.25, "all": 7.25},
    "val_loss": {"text": 1.1931542086314006, "all": 1.1931542086314006},
    "judged": {"text": 0.875, "all": 0.875},
    "made_at": "2026-11-22T14:44:05+00:00",
}
DATA: dict[str, Any] = {
    "root": "/home/xyz zy/Omni|CAD `2`",
    "synthetic": 0,
    "index_sha256": "c4" * 32,
    "ids": 229,
    "train": {"ids": 207, "sha256": "cc" * 32},
    "held_out": {"ids": 22, "sha256": "8b" * 32},
    "left_out": {"E404": 2},
    "modalities": {"text": 207, "point_cloud": 200, "image": 0},
}
STAGES = [{"number": 1, "name": "stage1_text", "state": "this one", "epochs": 5, "lr": 2e-5}]


def add_papers(folder: Path, **data: object) -> None:
    """Make what `save_model` wrote a checkpoint as a finished stage leaves it; `data` replaces entries of data.json."""
    from cadmllm.models.stages import write_manifest

    papers = {
        "training_metadata.json": META,
        "data.json": {**DATA, **data},
        "curriculum.json": {"stages": STAGES},
        "environment.json": {"cadmllm": "0.1.0", "python": "3.11.7"},
    }
    for name, content in papers.items():
        (folder / name).write_text(json.dumps(content))
    write_manifest(folder)


def hostile(base: Path, folder: Path) -> Path:
    """A copy of a base that asks for code of its own, holds it, and a pickle; either would leave a file 'ran' in the folder."""
    shutil.copytree(base, folder)
    for name in ("config.json", "tokenizer_config.json"):
        content = json.loads((folder / name).read_text())
        content["auto_map"] = {"AutoConfig": "evil.Config", "AutoModel": "evil.Model", "AutoTokenizer": ["evil.T", None]}
        (folder / name).write_text(json.dumps(content))
    (folder / "evil.py").write_text(f"open({str(folder / 'ran')!r}, 'w').close()\n")
    (folder / "tokenizer.pkl").write_bytes(f"cbuiltins\nopen\n(S{str(folder / 'ran')!r}\nS'w'\ntR.".encode())
    return folder
