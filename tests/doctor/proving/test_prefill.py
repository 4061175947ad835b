from __future__ import annotations

import pytest
import torch

from cadmllm.doctor.proving import prefill
from cadmllm.models.fusion import CadMLLM


@pytest.mark.long
@pytest.mark.parametrize("values", [{}, {"dtype": "bfloat16"}, {"train.packing": False}, {"train.gradient_checkpointing": True}])
def test_training_and_generation_agree(bench, lora, values) -> None:
    b = bench(**lora, **values)
    outcome = prefill.prove(b)
    assert outcome.findings == ()
    assert outcome.summary.startswith("training and generation give the same scores for 4 samples")
    assert "logits" not in vars(b.session.model.rows)  # nobody listens any more


@pytest.mark.long
def test_a_caption_that_training_cut_is_prompted_as_it_was_cut(bench) -> None:
    b = bench(**{"train.max_seq_length": 200})
    for path in (b.dataset.data.root / "txt").glob("*.json"):
        assert path.is_file()
    samples = prefill.mixes(b)
    long = [
        type(e)(
            type(e.sample)(**{name: getattr(e.sample, name) for name in e.sample.__slots__} | {"caption": "part " * 300}),
            e.ids,
            e.labels,
        )
        for e in samples
    ]
    long = [b.session.collate.encode(e.sample) for e in long]
    b._known["mixes"] = long
    assert prefill.prove(b).findings == ()


@pytest.mark.parametrize("cached", [True, pytest.param(False, marks=pytest.mark.long)])
@pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=pytest.mark.long)])
def test_another_position_is_found(bench, monkeypatch, cached, dtype) -> None:
    real = CadMLLM.step

    def step(self, embeds, ids, mask, positions, cache):
        if cached and cache is not None:
            positions = positions + 40
        if not cached and cache is None:
            positions = positions * 4
        return real(self, embeds, ids, mask, positions, cache)

    monkeypatch.setattr(CadMLLM, "step", step)
    findings = prefill.prove(bench(dtype=dtype)).findings
    assert findings
    assert {f.code for f in findings} == {"E865"}


@pytest.mark.long
def test_padding_that_is_seen_is_found(bench, monkeypatch) -> None:
    real = CadMLLM.step

    def step(self, embeds, ids, mask, positions, cache):
        return real(self, embeds, ids, torch.ones_like(mask), positions, cache)

    monkeypatch.setattr(CadMLLM, "step", step)
    assert prefill.prove(bench()).findings
