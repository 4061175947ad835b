"""`cadmllm doctor` as a user sees it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from cadmllm.cli import main
from cadmllm.doctor import runner
from cadmllm.doctor.check import Check, Finding, Fix, Level, Outcome, Situation
from cadmllm.doctor.runner import CHECKS
from cadmllm.errors import CODES
from cadmllm.remedies import remedy_of

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
        monkeypatch.setattr(runner, "CHECKS", made_checks)
        return seen

    return use


FINDINGS = (
    Finding("E821", Level.FAIL, "check-1", "no room", "make some"),
    Finding("E811", Level.WARN, "check-1", "no GPU", "buy"),
)


def test_one_line_a_check_or_a_finding_and_the_verdict_last(checks, capsys):
    checks(Outcome("fine"), Outcome(findings=FINDINGS), Outcome(skipped="not WSL"))
    assert main(["doctor"]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "[ok]   check-0: fine",
        "[fail] check-1: E821 no room -> make some",
        "[warn] check-1: E811 no GPU -> buy",
        "[skip: not WSL] check-2",
        "not ready: E821 (1 warning)",
    ]
    checks(Outcome("fine"))
    assert main(["doctor"]) == 0
    assert capsys.readouterr().out.endswith("\nready\n")


def test_details_are_shown_on_demand(checks, capsys):
    checks(Outcome("fine", details=("one thing", "another")))
    assert main(["doctor"]) == 0
    assert "another" not in capsys.readouterr().out
    assert main(["doctor", "-v"]) == 0
    assert "       one thing\n       another\n" in capsys.readouterr().out


def test_strict_takes_warnings_seriously(checks, capsys):
    checks(Outcome(findings=FINDINGS[1:]))
    assert main(["doctor"]) == 0
    assert capsys.readouterr().out.endswith("ready (1 warning)\n")
    assert main(["doctor", "--strict"]) == 1
    assert capsys.readouterr().out.endswith("not ready: E811 (1 warning)\n")
    assert main(["doctor", "--strict", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["ready"] is False


def test_only_and_skip(checks, capsys):
    checks(Outcome("a"), Outcome("b"), Outcome("c"))
    assert main(["doctor", "--only", "check-0,check-2"]) == 0
    assert [line.split()[-2] for line in capsys.readouterr().out.splitlines()[:-1]] == ["check-0:", "check-2:"]
    assert main(["doctor", "--skip", "check-0", "--skip", "check-2"]) == 0
    assert capsys.readouterr().out.splitlines() == ["[ok]   check-1: b", "ready"]
    assert main(["doctor", "--only", "check-9"]) == 2
    assert "E106 there is no check 'check-9'" in capsys.readouterr().err
    assert main(["doctor", "--yes"]) == 2


def test_how_the_run_will_be_started_reaches_the_checks(checks):
    seen = checks(Outcome())
    assert main(["doctor", "--resume", "--from-scratch"]) == 0
    assert (seen[0].intent.resume, seen[0].intent.overwrite, seen[0].intent.from_scratch) == (True, False, True)


def test_a_page_for_an_issue(checks, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_abcdefghijklmnopqrstuvwx")
    inside = Outcome("seen", details=(f"at {Path.home()}/data with hf_abcdefghijklmnopqrstuvwx",))
    checks(inside, Outcome(findings=FINDINGS), Outcome(skipped="not WSL"))
    assert main(["doctor", "--preset", "tiny", "--report", "new/page.md"]) == 1
    text = (tmp_path / "new/page.md").read_text()
    assert text.startswith("## cadmllm doctor: not ready\n")
    assert "| check-0 | ok: seen |" in text
    assert "| check-1 | **fail** E821 no room -> `make some` |" in text
    assert "at ~/data with <secret>" in text
    assert '| `model.llm` | `"tiny"` | preset tiny |' in text
    assert "hf_abc" not in text
    assert list((tmp_path / "new").iterdir()) == [tmp_path / "new/page.md"]
    (tmp_path / "file").write_text("")
    assert main(["doctor", "--report", "file/page.md"]) == 1
    assert "E303" in capsys.readouterr().err


def test_fixes_are_shown_first_and_done_when_agreed(checks, capsys, tmp_path):
    fixes = (Fix("folder", str(tmp_path / "run"), why="saves go there"), Fix("setting", "run.dir", "run", "shorter"))
    fixes += (Fix("environment", "WANDB_MODE", "offline"),)
    seen = checks(Outcome(findings=FINDINGS, fixes=fixes))
    assert main(["doctor", "--fix"]) == 1  # nobody to ask
    err = capsys.readouterr().err
    assert f"make the folder {tmp_path / 'run'} (saves go there)" in err
    assert "nothing was done" in err
    assert list(tmp_path.iterdir()) == []
    assert main(["doctor", "--fix", "--yes"]) == 1
    err = capsys.readouterr().err
    assert "to take it back: rmdir " in err
    assert "looking again" in err
    assert (tmp_path / "run").is_dir()
    assert (tmp_path / "cadmllm.env").read_text() == "export WANDB_MODE=offline\n"
    assert str(seen[-1].settings.run.dir) == "run"
    assert str(seen[-2].settings.run.dir) == "checkpoints"
    checks(Outcome())
    assert main(["doctor", "--fix", "--yes"]) == 0
    assert "nothing that can be mended from here" in capsys.readouterr().err


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
    told = capsys.readouterr().out
    assert told.startswith("E812: this torch has no kernels for this GPU\nfound by the check torch")
    assert told.splitlines()[-1] == f"what mends it: {remedy_of('E812')}"
    assert main(["doctor", "--explain", "E812", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"code": "E812", "meaning": CODES["E812"], "remedy": remedy_of("E812")}
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
    assert len(heads) >= sum(not check.deep for check in CHECKS)
    assert all(LINE.match(line) for line in heads), heads
    (packages,) = [line for line in heads if " packages: " in line]
    assert "E802 torch cannot be imported: the import ended with killed by SIGSEGV" in packages


def test_it_answers_even_without_pydantic(tmp_path):
    slow = dict.fromkeys(("torch", "transformers", "OCP", "wandb", "scipy"), "raise ImportError('left out of this test')")
    run = doctor(tmp_path, "--json", pydantic="raise ImportError('broken on purpose')", **slow)
    assert run.returncode == 1
    messages = [finding["message"] for finding in json.loads(run.stdout)["findings"]]
    assert any(message.startswith("pydantic cannot be imported: ImportError: broken on purpose") for message in messages)
    assert "Traceback" not in run.stderr


def test_the_last_line_tells_time_and_disk(checks, capsys, monkeypatch):
    def planned(plan: dict):
        def run(situation: Situation) -> Outcome:
            situation.plan |= plan
            return Outcome("planned")

        monkeypatch.setattr(runner, "CHECKS", (Check("plan", "", (), run),))

    time = {"low": 3600.0, "likely": 7200.0, "high": 10800.0, "source": "a guess"}
    plan = {"time": time, "disk_bytes": 5 * 2**30, "changes": []}
    planned(plan)
    assert main(["doctor"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "ready: about 2.0 h (60 min to 3.0 h), 5.0 GiB of disk"
    planned(plan | {"measured": {"time": {"seconds": 5400.0, "low": 5000.0, "high": 6000.0}}})
    assert main(["doctor"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("ready: 1.5 h (83 min to 1.7 h, by measured steps), 5.0 GiB")


def test_what_makes_the_run_fit_is_written_when_asked(checks, capsys, monkeypatch, tmp_path):
    change = {"set": {"train.pack_tokens": 4096, "model.quantization": "nf4"}, "saves_gib": 9.0, "costs": "time", "command": ""}
    seen: list[Situation] = []

    def run(situation: Situation) -> Outcome:
        seen.append(situation)
        done = situation.needed.train.pack_tokens == 4096
        situation.plan |= {"changes": [] if done else [change]}
        return Outcome(findings=() if done else FINDINGS[:1])

    monkeypatch.setattr(runner, "CHECKS", (Check("plan", "", (), run),))
    assert main(["doctor", "--apply"]) == 0
    assert len(seen) == 2
    said = capsys.readouterr()
    assert "apply: " in said.err
    assert said.out.splitlines()[0].startswith("[fail] plan")
    assert said.out.splitlines()[-1] == "ready"
    assert tomllib.loads((tmp_path / "cadmllm.toml").read_text()) == {
        "train": {"pack_tokens": 4096},
        "model": {"quantization": "nf4"},
    }
