"""What a training step really keeps in memory, counted tensor by tensor; for tests of the memory arithmetic."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cadmllm.corpus.types import CAD_SIZE, IGNORE, Batch
from cadmllm.doctor.proving.live import Live
from cadmllm.models.fusion import CadMLLM


@dataclass(frozen=True)
class Used:
    """Bytes: saved for the backward pass, and most at any moment of both passes (weights and gradients not counted)."""

    saved: int
    peak: int


def step_memory(model: CadMLLM, tokens: int, documents: int = 0) -> Used:
    """What one forward and backward pass over a row of `tokens` tokens takes."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 200, (1, tokens), generator=generator)
    labels = torch.full_like(ids, IGNORE)
    labels[0, -8:] = torch.randint(0, CAD_SIZE, (8,), generator=generator)
    positions = torch.arange(tokens).unsqueeze(0)
    batch = Batch(ids, torch.ones_like(ids), positions, labels)
    if documents:
        length = tokens // documents
        batch = Batch(ids, torch.ones_like(ids), positions % length, labels, documents=[length] * documents)
    dtype = getattr(torch, model.settings.dtype)
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        loss, _ = model.loss(batch)
    loss.backward()  # gradients stand from now on
    del loss
    own = [*model.parameters(), *model.buffers(), *(p.grad for p in model.parameters() if p.grad is not None)]
    saved: dict[int, int] = {}
    known, kept = {tensor.untyped_storage()._cdata for tensor in own}, []

    def pack(tensor: Tensor) -> Tensor:
        key = tensor.untyped_storage()._cdata
        if key not in known:
            saved[key] = tensor.untyped_storage().nbytes()
            kept.append(tensor)
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        torch.autocast("cpu", dtype, enabled=dtype != torch.float32),
    ):
        loss, _ = model.loss(batch)
    bytes_saved = sum(saved.values())
    del loss
    kept.clear()
    live = Live(own)
    with live:
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            loss, _ = model.loss(batch)
        loss.backward()
    return Used(bytes_saved, live.peak)
