"""Many broken environments, settings, data sets and checkpoints, each with its code; a healthy one gives none."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
from scene import Case, build

ROOMS = ("sick_system", "sick_packages", "sick_gpu", "sick_checkpoints", "sick_data", "sick_disk", "sick_plan", "sick_proofs")
HERE = Path(__file__).parent
CASES: list[Case] = [case for room in ROOMS if (HERE / f"{room}.py").is_file() for case in importlib.import_module(room).CASES]
MARKED = [pytest.param(case, id=case.name, marks=() if case.sample else pytest.mark.long) for case in CASES]


@pytest.mark.parametrize("case", MARKED)
def test_what_is_broken_is_found(case, tmp_path, monkeypatch):
    scene = build(tmp_path, monkeypatch)
    case.spoil(scene)
    report = scene.examine(*case.only)
    found = {finding.code: finding for finding in report.findings}
    assert case.code in found, [f"{f.code} {f.message}" for f in report.findings]
    finding = found[case.code]
    assert finding.level == case.level
    assert finding.message
    assert finding.remedy
    assert report.ready == all(f.level != "fail" for f in report.findings)
    assert "E899" not in found, found["E899"].message


def test_a_healthy_one_gives_none(tmp_path, monkeypatch):
    report = build(tmp_path, monkeypatch).examine()
    assert report.findings == []
    assert report.ready


def test_names_are_distinct():
    assert len({case.name for case in CASES}) == len(CASES)
