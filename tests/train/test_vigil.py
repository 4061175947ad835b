"""What step records give away, and that a resumed run is told the same."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from told import given_settings

from cadmllm.settings import Settings
from cadmllm.train import vigil
from cadmllm.train.curriculum import plan_stages
from cadmllm.train.vigil import Notice, Vigil


def make(stage: int = 2, wsl: bool = False, **groups: dict) -> Vigil:
    settings = Settings(**groups)  # ty: ignore[invalid-argument-type]
    return Vigil(settings, plan_stages(settings, [stage])[0], wsl)


def record(step: int, loss: float = 1.0, total: int = 1000, **more: Any) -> dict[str, Any]:
    return {
        "step": step,
        "total_steps": total,
        "loss": loss,
        "tokens": 1000,
        "computed": 1000,
        "seconds": 1.0,
        "waited": 0.0,
    } | more


def feed(watch: Vigil, records: Iterable[dict[str, Any]]) -> list[Notice]:
    return [notice for one in records for notice in watch.step(one)]


def noisy(total: int, level: Callable[[int], float], noise: float = 0.05, seed: int = 0) -> list[dict[str, Any]]:
    rng = random.Random(seed)
    return [record(k, level(k) * (1 + rng.gauss(0, noise)), total) for k in range(1, total + 1)]


def falling(total: int) -> Callable[[int], float]:
    return lambda step: 1.5 - step / total


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_a_healthy_stage_is_left_in_peace(stage: int, seed: int) -> None:
    watch = make(stage)
    assert watch.validated(0, {"text": 0.5, "all": 2.0}) == []
    rng = random.Random(seed)
    for one in noisy(600, falling(600), 0.1, seed):
        one["seconds"] = rng.uniform(0.6, 1.7)  # lengths and mixes differ
        if one["step"] % 50 == 0:
            one["seconds"] = 30.0  # a save
        assert watch.step(one) == []
        if one["step"] % 100 == 0:
            assert watch.validated(one["step"], {"text": 0.5 * rng.uniform(0.97, 1.03), "all": 1.6 - one["step"] / 600}) == []


def test_a_spike_is_told_with_its_step_its_loss_the_usual_and_its_samples() -> None:
    records = noisy(100, falling(100))
    records[69] |= {"loss": 4.0, "ids": [f"0001/{k:08d}" for k in range(10)]}
    (notice,) = feed(make(1), records)
    assert notice.kind == "spike"
    assert "step 70: the loss jumped to 4.0000, usually 1." in notice.message
    assert "0001/00000007 and 2 more" in notice.message
    assert "cadmllm data show 0001/00000000;" in notice.remedy
    assert given_settings(notice.remedy).train.clip == 0.5
    assert given_settings(notice.remedy).stages[1].lr == 1e-5


def test_neither_the_first_steps_nor_noise_nor_a_loss_near_zero_are_spikes() -> None:
    jump = [record(k, 9.0 if k < 12 else 1.0, 60) for k in range(1, 61)]
    assert feed(make(1), jump) == []
    tiny = [record(k, 0.0001 if k % 7 else 0.003, 200) for k in range(1, 201)]
    assert feed(make(1), tiny) == []
    constant = [record(k, 1.2 if k == 100 else 1.0, 200) for k in range(1, 201)]
    assert feed(make(1), constant) == []


def test_spikes_are_told_again_when_they_got_worse_or_after_a_while() -> None:
    heights = {50: 3.0, 60: 3.0, 70: 6.0, 160: 3.0, 70 + vigil.AGAIN: 3.0}
    notices = feed(make(1), [record(k, heights.get(k, 1.0)) for k in range(1, 400)])
    assert [notice.message.split(":")[0] for notice in notices] == ["step 50", "step 70", f"step {70 + vigil.AGAIN}"]
    assert "more since" not in notices[1].message
    assert "(1 more since the last notice)" in notices[2].message


def test_hard_samples_that_come_round_again_are_no_spikes() -> None:
    assert feed(make(1), [record(k, 3.0 if k % 17 == 3 else 1.0) for k in range(1, 400)]) == []


def _slow(more: dict[str, Any] | None = None, steps: int = 8, factor: float = 10.0) -> list[dict[str, Any]]:
    usual = [record(k) for k in range(1, 41)]
    return usual + [record(41 + k, seconds=factor, **(more or {})) for k in range(steps)]


def test_a_slow_down_on_a_gpu_under_wsl_is_a_probable_spill() -> None:
    (notice,) = feed(make(1, wsl=True), _slow({"peak_gib": 14.0}))
    assert notice.kind == "slow"
    assert notice.message.startswith("step 45: 100 tokens/s for 5 steps, usually 1,000; probably GPU memory spilled")
    assert "--resume" in notice.remedy
    assert given_settings(notice.remedy).train.pack_tokens == 4096


def test_a_slow_down_elsewhere_and_one_that_is_explained() -> None:
    (plain,) = feed(make(1, wsl=True), _slow())
    assert "heat, another process or slow data" in plain.message, "no GPU, no spill"
    (gpu,) = feed(make(1), _slow({"peak_gib": 14.0}))
    assert "nvidia-smi" in gpu.remedy
    (waiting,) = feed(make(1, wsl=True), _slow({"peak_gib": 14.0, "waited": 9.2}))
    assert "92% of that time was spent waiting for data" in waiting.message
    assert "train.workers=" in waiting.remedy
    (hot,) = feed(make(1, wsl=True), _slow({"peak_gib": 14.0, "gpu_throttled": True, "gpu_temperature": 91.0}))
    assert "slows itself down at 91 C" in hot.message


def test_waiting_that_does_not_explain_the_slow_down_is_not_blamed() -> None:
    (notice,) = feed(make(1), _slow({"waited": 4.0}, factor=10.0))
    assert "waiting" not in notice.message


def test_a_few_slow_steps_or_slightly_slower_ones_are_nothing() -> None:
    assert feed(make(1), _slow(steps=vigil.SLOW_STEPS - 1) + [record(60)]) == []
    assert feed(make(1), _slow(steps=50, factor=2.9)) == []
    assert feed(make(1), [record(k, seconds=60.0 if k < 4 else 1.0) for k in range(1, 60)]) == [], "kernels were compiled"


def test_a_machine_that_stays_slow_becomes_the_usual_one() -> None:
    notices = feed(make(1), _slow(steps=1000))
    assert len(notices) == 1


@pytest.mark.parametrize("stage", [2, 3])
def test_a_flat_loss_is_told_with_the_documents_remedies(stage: int) -> None:
    notices = feed(make(stage), [record(k, 1.0, 400) for k in range(1, 401)])
    assert {notice.kind for notice in notices} == {"not falling"}
    assert f"of stage {stage} does not fall: 1.0000 now, 1.0000 after the first 80 steps" in notices[0].message
    new = given_settings(notices[0].remedy)
    assert new.train.projector_lr_multiplier == 10.0
    assert new.stages[stage].lr == {2: 1e-5, 3: 5e-6}[stage]
    assert new.stages[stage].epochs == {2: 10, 3: 20}[stage]


def test_the_spike_at_the_start_of_a_stage_neither_alarms_nor_hides_a_flat_loss() -> None:
    spiked = lambda step: 4.0 if step < 60 else 1.0  # noqa: E731
    flat = feed(make(2), [record(k, spiked(k), 400) for k in range(1, 401)])
    assert {notice.kind for notice in flat} == {"not falling"}
    fine = [record(k, spiked(k) * (1.2 - k / 1000), 400) for k in range(1, 401)]
    assert feed(make(2), fine) == []


def test_stage_one_and_short_stages_are_not_judged() -> None:
    assert feed(make(1), [record(k, 1.0, 400) for k in range(1, 401)]) == []
    assert feed(make(2), [record(k, 1.0, 25) for k in range(1, 26)]) == []


def test_a_validation_that_fell_overrules_the_training_loss() -> None:
    watch = make(2)
    said = []
    for one in (record(k, 1.0, 400) for k in range(1, 401)):
        said += watch.step(one)
        if one["step"] % 90 == 0:
            said += watch.validated(one["step"], {"all": 2.0 - one["step"] / 400})
    assert said == []


def test_where_the_shares_move_only_validations_tell() -> None:
    moving = {"2": {"probabilities": {"text": 1.0}, "probabilities_end": {"text+point_cloud": 1.0}}}
    watch = make(2, stages=moving)
    assert watch.validated(0, {"all": 1.0}) == []
    rising = [record(k, 1.0 + k / 1000, 400) for k in range(1, 401)]
    said = []
    for one in rising:
        assert watch.step(one) == []
        if one["step"] % 100 == 0:
            said += watch.validated(one["step"], {"all": 1.0})
    assert {notice.kind for notice in said} == {"not falling"}
    assert "held-out loss of stage 2" in said[0].message


def test_text_that_is_forgotten_is_told_with_the_share_to_raise() -> None:
    watch = make(3)
    assert watch.validated(0, {"text": 0.50, "all": 0.9}) == []
    assert watch.validated(100, {"text": 0.52, "all": 0.8}) == []
    (notice,) = watch.validated(200, {"text": 0.56, "all": 0.7})
    assert notice.kind == "forgetting"
    assert "0.5600, 0.5000 when the stage began" in notice.message
    new = given_settings(notice.remedy)
    assert new.stages[3].probabilities["text"] == 0.4
    assert new.stages[1].epochs == 10
    assert watch.validated(300, {"text": 0.57}) == [], "said already"
    assert watch.validated(310, {"text": 0.70}) != [], "it got worse"
    assert watch.validated(310 + vigil.AGAIN, {"text": 0.70}) != [], "a while has passed"


def test_text_is_not_forgotten_in_stage_one_nor_without_a_measure() -> None:
    watch = make(1)
    assert watch.validated(0, {"text": 0.5}) == []
    assert watch.validated(9, {"text": 5.0}) == []
    watch = make(2)
    assert watch.validated(0, {"text+point_cloud": 0.5}) == []
    assert watch.validated(50, {"text": 0.5}) == []
    (late,) = watch.validated(90, {"text": 0.9})
    assert "0.5000 after step 50" in late.message


# few values, so that usual levels, spikes, slow steps and flat stretches all come about
losses = st.lists(st.sampled_from([1.0, 1.0, 1.0, 1.1, 0.9, 1.0, 5.0, 9.0]), min_size=60, max_size=160)


@given(losses=losses, data=st.data())
def test_a_resumed_run_is_told_the_same(losses: list[float], data: st.DataObject) -> None:
    total = len(losses)
    slow = data.draw(st.integers(0, total))
    at = data.draw(st.sets(st.integers(0, total), max_size=3))

    def run(cuts: set[int]) -> list[Notice]:
        watch, notices = make(2, wsl=True), []
        notices += watch.validated(0, {"text": 0.5, "all": 1.0})
        for k, loss in enumerate(losses):
            if k in cuts:
                state = json.loads(json.dumps(watch.state()))
                watch = make(2, wsl=True)
                watch.load(state)
            seconds = 20.0 if slow <= k < slow + 9 else 1.0
            notices += watch.step(record(k + 1, loss, total, seconds=seconds, peak_gib=1.0))
            if k % 20 == 19:
                notices += watch.validated(k + 1, {"text": 0.5 * loss, "all": loss})
        return notices

    assert run(at) == run(set())


def test_taking_the_state_leaves_the_vigil_as_it_was() -> None:
    watch = make(2)
    feed(watch, _slow(steps=3))
    state = watch.state()
    text = json.dumps(state)
    feed(watch, noisy(100, falling(100)))
    assert json.dumps(state) == text, "a state is not changed by later steps"
