"""The process that makes the proofs: asked for one after another; what it dies of is a finding, what it left is removed."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest
from scene import Scene, build

from cadmllm.doctor import proofs, prover
from cadmllm.doctor.check import Level, Situation
from cadmllm.doctor.runner import CHECKS, chosen, run_checks
from cadmllm.errors import CadmllmError

SAYS = """
import json, os, signal, sys, time
asked = json.loads(sys.stdin.readline())
open(asked["folder"] + "/something", "w").close()
def say(**fields):
    print("packages print, too")
    print("@cadmllm-proof " + json.dumps(fields), flush=True)
def done(name, **more):
    outcome = {"summary": name + " is well", "findings": [], "skipped": "", "details": ["one"], "fixes": []} | more
    say(proof=name, outcome=outcome, measured={"asked": name, "stages": asked["stages"]})
for line in sys.stdin:
    name = line.strip()
    say(doing="beginning " + name)
"""


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    (tmp_path / "scene").mkdir()
    monkeypatch.setattr(prover, "MODULE", "stands_in")
    return build(tmp_path / "scene", monkeypatch)


def left(scene: Scene) -> list[Path]:
    return sorted(scene.folder.glob(f"{prover.PREFIX}*"))


def prove(scene: Scene, body: str, *names: str) -> tuple[Situation, list]:
    scene.stub("stands_in", SAYS + body)
    situation = scene.situation()
    report = run_checks(situation, checks=chosen(names or ("proofs",), deep=True))
    return situation, [outcome for _, outcome in report.outcomes]


def test_the_checks_are_deep_and_named() -> None:
    assert [check.name for check in proofs.CHECKS] == ["steps", "gradients", "labels", "reload", "prefill", "loader", "time"]
    assert all(check.deep and check.group == "proofs" and "E867" in check.codes for check in proofs.CHECKS)
    assert set(proofs.CHECKS) <= set(CHECKS)


def test_one_process_makes_them_all_and_nothing_is_left(scene) -> None:
    situation, outcomes = prove(scene, "    done(name)\n")
    assert [outcome.summary for outcome in outcomes] == [f"{check.name} is well" for check in proofs.CHECKS]
    assert situation.plan["measured"] == {"asked": "time", "stages": [1, 2, 3]}
    assert len(left(scene)) == 1  # beside the run's folder, on the same disk
    del situation
    gc.collect()
    assert left(scene) == []


def test_what_was_proven_before_a_death_stays(scene) -> None:
    body = """
    if name == 'labels':
        print('Fatal: bus error', file=sys.stderr, flush=True)
        os.abort()
    done(name)
