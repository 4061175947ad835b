"""Small frozen encoders with random weights, as files: a Michelangelo of 9 tokens and a DINOv2 of 64 patches."""

from __future__ import annotations

from pathlib import Path

import torch

from cadmllm.models.michelangelo import MichelangeloEncoder


def make_michelangelo(path: Path, seed: int = 0) -> Path:
    """A state dict of width 64 (one head), 9 queries, 2 layers."""
    torch.manual_seed(seed)
    model = MichelangeloEncoder(9, 64, 128, 1, 2)
    state = {name: value + 0.05 * torch.randn_like(value) for name, value in model.state_dict().items()}
    torch.save(state, path)
    return path


def make_dino(folder: Path, seed: int = 0) -> Path:
    """A folder as transformers writes one; width 32, 2 layers, 8 x 8 patches."""
    from transformers import Dinov2Config, Dinov2Model

    torch.manual_seed(seed)
    config = Dinov2Config(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, mlp_ratio=2, patch_size=28, image_size=224)
    Dinov2Model(config).save_pretrained(folder)
    return folder
