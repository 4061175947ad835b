"""Parts that get no gradient are found on real models of every stage, and healthy ones never are."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cadmllm.corpus.batch import Collator
from cadmllm.corpus.layout import DataSet
from cadmllm.corpus.sample import load_sample
from cadmllm.errors import CadmllmError
from cadmllm.models.fusion import CadMLLM, build_model
from cadmllm.models.lora import FusedLora
from cadmllm.settings import Settings
from cadmllm.train.flow import PATIENCE, STEPS, FlowCheck
from cadmllm.train.optim import GroupInfo, build_optimizer

ALL = "text+point_cloud+image"


@dataclass
class Rig:
    """A model of a stage with its optimizer, and steps as the loop makes them."""

    model: CadMLLM
    optimizer: torch.optim.Optimizer
    infos: list[GroupInfo]
    check: FlowCheck
    dataset: DataSet
    made: int = 0
    dtype: torch.dtype | None = None
    scale: float = 1.0

    def step(self, combination: str, check: FlowCheck | None = None, told: str = "") -> None:
        """Backward, look, update, on two samples that show `combination`; `told` is what `look` hears instead."""
        model, batch = self.model, self.batch(combination)
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=self.dtype, enabled=self.dtype is not None):
            loss, supervised = model.loss(batch)
        (loss / supervised * self.scale).backward()
        (check or self.check).look(Counter({told or combination: 2}))
        self.optimizer.step()

    def batch(self, combination: str) -> Any:
        model, settings = self.model, self.model.settings
        where = {"seed": 0, "stage": model.stage, "epoch": 0}
        # numbers 1, 2, 5, 7 ... have both a cloud and views
        both = [f"0000/{number:08d}" for number in range(26) if number % 3 and number % 4]
        ids = [both[(self.made + k) % len(both)] for k in range(2)]
        self.made += 2
        shape = {"point_count": settings.model.point_count, "views": 1, "draws": 0}
        samples = [
            load_sample(self.dataset, i, combination, features=None, position=k, **where, **shape) for k, i in enumerate(ids)
        ]
        collate = Collator(model.tokenizer, model.text_size, model.cloud_tokens, model.image_tokens, 512)
        return collate(samples)


@pytest.fixture
def rig(settings: Callable[..., Settings], parts: DataSet) -> Callable[..., Rig]:
    def make(stage: int, lr: float = 1e-3, **groups: dict) -> Rig:
        chosen = settings(**groups)
        model = build_model(chosen, stage, "cpu")
        optimizer, infos = build_optimizer(model.parameter_groups(), stage, lr, chosen.train, "cpu")
        return Rig(model, optimizer, infos, FlowCheck(infos, optimizer.param_groups), parts)

    return make


def _run(rig: Rig, combinations: list[str]) -> None:
    for combination in combinations:
        rig.step(combination)


def _cut(module: nn.Module) -> None:
    """The module gives what it gave, without a gradient behind it."""
    module.register_forward_hook(lambda _m, _i, out: out.detach())


@pytest.mark.parametrize("stage", [1, 2, 3])
@pytest.mark.parametrize("lora", [True, False])
def test_healthy_models_raise_no_alarm_and_are_soon_known(rig: Callable[..., Rig], stage: int, lora: bool) -> None:
    r = rig(stage, lora={"enabled": lora, "r": 4, "alpha": 8})
    shown = {1: ["text"], 2: ["text", "text+point_cloud"], 3: ["text", "text+image", "text+point_cloud"]}[stage]
    _run(r, shown * 2)
    assert r.check.done
    assert r.check.unjudged == ()


@pytest.mark.parametrize("extra", [{"gradient_checkpointing": True}, {"optimizer": "adamw", "clip": 0.5}])
def test_healthy_with_checkpointing(rig: Callable[..., Rig], extra: dict) -> None:
    r = rig(3, train={"batch_size": 2, "max_seq_length": 512, **extra})
    _run(r, [ALL] * 3)
    assert r.check.done


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_healthy_in_16_bits_at_the_first_rates_of_a_long_warmup(rig: Callable[..., Rig], dtype: torch.dtype) -> None:
    r = rig(2, lr=2e-7)  # the default rate over 100 steps of warmup: entries of B as float16 are hardly more than zero
    r.dtype, r.scale = dtype, 2.0**12 if dtype == torch.float16 else 1.0
    _run(r, ["text+point_cloud", "text"] * 4)
    assert set(r.check.unjudged) <= {"LoRA A"}


@pytest.mark.parametrize("branch", ["points", "images"])
def test_a_detached_projector_is_named(rig: Callable[..., Rig], branch: str) -> None:
    r = rig(3)
    _cut(getattr(r.model, branch).projector)
    with pytest.raises(CadmllmError) as caught:
        _run(r, [ALL] * STEPS)
    error = caught.value
    assert error.code == "E608"
    assert f"{branch}.projector: 6 of 6 tensors" in error.message
    assert {"points": "showed a point cloud", "images": "showed a view"}[branch] in error.message
    other = {"points": "images", "images": "points"}[branch]
    assert f"{other}.projector" not in error.message
    assert "LoRA" not in error.message
    assert "--set" in error.remedy


def test_a_projector_is_judged_only_by_steps_that_show_its_modality(rig: Callable[..., Rig]) -> None:
    r = rig(2)
    _cut(r.model.get_submodule("points.projector"))
    _run(r, ["text"] * 6 + ["text+point_cloud"] * (STEPS - 1) + ["text"] * 3)
    assert set(r.check.unjudged) == {"points.projector", "points.encoder"}
    with pytest.raises(CadmllmError, match=r"points.projector"):
        r.step("text+point_cloud")


def test_an_encoder_that_should_train_and_does_not_is_named_beside_a_living_projector(rig: Callable[..., Rig]) -> None:
    r = rig(2)
    _cut(r.model.get_submodule("points.encoder"))
    with pytest.raises(CadmllmError) as caught:
        _run(r, ["text+point_cloud"] * STEPS)
    assert "points.encoder" in caught.value.message
    assert "points.projector" not in caught.value.message
    assert "train_encoders=false" in caught.value.remedy


def _lora_layers(model: CadMLLM, half: str) -> list[nn.Module]:
    """All of one half. The layers go back to peft's own forward, which calls it as a module, so that hooks can break it."""
    for module in model.modules():
        if isinstance(module.forward, FusedLora):
            module.forward = module.forward.plain
    return [module for name, module in model.named_modules() if name.endswith(f"lora_{half}.default")]


