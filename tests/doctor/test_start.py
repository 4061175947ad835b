"""Every stage has something to start from."""

from __future__ import annotations

from pathlib import Path

from cadmllm.doctor.check import Check, Level, Situation
from cadmllm.doctor.runner import run_checks
from cadmllm.doctor.start import check_start
from cadmllm.models.stages import stage_folder, write_manifest
from cadmllm.settings import Settings


def situation(root: Path, *stages: int, **groups) -> Situation:
    return Situation(Settings(data={"root": root}, **groups), stages or (1, 2, 3))


def run(check, where: Situation):
    """As the runner calls it: errors become findings."""
    report = run_checks(where, checks=[Check("one", "", (), check)])
    return report.outcomes[0][1]


def complete(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "weights").write_bytes(b"x")
    write_manifest(folder)


def test_a_stage_needs_the_one_before(tmp_path):
    run_dir = tmp_path / "run"
    assert "base model" in run(check_start, situation(tmp_path, 1, run={"dir": run_dir})).summary
    outcome = run(check_start, situation(tmp_path, 2, run={"dir": run_dir}))
    assert (outcome.findings[0].code, outcome.level) == ("E601", Level.FAIL)
    complete(stage_folder(run_dir, 1))
    outcome = run(check_start, situation(tmp_path, 2, run={"dir": run_dir}))
    assert outcome.level is Level.OK
    assert "stage1_text_model" in outcome.summary
    (stage_folder(run_dir, 1) / "weights").unlink()
    assert run(check_start, situation(tmp_path, 2, run={"dir": run_dir})).findings[0].code in ("E503", "E601")


def test_init_from_must_be_whole(tmp_path):
    folder = tmp_path / "other"
    complete(folder)
    where = situation(tmp_path, 2, run={"dir": tmp_path / "run", "init_from": folder})
    assert run(check_start, where).level is Level.OK
    (folder / "weights").write_bytes(b"changed")
    assert run(check_start, where).findings[0].code == "E503"


def test_a_run_in_the_way_is_a_warning(tmp_path):
    complete(stage_folder(tmp_path / "run", 1))
    outcome = run(check_start, situation(tmp_path, 1, run={"dir": tmp_path / "run"}))
    assert (outcome.findings[0].code, outcome.level) == ("E605", Level.WARN)
    assert "--resume" in outcome.findings[0].remedy


def test_stages_with_nothing_to_train(tmp_path):
    where = situation(tmp_path, 1, run={"dir": tmp_path / "run"}, stages={"1": {"epochs": 0}})
    assert run(check_start, where).findings[0].code == "E105"
