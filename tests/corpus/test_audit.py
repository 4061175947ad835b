"""The audit as a value: what it leaves for others, what it reads, what it costs a second time."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from cadmllm.console import Console
from cadmllm.corpus import audit as room
from cadmllm.corpus.audit import Audit, audit, files_an_epoch, sample_files
from cadmllm.corpus.facts import Kind
from cadmllm.errors import CadmllmError
from cadmllm.settings import DataSettings, Settings


def audited(root: Path, stage: int = 1, **more) -> Audit:
    return audit(Settings(data=DataSettings(root=root, **more)), stage=stage, deep=False, workers=1, console=Console(quiet=True))


def test_the_json_form_is_plain_and_speaks_of_the_asked_stage(root):
    (root / "json" / "0000" / "c.json").write_text("{")
    found = audited(root)
    said = json.loads(json.dumps(found.as_dict(1)))
    assert said["ready"] is True
    assert found.as_dict(3)["ready"] is True
    assert set(said) == {"ready", "root", "counts", "folders", "stages", "findings"}
    assert set(said["findings"][0]) == {"code", "level", "count", "paths", "message", "remedy"}
    assert said["folders"]["points"] == [str(root / "pcd")]


def test_both_folder_names_of_points(root):
    (root / "pointcloud" / "0000").mkdir(parents=True)
    (root / "pcd" / "0000" / "b.npz").rename(root / "pointcloud" / "0000" / "b.npz")
    found = audited(root, 2)
    assert found.as_dict(2)["folders"]["points"] == [str(root / "pcd"), str(root / "pointcloud")]
    assert found.stages[2].ids == 2


def test_only_what_cannot_be_used_is_offered_for_quarantine(root):
    (root / "json" / "0000" / "c.json").write_text("[1, 2,, 3]")
    (root / "pcd" / "0000" / "notes.txt").write_text("mine")
    entries = json.loads((root / "txt" / "0000.json").read_text())
    entries[1]["text caption"] = " "
    (root / "txt" / "0000.json").write_text(json.dumps(entries))
    offered = [(kind, flaw.code, flaw.level) for kind, _, flaw in audited(root).unusable()]
    assert (Kind.PROGRAM, "E202", "fail") in offered
    assert (Kind.CAPTIONS, "E408", "warn") in offered
    assert not [code for _, code, _ in offered if code == "E415"]


def test_the_sample_of_a_drive_is_spread_and_inside(root, tmp_path):
    dataset = audited(root).dataset
    files = list(sample_files(dataset))
    assert {path.parent.parent.name for path in files} == {"json", "pcd", "img"}
    assert len(files) == 6  # three programs, two clouds, one view
    (root / "json" / "0000" / "a.json").unlink()
    (root / "json" / "0000" / "a.json").symlink_to(tmp_path / "secret")
    assert root / "json" / "0000" / "a.json" not in list(sample_files(dataset))
    assert len(list(sample_files(dataset, 1))) < 6


def test_files_of_an_epoch():
    settings = Settings()
    assert files_an_epoch(settings, 1, 1000) == 1000
    assert files_an_epoch(settings, 2, 1000) == 1700
    settings.model.image_views = 4
    assert files_an_epoch(settings, 3, 1000) == 1000 + 600 + 4 * 500


def test_nothing_is_read_twice(root, monkeypatch):
    for path in [*root.rglob("*"), root]:
        os.utime(path, (time.time() - 3600,) * 2)
    audited(root)
    monkeypatch.setattr("cadmllm.corpus.examining.look", lambda *arguments: pytest.fail("read again"))
    assert audited(root).stages[1].ids == 3


def test_a_root_that_is_not_there(tmp_path):
    with pytest.raises(CadmllmError, match="E401"):
        audited(tmp_path / "none")


def test_captions_and_programs_may_lie_elsewhere(root, tmp_path):
    found = audited(tmp_path / "none", txt=root / "txt", json=root / "json")
    assert found.stages[1].ids == 3


def test_the_speed_is_measured_on_drives_of_windows_alone(root, monkeypatch):
    monkeypatch.setattr(room.drive, "measure", lambda files: pytest.fail("measured"))
    assert audited(root).speed is None
