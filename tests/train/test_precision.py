"""float16 with its loss scaler, and bfloat16 under float32 weights, on the real model."""

from __future__ import annotations

import json

import pytest
import torch

from cadmllm.corpus.types import CAD_SIZE, IGNORE, Batch
from cadmllm.errors import CadmllmError
from cadmllm.models.fusion import CadMLLM, build_model
from cadmllm.train.optim import build_optimizer
from cadmllm.train.step import Engine, train_step


def _engine(settings, dtype: str, **groups) -> Engine:
    chosen = settings(**groups)
    chosen.dtype = dtype
    model = build_model(chosen, 1)
    optimizer, _ = build_optimizer(model.parameter_groups(), 1, 1e-2, chosen.train, model.device)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    return Engine(model, optimizer, parameters, model.device, dtype, 1.0)


def _batch(model: CadMLLM, step: int) -> Batch:
    generator = torch.Generator().manual_seed(step % 2)
    targets = torch.randint(0, CAD_SIZE, (2, 8), generator=generator)
    prompt = torch.randint(0, model.text_size, (2, 4), generator=generator)
    ids = torch.cat([prompt, targets + model.text_size], dim=1)
    labels = torch.cat([torch.full((2, 4), IGNORE), targets], dim=1)
    ones = torch.ones_like(ids)
    return Batch(ids, ones, torch.arange(12).expand(2, -1), labels, ids=["a", "b"], combinations=["text"] * 2)


def _values(engine: Engine) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in engine.parameters]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("lora", [True, False])
def test_sixteen_bits_learn_like_thirty_two_with_float32_weights(settings, dtype: str, lora: bool) -> None:
    losses = {}
    for kind in ("float32", dtype):
        engine = _engine(settings, kind, lora={"enabled": lora, "r": 4, "alpha": 8})
        losses[kind] = [train_step(engine, [_batch(engine.model, step)]).loss for step in range(10)]
        assert {p.dtype for p in engine.parameters} == {torch.float32}
        assert {value.dtype for s in engine.optimizer.state.values() for value in s.values()} == {torch.float32}
        frozen = {p.dtype for p in engine.model.parameters() if not p.requires_grad}
        assert frozen == ({getattr(torch, kind)} if lora else set())
    assert losses[dtype] == pytest.approx(losses["float32"], rel=0.05)
    assert losses[dtype][-1] < 0.8 * losses[dtype][0]
    assert losses[dtype] != losses["float32"]


def test_an_update_of_float32_weights_is_not_lost_to_rounding(settings) -> None:
    """Weights near 1 and updates of 1e-4 of them: in bfloat16, whose steps there are 1/128, nothing would move."""
    engine = _engine(settings, "bfloat16", lora={"enabled": False, "r": 4, "alpha": 8})
    norm = engine.model.llm.get_parameter("norm.weight")
    begin = norm.detach().clone()
    for group in engine.optimizer.param_groups:
        group["lr"] = 1e-4
    train_step(engine, [_batch(engine.model, 0)])
    moved = norm.detach() - begin
    assert (moved != 0).all()
    assert torch.equal(norm.detach().bfloat16(), begin.bfloat16())


def test_an_overflow_skips_the_update_and_the_scale_recovers(settings) -> None:
    engine = _engine(settings, "float16")
    engine.scaler.set_growth_interval(3)
    train_step(engine, [_batch(engine.model, 0)])
    before = _values(engine)
    moments = [state["step"].clone() for state in engine.optimizer.state.values()]
    # a real overflow: gradients in float16 end at 65,504
    engine.scaler.update(2.0**40)
    report = train_step(engine, [_batch(engine.model, 1)])
    assert not report.updated
    assert all(torch.equal(a, b) for a, b in zip(before, _values(engine), strict=True))
    assert [state["step"] for state in engine.optimizer.state.values()] == moments
    skipped = 1
    while not train_step(engine, [_batch(engine.model, 1)]).updated:
        skipped += 1
        assert skipped < 60
    found = engine.scaler.get_scale()
    assert 1.0 <= found < 2.0**40
    for step in range(4):
        train_step(engine, [_batch(engine.model, step)])
    assert engine.scaler.get_scale() >= found  # it grows again after three good steps, until the next overflow halves it


def test_the_scaler_goes_on_where_it_was_saved(settings) -> None:
    straight, resumed = _engine(settings, "float16"), _engine(settings, "float16")
    straight.scaler.set_growth_interval(4)
    for step in range(3):
        train_step(straight, [_batch(straight.model, step)])
    place = json.loads(json.dumps(dict(straight.scaler.state_dict())))  # as state.json holds it
    resumed.scaler.load_state_dict(place)
    resumed.model.load_state_dict(straight.model.state_dict())
    for group, other in zip(straight.optimizer.param_groups, resumed.optimizer.param_groups, strict=True):
        for parameter, twin in zip(group["params"], other["params"], strict=True):
            resumed.optimizer.state[twin] = {k: v.clone() for k, v in straight.optimizer.state[parameter].items()}
    reports = [[train_step(e, [_batch(e.model, step)]) for step in range(3, 8)] for e in (straight, resumed)]
    assert reports[0] == reports[1]
    assert straight.scaler.state_dict() == resumed.scaler.state_dict()
    assert all(torch.equal(a, b) for a, b in zip(_values(straight), _values(resumed), strict=True))


def test_activations_beyond_float16_stop_the_run_with_the_way_out(settings) -> None:
    """No scale helps there: the loss itself is not a number."""
    engine = _engine(settings, "float16")
    with torch.no_grad():
        engine.model.rows.input.mul_(1e12)
    before = _values(engine)
    with pytest.raises(CadmllmError) as caught:
        train_step(engine, [_batch(engine.model, 0)])
    assert caught.value.code == "E603"
    assert all(torch.equal(a, b) for a, b in zip(before, _values(engine), strict=True))
