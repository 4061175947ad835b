"""The doctor answers when Typer, rich or pydantic cannot be imported; other commands say E802 in one line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cadmllm.cli import main as cli_main
from cadmllm.doctor import first, packages
from cadmllm.doctor.first import answer, asked_for, checks, culprit, describe, shell_works

BROKEN = {
    "typer raises": ("typer", "raise RuntimeError('typer is\\nbroken')", "typer is broken"),
    "typer is missing": ("typer", "raise ModuleNotFoundError('No module named typer', name='typer')", "No module named typer"),
    "typer lacks a name": ("typer", "", "has no attribute"),
    "pydantic_core of another release": (
        "pydantic_core",
        "raise SystemError('The installed pydantic-core version (2.48.0) is incompatible with the current pydantic version')",
        "pydantic-core version (2.48.0)",
    ),
    "pydantic is a syntax error": ("pydantic", "def broken(:", "SyntaxError"),
}


def run(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "cadmllm", *args]
    return subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, timeout=200)


@pytest.mark.parametrize("case", BROKEN)
def test_other_commands_say_one_error(tmp_path, case):
    module, source, _ = BROKEN[case]
    (tmp_path / f"{module}.py").write_text(source)
    done = run(tmp_path, "config", "keys")
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("\n") == 2
    assert done.stderr.startswith("error: E802 a package cannot be imported: ")
    assert "hint: cadmllm doctor says which" in done.stderr
    assert done.stdout == ""


def test_other_commands_say_it_as_json(tmp_path):
    (tmp_path / "typer.py").write_text("raise OSError('disk')")
    done = run(tmp_path, "train", "stage1", "--json")
    assert (done.returncode, done.stderr) == (1, "")
    assert json.loads(done.stdout)["error"]["code"] == "E802"
    assert "typer: OSError: disk" in done.stdout


@pytest.mark.long
@pytest.mark.parametrize("case", BROKEN)
def test_doctor_answers_in_a_process_of_its_own(tmp_path, case):
    module, source, words = BROKEN[case]
    (tmp_path / f"{module}.py").write_text(source)
    done = run(tmp_path, "doctor", "--preset", "16gb", "--stage", "3", "--whatever")
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    lines = done.stdout.splitlines()
    assert any(line.startswith("[ok]   python: ") for line in lines)
    assert lines[-1].startswith("not ready: E80")
    assert any(line.startswith("[fail] ") for line in lines)
    assert words in done.stdout or str(tmp_path) in done.stdout


@pytest.fixture
def broken(tmp_path, monkeypatch):
    """A Typer of ours in the way, and no heavy package to try."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("HEAVY", "LIGHT"):
        monkeypatch.setattr(packages, name, {})

    def stub(source: str, module: str = "typer") -> None:
        (tmp_path / f"{module}.py").write_text(source)

    return stub


@pytest.mark.parametrize("source", ["raise ValueError('no')", "import os\nos.kill(os.getpid(), 11)", "import sys\nsys.exit(0)"])
def test_the_shell_is_tried_in_another_process(broken, source):
    assert shell_works()
    broken(source)
    assert not shell_works()


def test_a_shell_that_works_is_not_tried_again(broken, monkeypatch):
    assert shell_works()
    monkeypatch.setattr("cadmllm.doctor.imports.run_probe", None)
    assert shell_works()


def test_the_answer_has_doctors_form(broken, capsys):
    broken("raise RuntimeError('typer is broken')")
    assert answer(["doctor", "-v"]) == 1
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0].startswith("[ok]   ")
    assert any(line.startswith("[ok]   versions: ") for line in lines)
    assert any(line.startswith("[fail] packages: E802 typer ") and " -> " in line for line in lines)
    assert any(line.startswith("       ") and line.endswith(" ms") for line in lines), "times under -v"
    assert lines[-1] == "not ready: E802"
    assert "only what needs no packages" in err


def test_the_answer_as_json_is_one_document(broken, capsys):
    broken("raise RuntimeError('typer is broken')")
    assert answer(["--json", "doctor", "--quiet"]) == 1
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert err == ""
    assert found["schema"] == 1
    assert found["ready"] is False
    assert found["plan"] == {}
    assert [f["code"] for f in found["findings"]] == ["E802"]
    assert found["findings"][0].keys() == {"code", "level", "check", "message", "remedy"}


def test_an_error_that_no_check_explains_is_the_finding(broken, capsys):
    try:
        raise ImportError("cannot import name 'odd' from 'shellingham'", name="shellingham")
    except ImportError as error:
        assert answer(["doctor"], error) == 1
    out = capsys.readouterr().out
    assert "[fail] start: E802 the command line cannot be loaded: cannot import name 'odd' from 'shellingham' -> " in out
    assert "pip install --force-reinstall --no-deps shellingham" in out


def test_nothing_here_needs_settings_or_packages():
    names = [check.name for check in checks()]
    assert {"python", "environment", "memory", "versions", "pairs"} <= set(names)
    assert names[-1] == "packages", "the slow one comes last"
    assert not any(check.needs_settings or check.needs or check.deep for check in checks())


@pytest.mark.parametrize(
    ("argv", "asked"),
    [
        (["doctor"], True),
        (["--preset", "tiny", "doctor", "--json"], True),
        (["doctor", "--help"], False),
        (["doctor", "--explain=E802"], False),
        (["train", "stage1"], False),
    ],
)
def test_which_command_lines_ask_for_checks(argv, asked):
    assert asked_for(argv) is asked


def raised_by(tmp_path: Path, source: str, monkeypatch) -> BaseException:
    (tmp_path / "odd_package.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "odd_package", raising=False)
    with pytest.raises(BaseException) as caught:  # noqa: PT011
        __import__("odd_package")
    return caught.value


def test_who_is_to_blame(tmp_path, monkeypatch):
    error = raised_by(tmp_path, "raise SystemError('no')", monkeypatch)
    assert culprit(error) == "odd_package"
    assert describe(error) == "odd_package: SystemError: no"
    error = raised_by(tmp_path, "import gone_forever", monkeypatch)
    assert describe(error) == "odd_package: No module named 'gone_forever'"
    with pytest.raises(KeyError) as caught:
        {}["x"]
    assert culprit(caught.value) == "" or culprit(caught.value) == "test_first"


def test_an_error_of_ours_is_not_blamed_on_a_package(monkeypatch, capsys):
    def fail(*args):
        raise KeyError("our own mistake")

    monkeypatch.setattr("cadmllm.commands.config.register", fail)
    assert cli_main(["config", "keys"]) == 3
    assert "E901" in capsys.readouterr().err


def test_the_command_line_hands_an_import_that_fails_to_stage_0(monkeypatch, capsys):
    seen = []
    monkeypatch.setattr(first, "answer", lambda argv, error: seen.append((argv, str(error))) or 1)

    def fail(*args, **options):
        raise ImportError("libodd.so: cannot open", name="odd")

    monkeypatch.setattr("cadmllm.commands._options.Shared.settings", fail)
    monkeypatch.setattr("cadmllm.commands.doctor._settings", lambda shared: shared.settings())
    assert cli_main(["doctor"]) == 1
    assert seen == [(["doctor"], "libodd.so: cannot open")]
    assert cli_main(["data", "check"]) == 1
    assert "E802 a package cannot be imported: odd: libodd.so" in capsys.readouterr().err
