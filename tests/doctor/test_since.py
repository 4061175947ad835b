"""What has changed since the last run that went well."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
from scene import Scene, build

from cadmllm.doctor import since
from cadmllm.doctor.cards import Card, Cards
from cadmllm.doctor.check import Level
from cadmllm.doctor.since import check_since, facts_of
from cadmllm.train import fingerprint


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    found = build(tmp_path, monkeypatch)
    (found.folder / "cache").mkdir()
    return found


def test_the_first_run_has_nothing_to_compare_with(scene):
    outcome = check_since(scene.situation())
    assert outcome.level is Level.OK
    assert outcome.summary.startswith("no run of this model has gone well here so far")


def test_nothing_changed(scene):
    where = scene.situation()
    fingerprint.keep(where.needed, facts_of(where), [2])
    outcome = check_since(scene.situation())
    assert outcome.summary.startswith("nothing changed since the good run of 20")
    assert outcome.summary.endswith(" (stage 2)")
    assert outcome.details == ()


def test_changes_are_named_and_all_stand_in_the_details(scene):
    where = scene.situation()
    facts = facts_of(where)
    facts["versions"]["torch"] = "2.1.0"
    fingerprint.keep(where.needed, facts, [1])
    for path in sorted((scene.set / "json" / "0000").iterdir())[-2:]:
        path.unlink()
    scene.values |= {"lora.r": 2, "lora.alpha": 3, "train.clip": 0.5, "train.seed": 1}
    outcome = check_since(scene.situation())
    assert outcome.level is Level.OK
    assert outcome.findings == ()
    assert outcome.details[0].startswith("torch 2.1.0 -> ")
    assert outcome.details[1].startswith("data: 2 ids fewer, 2 programs fewer")
    assert outcome.details[-1].startswith("train.seed ")
    assert f", {outcome.details[1]}" in outcome.summary
    assert f" and {len(outcome.details) - since.TOLD} more since the good run of " in outcome.summary


def test_another_folder_is_compared_with_the_users_last_good_run(scene):
    where = scene.situation()
    fingerprint.keep(where.needed, facts_of(where), [1, 2, 3])
    scene.values["run.dir"] = str(scene.folder / "another")
    outcome = check_since(scene.situation())
    assert outcome.summary.startswith("nothing changed since your last good run, in another folder, of ")
    scene.values["model.llm"] = "Qwen/Qwen3-8B"  # everything would have changed
    assert check_since(scene.situation()).summary.startswith("no run of this model has gone well here so far")


def test_a_data_set_that_cannot_be_opened_is_left_out(scene):
    where = scene.situation()
    fingerprint.keep(where.needed, facts_of(where), [1])
    scene.values["data.root"] = str(scene.folder / "set" / "json" / "set")
    outcome = check_since(scene.situation())
    assert not any(change.startswith("data:") for change in outcome.details)


def test_the_card_is_told_as_training_tells_it(scene, monkeypatch):
    card = Card(0, "NVIDIA GeForce RTX 5070 Ti", "GPU-1", 16 * 2**30, 15 * 2**30, (12, 0))
    cards = Cards((card,), "580.2", (13, 0))
    monkeypatch.setattr(since, "cards_of", lambda where: cards)
    monkeypatch.setattr(since, "card_of", lambda where: card)
    where = scene.situation()
    told = {"type": "cuda", "name": card.name, "compute_capability": "12.0", "memory_gib": 15.92, "driver": "570.1"}
    before = fingerprint.of(where.needed, where.dataset, card=told)
    assert before["card"] == {"name": card.name, "driver": "570.1", "compute_capability": "12.0"}
    fingerprint.keep(where.needed, before, [1])
    assert check_since(where).details == ("driver 570.1 -> 580.2",)
    facts = copy.deepcopy(before)
    facts["card"] = {}
    fingerprint.keep(where.needed, facts, [1])
    assert check_since(where).summary.startswith(f"GPU none -> {card.name}, driver none -> 580.2")


def test_a_broken_file_counts_as_none(scene):
    scene.run.mkdir()
    (scene.run / fingerprint.NAME).write_text("{")
    assert check_since(scene.situation()).summary.startswith("no run of this model has gone well here so far")
