"""Whatever happens to a save, at whatever moment, a whole one is found, and it is said which and why."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reaper import Death, Reaper
from saved import names, snapshot

from cadmllm.errors import CadmllmError
from cadmllm.models import stages, weights
from cadmllm.models.stages import MANIFEST, STEPS, is_complete, verify, write_manifest
from cadmllm.train import checkpoint, pointer
from cadmllm.train.checkpoint import finish_stage, load_save, newest_save, retire, save_step, step_saves, sweep


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests cut no power: that names and bytes are synced is counted, not waited for."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture
def stage_dir(tmp_path: Path, console) -> Path:
    """A stage with saves after steps 1, 2 and 3."""
    for step in (1, 2, 3):
        save_step(tmp_path / "stage", snapshot(step), 3, console)
    return tmp_path / "stage"


def test_a_save_comes_back_to_the_bit(stage_dir: Path, console) -> None:
    save = newest_save(stage_dir, console)
    assert save is not None
    wanted = snapshot(3)
    assert save.place == wanted.place
    assert torch.equal(save.optimizer["rows.input/exp_avg"], wanted.optimizer["rows.input/exp_avg"])
    held = weights.load_file(save.folder / "model.safetensors")
    assert all(torch.equal(held[name], value) for name, value in wanted.weights.items())
    assert {"tokenizer.json", "settings.json", "README.md", "model.json", MANIFEST} <= {p.name for p in save.folder.iterdir()}
    assert console.err.getvalue() == ""


def test_only_the_newest_saves_are_kept(stage_dir: Path, console) -> None:
    save_step(stage_dir, snapshot(4), 2, console)
    assert names(stage_dir) == ["step_000003", "step_000004"]
    save_step(stage_dir, snapshot(5), 1, console)
    assert names(stage_dir) == ["step_000005"]
    assert [entry.name for entry in pointer.read(stage_dir / STEPS) or []] == ["step_000005"]


def test_a_torn_save_does_not_count_as_one_of_those_kept(stage_dir: Path, console) -> None:
    damage(stage_dir / STEPS / "step_000003" / "training" / "optimizer.safetensors")
    save_step(stage_dir, snapshot(4), 2, console)
    assert names(stage_dir) == ["step_000002", "step_000004"]
    assert "E503" in console.err.getvalue()
    assert "step_000003/training/optimizer.safetensors" in console.err.getvalue()


def test_folders_of_other_names_are_left_alone(stage_dir: Path, console) -> None:
    for name in ("step_best", "step_000002-copy", ".step_notes", "notes"):
        (stage_dir / STEPS / name).mkdir()
    (stage_dir / STEPS / ".step_000007").mkdir()
    (stage_dir / STEPS / ".newest.json").write_text("half")
    sweep(stage_dir)
    save_step(stage_dir, snapshot(4), 1, console)
    kept = {path.name for path in (stage_dir / STEPS).iterdir()}
    assert kept == {"step_best", "step_000002-copy", ".step_notes", "notes", "step_000004", "newest.json"}


@pytest.mark.parametrize("what", ["flip", "truncate", "remove", "empty"])
def test_any_damaged_file_is_named_and_the_save_before_is_used(stage_dir: Path, console, what: str) -> None:
    newest = stage_dir / STEPS / "step_000003"
    spare = shutil.copytree(newest, stage_dir.parent / "spare")
    files = [path for path in sorted(newest.rglob("*")) if path.is_file()]
    assert len(files) == 8
    for path in files:
        content = path.read_bytes()
        if what == "flip":
            damage(path)
        elif what == "truncate":
            path.write_bytes(content[: len(content) // 2])
        elif what == "empty":
            path.write_bytes(b"")
        else:
            path.unlink()
        save = newest_save(stage_dir, console)
        assert save is not None
        assert save.place["step"] == 2, path
        said = console.err.getvalue().splitlines()[-1]
        assert "E503" in said
        assert str(path) in said
        shutil.rmtree(newest)
        shutil.copytree(spare, newest)
    save = newest_save(stage_dir, console)
    assert save is not None
    assert save.place["step"] == 3


def test_a_surplus_file_is_damage_too(stage_dir: Path, console) -> None:
    (stage_dir / STEPS / "step_000003" / "training" / "extra.bin").write_bytes(b"x")
    save = newest_save(stage_dir, console)
    assert save is not None
    assert save.place["step"] == 2
    assert "extra.bin does not belong to it" in console.err.getvalue()


def test_a_save_with_a_manifest_of_its_own_is_not_the_one_pointed_to(stage_dir: Path, console) -> None:
    newest = stage_dir / STEPS / "step_000003"
    damage(newest / "model.safetensors")
    write_manifest(newest)  # consistent in itself
    verify(newest)
    save = newest_save(stage_dir, console)
    assert save is not None
    assert save.place["step"] == 2
    assert "manifest.json is not the one that was written" in console.err.getvalue()


def test_a_lost_or_broken_pointer_costs_nothing(stage_dir: Path, console) -> None:
    path = stage_dir / STEPS / pointer.POINTER
    content = path.read_bytes()
    for at in range(len(content)):
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        save = newest_save(stage_dir, console)
        assert save is not None
        assert save.place["step"] == 3
    assert "newest.json is unreadable or was changed" in console.err.getvalue()
    for text in ("", "[]", "{}", "null", '{"saves": [{"name": 3}]}', "\0"):
        path.write_text(text)
        save = newest_save(stage_dir, console)
        assert save is not None
        assert save.place["step"] == 3
    path.unlink()
    save = newest_save(stage_dir, console)
    assert save is not None
    assert save.place["step"] == 3
    assert "does not name step_000003" in console.err.getvalue()
    save_step(stage_dir, snapshot(4), 2, console)
    assert names(stage_dir) == ["step_000003", "step_000004"]


def test_a_pointer_cannot_lead_out_of_the_folder(stage_dir: Path, console) -> None:
    outside = shutil.copytree(stage_dir / STEPS / "step_000001", stage_dir / "step_000009")
    saves = [{"name": "../step_000009", "manifest_sha256": stages.sha256(outside / MANIFEST)}]
    content = {"format": 1, "saves": saves, "sha256": pointer._checksum(saves)}
    (stage_dir / STEPS / pointer.POINTER).write_text(json.dumps(content))
    save = newest_save(stage_dir, console)
    assert save is not None
    assert save.place["step"] == 3


def test_when_no_save_is_whole_there_is_none(stage_dir: Path, console) -> None:
    for folder in step_saves(stage_dir):
        (folder / "training" / "state.json").write_text("{}")
    assert newest_save(stage_dir, console) is None
    assert console.err.getvalue().count("E503") == 3
    assert newest_save(stage_dir.parent / "nowhere", console) is None


def test_the_same_step_again_never_writes_over_what_is_there(stage_dir: Path, console) -> None:
    damage(stage_dir / STEPS / "step_000003" / "model.json")
    assert save_step(stage_dir, snapshot(3), 2, console).name == "step_000003.2"
    save = newest_save(stage_dir, console)
    assert save is not None
    assert save.folder.name == "step_000003.2"
    assert names(stage_dir) == ["step_000002", "step_000003.2"]


def test_saves_are_in_the_order_of_their_steps(tmp_path: Path) -> None:
    for name in ("step_1000000", "step_000009.10", "step_000009.2", "step_000009", "step_999999"):
        (tmp_path / name).mkdir()
    wanted = ["step_000009", "step_000009.2", "step_000009.10", "step_999999", "step_1000000"]
    assert [path.name for path in pointer.step_folders(tmp_path)] == wanted


def test_a_finished_stage_gives_its_last_save_back(stage_dir: Path, console) -> None:
    finish_stage(stage_dir, snapshot(3), console)
    verify(stage_dir)
    retire(stage_dir, stage_dir / STEPS / "step_000003", console)
    save = newest_save(stage_dir, console)
    assert save is not None
    assert save.place["step"] == 2
    for step in (2, 1):
        retire(stage_dir, stage_dir / STEPS / f"step_{step:06d}", console)
    assert not (stage_dir / STEPS / pointer.POINTER).exists()
    with pytest.raises(CadmllmError, match="no training state") as caught:
        load_save(stage_dir)
    assert caught.value.code == "E503"


def test_a_finished_stage_may_hold_pictures_and_notes(stage_dir: Path, console) -> None:
    (stage_dir / "notes.txt").write_text("mine")
    (stage_dir / "tokenizer.json").mkdir()  # in the way
    finish_stage(stage_dir, snapshot(3), console)
    assert is_complete(stage_dir)
    verify(stage_dir)
    assert sorted(json.loads((stage_dir / MANIFEST).read_text())["files"]) == [
        "README.md",
        "model.json",
        "model.safetensors",
        "settings.json",
        "tokenizer.json",
    ]


# -- death at any moment -----------------------------------------------------------------------------------------------------


def deaths(action: Callable[[Path], object], prepared: Path, place: Path) -> Iterator[tuple[int, Path]]:
    """A copy of `prepared` for each moment at which `action` can die, as the death left it; the last one is alive."""
    at = 1
    while True:
        folder = shutil.copytree(prepared, place / f"{at:03d}") if prepared.exists() else place / f"{at:03d}"
        with pytest.MonkeyPatch.context() as patch:
            reaper = Reaper(patch, at)
            with contextlib.suppress(Death):
                action(folder)
        yield at, folder
        if not reaper.dead:
            assert at > 30, "the moments of death were not found"
            return
        shutil.rmtree(folder, ignore_errors=True)
        at += 1


@pytest.mark.parametrize(("before", "keep"), [(0, 1), (1, 1), (2, 2), (3, 2)])
def test_death_inside_a_save_leaves_a_whole_save(tmp_path: Path, console, before: int, keep: int) -> None:
    prepared = tmp_path / "prepared"
    for step in range(1, before + 1):
        save_step(prepared, snapshot(step), keep, console)
    seen: list[int | None] = []
    for at, folder in deaths(lambda folder: save_step(folder, snapshot(before + 1), keep, console), prepared, tmp_path / "dead"):
        console.err.seek(0)
        console.err.truncate()
        save = newest_save(folder, console)
        assert "E503" not in console.err.getvalue(), f"death {at}: what is pointed to is whole"
        assert save is not None or before == 0, f"death {at}: nothing is left"
        seen.append(save.place["step"] if save else None)
        sweep(folder)
        save_step(folder, snapshot(before + 2), keep, console)  # life goes on
        save = newest_save(folder, console)
        assert save is not None
        assert save.place["step"] == before + 2, f"death {at}"
        assert len(step_saves(folder)) <= keep, f"death {at}"
        assert not [path.name for path in (folder / STEPS).iterdir() if path.name.startswith(".")], f"death {at}"
    assert seen == sorted(seen, key=lambda step: step or 0), "once it counts, it counts"
    assert seen[0] == (before or None)
    assert seen[-1] == before + 1


@pytest.mark.parametrize("again", [False, True])
def test_death_at_a_stages_end_leaves_the_saves_or_the_stage(tmp_path: Path, console, again: bool) -> None:
    prepared = tmp_path / "prepared"
    save_step(prepared, snapshot(9), 2, console)
    if again:  # a finished stage that lost a file is finished again
        finish_stage(prepared, snapshot(8), console)
        (prepared / "README.md").unlink()
    states = []
    for at, folder in deaths(lambda folder: finish_stage(folder, snapshot(9), console), prepared, tmp_path / "dead"):
        whole = is_complete(folder)
        states.append(whole)
        save = newest_save(folder, console)
        assert save is not None, f"death {at}"
        assert save.place["step"] == 9, f"death {at}"
        if not whole:
            sweep(folder)
            finish_stage(folder, snapshot(9), console)
        verify(folder)
        held = weights.load_file(folder / "model.safetensors")
        assert torch.equal(held["rows.input"], snapshot(9).weights["rows.input"]), f"death {at}"
        assert "step 9" in (folder / "README.md").read_text(), f"death {at}"
    assert states == sorted(states), "finished once, finished for good"
    assert not states[0]
    assert states[-1]


@given(damages=st.lists(st.tuples(st.integers(1, 3), st.integers(0, 7), st.integers(0, 10**6)), max_size=4))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_newest_save_without_damage_is_found(stage_dir: Path, tmp_path_factory, damages) -> None:
    from cadmllm.console import Console

    folder = shutil.copytree(stage_dir, tmp_path_factory.mktemp("copy") / "stage")
    for step, which, at in damages:
        save = folder / STEPS / f"step_{step:06d}"
        path = [path for path in sorted(save.rglob("*")) if path.is_file()][which]
        content = bytearray(path.read_bytes())
        content[at % len(content)] ^= 0x80
        path.write_bytes(content)
    hurt = {
        step
        for step in (1, 2, 3)
        for path in (stage_dir / STEPS / f"step_{step:06d}").rglob("*")
        if path.is_file() and path.read_bytes() != (folder / path.relative_to(stage_dir)).read_bytes()
    }
    found = newest_save(folder, Console(quiet=True))
    assert (found.place["step"] if found else 0) == max({1, 2, 3} - hurt, default=0)
    shutil.rmtree(folder)


# -- what cannot be written --------------------------------------------------------------------------------------------------


def test_a_disk_that_refuses_is_said_and_costs_no_save(stage_dir: Path, console, monkeypatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    before = {path: path.read_bytes() for path in stage_dir.rglob("*") if path.is_file()}
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_file", refuse)
        with pytest.raises(CadmllmError, match="Read-only") as caught:
            save_step(stage_dir, snapshot(4), 1, console)
    assert caught.value.code == "E607"
    assert {path: path.read_bytes() for path in stage_dir.rglob("*") if path.is_file()} == before


def test_a_second_ctrl_c_inside_a_save_leaves_no_half_of_it(stage_dir: Path, console, monkeypatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_file", interrupt)
        with pytest.raises(KeyboardInterrupt):
            save_step(stage_dir, snapshot(4), 1, console)
    assert sorted(path.name for path in (stage_dir / STEPS).iterdir()) == [
        "newest.json",
        "step_000001",
        "step_000002",
        "step_000003",
    ]


def test_old_saves_that_cannot_be_removed_are_said(stage_dir: Path, console, monkeypatch) -> None:
    real = shutil.rmtree

    def stubborn(path: Path, *arguments: object, **options: object) -> None:
        if "step_000001" in str(path):
            raise PermissionError(errno.EACCES, "Permission denied")
        real(path, *arguments, **options)

    monkeypatch.setattr(pointer.shutil, "rmtree", stubborn)
    save_step(stage_dir, snapshot(4), 1, console)
    assert names(stage_dir) == ["step_000001", "step_000004"]
    assert "could not be removed: Permission denied" in console.err.getvalue()