def test_a_lora_whose_output_is_cut_is_dead(rig: Callable[..., Rig]) -> None:
    r = rig(1)
    for module in _lora_layers(r.model, "B"):
        _cut(module)
    with pytest.raises(CadmllmError, match=r"LoRA B: 14 of 14 tensors .*and 12 more\) had no gradient in 3 steps;") as caught:
        _run(r, ["text"] * STEPS)
    assert "LoRA A" not in caught.value.message, "A has none because B is zero"


def test_a_lora_multiplied_by_zero_is_dead_though_its_gradient_is_there(rig: Callable[..., Rig]) -> None:
    r = rig(1)
    for module in _lora_layers(r.model, "B"):
        module.register_forward_hook(lambda _m, _i, out: out * 0.0)
    with pytest.raises(CadmllmError, match="LoRA B: 14 of 14"):
        _run(r, ["text"] * STEPS)


def test_more_than_half_of_lora_is_an_alarm_and_less_is_none(rig: Callable[..., Rig]) -> None:
    few, many = rig(1), rig(1)
    for r, cut in ((few, 6), (many, 8)):
        for module in _lora_layers(r.model, "B")[:cut]:
            _cut(module)
    _run(few, ["text"] * (STEPS + 2))
    assert few.check.done
    with pytest.raises(CadmllmError, match="LoRA B: 8 of 14"):
        _run(many, ["text"] * STEPS)


def test_a_whose_input_is_cut_is_found_once_b_has_moved(rig: Callable[..., Rig]) -> None:
    r = rig(1)
    for module in _lora_layers(r.model, "A"):
        _cut(module)
    r.step("text")  # B is zero: A has no gradient in a healthy model either
    _run(r, ["text"] * (STEPS - 1))
    assert r.check.unjudged == ("LoRA A",)
    with pytest.raises(CadmllmError, match=r"LoRA A: 14 of 14 .*after B had moved"):
        r.step("text")


def test_a_is_not_judged_while_b_stands_still(rig: Callable[..., Rig]) -> None:
    r = rig(1, lr=1e-12)
    _run(r, ["text"] * (STEPS + 3))
    assert r.check.unjudged == ("LoRA A",)


@pytest.mark.parametrize("row", ["input", "output"])
def test_detached_rows_are_named(rig: Callable[..., Rig], row: str) -> None:
    r = rig(1)
    copied = getattr(r.model.rows, row).detach().clone()
    if row == "output":
        r.model.rows.logits = lambda hidden: nn.functional.linear(hidden.float(), copied)
    else:
        given = r.model.rows.embed

        def embed(ids: Tensor, base: nn.Embedding) -> Tensor:
            return given(ids, base).detach().requires_grad_()

        r.model.rows.embed = embed
    with pytest.raises(CadmllmError, match=rf"rows\.{row}: 1 of 1 tensors") as caught:
        _run(r, ["text"] * STEPS)
    assert caught.value.message.count("tensors") == 1


