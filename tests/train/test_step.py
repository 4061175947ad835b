"""One step: how loss, gradients and updates come about."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from cadmllm.corpus.types import IGNORE, Batch
from cadmllm.errors import CadmllmError
from cadmllm.settings import Settings
from cadmllm.train.step import Engine, train_step


class Toy(nn.Module):
    """Predicts a level from a token: loss as the real model gives it, a sum over the supervised positions and their number."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(10, 8)
        self.head = nn.Linear(8, 10)
        self.poison = ""
        self.stage, self.settings = 1, Settings()

    def loss(self, batch: Batch) -> tuple[torch.Tensor, int]:
        logits = self.head(self.table(batch.input_ids))
        chosen = batch.labels != IGNORE
        total = nn.functional.cross_entropy(logits[chosen].float(), batch.labels[chosen], reduction="sum")
        return total * math.nan if self.poison in batch.ids else total, int(chosen.sum())


def _batch(first: int, count: int) -> Batch:
    """Rows first .. first+count-1 of an endless table; row k supervises 1 + k % 4 of its 6 positions."""
    seeds = range(first, first + count)
    rows = torch.stack([torch.randint(0, 10, (6,), generator=torch.Generator().manual_seed(seed)) for seed in seeds])
    labels = rows.clone()
    for row in range(count):
        labels[row, : 5 - (first + row) % 4] = IGNORE
    ones = torch.ones_like(rows)
    return Batch(rows, ones, ones, labels, ids=[f"id{k}" for k in range(first, first + count)], combinations=["text"] * count)


def _engine(dtype: str = "float32", clip: float = 1e9, lr: float = 0.1) -> Engine:
    model = Toy()
    parameters = list(model.parameters())
    optimizer = torch.optim.SGD(parameters, lr=lr)
    return Engine(model, optimizer, parameters, torch.device("cpu"), dtype, clip)  # ty: ignore[invalid-argument-type]


def test_accumulating_four_times_two_is_one_batch_of_eight() -> None:
    small, large = _engine(), _engine()
    many = train_step(small, [_batch(2 * k, 2) for k in range(4)])
    one = train_step(large, [_batch(0, 8)])
    assert many.supervised == one.supervised == 20
    assert many.loss == pytest.approx(one.loss, rel=1e-6)
    assert many.grad_norm == pytest.approx(one.grad_norm, rel=1e-5)
    for a, b in zip(small.parameters, large.parameters, strict=True):
        torch.testing.assert_close(a, b)


def test_the_loss_is_the_mean_over_supervised_tokens() -> None:
    engine = _engine()
    batches = [_batch(0, 1), _batch(1, 1)]
    with torch.no_grad():
        sums = [engine.model.loss(batch) for batch in batches]
    report = train_step(engine, batches)
    assert report.loss == pytest.approx(sum(float(s) for s, _ in sums) / sum(n for _, n in sums))
    assert report.tokens == 12


def test_the_gradient_is_clipped_but_reported_as_it_was() -> None:
    engine = _engine(clip=1e-3, lr=1.0)
    before = [p.detach().clone() for p in engine.parameters]
    report = train_step(engine, [_batch(0, 4)])
    moved = math.sqrt(sum(float((p.detach() - b).pow(2).sum()) for p, b in zip(engine.parameters, before, strict=True)))
    assert report.grad_norm > 0.1
    assert moved == pytest.approx(1e-3, rel=1e-2)


def test_a_loss_that_is_not_finite_names_its_samples_and_touches_nothing() -> None:
    engine = _engine()
    engine.model.poison = "id3"
    before = [p.detach().clone() for p in engine.parameters]
    with pytest.raises(CadmllmError) as caught:
        train_step(engine, [_batch(0, 2), _batch(2, 2)])
    assert caught.value.code == "E603"
    assert "id2, id3" in caught.value.message
    assert "id0" not in caught.value.message
    assert all(torch.equal(p, b) for p, b in zip(engine.parameters, before, strict=True))


def test_a_gradient_that_is_not_finite_is_refused() -> None:
    engine = _engine()
    engine.model.head.weight.register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(CadmllmError, match="gradient") as caught:
        train_step(engine, [_batch(0, 2)])
    assert caught.value.code == "E603"


def test_a_window_without_supervised_tokens_is_refused() -> None:
    batch = _batch(0, 2)
    batch.labels[:] = IGNORE
    with pytest.raises(CadmllmError, match="id0, id1") as caught:
        train_step(_engine(), [batch])
    assert caught.value.code == "E606"
    with pytest.raises(CadmllmError) as caught:
        train_step(_engine(), [])
    assert caught.value.code == "E606"


def test_bfloat16_computes_but_parameters_stay_float32() -> None:
    engine = _engine("bfloat16")
    report = train_step(engine, [_batch(0, 4)])
    assert report.loss == pytest.approx(train_step(_engine(), [_batch(0, 4)]).loss, rel=0.05)
    assert {p.dtype for p in engine.parameters} == {torch.float32}


def test_float16_scales_skips_an_overflow_and_gives_up_when_scaling_is_not_the_cause() -> None:
    engine = _engine("float16")
    assert train_step(engine, [_batch(0, 4)]).updated
    scale = engine.scaler.get_scale()
    engine.model.head.weight.register_hook(lambda gradient: gradient * math.inf)
    before = [p.detach().clone() for p in engine.parameters]
    report = train_step(engine, [_batch(0, 4)])
    assert not report.updated
    assert engine.scaler.get_scale() == scale / 2
    assert all(torch.equal(p, b) for p, b in zip(engine.parameters, before, strict=True))
    while engine.scaler.get_scale() >= 1.0:
        assert not train_step(engine, [_batch(0, 4)]).updated
    with pytest.raises(CadmllmError) as caught:
        train_step(engine, [_batch(0, 4)])
    assert caught.value.code == "E603"
