"""Checkpoints, saves, encoders and hub caches for scenes: made by the functions that training uses."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from encoders import make_dino, make_michelangelo
from scene import Scene

from cadmllm.models.stages import stage_folder, write_manifest

Header = dict[str, tuple[str, tuple[int, ...]]]
BYTES = {"BF16": 2, "F16": 2, "F32": 4, "I32": 4}


def make_stage(scene: Scene, stage: int = 1, folder: Path | None = None, **values: object) -> Path:
    """A finished stage with fresh weights, under the scene's settings and `values`."""
    from cadmllm.models.fusion import build_model
    from cadmllm.models.weights import save_model

    folder = folder or stage_folder(scene.run, stage)
    before, scene.values = scene.values, {**scene.values, **values}
    model = build_model(scene.settings(), stage)
    scene.values = before
    save_model(model, folder, {"step": 3})
    model.tokenizer.save_pretrained(folder)
    write_manifest(folder)
    return folder


def make_saves(scene: Scene, *steps: int, stage: int = 1) -> list[Path]:
    """Step saves of an unfinished stage, which a run of these settings can resume from."""
    import torch

    from cadmllm.console import Console
    from cadmllm.corpus.fit import longest_target
    from cadmllm.models.fusion import build_model
    from cadmllm.models.weights import model_record, trained_state
    from cadmllm.train.checkpoint import Snapshot, save_step
    from cadmllm.train.curriculum import plan_stages
    from cadmllm.train.sameness import fingerprint

    situation = scene.situation()
    settings = situation.needed
    model = build_model(settings, stage)
    planned = plan_stages(settings, [stage])[0]
    ids, _ = situation.dataset.split()
    good, _ = situation.dataset.usable(ids, longest_target(settings, planned.probabilities))
    made = []
    for step in steps:
        place: Any = {"stage": stage, "step": step, "total_steps": 9, "fingerprint": fingerprint(settings, stage, good)}
        place |= {"scaler": {}, "companions": {}}
        weights, moments = trained_state(model), {"rows.input/exp_avg": torch.zeros(4)}
        snapshot = Snapshot(weights, model_record(model), {"step": step}, {}, model.tokenizer, place, moments)
        made.append(save_step(planned.folder, snapshot, 9, Console(quiet=True)))
    return made


def with_michelangelo(scene: Scene) -> Path:
    """The scene's clouds go through a Michelangelo of 9 tokens."""
    path = make_michelangelo(scene.folder / "michelangelo_point_encoder_state_dict.pt")
    scene.values |= {"model.points_encoder": "michelangelo", "model.points_checkpoint": str(path), "model.point_tokens": 9}
    return path


def with_dino(scene: Scene) -> Path:
    """The scene's views go through a DINOv2 of 8 x 8 patches."""
    folder = make_dino(scene.folder / "dino")
    scene.values |= {"model.image_encoder": str(folder), "model.image_tokens": 16}
    return folder


def write_safetensors(path: Path, tensors: Header, *, sparse: bool = True) -> Path:
    """A whole safetensors file of zeros; the file system keeps no block for them."""
    header, at = {}, 0
    for name, (dtype, shape) in tensors.items():
        size = BYTES[dtype]
        for side in shape:
            size *= side
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + at) if sparse else file.write(bytes(at))
    return path


def in_hub(scene: Scene, source: Path, name: str = "acme/base") -> Path:
    """A base folder as the hub's cache would hold it: a snapshot of links to blobs. The settings name it."""
    repository = scene.folder / "hub" / f"models--{name.replace('/', '--')}"
    snapshot = repository / "snapshots" / "abc"
    (repository / "blobs").mkdir(parents=True)
    (repository / "refs").mkdir()
    snapshot.mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc")
    for number, path in enumerate(sorted(source.iterdir())):
        blob = repository / "blobs" / f"{number:04d}"
        blob.write_bytes(path.read_bytes())
        (snapshot / path.name).symlink_to(blob)
    scene.environ["HF_HUB_CACHE"] = str(scene.folder / "hub")
    scene.values["model.llm"] = name
    return snapshot


def edit_json(path: Path, **values: object) -> None:
    """Change some entries of a JSON file."""
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(content | values), encoding="utf-8")
