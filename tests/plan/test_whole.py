"""Time with its interval, the bar, the least changes that make a run fit, the guide's advice, the whole plan."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from cadmllm.plan.bar import LETTERS, SHADES, WIDTH, bar, speaks_unicode
from cadmllm.plan.changes import Change, Way, changed, fitting_preset, way
from cadmllm.plan.guide import advice
from cadmllm.plan.memory import predict
from cadmllm.plan.sizes import GIB
from cadmllm.plan.speed import RATES, operations, work_of
from cadmllm.plan.table import GROUPS
from cadmllm.plan.timing import IDLE, MEMORY, POWER, Time, Workload, energy, in_all, listed, time_of
from cadmllm.plan.whole import HEADROOM, Place, make, said_of
from cadmllm.resolve import resolve
from cadmllm.settings import Settings

WORK = Workload(1, 6400, 100, 500.0, 80.0, 2000, 300_000.0, 32_000.0)


def big(**groups: dict) -> Settings:
    return Settings(device="cuda", **groups)  # ty: ignore[invalid-argument-type]


def card(gib: float, free: float | None = None) -> Place:
    return Place("RTX 5070 Ti", int(gib * GIB), int((free or gib) * GIB), watts=300.0)


def lines(stage: int, seconds: list[float], tokens: int = 32_000) -> list[dict]:
    return [{"stage": stage, "step": k, "seconds": s, "tokens": tokens} for k, s in enumerate(seconds, 1)]


def test_a_measured_time_has_its_quartiles():
    time = time_of(big(train={"save_steps": 0}), WORK, None, lines(1, [1.0, 2.0, 3.0, 4.0, 5.0]))
    assert (time.low, time.likely, time.high) == pytest.approx((200, 300, 400), rel=0.08)  # validation and saving on top
    assert time.low > 200
    assert time.likely > 300
    assert "quartiles of the stage's newest 5 steps" in time.source


def test_another_stages_steps_count_by_the_token():
    time = time_of(big(), WORK, None, lines(2, [1.0, 1.0], tokens=16_000))
    assert time.likely == pytest.approx(200, rel=0.1)
    assert "32,000" not in time.source
    assert "16,000 tokens/s in another stage" in time.source


def test_a_given_rate_comes_first_and_arithmetic_last():
    records = lines(1, [1.0])
    given_ = time_of(big(), WORK, "RTX 4090", records, rate=3200.0)
    assert given_.likely == pytest.approx(1000, rel=0.05)
    assert "given: 3,200 tokens/s" in given_.source
    by_card = time_of(big(), WORK, "NVIDIA GeForce RTX 4090", [])
    assert "arithmetic" in by_card.source
    assert by_card.low < by_card.likely < by_card.high
    for card_, why in ((None, "no card"), ("Tesla T4", "no rate is known of Tesla T4")):
        lacking = time_of(big(), WORK, card_, [])
        assert not lacking.known
        assert why in lacking.source


def test_the_arithmetic_is_that_of_the_steps_themselves():
    settings = big(train={"save_steps": 0})
    lengths = [500] * 64
    flops = operations(work_of(settings, 1), lengths, 80 * 64, {})
    steps = time_of(settings, Workload(1, 6400, 100, 500.0, 80.0, 500, 250_000.0, 32_000.0), "RTX 4090", [])
    assert steps.likely == pytest.approx(100 * flops / (0.4 * RATES["RTX 4090"]), rel=0.05)


def test_validating_and_saving_take_time():
    plain = time_of(big(train={"save_steps": 0}), WORK, None, lines(1, [1.0])).likely
    validating = time_of(big(train={"save_steps": 0, "val_steps": 10}), WORK, None, lines(1, [1.0])).likely
    saving = time_of(big(train={"save_steps": 10}), WORK, None, lines(1, [1.0])).likely
    assert validating - plain == pytest.approx(9 * 64 * 500 / 32_000 / 3, rel=0.01)
    assert saving > plain + 5


def test_all_stages_together_or_nothing():
    one, none = Time(1.0, 2.0, 3.0, "a"), Time(None, None, None, "unknown: b")
    assert in_all([one, one]) == Time(2.0, 4.0, 6.0, "a")
    assert in_all([one, none]).source == "unknown: b"
    assert not in_all([]).known
    assert said_of(Time(3600.0, 7200.0, 10_800.0, "")) == "about 2.0 h (60 min to 3.0 h)"
    assert said_of(none) == "a time that nobody knows yet"


def test_energy():
    hour = Time(3600.0, 3600.0, 3600.0, "")
    assert energy(hour, 300.0) == {"low": round(0.3 * IDLE, 3), "likely": 0.24, "high": 0.3, "watts": 300.0}
    assert energy(hour, None) is None
    assert energy(Time(None, None, None, ""), 300.0) is None


def test_cards_by_name():
    assert listed("NVIDIA GeForce RTX 5070 Ti", MEMORY) == listed("rtx 5070 ti", MEMORY) == 16
    assert listed("NVIDIA A100-SXM4-80GB", POWER) == 400
    assert listed("RTX 4090 Laptop GPU", POWER) is None
    assert set(MEMORY) == set(POWER) == set(RATES)


@examples(max_examples=60, deadline=None)
@given(
    st.dictionaries(st.sampled_from(list(LETTERS)), st.integers(0, 20 * GIB)),
    st.none() | st.integers(GIB, 80 * GIB),
    st.booleans(),
)
def test_the_bar_is_as_wide_as_the_card(parts, total, unicode):
    drawn = bar(parts, total, unicode=unicode)
    inside, _, beyond = drawn.line[1:].partition("]")
    assert len(inside) == WIDTH
    empty = "·" if unicode else "."
    filled = len(inside.rstrip(empty))
    needed = sum(parts.values())
    if total is not None:
        assert filled == min(WIDTH, round(WIDTH * needed / total))
        assert (len(beyond.split(" ")[0]) > 0) == (round(WIDTH * needed / total) > WIDTH)
    if not unicode:
        assert drawn.line.isascii()
        assert drawn.legend.isascii()
    for name, size in parts.items():
        assert (f"{name} {size / GIB:.2f}" in drawn.legend) == bool(size)


def test_every_group_of_the_table_has_its_mark():
    assert list(LETTERS) == list(SHADES) == list(GROUPS)
    assert len(set(LETTERS.values())) == len(set(SHADES.values())) == len(GROUPS)
    assert speaks_unicode("utf-8")
    assert not speaks_unicode("ascii")
    assert not speaks_unicode("latin-1")
    assert not speaks_unicode(None)


@pytest.mark.parametrize("gib", [80, 24, 16, 12, 8, 7])
@pytest.mark.parametrize("saving", [True, False])
def test_the_changes_make_it_fit_and_none_is_idle(gib, saving):
    train = {"batch_size": 2, "accumulation": 32, "max_seq_length": 4096, "gradient_checkpointing": saving}
    settings, room = big(train=train), int(HEADROOM * gib * GIB)
    found = way(settings, (1, 2, 3), room, lambda tokens: 0.125)
    if not found.fits:
        assert gib < 8
        return
    after, store = settings, None
    for change in found.changes:
        after = changed(after, change.set)
        store = ("points", "images") if change.command else store
        assert change.costs
    assert max(predict(after, stage, from_store=store).total for stage in (1, 2, 3)) <= room
    assert after.train.batch_size * after.train.accumulation == 64
    saved = sum(change.saves for change in found.changes)
    before = max(predict(settings, stage).total for stage in (1, 2, 3))
    assert before - saved <= room
    for change in found.changes:
        if change.set and not any(key.startswith("train.pack") for key in change.set):
            rest = [other for other in found.changes if other is not change]
            without = settings
            for other in rest:
                without = changed(without, other.set)
            assert max(predict(without, stage, from_store=store).total for stage in (1, 2, 3)) > room, change.options


def test_what_fits_needs_no_change():
    found = way(resolve(preset="16gb", environ={}).settings, (1, 2, 3), 15 * GIB)
    assert (found.fits, found.changes, found.options) == (True, [], "")


def test_smaller_packs_come_first_and_cost_nothing():
    found = way(resolve(preset="16gb", environ={}).settings, (1, 2, 3), 12 * GIB)
    (change,) = found.changes
    assert list(change.set) == ["train.pack_tokens"]
    assert "the same 64 samples" in change.costs


def test_padded_batches_get_smaller_with_more_of_them():
    train = {"batch_size": 8, "accumulation": 8, "max_seq_length": 4096, "packing": False, "gradient_checkpointing": True}
    settings = big(model={"quantization": "nf4"}, train=train)
    found = way(settings, (1,), 14 * GIB)
    values = {key: value for change in found.changes for key, value in change.set.items()}
    after = changed(settings, values)
    assert after.train.batch_size < 8
    assert after.train.batch_size * after.train.accumulation == 64
    assert predict(after, 1).total <= 14 * GIB
    assert "train.pack_tokens" not in values


def test_activations_go_to_ram_with_checkpointing_alone():
    settings = big(model={"quantization": "nf4"}, train={"max_seq_length": 16_384, "batch_size": 1})
    found = way(settings, (1,), 11 * GIB)
    values = {key: value for change in found.changes for key, value in change.set.items()}
    assert found.fits
    assert values.get("train.offload_activations", False) <= values.get("train.gradient_checkpointing", False)


def test_shorter_sequences_come_last_and_say_what_they_cut():
    settings = resolve(preset="16gb", environ={}).settings
    settings.train.max_seq_length = 16_384
    settings.train.pack_tokens = 16_384
    found = way(settings, (3,), int(6.9 * GIB), lambda tokens: 0.125)
    assert found.fits
    assert "12.5% of the targets" in found.changes[-1].costs
    assert found.changes[-1].set["train.max_seq_length"] < 8192


def test_the_largest_model_that_fits_where_nothing_else_helps():
    settings = resolve(preset="16gb", environ={}).settings
    found = way(settings, (1, 2, 3), int(5.2 * GIB))
    assert not found.fits
    assert found.model == "Qwen/Qwen3-4B"
    assert found.changes[0].set == {"model.llm": "Qwen/Qwen3-4B"}
    after = changed(settings, {key: value for change in found.changes for key, value in change.set.items()})
    store = ("points", "images") if any(change.command for change in found.changes) else None
    assert max(predict(after, stage, from_store=store).total for stage in (1, 2, 3)) <= 5.2 * GIB
    assert not way(settings, (1,), GIB // 2).model


def test_the_advice_is_what_makes_it_fit():
    settings = resolve(preset="16gb", environ={}).settings
    assert way(settings, (3,), 15 * GIB).advice == ""
    packs = way(settings, (3,), 12 * GIB)
    assert packs.advice == packs.options == packs.changes[0].options
    smaller = way(settings, (1, 2, 3), int(5.2 * GIB)).advice
    assert smaller.startswith("--set model.llm=Qwen/Qwen3-4B")
    assert "the largest model that fits" in smaller
    assert way(settings, (1,), GIB // 2).advice == ""
    command = Change({}, GIB, "time", "cadmllm data encode D --out features")
    both = Way([Change({"train.pack_tokens": 4096}, GIB, "none"), command])
    assert both.advice == "--set train.pack_tokens=4096 after cadmllm data encode D --out features"
    assert Way([command]).advice == command.command
    assert way(settings, (3,), 12 * GIB, from_store=("points", "images")).advice == "", "their encoders are not on the card"


def test_a_preset_for_a_room():
    assert [fitting_preset(gib * GIB) for gib in (1, 7, 10, 15, 23, 75)] == ["", "8gb", "12gb", "16gb", "24gb", "80gb"]


def test_the_guides_advice_does_not_fit_and_why_and_what_does():
    room = int(HEADROOM * 16 * GIB)
    found = advice(resolve(preset="16gb", environ={}).settings, room)
    assert found.theirs.total > 6 * room
    assert found.ours.total > 2 * room
    first, second, third = found.why(room)
    assert "Weights alone are 15.3 GiB" in first
    assert "logits of the whole vocabulary" in second
    assert "No batch size" in third
    values = {key: value for change in found.way.changes for key, value in change.set.items()}
    assert values["model.quantization"] == "nf4"
    assert found.way.fits
    after = changed(found.settings, values | {"train.packing": True})
    assert after.train.max_seq_length == 16_384
    assert max(predict(after, stage).total for stage in (1, 2, 3)) <= room
    assert advice(resolve(preset="16gb", environ={}).settings, 200 * GIB).why(200 * GIB) == []


def test_a_whole_plan():
    settings = resolve(preset="16gb", environ={}).settings
    works = {stage: Workload(stage, 6400, 100, 500.0, 80.0, 2000, 300_000.0, 32_000.0, 20.0, 10.0) for stage in (1, 2, 3)}
    plan = make(settings, (1, 2, 3), card(16), works)
    told = plan.as_dict(settings)
    assert json.loads(json.dumps(told)) == told
    assert plan.fits is True
    assert plan.worst.stage == 3
    assert told["time"]["low"] < told["time"]["likely"] < told["time"]["high"]
    assert told["energy_kwh"]["low"] < told["energy_kwh"]["high"]
    for stage in plan.stages:
        assert stage.standing < stage.smallest < stage.peak
    assert all(a.peak <= b.peak for a, b in pairwise(plan.stages))
    busy = make(settings, (3,), card(16, free=6), works)
    assert busy.fits is False
    assert busy.way.changes
    assert make(settings, (3,), None, works).fits is None


def test_a_model_that_nobody_knows():
    plan = make(big(model={"llm": "nobody/nothing"}), (1,), card(16))
    assert plan.fits is None
    assert "nobody/nothing" in plan.unknown
    assert plan.as_dict(big())["stages"] == []
