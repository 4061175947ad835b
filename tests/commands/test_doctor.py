"""`cadmllm doctor` as a user sees it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cadmllm.cli import main
from cadmllm.doctor import runner
from cadmllm.doctor.check import Check, Finding, Level, Outcome, Situation
from cadmllm.doctor.runner import CHECKS

LINE = re.compile(r"^\[(ok|warn|fail|skip: [^\]]+)\] +[a-z-]+(:|$)")


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def checks(monkeypatch):
    """doctor with these outcomes; what it was told about the situation."""
    seen: list[Situation] = []

    def use(*outcomes: Outcome) -> list[Situation]:
        def made(outcome: Outcome):
            def run(situation: Situation) -> Outcome:
                seen.append(situation)
                return outcome

            return run

        made_checks = tuple(Check(f"check-{n}", "", (), made(o)) for n, o in enumerate(outcomes))
        monkeypatch.setattr(runner.run_checks, "__defaults__", (None, made_checks))
        return seen

    return use


FINDINGS = (
    Finding("E821", Level.FAIL, "check-1", "no room", "make some"),
    Finding("E811", Level.WARN, "check-1", "no GPU", "buy"),
)


def test_one_line_a_check_hints_below_and_the_verdict_last(checks, capsys):
    checks(Outcome("fine"), Outcome(findings=FINDINGS), Outcome(skipped="not WSL"))
    assert main(["doctor"]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "[ok]   check-0: fine",
        "[fail] check-1: E821 no room",
        "       hint: make some",
        "       warn: E811 no GPU",
        "       hint: buy",
        "[skip: not WSL] check-2",
        "not ready: E821 (1 warning)",
    ]
    checks(Outcome("fine"))
    assert main(["doctor"]) == 0
    assert capsys.readouterr().out.endswith("\nready\n")


def test_json_lists_problems_only(checks, capsys):
    checks(Outcome("fine"), Outcome(findings=FINDINGS), Outcome(skipped="not WSL"))
    assert main(["doctor", "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert list(document) == ["schema", "ready", "findings", "plan"]
    assert document["ready"] is False
    assert document["findings"][0] == {
        "code": "E821",
        "level": "fail",
        "check": "check-1",
        "message": "no room",
        "remedy": "make some",
    }
    assert len(document["findings"]) == 2
    checks(Outcome("fine"))
    assert main(["doctor", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"schema": 1, "ready": True, "findings": [], "plan": {}}


@pytest.mark.parametrize(
    ("line", "stages"),
    [
        ("", (1, 2, 3)),
        ("--stage 2", (2,)),
        ("--start_from_stage 2", (2, 3)),
        ("--stage1_epochs 0 --stage3_epochs 0", (2,)),
        ("--stage 2 --stage2_epochs 0", (2,)),
    ],
)
def test_which_stages_are_looked_at(checks, line, stages):
    seen = checks(Outcome())
    assert main(["doctor", *line.split()]) == 0
    assert seen[0].stages == stages


def test_explain_and_list(capsys):
    assert main(["doctor", "--explain", "e812"]) == 0
    assert capsys.readouterr().out.startswith("E812: this torch has no kernels for this GPU\nfound by the check gpu")
    assert main(["doctor", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == [check.name for check in CHECKS]
    assert main(["doctor", "--list", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["checks"]) == len(CHECKS)


def doctor(tmp_path: Path, *args: str, **fakes: str) -> subprocess.CompletedProcess[str]:
    """doctor in a process of its own, with packages that break as the given sources do."""
    for name, source in fakes.items():
        (tmp_path / "fakes").mkdir(exist_ok=True)
        (tmp_path / "fakes" / f"{name}.py").write_text(source)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "fakes")}
    line = [sys.executable, "-m", "cadmllm", "doctor", *args]
    return subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200, check=False)


def test_the_real_thing_with_a_torch_that_takes_python_down(tmp_path):
    run = doctor(tmp_path, "--preset", "tiny", torch="import os\nos.kill(os.getpid(), 11)")
    assert run.returncode == 1
    assert run.stderr == ""
    lines = run.stdout.splitlines()
    assert lines[-1].startswith("not ready: E802")
    heads = [line for line in lines if line.startswith("[")]
    assert len(heads) == len(CHECKS)
    assert all(LINE.match(line) for line in heads), heads
    (packages,) = [line for line in heads if " packages" in line]
    assert "E802 torch cannot be imported: the import ended with killed by SIGSEGV" in packages


def test_it_answers_even_without_pydantic(tmp_path):
    slow = dict.fromkeys(("torch", "transformers", "OCP", "wandb", "scipy"), "raise ImportError('left out of this test')")
    run = doctor(tmp_path, "--json", pydantic="raise ImportError('broken on purpose')", **slow)
    assert run.returncode == 1
    messages = [finding["message"] for finding in json.loads(run.stdout)["findings"]]
    assert "pydantic cannot be imported: ImportError: broken on purpose" in messages
    assert "Traceback" not in run.stderr
