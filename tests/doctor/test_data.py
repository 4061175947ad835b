"""The data set has what the stages show; what is missing, broken or elsewhere is said with the command that mends it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from cadmllm.cli import main
from cadmllm.doctor.check import Check, Fix, Level, Situation
from cadmllm.doctor.data import check_data
from cadmllm.doctor.runner import run_checks
from cadmllm.settings import Settings


@pytest.fixture(scope="module")
def programs(tmp_path_factory) -> Path:
    """40 parts: captions and programs. Clouds and views are names alone: what trains is told without opening them."""
    root = tmp_path_factory.mktemp("data") / "a data set"
    assert main(["data", "synth", "--count", "40", "--seed", "2", "--out", str(root), "--quiet"]) == 0
    ids = sorted(path.relative_to(root / "json").with_suffix("") for path in (root / "json").rglob("*.json"))
    for name in ("train.txt", "val.txt", "test.txt"):
        (root / name).unlink(missing_ok=True)
    for folder, suffix, count in (("pcd", ".npz", 30), ("img", "_000.png", 25)):
        for id_ in ids[:count]:
            path = root / folder / f"{id_}{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"")
    return root


@pytest.fixture
def data_set(programs, tmp_path) -> Path:
    return Path(shutil.copytree(programs, tmp_path / "a data set"))


def situation(root: Path, *stages: int, **groups) -> Situation:
    groups["data"] = {"root": root, "index": root.parent / "index", **groups.get("data", {})}
    return Situation(Settings(**groups), stages or (1, 2, 3))


def run(where: Situation, check=check_data):
    """As the runner calls it: errors become findings."""
    return run_checks(where, checks=[Check("one", "", (), check)]).outcomes[0][1]


def entries(root: Path) -> list[dict]:
    return json.loads((root / "txt" / "0000.json").read_text())


def test_everything_is_counted_and_every_stage_has_its_line(data_set):
    outcome = run(situation(data_set, 2))
    assert outcome.level is Level.OK
    train, clouds, views = 38, 28, 23
    assert outcome.summary == f"{train} to train on ({clouds} with points, {views} with views), 2 held out ({data_set})"
    assert outcome.details[0] == f"stage 1 (not asked for): ready: {train} of {train} training ids fit"
    assert outcome.details[1] == f"stage 2: ready: {train} of {train} training ids fit, {clouds} of them have points"
    assert outcome.details[2].startswith("  points of 10 ids are missing: cadmllm data prepare '")
    assert outcome.details[2].endswith("/pcd")


@pytest.mark.parametrize(("folder", "stage", "option"), [("pcd", 2, "--points"), ("img", 3, "--views")])
def test_a_stage_without_its_modality_is_named(data_set, folder, stage, option):
    (data_set / folder).rename(data_set.parent / "elsewhere")
    assert run(situation(data_set, *range(1, stage))).level is Level.OK, "earlier stages train meanwhile"
    (finding,) = run(situation(data_set, stage)).findings
    assert (finding.code, finding.level) == ("E406", Level.FAIL)
    assert f"stage {stage} shows" in finding.message
    assert option in finding.remedy
    assert finding.remedy.endswith("cadmllm train " + " ".join(f"stage{n}" for n in range(1, stage)))


def test_clouds_that_were_made_and_not_named_are_pointed_to(data_set):
    made = data_set.parent / "a data set-derived" / "pcd"
    made.parent.mkdir()
    (data_set / "pcd").rename(made)
    outcome = run(situation(data_set, 2))
    assert outcome.fixes == (Fix("setting", "data.points", str(made), "the points of the data set were made there"),)
    assert f"{made} has some: --set data.points='{made}'" in outcome.findings[0].remedy
    assert run(situation(data_set, 2, data={"points": made})).level is Level.OK
    assert run(situation(data_set, 1)).fixes == (), "nothing is missing"


def test_a_modality_that_most_lack_is_a_warning(data_set):
    for path in sorted((data_set / "pcd" / "0000").iterdir())[5:]:
        path.unlink()
    finding = next(f for f in run(situation(data_set, 2)).findings if f.code == "E466")
    assert finding.level is Level.WARN
    assert "5 of 38 training ids (13.2%) have points" in finding.message
    assert run(situation(data_set, 1)).findings == ()


def test_the_other_name_of_the_point_folder(data_set):
    (data_set / "pcd").rename(data_set / "pointcloud")
    assert run(situation(data_set, 2)).level is Level.OK


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
    outcome = run(situation(data_set))
    assert outcome.level is Level.FAIL
    assert outcome.findings[0].code == code
    assert outcome.findings[0].remedy


@pytest.mark.parametrize("given", ["..", "json", "../a dat set"])
def test_a_data_set_nearby_is_pointed_to(data_set, given):
    outcome = run(situation(data_set / given, data={"index": data_set.parent.parent / "index"}))
    (finding,) = outcome.findings
    assert (finding.code, finding.level) == ("E401", Level.FAIL)
    near = outcome.fixes[0].value
    assert isinstance(near, str)
    assert Path(near).resolve() == data_set.resolve()
    assert outcome.fixes == (Fix("setting", "data.root", near, "the data set lies there"),)
    assert "--set data.root='" in finding.remedy


def test_two_data_sets_nearby_are_not_guessed_between(data_set):
    shutil.copytree(data_set, data_set.parent / "another")
    outcome = run(situation(data_set.parent, data={"index": data_set.parent.parent / "index"}))
    assert outcome.fixes == ()
    assert outcome.findings[0].code == "E401"


def test_what_was_left_out_is_a_warning(data_set):
    bad = [{"id": "../../etc/passwd", "text caption": "no part"}, {"id": "/abs", "text caption": "no part"}]
    (data_set / "txt" / "0000.json").write_text(json.dumps(entries(data_set) + bad))
    (finding,) = run(situation(data_set)).findings
    assert (finding.code, finding.level) == ("E403", Level.WARN)
    assert finding.message.startswith("2 times: an unsafe id")
    assert "etc/passwd" in finding.message


def test_programs_that_cannot_be_used_are_counted_by_code_with_the_first(data_set):
    files = sorted((data_set / "json" / "0000").iterdir())
    for path in files[:3]:
        path.write_text(path.read_text()[:-30])
    files[5].write_text("{}")
    findings = run(situation(data_set)).findings
    assert [(f.code, f.level) for f in findings] == [("E422", Level.WARN), ("E203", Level.WARN)]
    assert findings[0].message.startswith("3 times: ")
    assert files[0].name in findings[0].message
    assert "times" not in findings[1].message
    assert files[5].name in findings[1].message


def test_when_no_program_can_be_used_nothing_trains(data_set):
    for path in (data_set / "json" / "0000").iterdir():
        path.write_text("{}")
    outcome = run(situation(data_set, 1))
    assert [(f.code, f.level) for f in outcome.findings] == [("E406", Level.FAIL), ("E203", Level.WARN)]


def test_what_no_stage_to_be_trained_reads_may_be_on_its_way(data_set):
    (data_set / "pcd" / "0000" / "x.npz.part").write_bytes(b"")
    assert run(situation(data_set, 1)).findings == ()
    assert [f.code for f in run(situation(data_set, 2)).findings] == ["E422"]


@pytest.mark.parametrize(
    ("keep", "code", "words"), [("captions", "E411", "20 of 40 captions"), ("programs", "E412", "20 of 40 programs")]
)
def test_captions_or_programs_that_wait_for_the_other(data_set, keep, code, words):
    if keep == "captions":
        for path in sorted((data_set / "json" / "0000").iterdir())[20:]:
            path.unlink()
    else:
        (data_set / "txt" / "0000.json").write_text(json.dumps(entries(data_set)[:20]))
    finding = next(f for f in run(situation(data_set, 1)).findings if f.code == code)
    assert finding.level is Level.WARN
    assert words in finding.message


def test_lists_with_unknown_ids_warn_and_lists_without_known_ones_fail(data_set, tmp_path):
    known = entries(data_set)[3]["id"]
    (tmp_path / "val.txt").write_text(f"{known}\n0000/absent\n")
    (finding,) = run(situation(data_set, 1, data={"val": tmp_path / "val.txt"})).findings
    assert (finding.code, finding.level) == ("E407", Level.WARN)
    assert "the first is 0000/absent" in finding.message
    (tmp_path / "val.txt").write_text("0000/absent\n")
    (finding,) = run(situation(data_set, 1, data={"val": tmp_path / "val.txt"})).findings
    assert (finding.code, finding.level) == ("E407", Level.FAIL)


def test_what_is_wrong_with_files_is_said_beside_a_bad_list(data_set, tmp_path):
    (tmp_path / "val.txt").write_text("0000/absent\n")
    next((data_set / "json" / "0000").iterdir()).write_text("{}")
    findings = run(situation(data_set, 1, data={"val": tmp_path / "val.txt"})).findings
    assert [f.code for f in findings] == ["E407", "E203"]


@pytest.mark.parametrize(
    ("groups", "named"),
    [
        ({"train": {"val_steps": 10}}, "train.val_steps=10 needs some"),
        ({"train": {"val_steps": 10}, "stages": {"1": {"patience": 2}}}, "stages.1.patience=2 need some"),
    ],
)
def test_settings_that_need_held_out_ids(data_set, groups, named):
    (finding,) = run(situation(data_set, 1, data={"val_share": 0.0}, **groups)).findings
    assert (finding.code, finding.level) == ("E105", Level.WARN)
    assert named in finding.message
    assert run(situation(data_set, 1, data={"val_share": 0.0})).findings == (), "nobody counts on any"


@pytest.mark.parametrize(
    ("batch", "accumulation", "remedy"),
    [(4, 16, "train.accumulation=9;"), (64, 1, "train.batch_size=38 --set train.accumulation=1;")],
)
def test_fewer_samples_than_a_step_takes(data_set, batch, accumulation, remedy):
    (finding,) = run(situation(data_set, 1, train={"batch_size": batch, "accumulation": accumulation})).findings
    assert (finding.code, finding.level) == ("E465", Level.WARN)
    assert f"38 samples, and a step takes {batch * accumulation}" in finding.message
    assert f"--set {remedy}" in finding.remedy


def test_generated_parts_need_no_data(tmp_path):
    outcome = check_data(Situation(Settings(data={"root": tmp_path / "absent", "synthetic": 100})))
    assert outcome.skipped == "100 parts will be generated"
