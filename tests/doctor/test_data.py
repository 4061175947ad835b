"""The data set has what the stages show."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cadmllm.doctor.check import Check, Level, Situation
from cadmllm.doctor.data import check_data
from cadmllm.doctor.runner import run_checks
from cadmllm.settings import Settings


@pytest.fixture
def data_set(tmp_path) -> Path:
    """Names alone: doctor lists folders and reads captions, and opens no program, cloud or view."""
    root = tmp_path / "a data set"
    ids = [f"0000/{n:08d}_00001" for n in range(40)]
    for folder, suffix, count in (("json", ".json", 40), ("pcd", ".npz", 20), ("img", "_000.png", 10)):
        (root / folder / "0000").mkdir(parents=True)
        for id_ in ids[:count]:
            (root / folder / f"{id_}{suffix}").write_bytes(b"{}")
    (root / "txt").mkdir()
    (root / "txt" / "0000.json").write_text(json.dumps([{"id": id_, "text caption": "a plate"} for id_ in ids]))
    return root


def situation(root: Path, *stages: int, **groups) -> Situation:
    return Situation(Settings(data={"root": root}, **groups), stages or (1, 2, 3))


def run(check, where: Situation):
    """As the runner calls it: errors of the data set become findings."""
    report = run_checks(where, checks=[Check("one", "", (), check)])
    return report.outcomes[0][1]


def test_modalities_are_counted(data_set):
    outcome = run(check_data, situation(data_set))
    assert outcome.level is Level.OK
    assert outcome.summary == f"37 to train on (18 with points, 9 with views), 3 held out ({data_set})"


@pytest.mark.parametrize(("folder", "stage", "option"), [("pcd", 2, "--points"), ("img", 3, "--views")])
def test_a_stage_without_its_modality_is_named(data_set, folder, stage, option):
    (data_set / folder).rename(data_set / "elsewhere")
    assert run(check_data, situation(data_set, *range(1, stage))).level is Level.OK, "earlier stages train meanwhile"
    outcome = run(check_data, situation(data_set, stage))
    finding = outcome.findings[0]
    assert (finding.code, finding.level) == ("E406", Level.FAIL)
    assert f"stage {stage} shows" in finding.message
    assert option in finding.remedy


def test_the_other_name_of_the_point_folder(data_set):
    (data_set / "pcd").rename(data_set / "pointcloud")
    assert run(check_data, situation(data_set, 2)).level is Level.OK


@pytest.mark.parametrize(
    ("damage", "code"),
    [("no root", "E401"), ("no captions", "E401"), ("captions are an object", "E402"), ("captions are cut short", "E422")],
)
def test_a_broken_data_set_is_a_finding_with_its_own_code(data_set, damage, code):
    captions = data_set / "txt" / "0000.json"
    if damage == "no root":
        data_set = data_set / "absent"
    elif damage == "no captions":
        captions.unlink()
    elif damage == "captions are an object":
        captions.write_text('{"a": 1}')
    else:
        captions.write_text(captions.read_text()[:-10])
    outcome = run(check_data, situation(data_set))
    assert outcome.level is Level.FAIL
    assert outcome.findings[0].code == code
    assert outcome.findings[0].remedy


def test_what_was_left_out_is_a_warning(data_set):
    entries = json.loads((data_set / "txt" / "0000.json").read_text())
    entries.append({"id": "../../etc/passwd", "text caption": "no part"})
    (data_set / "txt" / "0000.json").write_text(json.dumps(entries))
    (finding,) = run(check_data, situation(data_set)).findings
    assert (finding.code, finding.level) == ("E403", Level.WARN)


def test_generated_parts_need_no_data(tmp_path):
    outcome = check_data(Situation(Settings(data={"root": tmp_path / "absent", "synthetic": 100})))
    assert outcome.skipped == "100 parts will be generated"
