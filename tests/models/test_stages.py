"""The manifest tells a whole checkpoint from a torn one."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from cadmllm.errors import CadmllmError
from cadmllm.models import stages
from cadmllm.models.stages import MANIFEST, is_complete, newest_complete_stage, stage_folder, verify, write_manifest


def _checkpoint(folder: Path) -> Path:
    (folder / "tokenizer").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "tokenizer" / "tokenizer.json").write_text("{}")
    (folder / "steps" / "step_000001").mkdir(parents=True)
    (folder / "steps" / "step_000001" / "x").write_text("not part of it")
    write_manifest(folder)
    return folder


def test_a_manifest_lists_the_files_but_not_the_step_saves(tmp_path: Path) -> None:
    folder = _checkpoint(tmp_path / "stage")
    files = json.loads((folder / MANIFEST).read_text())["files"]
    assert sorted(files) == ["model.safetensors", "tokenizer/tokenizer.json"]
    assert is_complete(folder)
    verify(folder)


@pytest.mark.parametrize(
    ("damage", "complete", "said"),
    [
        (lambda f: (f / "model.safetensors").unlink(), False, "is missing"),
        (lambda f: (f / "model.safetensors").write_bytes(b"weigh"), False, "5 bytes"),
        (lambda f: (f / "model.safetensors").write_bytes(b"WEIGHTS"), True, "SHA-256"),
        (lambda f: (f / MANIFEST).unlink(), False, "never finished"),
        (lambda f: (f / MANIFEST).write_text('{"files": {"model'), False, "unreadable"),
        (lambda f: (f / MANIFEST).write_text('{"files": []}'), False, "unreadable"),
        (lambda f: (f / MANIFEST).write_text('{"files": {"../x": {"bytes": 1, "sha256": ""}}}'), False, "outside"),
    ],
)
def test_damage_is_found_and_named(tmp_path: Path, damage, complete: bool, said: str) -> None:
    folder = _checkpoint(tmp_path / "stage")
    damage(folder)
    assert is_complete(folder) is complete
    with pytest.raises(CadmllmError, match=said) as caught:
        verify(folder)
    assert caught.value.code == "E503"


def test_the_newest_complete_stage_is_the_last_of_the_curriculum(tmp_path: Path) -> None:
    assert newest_complete_stage(tmp_path) is None
    for stage in (1, 2, 3):
        _checkpoint(stage_folder(tmp_path, stage))
    assert newest_complete_stage(tmp_path) == stage_folder(tmp_path, 3)
    (stage_folder(tmp_path, 3) / MANIFEST).unlink()
    assert newest_complete_stage(tmp_path) == stage_folder(tmp_path, 2)


def test_a_file_that_cannot_be_read_is_damage(tmp_path: Path, monkeypatch) -> None:
    folder = _checkpoint(tmp_path / "stage")

    def broken(path: Path) -> str:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(stages, "sha256", broken)
    with pytest.raises(CadmllmError, match=r"model.safetensors cannot be read \(Input/output error\)") as caught:
        verify(folder)
    assert caught.value.code == "E503"


def test_a_drive_that_cannot_sync_folders_is_written_all_the_same(tmp_path: Path, monkeypatch) -> None:
    number = errno.EINVAL

    def fsync(handle: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{handle}"):
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fsync)
    verify(_checkpoint(tmp_path / "stage"))
    number = errno.EIO
    with pytest.raises(OSError, match="Input/output error"):
        _checkpoint(tmp_path / "other")
