"""A data set that changes while the doctor looks on."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from cadmllm.doctor import growing
from cadmllm.doctor.check import Level, Situation
from cadmllm.doctor.data import opened
from cadmllm.doctor.growing import check_growth
from cadmllm.settings import Settings


def situation(root: Path, *stages: int) -> Situation:
    return Situation(Settings(data={"root": root, "index": root.parent / "index"}), stages)


@pytest.fixture
def at_rest(healthy: Path) -> Path:
    """Nothing of it was written within the last hour."""
    old = time.time() - 3600
    for path in [healthy, *healthy.rglob("*")]:
        os.utime(path, (old, old))
    return healthy


def test_at_rest_nothing_waits(at_rest, monkeypatch):
    monkeypatch.setattr(growing.time, "sleep", lambda seconds: pytest.fail("nothing to wait for"))
    where = situation(at_rest, 3)
    opened(where)
    outcome = check_growth(where)
    assert outcome.level is Level.OK
    assert outcome.summary.startswith("nothing changed within ")


def test_what_was_just_written_is_looked_at_again_after_a_moment(at_rest, monkeypatch):
    waited = []
    monkeypatch.setattr(growing.time, "sleep", waited.append)
    os.utime(at_rest / "json" / "0000")
    assert check_growth(situation(at_rest, 1)).level is Level.OK
    assert len(waited) == 1
    assert 0 < waited[0] <= growing.WAIT


def test_a_folder_that_grows(at_rest):
    where = situation(at_rest, 2)
    opened(where)
    (at_rest / "pcd" / "0000" / "new.npz").write_bytes(b"x")
    (finding,) = check_growth(where).findings
    assert (finding.code, finding.level) == ("E423", Level.WARN)
    assert str(at_rest / "pcd" / "0000") in finding.message
    assert "wait for its end" in finding.remedy


def test_clouds_may_arrive_while_text_is_trained(at_rest):
    where = situation(at_rest, 1)
    opened(where)
    (at_rest / "pcd" / "0000" / "new.npz").write_bytes(b"x")
    outcome = check_growth(where)
    assert outcome.findings == ()
    assert "no stage to be trained reads it" in outcome.details[0]
    (at_rest / "json" / "0000" / "new.json").write_bytes(b"x")
    assert [f.code for f in check_growth(where).findings] == ["E423"]


def test_without_a_data_set_there_is_nothing_to_look_at(tmp_path):
    assert check_growth(situation(tmp_path / "absent", 1)).skipped == "the data set cannot be opened"