"""
    _, outcomes = prove(scene, body)
    assert [outcome.level for outcome in outcomes] == [Level.OK, Level.OK, Level.FAIL, *[Level.SKIP] * 4]
    (finding,) = outcomes[2].findings
    assert finding.code == "E867"
    assert "SIGABRT" in finding.message
    assert "beginning labels" in finding.message
    assert "Fatal: bus error" in finding.message
    assert "--skip labels" in finding.remedy
    assert "ended in labels" in outcomes[3].skipped


def test_the_kernel_that_kills_for_memory_is_named(scene) -> None:
    vmstat = scene.system("proc/vmstat", "nr_free_pages 1\noom_kill 3\n")
    body = f"    open({str(vmstat)!r}, 'w').write('oom_kill 4\\n')\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    _, (outcome, *_) = prove(scene, body)
    (finding,) = outcome.findings
    assert "killed by the kernel, as main memory ran out" in finding.message
    assert "--set train.pack_tokens" in finding.remedy


def test_a_process_that_hangs_is_killed(scene, monkeypatch) -> None:
    monkeypatch.setattr(prover, "SILENT", 0.5)
    _, (outcome, following) = prove(scene, "    time.sleep(60)\n", "steps", "labels")
    (finding,) = outcome.findings
    assert finding.code == "E867"
    assert "said nothing for 0 s" in finding.message or "said nothing for 1 s" in finding.message
    assert following.level is Level.SKIP


def test_all_of_them_have_a_time_limit(scene, monkeypatch) -> None:
    monkeypatch.setattr(prover, "LONGEST", 1.0)
    body = "    while True:\n        say(doing='at it')\n        time.sleep(0.05)\n"
    _, (outcome,) = prove(scene, body, "steps")
    assert "took over 1 s in all" in outcome.findings[0].message


def test_what_cannot_even_be_opened_is_said_once(scene) -> None:
    body = "    say(failed={'code': 'E401', 'message': 'no data', 'remedy': 'bring some'})\n    sys.exit()\n"
    _, outcomes = prove(scene, body)
    assert [f.code for outcome in outcomes for f in outcome.findings] == ["E401"]
    assert outcomes[1].level is Level.SKIP


def test_a_folder_of_a_doctor_that_was_killed_is_swept(scene) -> None:
    gone = scene.folder / f"{prover.PREFIX}999999999-abc"
    mine = scene.folder / f"{prover.PREFIX}{os.getpid()}-abc"
    other = scene.folder / f"{prover.PREFIX}notes"
    for folder in (gone, mine, other):
        folder.mkdir()
    prover.place_for(scene.run)
    assert not gone.exists()
    assert mine.exists()
    assert other.exists()


def test_where_only_the_run_folder_can_be_written_it_is_made_there(scene, monkeypatch) -> None:
    real = prover.tempfile.mkdtemp

    def refused(prefix, dir):
        if dir != scene.run:
            raise PermissionError(13, "Permission denied")
        return real(prefix=prefix, dir=dir)

    monkeypatch.setattr(prover.tempfile, "mkdtemp", refused)
    with pytest.raises(CadmllmError, match="E867"):
        prover.place_for(scene.run)
    scene.run.mkdir()
    assert prover.place_for(scene.run).parent == scene.run


def test_without_a_place_nothing_is_started(scene, monkeypatch) -> None:
    def refused(**options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(prover.tempfile, "mkdtemp", refused)
    _, outcomes = prove(scene, "")
    assert [f.code for outcome in outcomes for f in outcome.findings] == ["E867"]
    assert "--set run.dir=" in outcomes[0].findings[0].remedy


@pytest.mark.long
def test_a_healthy_run_passes_them_all(tmp_path, monkeypatch) -> None:
    (tmp_path / "scene").mkdir()
    scene = build(tmp_path / "scene", monkeypatch)
    scene.values = {"train.val_samples": 4, "lora.enabled": True, "lora.r": 4, "lora.alpha": 8, "stages.3.epochs": 4}
    situation = scene.situation()
    report = run_checks(situation, checks=chosen(["proofs"], deep=True))
    findings = [f for f in report.findings if f.code != "E866"]  # a model this small outruns its loader on a busy machine
    assert [(f.code, f.message) for f in findings] == []
    assert all(outcome.summary for _, outcome in report.outcomes)
    measured = situation.plan["measured"]
    assert measured["time"]["seconds"] > 0
    assert measured["memory"]["peak"] > 0
    assert not scene.run.exists()
    del situation
    gc.collect()
    assert left(scene) == []


@pytest.mark.long
def test_generated_parts_are_made_for_the_proof(tmp_path, monkeypatch) -> None:
    (tmp_path / "scene").mkdir()
    scene = build(tmp_path / "scene", monkeypatch)
    scene.values = {"data.synthetic": 12, "data.root": str(scene.folder / "none")}
    report = run_checks(scene.situation(), checks=chosen(["labels"]))
    assert [(f.code, f.message) for f in report.findings] == []
    scene.values = {"data.synthetic": 100_000}
    (finding,) = run_checks(scene.situation(), checks=chosen(["labels"])).findings
    assert finding.code == "E867"
    assert "cadmllm data synth --count 100000" in finding.remedy
