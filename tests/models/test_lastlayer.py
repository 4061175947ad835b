"""The last layer at asked positions alone gives the loss and the gradients of the whole one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from cadmllm.corpus.batch import Collator
from cadmllm.corpus.types import CAD_SIZE, IGNORE, Batch, Sample
from cadmllm.models.compiling import compile_layers
from cadmllm.models.fusion import build_model
from cadmllm.models.lastlayer import asked_of, spare_last_layer
from cadmllm.models.lora import FusedLora


def _samples(lengths: list[tuple[int, int]]) -> list[Sample]:
    rng = np.random.default_rng(sum(a + b for a, b in lengths))
    return [Sample(f"0000/{k:08d}", "text", "word " * a, rng.integers(0, CAD_SIZE, b)) for k, (a, b) in enumerate(lengths)]


def _both(model, batch: Batch) -> list[tuple[float, int, torch.Tensor]]:
    found = []
    for spares in (True, False):
        model.spares = spares
        model.zero_grad()
        total, count = model.loss(batch)
        total.backward()
        grads = [
            p.grad.flatten() if p.grad is not None else torch.zeros(p.numel()) for p in model.parameters() if p.requires_grad
        ]
        found.append((float(total.detach()), count, torch.cat(grads)))
    return found


@given(lengths=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 30)), min_size=1, max_size=5))
@hypothesis_settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_it_is_exact(settings, checkpointing: bool, lengths) -> None:
    s = settings()
    s.train.gradient_checkpointing = checkpointing
    model = build_model(s, 1).train()
    model.settle_attention()
    assert model.spares
    collate = Collator(model.tokenizer, model.text_size, 8, 4, 400)
    (one, n, g), (two, m, h) = _both(model, collate.pack([collate.encode(sample) for sample in _samples(lengths)]))
    assert n == m == sum(b for _, b in lengths)
    assert one == pytest.approx(two, rel=1e-5)
    assert (g - h).abs().max() <= 1e-4 * h.abs().max()


def test_a_document_that_asks_nothing_is_no_trouble(settings) -> None:
    model = build_model(settings(), 1).train()
    model.settle_attention()
    collate = Collator(model.tokenizer, model.text_size, 8, 4, 400)
    batch = collate.pack([collate.encode(sample) for sample in _samples([(3, 5), (2, 4), (1, 6)])])
    assert batch.labels is not None
    batch.labels[0, batch.documents[0] : batch.documents[0] + batch.documents[1]] = IGNORE
    assert asked_of(batch).counts == [5, 0, 6]
    (one, n, _), (two, m, _) = _both(model, batch)
    assert n == m == 11
    assert one == pytest.approx(two, rel=1e-5)
    batch.labels[:] = IGNORE
    model.spares = True
    total, count = model.loss(batch)
    assert (float(total.detach()), count) == (0.0, 0)


def test_other_back_ends_and_compiled_layers_compute_all_of_it(settings, monkeypatch) -> None:
    s = settings()
    s.model.attention = "eager"
    model = build_model(s, 1)
    model.settle_attention()
    assert not model.spares
    model = build_model(settings(), 1)
    monkeypatch.setattr("cadmllm.models.compiling._check_tools", lambda device: None)
    monkeypatch.setattr("cadmllm.models.compiling._try", lambda device: None)
    compile_layers(model)
    assert not spare_last_layer(model.llm)
    assert not any(isinstance(module.forward, FusedLora) for module in model.modules()), "an object each would be a graph each"


def test_generation_and_padded_batches_see_the_whole_layer(settings, make_batch) -> None:
    model = build_model(settings(), 1).eval()
    batch = make_batch(model.text_size)
    before = float(model.loss(batch)[0].detach())
    model.settle_attention()
    assert model.spares
    assert float(model.loss(batch)[0].detach()) == pytest.approx(before, rel=1e-6)
