"""A full disk pauses a run: what is needed is said, and the save is written once there is room."""

from __future__ import annotations

import errno
import os
import subprocess
import threading
import time
from collections.abc import Callable, Generator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors import SafetensorError
from saved import names, snapshot

from cadmllm.errors import CadmllmError
from cadmllm.models.stages import STEPS, verify
from cadmllm.train import checkpoint, disk
from cadmllm.train.checkpoint import finish_stage, newest_save, save_step
from cadmllm.train.disk import LEAST, MARGIN, POLL, REMIND, RETRY, Writing

GIB = 1 << 30


class World:
    """A disk and a clock: `free(now)` bytes are free at second `now`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, free: Callable[[float], int]) -> None:
        self.now, self.looks = 0.0, 0
        self.free = free
        monkeypatch.setattr(disk, "time", SimpleNamespace(monotonic=lambda: self.now, sleep=self._sleep))
        monkeypatch.setattr(disk.shutil, "disk_usage", self._usage)

    def _sleep(self, seconds: float) -> None:
        self.now += seconds

    def _usage(self, folder: Path) -> SimpleNamespace:
        self.looks += 1
        return SimpleNamespace(free=self.free(self.now))


def writing(target: Path, console, needed: int = GIB, stopped: Callable[[], bool] = lambda: False) -> Writing:
    return Writing("the save after step 7", target, needed, lambda: None, lambda: False, console, stopped)


def test_room_is_waited_for_and_the_save_is_written(tmp_path: Path, console, monkeypatch) -> None:
    world = World(monkeypatch, lambda now: 2 * GIB if now >= 1500 else GIB // 2)
    written = []
    writing(tmp_path / "not" / "yet", console).run(lambda: written.append(world.now))
    assert len(written) == 1
    assert 1500 <= written[0] <= 1500 + 2 * POLL
    assert world.looks <= 1500 / POLL + 10, "the disk is looked at every few seconds, not more often"
    said = console.err.getvalue()
    assert said.count("the disk is full: the save after step 7 needs 1.1 GiB and 512 MiB are free") == 1 + 1500 // REMIND
    assert "(for 10 minutes)" in said
    assert said.splitlines()[-1].startswith("there is room again")


def test_what_is_needed_has_a_margin(tmp_path: Path, console, monkeypatch) -> None:
    enough = int(GIB * MARGIN) + LEAST
    for free, waits in ((enough, False), (enough - 1, True)):
        world = World(monkeypatch, lambda now, free=free: free if now < 60 else enough)
        writing(tmp_path, console).run(lambda: None)
        assert (world.now > 0) is waits


def test_a_stopped_run_does_not_wait(tmp_path: Path, console, monkeypatch) -> None:
    world = World(monkeypatch, lambda now: 0)
    with pytest.raises(CadmllmError, match="asked to stop") as caught:
        writing(tmp_path, console, stopped=lambda: world.now >= 3).run(lambda: pytest.fail("there is no room"))
    assert caught.value.code == "E607"
    assert "--resume" in caught.value.remedy
    assert world.now < 3 + POLL, "it is heard at once, not at the next look at the disk"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("rust", [False, True])
def test_a_disk_that_fills_up_in_the_middle_is_waited_for(tmp_path: Path, console, monkeypatch, number: int, rust: bool) -> None:
    world = World(monkeypatch, lambda now: 2 * GIB)  # what others write meanwhile, and quotas, do not show
    undone, tries = [], []

    def action() -> None:
        tries.append(world.now)
        if len(tries) < 3:
            if rust:
                raise SafetensorError(f"Error while serializing: I/O error: {os.strerror(number)} (os error {number})")
            raise OSError(number, os.strerror(number))

    Writing("it", tmp_path, GIB, lambda: undone.append(1), lambda: False, console, lambda: False).run(action)
    assert len(undone) == 2
    assert [round(b - a) for a, b in zip(tries, tries[1:], strict=False)] == [RETRY, RETRY]
    assert "a quota, or another process" in console.err.getvalue()


def test_other_trouble_is_not_waited_for(tmp_path: Path, console, monkeypatch) -> None:
    World(monkeypatch, lambda now: 2 * GIB)
    for error in (OSError(errno.EIO, "Input/output error"), SafetensorError("Error: shared tensors")):

        def action(error: Exception = error) -> None:
            raise error

        with pytest.raises(CadmllmError) as caught:
            writing(tmp_path, console).run(action)
        assert caught.value.code == "E607"


def test_the_save_that_would_go_next_makes_room(tmp_path: Path, console, monkeypatch) -> None:
    stage = tmp_path / "stage"
    for step in (1, 2):
        save_step(stage, snapshot(step), 2, console)
    World(monkeypatch, lambda now: 0 if (stage / STEPS / "step_000001").exists() else GIB)
    save_step(stage, snapshot(3), 2, console)
    assert names(stage) == ["step_000002", "step_000003"]
    assert "step_000001 went before its time (" in console.err.getvalue()
    assert "Training waits" not in console.err.getvalue()


def test_the_newest_whole_save_never_makes_room(tmp_path: Path, console, monkeypatch) -> None:
    stage = tmp_path / "stage"
    for step in (1, 2):
        save_step(stage, snapshot(step), 2, console)
    torn = stage / STEPS / "step_000002" / "model.safetensors"
    torn.write_bytes(torn.read_bytes()[:-1])
    world = World(monkeypatch, lambda now: 0)
    with pytest.raises(CadmllmError) as caught:
        save_step(stage, snapshot(3), 1, console, lambda: world.now > 60)
    assert caught.value.code == "E607"
    save = newest_save(stage, console)
    assert save is not None
    assert save.place["step"] == 1
    assert names(stage) == ["step_000001"], "the torn one went, the whole one stayed"


def test_what_can_be_deleted_is_named(tmp_path: Path, console, monkeypatch) -> None:
    first, second = tmp_path / "stage1_text_model", tmp_path / "stage2_text_pc_model"
    save_step(first, snapshot(1), 1, console)
    finish_stage(first, snapshot(1), console)
    (tmp_path / "wandb").mkdir()
    (tmp_path / "wandb" / "log").write_bytes(bytes(100))
    save_step(second, snapshot(1), 1, console)
    world = World(monkeypatch, lambda now: 0)
    with pytest.raises(CadmllmError):
        save_step(second, snapshot(2), 1, console, lambda: world.now > 1)
    said = console.err.getvalue()
    assert f"can be deleted: {first / STEPS}" in said
    assert f"can be deleted: {tmp_path / 'wandb'}" in said
    assert f"can be deleted: {second}" not in said, "the run's own saves are not offered"


@pytest.fixture
def small_disk(tmp_path: Path) -> Generator[Path, None, None]:
    """A disk of 32 MiB, if this user may mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m", "none", str(place)], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("mounting a small disk needs root")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_disk_that_is_really_full(small_disk: Path, console, monkeypatch) -> None:
    monkeypatch.setattr(disk, "POLL", 0.05)
    monkeypatch.setattr(disk, "NAP", 0.02)
    monkeypatch.setattr(disk, "RETRY", 0.1)
    monkeypatch.setattr(checkpoint, "TOKENIZER_BYTES", 0)
    stage, ballast = small_disk / "stage", small_disk / "ballast"
    save_step(stage, snapshot(1), 1, console)
    ballast.write_bytes(bytes(24 << 20))
    large = snapshot(2, large=torch.ones(3 << 20))  # 12 MiB where 8 are left

    def make_room() -> None:
        deadline = time.monotonic() + 30
        while "Training waits" not in console.err.getvalue() and time.monotonic() < deadline:
            time.sleep(0.02)
        ballast.unlink()

    helper = threading.Thread(target=make_room)
    helper.start()
    save_step(stage, large, 1, console)
    helper.join()
    assert "there is room again" in console.err.getvalue()
    save = newest_save(stage, console)
    assert save is not None
    assert save.place["step"] == 2

    monkeypatch.setattr(disk, "free_bytes", lambda folder: GIB)  # it cannot be foreseen: the write itself fails
    ballast.write_bytes(bytes(10 << 20))
    console.err.seek(0)
    console.err.truncate()
    helper = threading.Thread(target=make_room)
    helper.start()
    save_step(stage, large, 1, console)
    helper.join()
    assert "a quota, or another process" in console.err.getvalue()
    verify(stage / STEPS / "step_000002.2", exact=True)
    assert names(stage) == ["step_000002.2"]
