"""`cadmllm train` as a person runs it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tiny_base import make_base

from cadmllm.cli import main
from cadmllm.commands.train import stage_numbers
from cadmllm.corpus.synth import write_dataset
from cadmllm.doctor.check import Check, Finding, Level, Outcome, Situation
from cadmllm.errors import CadmllmError

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny base and 24 generated parts."""
    folder = tmp_path_factory.mktemp("world with spaces")
    make_base(folder / "base")
    write_dataset(folder / "data", 24, 1)
    return folder


def _options(world: Path, run: Path, *more: str) -> list[str]:
    sets = {
        "model.llm": world / "base",
        "data.root": world / "data",
        "run.dir": run,
        "model.point_tokens": 8,
        "model.image_bridge": "mlp",
        "model.image_tokens": 5,
        "model.points_encoder": "fourier",
        "model.image_encoder": "tiny",
        "model.point_count": 64,
        "lora.r": 4,
        "train.max_steps": 3,
        "train.accumulation": 1,
        "train.warmup_steps": 1,
        "train.val_samples": 2,
        "kernel.workers": 1,
        "dtype": "float32",
        "device": "cpu",
    }
    return [*(f"--set={key}={value}" for key, value in sets.items()), *more]


def _run(*args: str) -> int:
    return main(["train", *args])


def test_stages_are_named_or_started_from() -> None:
    assert stage_numbers(["all"], None) == [1, 2, 3]
    assert stage_numbers(["stage3", "stage2"], None) == [2, 3]
    assert stage_numbers([], 2) == [2, 3]
    assert stage_numbers(["stage1", "stage2"], 2) == [2]
    for names, start in (([], None), (["stage4"], None), (["stage1"], 2)):
        with pytest.raises(CadmllmError) as caught:
            stage_numbers(names, start)
        assert (caught.value.code, caught.value.exit_code) == ("E105", 2)


def test_a_stage_trains_and_says_what_to_do_next(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    assert _run("stage1", *_options(world, run)) == 0
    said = capsys.readouterr()
    assert str(run / "stage1_text_model") in said.out
    assert "cadmllm infer" in said.out
    assert "step 3/3" in said.err
    assert _run("stage1", *_options(world, run)) == 1
    assert "E605" in capsys.readouterr().err
    assert _run("stage1", *_options(world, run, "--overwrite", "--json")) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["finished"] is True
    assert [(stage["number"], stage["steps"]) for stage in document["stages"]] == [(1, 3)]
    assert document["stages"][0]["loss_begin"] > 0


def test_the_guides_flags_run_a_rehearsal_on_generated_parts(world: Path, tmp_path: Path, capsys) -> None:
    flags = ["--start_from_stage", "2", "--create_dummy_data", "--num_dummy_samples", "8"]
    flags += ["--stage2-epochs", "1", "--stage3_epochs", "0", "--batch_size", "2"]
    assert _run(*_options(world, tmp_path / "run"), *flags) == 0
    said = capsys.readouterr()
    assert "stage2_text_pc" in said.out
    assert "stage3_all" not in said.out
    assert "making 8 parts" in said.err
    assert "no training sample has a point cloud" not in said.err


def test_refusals_are_one_message_and_one_hint(world: Path, tmp_path: Path, capsys) -> None:
    for args, code in ((["stage2"], "E601"), (["stage1", "--resume"], "E604"), (["stage1", "--resume", "--overwrite"], "E105")):
        assert _run(*args, *_options(world, tmp_path / "run")) in (1, 2)
        said = capsys.readouterr().err
        assert f"error: {code}" in said
        assert "hint: " in said
        assert "Traceback" not in said
    assert _run("stage2", *_options(world, tmp_path / "run"), "--json") == 1
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "E601"
    assert not (tmp_path / "run").exists()


def test_the_doctor_is_asked_first_unless_told_otherwise(world: Path, tmp_path: Path, capsys) -> None:
    assert _run("stage1", *_options(world, tmp_path / "run")) == 0
    said = capsys.readouterr().err
    assert re.search(r"^doctor: ready.*\(\d+ checks, .*s\)$", said, re.MULTILINE)
    assert said.index("doctor: ready") < said.index("step 3/3")
    (good,) = json.loads((tmp_path / "run" / "fingerprint.json").read_text())["good"]
    assert good["stages"] == [1]
    assert good["facts"]["data"]
    assert _run("stage1", *_options(world, tmp_path / "other"), "--skip-doctor") == 0
    said = capsys.readouterr().err
    assert "doctor: not asked (--skip-doctor)\n" in said
    assert "doctor: ready" not in said


def test_what_the_doctor_finds_stops_the_run(world: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    findings = (
        Finding("E834", Level.WARN, "odd", "an odd system", "take another"),
        Finding("E816", Level.FAIL, "odd", "no shared memory", "--set train.workers=0"),
        Finding("E817", Level.FAIL, "odd", "no open files", "ulimit -n 4096"),
    )
    seen: list[Situation] = []

    def look(situation: Situation) -> Outcome:
        seen.append(situation)
        return Outcome(findings=findings)

    monkeypatch.setattr("cadmllm.doctor.runner.CHECKS", (Check("odd", "", (), look),))
    assert _run("stage2", "--from-scratch", *_options(world, tmp_path / "run")) == 1
    said = capsys.readouterr().err.splitlines()
    assert "warning: odd: E817 no open files -> ulimit -n 4096" in said
    assert "warning: odd: E834 an odd system -> take another" in said
    assert said[-2] == "error: E816 the doctor's check odd: no shared memory (and 1 more failure above)"
    assert said[-1] == "hint: --set train.workers=0"
    assert not (tmp_path / "run").exists()
    assert seen[0].stages == (2,)
    assert seen[0].intent.from_scratch


def test_a_dry_run_counts_and_writes_nothing(world: Path, tmp_path: Path, capsys) -> None:
    assert _run("all", *_options(world, tmp_path / "run"), "--dry-run", "--json") == 0
    rows = json.loads(capsys.readouterr().out)["stages"]
    assert [row["stage"] for row in rows] == [1, 2, 3]
    assert not (tmp_path / "run").exists()


def test_a_killed_process_resumes(world: Path, tmp_path: Path, capsys) -> None:
    run = tmp_path / "run"
    options = _options(world, run, "--set=train.max_steps=400", "--set=stages.1.epochs=400", "--set=train.save_steps=1")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "cadmllm", "train", "stage1", *options], env=environment, stderr=subprocess.PIPE, text=True
    )
    metrics = run / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if metrics.exists() and metrics.read_text().count("\n") >= 2:
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 75, err
    assert "SIGTERM: stopped after step" in err
    done = len(metrics.read_text().splitlines())
    assert 2 <= done < 400
    assert (run / "stage1_text_model" / "steps" / f"step_{done:06d}" / "manifest.json").is_file()
    assert "Traceback" not in err
