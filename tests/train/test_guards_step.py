"""Steps that must not happen: after the refusal every weight and every moment is what it was, to the bit."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch

from cadmllm.corpus.batch import Collator
from cadmllm.corpus.layout import DataSet
from cadmllm.corpus.sample import load_sample
from cadmllm.corpus.types import IGNORE, Batch
from cadmllm.errors import CadmllmError
from cadmllm.models.fusion import build_model
from cadmllm.settings import Settings
from cadmllm.train.flow import STEPS, FlowCheck
from cadmllm.train.optim import GroupInfo, build_optimizer
from cadmllm.train.step import SMALLEST_SCALE, Engine, train_step

ALL = "text+point_cloud+image"
BOTH = [number for number in range(26) if number % 3 and number % 4]  # parts with a cloud and views


class Rig:
    """A stage 3 model whose optimizer has already made two steps, so that there is something to lose."""

    def __init__(self, settings: Settings, dataset: DataSet) -> None:
        self.dataset, self.settings = dataset, settings
        self.model = build_model(settings, 3, "cpu")
        optimizer, self.infos = build_optimizer(self.model.parameter_groups(), 3, 1e-3, settings.train, "cpu")
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        self.engine = Engine(self.model, optimizer, parameters, torch.device("cpu"), settings.dtype, settings.train.clip)
        for k in range(2):
            assert train_step(self.engine, [self.batch(ALL, 2 * k), self.batch("text", 2 * k + 1)]).updated

    def batch(self, combination: str, first: int, count: int = 2) -> Batch:
        shape = {"point_count": self.settings.model.point_count, "views": 1, "draws": 0}
        samples = []
        for k in range(count):
            id_ = f"0000/{BOTH[(first * 2 + k) % len(BOTH)]:08d}"
            where = {"seed": 0, "stage": 3, "epoch": 0, "position": k}
            samples.append(load_sample(self.dataset, id_, combination, features=None, **where, **shape))
        model = self.model
        return Collator(model.tokenizer, model.text_size, model.cloud_tokens, model.image_tokens, 512)(samples)

    def everything(self) -> dict[str, torch.Tensor]:
        """Every weight, frozen ones included, and every tensor of the optimizer's state, copied."""
        kept = {name: value.clone() for name, value in self.model.state_dict().items()}
        for number, state in self.engine.optimizer.state_dict()["state"].items():
            kept |= {f"{number}/{key}": value.clone() for key, value in state.items()}
        return kept


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """To the bit: NaN equals NaN, and 0 is not -0."""
    bits = lambda value: value.contiguous().view(torch.uint8) if value.ndim else value.reshape(1).view(torch.uint8)  # noqa: E731
    return a.keys() == b.keys() and all(torch.equal(bits(a[key]), bits(b[key])) for key in a)


@pytest.fixture
def rig(settings: Callable[..., Settings], parts: DataSet) -> Callable[..., Rig]:
    def make(dtype: str = "float32", **groups: Any) -> Rig:
        return Rig(settings(**groups).model_copy(update={"dtype": dtype}), parts)

    return make


def refused(rig: Rig, batches: list[Batch], code: str) -> CadmllmError:
    """The error of a step, after which nothing has changed."""
    before = rig.everything()
    with pytest.raises(CadmllmError) as caught:
        train_step(rig.engine, batches)
    assert caught.value.code == code
    assert same(before, rig.everything())
    if code == "E603":
        assert all(parameter.grad is None for parameter in rig.engine.parameters), "nothing is left to be added to"
    return caught.value


def _named(error: CadmllmError, bad: Batch, good: Batch) -> bool:
    return all(i in error.message for i in bad.ids) and not any(i in error.message for i in set(good.ids) - set(bad.ids))


@pytest.mark.parametrize(
    ("field", "value", "dtype"),
    [("points", math.nan, "float32"), ("normals", math.inf, "bfloat16"), ("pixels", -math.inf, "float16")],
)
def test_a_number_of_the_data_that_is_not_finite_names_its_samples(
    rig: Callable[..., Rig], field: str, value: float, dtype: str
) -> None:
    r = rig(dtype)
    good, bad = r.batch(ALL, 4), r.batch(ALL, 5)
    getattr(bad, field)[0, 0, 0] = value
    error = refused(r, [good, bad], "E603")
    assert error.message.startswith("the loss is not finite")
    assert _named(error, bad, good)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_projector_weight_that_is_infinite_names_those_that_showed_its_modality(rig: Callable[..., Rig], dtype: str) -> None:
    r = rig(dtype)
    with torch.no_grad():
        r.model.get_parameter("points.projector.out.weight")[0, 0] = math.inf
    text, cloud = r.batch("text", 4), r.batch("text+point_cloud", 5)
    error = refused(r, [text, cloud], "E603")
    assert _named(error, cloud, text)
    if dtype == "float32":
        assert math.isfinite(train_step(r.engine, [text]).loss), "text alone does not go through the projector"


