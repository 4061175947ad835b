"""The check of the plan: what it says, keeps and judges; and the workload against training's own count of the draws."""

from __future__ import annotations

import json

import pytest
from scene import Scene, build
from sick_plan import a_cpu_run_larger_than_main_memory, memory, model, on_card, qwen3_8b_in_16_bit_on_16_gb

from cadmllm.doctor.fit import check_fit, sentence
from cadmllm.doctor.ram import check_memory
from cadmllm.doctor.workload import look, newest_records, share_cut, workload


@pytest.fixture
def scene(tmp_path, monkeypatch) -> Scene:
    return build(tmp_path, monkeypatch)


class _None:
    def encode(self, sample, /):
        raise AssertionError

    pad = pack = encode


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_the_workload_is_what_training_draws(scene, stage):
    from cadmllm.train.curriculum import plan_stages
    from cadmllm.train.forecast import tokens_of
    from cadmllm.train.session import stage_data
    from cadmllm.train.windows import Windows, room_of

    scene.values |= {"train.batch_size": 6, "train.accumulation": 2}
    situation = scene.situation()
    settings, dataset = situation.needed, situation.dataset
    planned = plan_stages(settings, (stage,))[0]
    windows = Windows(
        dataset, stage_data(settings, planned, dataset).train_ids, planned, settings, _None(), room_of(settings, True)
    )
    seen = [tokens_of(windows)]
    said = workload(dataset, settings, stage)
    assert (said.steps, said.samples) == (len(windows), len(windows.ids))
    assert said.supervised == pytest.approx(seen[0].supervised, rel=0.01)
    assert said.tokens == pytest.approx(seen[0].sample, rel=0.06)  # a dozen draws of which some show a cloud and some a view
    assert said.total == pytest.approx(seen[0].step * len(windows), rel=0.06)
    assert 0.8 * seen[0].longest <= said.longest <= settings.train.max_seq_length


def test_shares_that_move_are_taken_at_their_middle(scene):
    situation = scene.situation()
    shares = {"stages.3.probabilities": {"text": 1.0}, "stages.3.probabilities_end": {"text+point_cloud": 1.0}}
    scene.values |= shares
    moving = workload(situation.dataset, scene.settings(), 3)
    scene.values = {"stages.3.probabilities": {"text": 0.5, "text+point_cloud": 0.5}}
    assert workload(situation.dataset, scene.settings(), 3) == moving
    assert moving.views == 0
    assert moving.clouds > 0


def test_what_shorter_sequences_cut(scene):
    situation = scene.situation()
    cuts = [share_cut(look(situation.dataset), situation.needed, 3, tokens) for tokens in (64, 128, 256, 1024)]
    assert cuts == sorted(cuts, reverse=True)
    assert cuts[0] == 1.0
    assert cuts[-1] == 0.0


def test_a_healthy_run_is_planned(scene):
    memory(scene, 16, 12)
    situation = scene.situation()
    outcome = check_fit(situation)
    assert outcome.findings == ()
    plan = situation.plan
    assert json.loads(json.dumps(plan)) == plan
    assert plan["fits"] is True
    assert plan["card"]["name"] == "main memory"
    assert [stage["stage"] for stage in plan["stages"]] == [1, 2, 3]
    for stage in plan["stages"]:
        assert sum(part["bytes"] for part in stage["memory"]["parts"] if part["place"] == "ram") == stage["memory"]["total"]
        assert stage["tokens"]["steps"] > 0
    assert "GFLOP a step at 5 to 35 GFLOP/s a core" in plan["time"]["source"]
    assert sentence(plan).startswith("about ")
    assert sentence(plan).endswith(f", {plan['disk_bytes'] / 2**20:.0f} MiB of disk")
    assert "with 2,048 tokens a micro-batch" in outcome.summary


