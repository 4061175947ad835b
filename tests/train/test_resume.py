"""A stage goes on where its newest whole save left it, without looking at what came before, to the same weights."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
from types import SimpleNamespace

import pytest
from reaper import Death, Reaper
from saved import names

from cadmllm.corpus.layout import DataSet
from cadmllm.errors import CadmllmError
from cadmllm.models.stages import MANIFEST, is_complete, sha256, verify
from cadmllm.train import disk, keeper, loop
from cadmllm.train.checkpoint import load_save, newest_save, step_saves
from cadmllm.train.metrics import read_metrics


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


def test_resuming_reads_nothing_of_what_came_before(settings, parts, console, monkeypatch) -> None:
    s = settings(train={"save_steps": 1, "save_total_limit": 9})
    read: list[str] = []
    real = DataSet.program

    def program(self: DataSet, id_: str):
        read.append(id_)
        return real(self, id_)

    monkeypatch.setattr(DataSet, "program", program)
    loop.train(s, [1], parts, console)
    every = list(read)
    folder = s.run.dir / "stage1_text_model"
    samples = [record["samples"] for record in read_metrics(s.run.dir / "metrics.jsonl")]
    assert len(samples) == 6
    assert len(every) >= sum(samples)
    for cut in (5, 2):
        (folder / MANIFEST).unlink()
        for path in step_saves(folder):
            if path.name > f"step_{cut:06d}":
                shutil.rmtree(path)
        read.clear()
        loop.train(s, [1], parts, console, resume=True)
        held_out = len(every) - sum(samples)
        assert read[: len(read) - held_out] == every[sum(samples[:cut]) : sum(samples)], "the samples of the steps that are left"


@pytest.mark.parametrize("which", [pytest.param(range(1, 60), marks=pytest.mark.long), (4, 14, 19, 24)])
def test_death_at_a_stages_end_is_resumed_to_the_same_weights(settings, parts, console, tmp_path, which) -> None:
    s = settings(train={"max_steps": 3})
    loop.train(s, [1], parts, console)
    folder = s.run.dir / "stage1_text_model"
    weights = sha256(folder / "model.safetensors")
    shutil.rmtree(folder)

    def judge(model, stage):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):  # everything is trained and saved, and the stage is not finished
        loop.train(s, [1], parts, console, validator=judge)
    prepared = shutil.copytree(s.run.dir, tmp_path / "prepared")
    finished = 0
    for at in which:
        shutil.rmtree(s.run.dir)
        shutil.copytree(prepared, s.run.dir)
        real = keeper.finish_stage

        def dying(*arguments, at=at, real=real):
            with pytest.MonkeyPatch.context() as patch:
                Reaper(patch, at)
                real(*arguments)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(keeper, "finish_stage", dying)
            with contextlib.suppress(Death):
                loop.train(s, [1], parts, console, resume=True)
        finished += is_complete(folder)
        assert newest_save(folder, console) is not None
        assert loop.train(s, [1], parts, console, resume=True).stages[0].finished
        verify(folder)
        assert sha256(folder / "model.safetensors") == weights, f"death {at}"
        if finished > 1:
            break
    else:
        assert finished <= 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_waits_for_room_can_be_stopped_and_resumed(settings, parts, console, monkeypatch, tmp_path, number) -> None:
    straight = settings(run={"dir": tmp_path / "straight"}, train={"save_steps": 2})
    loop.train(straight, [1], parts, console)
    s = settings(train={"save_steps": 2})
    steps = s.run.dir / "stage1_text_model" / "steps"
    naps: list[float] = []

    def nap(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 5:
            os.kill(os.getpid(), number)

    with monkeypatch.context() as patch:
        full = SimpleNamespace(free=0)
        real = shutil.disk_usage
        patch.setattr(disk.shutil, "disk_usage", lambda path: full if (steps / "step_000002").exists() else real(path))
        patch.setattr(disk, "time", SimpleNamespace(monotonic=time.monotonic, sleep=nap))
        result = loop.train(s, [1], parts, console)
    assert result.exit_code == {signal.SIGTERM: 75, signal.SIGINT: 130}[number]
    assert len(naps) == 5
    said = console.err.getvalue()
    assert "Training waits" in said
    assert "E607" in said
    assert names(s.run.dir / "stage1_text_model") == ["step_000002"]
    assert loop.train(s, [1], parts, console, resume=True).stages[0].finished
    assert "resumed after step 2" in console.err.getvalue()
    losses = [[r["loss"] for r in read_metrics(run / "metrics.jsonl")] for run in (straight.run.dir, s.run.dir)]
    assert losses[0] == losses[1]
    assert len({sha256(run / "stage1_text_model" / "model.safetensors") for run in (straight.run.dir, s.run.dir)}) == 1
