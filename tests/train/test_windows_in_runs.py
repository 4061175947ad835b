"""How a window is cut changes nothing that is learned: accumulation, packing, padding, attention back ends."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from cadmllm.models import attention
from cadmllm.train import loop
from cadmllm.train.metrics import records


def _run(settings, parts, console, folder, *, stages=(1,), **train):
    options = {"batch_size": 2, "accumulation": 4, "max_seq_length": 512, "warmup_steps": 2, "val_samples": 4} | train
    s = settings(train=options, run={"dir": folder})
    result = loop.train(s, list(stages), parts, console, from_scratch=True)
    weights = load_file(result.stages[-1].folder / "model.safetensors")
    return [r["loss"] for r in records(result.metrics)], weights, list(records(result.metrics))


@pytest.mark.parametrize("stage", [1, 3])
def test_accumulation_packing_and_padding_give_the_same_run(settings, parts, console, tmp_path, stage: int) -> None:
    """Eight samples a step as 4 x 2, as 1 x 8, in small packed rows, and padded: the same losses and weights."""
    ways = {
        "4 x 2": {},
        "1 x 8": {"batch_size": 8, "accumulation": 1},
        "small rows": {"pack_tokens": 300},
        "padded": {"packing": False},
    }
    runs = {name: _run(settings, parts, console, tmp_path / name, stages=(stage,), **way) for name, way in ways.items()}
    losses, weights, told = runs.pop("4 x 2")
    passes = {name: sum(r["micro_batches"] for r in found[2]) for name, found in runs.items()}
    assert passes["small rows"] > sum(r["micro_batches"] for r in told) >= passes["1 x 8"]
    assert all(r["computed"] == r["tokens"] for r in told), "a packed row has no padding"
    assert any(r["computed"] > r["tokens"] for r in runs["padded"][2])
    for name, (found, after, _) in runs.items():
        assert found == pytest.approx(losses, rel=2e-4), name
        for key, value in weights.items():
            assert (after[key] - value).abs().max() < 2e-3 * max(1e-2, float(value.abs().max())), (name, key)


def test_documents_that_cannot_be_kept_apart_are_padded_and_that_is_said(settings, parts, console, tmp_path, monkeypatch) -> None:
    def leaky(module, query, key, value, mask, documents=None, **others):
        if documents is None:
            return real(module, query, key, value, mask, None, **others)
        return real(module, query, key, value, None, [query.shape[2]], others.get("scaling"))

    real = attention.by_document
    monkeypatch.setattr(attention, "by_document", leaky)
    monkeypatch.setattr(attention, "_candidates", lambda *_: ["sdpa"])
    losses, _, told = _run(settings, parts, console, tmp_path / "leaky", max_steps=2)
    said = console.err.getvalue()
    assert (
        "pads       up to 2 samples of like length in a batch (this attention cannot keep documents apart: sdpa: it lets" in said
    )
    monkeypatch.undo()
    wanted, _, _ = _run(settings, parts, console, tmp_path / "sound", max_steps=2, packing=False)
    assert losses == wanted
    assert "(train.packing=false)" in console.err.getvalue()


@pytest.mark.parametrize("name", ["eager", "sdpa"])
def test_back_ends_give_the_same_loss(settings, parts, console, tmp_path, name: str) -> None:
    s = settings(train={"max_steps": 2}, run={"dir": tmp_path / name})
    s.model.attention = name
    losses = [r["loss"] for r in records(loop.train(s, [1], parts, console).metrics)]
    assert f"attention  {name}: as set" in console.err.getvalue()
    s = settings(train={"max_steps": 2}, run={"dir": tmp_path / "auto"})
    assert losses == pytest.approx([r["loss"] for r in records(loop.train(s, [1], parts, console).metrics)], rel=1e-5)
    assert torch.isfinite(torch.tensor(losses)).all()