def test_a_time_from_what_was_measured(scene):
    lines = [{"stage": 1, "step": k, "seconds": 2.0 + k % 3, "tokens": 1000} for k in range(1, 31)]
    scene.run.mkdir()
    (scene.run / "metrics.jsonl").write_text("\n".join(json.dumps(line) for line in lines) + "\n{torn")
    situation = scene.situation()
    check_fit(situation)
    time = situation.plan["stages"][0]["time"]
    assert time["low"] <= time["likely"] <= time["high"]
    assert "measured: quartiles of the stage's newest 30 steps" in time["source"]
    assert "another stage" in situation.plan["stages"][2]["time"]["source"]
    assert sentence(situation.plan).startswith("about ")


def test_only_the_newest_lines_are_read(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert newest_records(path) == []
    path.write_text("".join(json.dumps({"stage": 1, "step": k, "pad": "x" * 1000}) + "\n" for k in range(2000)))
    found = newest_records(path)
    assert [record["step"] for record in found] == list(range(2000 - len(found), 2000))
    assert 100 < len(found) < 1000


def test_qwen3_8b_in_16_bit_does_not_fit_16_gb_and_what_does_is_said(scene):
    qwen3_8b_in_16_bit_on_16_gb(scene)
    situation = scene.situation()
    finding = check_fit(situation).findings[0]
    assert finding.code == "E813"
    assert finding.level == "fail"
    assert "before the first activation" in finding.message
    assert "model.quantization=nf4" in finding.remedy
    assert situation.plan["fits"] is False
    assert situation.plan["card"]["watts"] == 300.0
    changes = {key: value for change in situation.plan["changes"] for key, value in change["set"].items()}
    scene.values |= changes
    again = scene.situation()
    assert check_fit(again).findings == ()
    assert again.plan["fits"] is True


def test_a_larger_model_than_ram_on_a_cpu_is_what_the_check_of_the_memory_says(scene):
    a_cpu_run_larger_than_main_memory(scene)
    situation = scene.situation()
    assert check_fit(situation).findings == ()
    assert situation.plan["fits"] is False
    assert situation.plan["card"]["total"] == 16 * 2**30
    (finding,) = check_memory(situation).findings
    assert finding.code == "E814"


@pytest.mark.parametrize("config", [{"model_type": "qwen3_moe"}, {"model_type": "llama", "hidden_size": "wide"}])
def test_an_unknown_shape_is_no_crash(scene, config):
    model(scene, **config)
    situation = scene.situation()
    outcome = check_fit(situation)
    assert "unknown" in outcome.skipped
    assert outcome.findings == ()
    assert situation.plan["unknown"]
    assert situation.plan["fits"] is None
    assert sentence(situation.plan)


def test_without_a_data_set_memory_and_disk_are_planned(scene):
    scene.values["data.root"] = str(scene.folder / "nothing")
    situation = scene.situation()
    outcome = check_fit(situation)
    assert outcome.details[0].startswith("no data set: ")
    assert situation.plan["stages"][0]["memory"]["total"] > 0
    assert situation.plan["time"]["likely"] is None
    assert "no data set" in situation.plan["time"]["source"]
    assert sentence(situation.plan).endswith("MiB of disk, a time that nobody knows yet")


def test_a_card_that_is_asked_for_and_not_there_is_anothers_finding(scene):
    scene.stub("pynvml", "class NVMLError(Exception): pass\ndef nvmlInit(): raise NVMLError('no driver')")
    memory(scene, 1, 1)
    scene.values["device"] = "cuda"
    outcome = check_fit(scene.situation())
    assert outcome.findings == ()


def test_energy_where_the_cards_power_is_known(scene):
    on_card(scene, 15.92)
    situation = scene.situation()
    check_fit(situation)
    energy, time = situation.plan["energy_kwh"], situation.plan["time"]
    assert energy["watts"] == 300
    assert energy["high"] == pytest.approx(time["high"] * 300 / 3.6e6, abs=0.001)
    assert energy["low"] <= energy["likely"] <= energy["high"]
    assert "arithmetic" in time["source"]


def test_no_plan_no_sentence():
    assert sentence({}) == ""


def test_without_a_stage_there_is_nothing_to_plan(scene):
    scene.stages = ()
    assert check_fit(scene.situation()).skipped