@pytest.mark.parametrize(
    ("name", "value"),
    [("rows.output", math.nan), ("points.projector.into.bias", math.inf), ("lora_B.default.weight", math.nan)],
)
def test_a_gradient_that_is_not_finite_behind_a_finite_loss(rig: Callable[..., Rig], name: str, value: float) -> None:
    r = rig()
    parameter = next(p for n, p in r.model.named_parameters() if n.endswith(name))
    hook = parameter.register_hook(lambda gradient: gradient * value)
    batches = [r.batch(ALL, 4), r.batch("text", 5)]
    error = refused(r, batches, "E603")
    assert error.message.startswith("the gradient (norm ")
    assert all(i in error.message for batch in batches for i in batch.ids)
    hook.remove()
    assert train_step(r.engine, batches).updated


def test_an_overflow_under_float16_skips_the_update_until_the_scale_is_no_excuse(rig: Callable[..., Rig]) -> None:
    r = rig("float16")
    r.model.rows.output.register_hook(lambda gradient: gradient * math.inf)
    r.engine.scaler.load_state_dict(r.engine.scaler.state_dict() | {"scale": 4.0})
    batches = [r.batch("text", 4)]
    before, scale = r.everything(), r.engine.scaler.get_scale()
    steps = 0
    while r.engine.scaler.get_scale() >= SMALLEST_SCALE:
        report = train_step(r.engine, batches)
        assert not report.updated
        assert math.isfinite(report.loss)
        steps += 1
        assert r.engine.scaler.get_scale() == scale / 2**steps
        assert same(before, r.everything())
    assert steps == math.log2(scale) + 1
    error = refused(r, batches, "E603")
    assert error.message.startswith("the gradient")


def test_a_loss_that_is_not_finite_is_no_overflow_of_the_scale(rig: Callable[..., Rig]) -> None:
    r = rig("float16")
    batch = r.batch(ALL, 4)
    assert batch.points is not None
    batch.points[:] = math.nan
    scale = r.engine.scaler.get_scale()
    refused(r, [batch], "E603")
    assert r.engine.scaler.get_scale() == scale


def test_labels_that_are_all_ignored_are_refused(rig: Callable[..., Rig]) -> None:
    r = rig()
    masked = [r.batch(ALL, 4), r.batch("text", 5)]
    for batch in masked:
        assert batch.labels is not None
        batch.labels[:] = IGNORE
    error = refused(r, masked, "E606")
    assert masked[0].ids[0] in error.message
    assert "--set train.max_seq_length" in error.remedy


def test_a_masked_micro_batch_adds_nothing_to_a_step_of_others(rig: Callable[..., Rig]) -> None:
    with_it, without = rig(), rig()
    masked = with_it.batch("text", 4)
    assert masked.labels is not None
    masked.labels[:] = IGNORE
    a = train_step(with_it.engine, [with_it.batch(ALL, 5), masked])
    b = train_step(without.engine, [without.batch(ALL, 5)])
    assert (a.loss, a.supervised) == (b.loss, b.supervised)
    assert a.grad_norm == pytest.approx(b.grad_norm, rel=1e-6)


def test_a_dead_part_is_told_before_the_update(rig: Callable[..., Rig]) -> None:
    r = rig()
    r.model.get_submodule("points.projector").register_forward_hook(lambda _m, _i, out: out.detach())
    check = FlowCheck(r.infos, r.engine.optimizer.param_groups)
    for k in range(STEPS - 1):
        train_step(r.engine, [r.batch(ALL, k)], lambda: check.look(Counter({ALL: 2})))
    before = r.everything()
    with pytest.raises(CadmllmError, match=r"points\.projector") as caught:
        train_step(r.engine, [r.batch(ALL, 6)], lambda: check.look(Counter({ALL: 2})))
    assert caught.value.code == "E608"
    assert same(before, r.everything())


def test_the_step_after_a_refusal_is_the_one_of_a_run_that_never_saw_it(rig: Callable[..., Rig]) -> None:
    hurt, whole = rig(), rig()
    bad = hurt.batch(ALL, 4)
    assert bad.points is not None
    bad.points[0, 0, 0] = math.nan
    refused(hurt, [hurt.batch(ALL, 6), bad], "E603")
    masked = hurt.batch("text", 4)
    assert masked.labels is not None
    masked.labels[:] = IGNORE
    refused(hurt, [masked], "E606")
    refused(hurt, [], "E606")
    reports = [train_step(r.engine, [r.batch(ALL, 7), r.batch("text", 8)]) for r in (hurt, whole)]
    assert reports[0] == reports[1]
    assert same(hurt.everything(), whole.everything())


def test_the_comparison_itself_sees_a_single_bit(rig: Callable[..., Rig]) -> None:
    r = rig()
    before = r.everything()
    assert same(before, r.everything())
    assert any(key.endswith("/exp_avg") for key in before)
    state = next(iter(r.engine.optimizer.state.values()))
    state["exp_avg"].view(torch.int32).view(-1)[0] ^= 1
    assert not same(before, r.everything())
    assert isinstance(r.infos[0], GroupInfo)
