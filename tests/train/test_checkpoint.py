"""Saves that cannot be written or read leave what was there, and say so."""

from __future__ import annotations

import pytest

from cadmllm.errors import CadmllmError
from cadmllm.models.stages import is_complete
from cadmllm.train import loop
from cadmllm.train.checkpoint import load_save, newest_save, step_saves


def test_only_the_newest_saves_are_kept(settings, parts, console) -> None:
    s = settings(train={"save_steps": 1, "save_total_limit": 3, "max_steps": 5})
    loop.train(s, [1], parts, console)
    assert [save.name for save in step_saves(s.run.dir / "stage1_text_model")] == ["step_000003", "step_000004", "step_000005"]


def test_a_judge_that_fails_costs_no_step(settings, parts, console) -> None:
    s = settings()

    def judge(model, stage):
        raise RuntimeError("no kernel")

    with pytest.raises(RuntimeError, match="no kernel"):
        loop.train(s, [1], parts, console, validator=judge)
    folder = s.run.dir / "stage1_text_model"
    assert not is_complete(folder)
    result = loop.train(s, [1], parts, console, resume=True, validator=lambda model, stage: {"all": 1.0})
    assert result.stages[0].finished
    assert step_saves(folder)[-1].name == "step_000006"  # made by the run that failed, so not this one's to remove


def test_leftovers_of_a_crash_are_swept_and_never_taken_for_a_save(settings, parts, console) -> None:
    s = settings(train={"save_steps": 3})
    loop.train(s, [1], parts, console)
    folder = s.run.dir / "stage1_text_model"
    (folder / "manifest.json").unlink()
    torn = folder / "steps" / ".step_000005"
    torn.mkdir()
    (torn / "model.safetensors").write_bytes(b"half")
    save = newest_save(folder, console)
    assert save is not None
    assert save.place["step"] == 6
    assert loop.train(s, [1], parts, console, resume=True).stages[0].finished
    assert not torn.exists()


def test_when_no_save_is_whole_nothing_starts_over_unasked(settings, parts, console) -> None:
    s = settings(train={"save_steps": 3})
    loop.train(s, [1], parts, console)
    folder = s.run.dir / "stage1_text_model"
    (folder / "manifest.json").unlink()
    for save in step_saves(folder):
        (save / "training" / "state.json").write_text("{}")
    with pytest.raises(CadmllmError, match="none of the saves") as caught:
        loop.train(s, [1], parts, console, resume=True)
    assert caught.value.code == "E604"


def test_a_step_save_starts_another_stage(settings, parts, console, tmp_path) -> None:
    s = settings(train={"save_steps": 3})
    loop.train(s, [1], parts, console)
    save = step_saves(s.run.dir / "stage1_text_model")[0]
    other = settings(run={"dir": tmp_path / "other", "init_from": save}, train={"max_steps": 1})
    assert loop.train(other, [2], parts, console).stages[0].finished
    finished = s.run.dir / "stage1_text_model"
    with pytest.raises(CadmllmError, match="no training state") as caught:
        load_save(finished)
    assert caught.value.code == "E503"
