"""Deep: a sample of the files is read and built."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from cadmllm.doctor import datafiles
from cadmllm.doctor.check import Level, Situation
from cadmllm.doctor.datafiles import check_files
from cadmllm.settings import Settings


def situation(root: Path, *stages: int, **groups) -> Situation:
    data = {"root": root, "index": root.parent / "index"}
    return Situation(Settings(data=data, model={"point_count": 64}, **groups), stages or (1, 2, 3))


def test_a_sound_set_is_read_and_built(healthy):
    outcome = check_files(situation(healthy))
    assert outcome.findings == ()
    train = int(outcome.summary.rpartition(" programs built")[0].rpartition(" ")[2])
    assert outcome.summary == f"all training ids read; {train} programs built"
    assert f"read {train} clouds, 0 of no use" in outcome.details
    assert f"read {train} sets of views, 0 of no use" in outcome.details


def test_what_a_look_into_the_files_finds(healthy):
    for path in sorted((healthy / "pcd" / "0000").iterdir()):
        path.write_bytes(path.read_bytes()[:200])
    outcome = check_files(situation(healthy, 2))
    assert outcome.level is Level.FAIL
    first = outcome.findings[0]
    assert (first.code, first.level) == ("E406", Level.FAIL)
    assert "not one of the" in first.message
    assert {f.level for f in outcome.findings[1:]} == {Level.WARN}
    assert check_files(situation(healthy, 1)).level is Level.OK, "stage 1 reads no cloud"


@pytest.mark.long
def test_a_cloud_of_another_part(healthy):
    clouds = sorted((healthy / "pcd" / "0000").iterdir())
    shutil.copy(clouds[0], clouds[1])
    shutil.copy(clouds[0], clouds[2])
    finding = next(f for f in check_files(situation(healthy, 2)).findings if f.code == "E462")
    assert finding.level is Level.WARN
    assert "is the cloud of another part" in finding.message


def test_held_out_programs_that_are_trained_on_as_well(healthy):
    files = sorted((healthy / "json" / "0000").iterdir())
    shutil.copy(files[0], files[1])
    ids = [f"0000/{path.stem}" for path in files]
    (healthy / "val.txt").write_text(f"{ids[1]}\n")
    finding = next(f for f in check_files(situation(healthy, 1)).findings if f.code == "E463")
    assert finding.level is Level.WARN
    assert f"1 of 1 held-out programs are trained on as well, under other ids ({ids[1]} for one)" in finding.message


def test_without_a_kernel_files_are_read_all_the_same(healthy):
    where = situation(healthy)
    where.broken.add("OCP")
    outcome = check_files(where)
    assert outcome.findings == ()
    assert outcome.summary.endswith("no program built: the CAD kernel cannot be loaded")


def test_a_large_set_is_sampled_and_time_is_limited(healthy, monkeypatch):
    monkeypatch.setattr(datafiles, "SAMPLE", 2)
    where = situation(healthy, 1)
    where.broken.add("OCP")
    count = len(json.loads(next((healthy / "txt").iterdir()).read_text()))
    said = check_files(where).summary
    assert said.startswith("2 of ")
    assert int(said.split()[2]) <= count
    ticks = iter(range(0, 1000, 20))
    assert list(datafiles._within(30.0, ["a", "b", "c", "d"], lambda: next(ticks))) == ["a", "b"]