def test_a_stage_that_never_shows_a_view_ends_its_check_without_an_alarm(rig: Callable[..., Rig]) -> None:
    r = rig(3)
    batch = r.batch("text+point_cloud")
    r.optimizer.zero_grad()
    loss, supervised = r.model.loss(batch)
    (loss / supervised).backward()
    for parameter in r.model.parameters():
        parameter.data += 1e-4  # B is no longer zero
    for look in range(PATIENCE):
        assert not r.check.done, look
        r.check.look(Counter({"text+point_cloud": 2, "text+image": 0}))
        if look == 0:
            r.optimizer.zero_grad()
            loss, supervised = r.model.loss(batch)
            (loss / supervised).backward()
    assert r.check.done
    assert set(r.check.unjudged) == {"images.projector", "images.encoder"}


class Toy(nn.Module):
    """Two tensors that a check takes for the rows."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.ParameterDict({"input": nn.Parameter(torch.ones(3)), "output": nn.Parameter(torch.ones(3))})


def _toy(steps: int = STEPS) -> tuple[Toy, FlowCheck]:
    model = Toy()
    names = tuple(name for name, _ in model.named_parameters())
    infos = [GroupInfo("rows", names, 6, 1.0, 0.0)]
    return model, FlowCheck(infos, [{"params": list(model.parameters())}], steps)


def test_an_overflow_does_not_count() -> None:
    model, check = _toy()
    for _ in range(STEPS * 3):
        model.rows["input"].grad, model.rows["output"].grad = torch.full((3,), math.nan), torch.zeros(3)
        check.look({"text": 1})
    assert len(check.unjudged) == 2
    model.rows["input"].grad = torch.full((3,), math.inf)
    check.look({"text": 1})
    assert len(check.unjudged) == 2


def test_a_step_that_teaches_nobody_does_not_count_but_one_without_any_backward_does() -> None:
    model, check = _toy()
    for _ in range(STEPS * 3):
        model.rows["input"].grad, model.rows["output"].grad = torch.full((3,), 1e-12), torch.zeros(3)
        check.look({"text": 1})
    assert len(check.unjudged) == 2
    model, check = _toy()
    for _ in range(STEPS - 1):
        check.look({"text": 1})
    with pytest.raises(CadmllmError, match=r"rows\.input.*rows\.output"):
        check.look({"text": 1})


def test_gradients_too_small_to_be_squared_are_gradients() -> None:
    model, check = _toy()
    model.rows["input"].grad, model.rows["output"].grad = torch.full((3,), 1e-30), torch.ones(3)
    check.look({"text": 1})
    assert check.done


def test_no_steps_check_nothing() -> None:
    _, check = _toy(steps=0)
    assert check.done
    check.look({"text": 1})


@pytest.mark.parametrize("at", [0, 1, 2, 3, 4])
def test_a_resumed_check_raises_at_the_same_step(rig: Callable[..., Rig], at: int) -> None:
    r = rig(2)
    _cut(r.model.get_submodule("points.projector"))
    combinations = ["text+point_cloud", "text", "text+point_cloud", "text", "text+point_cloud", "text"]
    check, raised = r.check, None
    for number, combination in enumerate(combinations):
        if number == at:
            state = json.loads(json.dumps(check.state()))
            check = FlowCheck(r.infos, r.optimizer.param_groups)
            check.load(state)
        try:
            r.step(combination, check)
        except CadmllmError:
            raised = number
            break
    assert raised == 4


def test_a_check_that_was_done_stays_done(rig: Callable[..., Rig]) -> None:
    r = rig(1)
    _run(r, ["text"] * 3)
    again = FlowCheck(r.infos, r.optimizer.param_groups)
    again.load(json.loads(json.dumps(r.check.state())))
    assert again.done
    r.optimizer.zero_grad(set_to_none=True)
    again.look({"text": 1})


def _two_processes(rank: int, store: str, said: str) -> None:
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    # a bias of one entry leaves the second process an empty share of it
    used, unused = nn.Linear(4, 1), nn.Linear(4, 1)
    for module in (used, unused):
        fully_shard(module, mesh=mesh)
    held = [list(module.parameters()) for module in (used, unused)]
    branches = zip(("points", "images"), held, strict=True)
    infos = [GroupInfo("projectors", (f"{b}.weight", f"{b}.bias"), 5, 1.0, 0.0, b) for b, _ in branches]
    check = FlowCheck(infos, [{"params": some} for some in held])
    try:
        for _ in range(STEPS):
            used(torch.ones(2, 4)).sum().backward()
            check.look({ALL: 1})
    except CadmllmError as error:
        with open(f"{said}{rank}", "w", encoding="utf-8") as file:
            file.write(error.message)
    dist.destroy_process_group()


@pytest.mark.long
def test_shards_of_two_processes_agree(tmp_path: Any) -> None:
    torch.multiprocessing.spawn(_two_processes, (str(tmp_path / "store"), str(tmp_path / "said")), nprocs=2)
    messages = [(tmp_path / f"said{rank}").read_text(encoding="utf-8") for rank in range(2)]
    assert messages[0] == messages[1]
    assert "images.projector: 2 of 2" in messages[0]
    assert "points.projector" not in messages[0]
