"""Bytes of saves against files that are really written."""

from __future__ import annotations

import pytest
from safetensors.torch import save_file

from cadmllm.models.fusion import build_model
from cadmllm.plan.disk import BESIDE, run_bytes, stage_disk
from cadmllm.settings import Settings
from cadmllm.train.optim import build_optimizer
from cadmllm.train.state import optimizer_tensors

LORA = 87_293_952
ROWS = (1600 + 1602) * 4096


@pytest.mark.parametrize("stage", [1, 3])
def test_a_step_save_as_it_is_written(settings, tmp_path, stage):
    asked = settings(2, "float32")
    model = build_model(asked, stage)
    optimizer, infos = build_optimizer(model.parameter_groups(), stage, 1e-3, asked.train, "cpu")
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    for parameter in trained.values():
        parameter.grad = parameter.detach().clone()
    optimizer.step()
    save_file({name: p.detach() for name, p in trained.items()}, tmp_path / "model")
    save_file(optimizer_tensors(optimizer, infos), tmp_path / "optimizer")
    said = stage_disk(asked, stage)
    assert said.stage - BESIDE == pytest.approx((tmp_path / "model").stat().st_size, rel=0.02)
    written = sum(file.stat().st_size for file in tmp_path.iterdir())
    assert said.step - BESIDE == pytest.approx(written, rel=0.02)


def test_qwen3_8b():
    asked = Settings(lora={"r": 32})
    one = stage_disk(asked, 1)
    assert one.stage == 4 * (LORA + ROWS) + BESIDE
    assert one.step == 12 * (LORA + ROWS) + BESIDE
    assert stage_disk(asked, 3).stage > stage_disk(asked, 2).stage > one.stage  # projectors come along
    eight = stage_disk(Settings(lora={"r": 32}, train={"optimizer": "adamw_8bit"}), 1)
    assert one.step - eight.step == pytest.approx(6 * LORA, rel=0.02)


def test_everything_at_once():
    asked = Settings(train={"save_total_limit": 3})
    one, two = stage_disk(asked, 1), stage_disk(asked, 2)
    assert run_bytes(asked, (1, 2)) == one.stage + two.stage + 3 * one.step + 4 * two.step
    without = Settings(train={"save_steps": 0})
    assert run_bytes(without, (1,)) == one.stage + one.step  # the end of a stage saves before it validates


def test_an_unknown_model_is_a_guess_and_says_so():
    assert not stage_disk(Settings(model={"llm": "some/model"}), 1).known
