"""Packages that are missing, broken, crashing or hanging are findings, never crashes."""

from __future__ import annotations

import pytest

from cadmllm.doctor import packages
from cadmllm.doctor.check import Level, Situation
from cadmllm.doctor.packages import Trial, check_packages, in_range, pip_command, required_ranges, try_chain
from cadmllm.settings import Settings


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Packages that break in a way of their own when a probe imports them."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def make(name: str, source: str) -> None:
        (tmp_path / f"{name}.py").write_text(source)

    return make


def test_each_failure_is_blamed_on_its_package_and_the_rest_goes_on(fake):
    fake("fine_one", "print('chatter on import')")
    fake("gone_bad", "import does_not_exist")
    fake("crasher", "import os\nos.kill(os.getpid(), 11)")
    fake("quitter", "import sys\nsys.exit(4)")
    fake("fine_two", "")
    fake("aborter", "import os, sys\nprint('last words', file=sys.stderr, flush=True)\nos._exit(7)")
    chain = {name: name for name in ("fine_one", "gone_bad", "crasher", "quitter", "fine_two", "aborter")}
    failures = try_chain(chain)
    assert [trial.name for trial in failures] == ["gone_bad", "crasher", "quitter", "aborter"]
    reasons = {trial.name: trial.reason for trial in failures}
    assert reasons["gone_bad"] == "ModuleNotFoundError: No module named 'does_not_exist'"
    assert "SIGSEGV" in reasons["crasher"]
    assert "SystemExit: 4" in reasons["quitter"]
    assert reasons["aborter"] == "the import ended with exit code 7 last words"


def test_a_hanging_package_is_stopped(fake, monkeypatch):
    monkeypatch.setattr(packages, "LIMIT", 1.0)
    fake("sleeper", "import time\ntime.sleep(60)")
    fake("fine_one", "")
    failures = try_chain({"sleeper": "sleeper", "fine_one": "fine_one"})
    assert [trial.name for trial in failures] == ["sleeper"]
    assert "no answer within 1 s" in failures[0].reason


def findings_of(monkeypatch, trials: list[Trial], settings: Settings | None = None):
    def try_chain(chain):
        return [trial for trial in trials if trial.name in chain]

    monkeypatch.setattr(packages, "try_chain", try_chain)
    situation = Situation(settings)
    return check_packages(situation).findings, situation


def test_a_broken_torch_is_one_finding_with_the_pip_command(monkeypatch):
    trials = [Trial("torch", "OSError: libcudart.so.13: cannot open shared object file"), Trial("peft", "ImportError: torch")]
    findings, situation = findings_of(monkeypatch, trials)
    assert [(f.code, f.level, f.check) for f in findings] == [("E802", Level.FAIL, "packages")]
    assert "torch cannot be imported: OSError: libcudart" in findings[0].message
    assert "pip install --force-reinstall --no-deps -c" in findings[0].remedy
    assert findings[0].remedy.endswith("torch")
    assert situation.broken == {"torch", "peft"}


def test_a_missing_system_library_is_named_with_apt(monkeypatch):
    reason = "ImportError: libGL.so.1: cannot open shared object file: No such file or directory"
    findings, _ = findings_of(monkeypatch, [Trial("cadquery-ocp-novtk", reason)])
    assert findings[0].code == "E804"
    assert findings[0].remedy == "sudo apt-get install --no-install-recommends libgl1"
    findings, _ = findings_of(monkeypatch, [Trial("cadquery-ocp-novtk", reason.replace("libGL.so.1", "libodd.so.3"))])
    assert findings[0].remedy == "install the package that holds libodd.so.3: apt-file search libodd.so.3"


def test_one_cause_is_said_once(monkeypatch):
    trials = [Trial(name, "RuntimeError: numpy is broken") for name in ("torch", "numpy", "scipy", "wandb", "trimesh")]
    findings, situation = findings_of(monkeypatch, trials)
    assert [f.message for f in findings] == ["numpy cannot be imported: RuntimeError: numpy is broken"]
    assert "torch" in situation.broken


def test_versions_outside_the_range_and_missing_packages(monkeypatch):
    monkeypatch.setattr(packages, "required_ranges", lambda: {"torch": ">=99", "no-such-package": ">=1"})
    findings, situation = findings_of(monkeypatch, [])
    assert {f.code: f.message for f in findings}.keys() == {"E803", "E802"}
    assert any("is outside >=99" in f.message for f in findings)
    assert any(f.message == "no-such-package is not installed" for f in findings)


@pytest.mark.parametrize("chosen", [{"model": {"quantization": "nf4"}}, {"train": {"optimizer": "adamw_8bit"}}])
def test_nf4_and_8_bit_moments_need_bitsandbytes(monkeypatch, chosen):
    settings = Settings(**chosen)
    seen: list[str] = []
    monkeypatch.setattr(packages, "_versions", lambda ranges: (seen.extend(ranges) or [], set()))
    findings_of(monkeypatch, [], settings)
    assert "bitsandbytes" in seen


@pytest.mark.parametrize(
    ("version", "wanted", "inside"),
    [
        ("2.13.0+cpu", ">=2.8", True),
        ("2.10", ">=2.8", True),
        ("2.7.1", ">=2.8", False),
        ("8.0.1.1.0", ">=8.0,<8.1", True),
        ("8.1", ">=8.0,<8.1", False),
        ("8.1.0rc1", ">=8.0,<8.1", False),
        ("1.0.0", "==1.0", True),
        ("1.0", "!=1.0.0", False),
        ("3", "> 2, <= 3.0", True),
        ("1", "", True),
    ],
)
def test_ranges(version, wanted, inside):
    assert in_range(version, wanted) is inside


def test_the_ranges_of_the_project_are_the_chains():
    tried = {name for chain in packages.CHAINS for name in chain}
    assert set(required_ranges()) == tried, "a dependency of pyproject.toml must be tried by doctor, and nothing else"
    assert set(packages.NEEDS) <= tried | {"bitsandbytes"}


def test_outside_a_checkout_pip_is_given_the_range(monkeypatch, tmp_path):
    monkeypatch.setattr(packages, "CHECKOUT", tmp_path)
    assert pip_command("torch", ">=2.8").endswith("-m pip install 'torch>=2.8'")
    assert required_ranges()["torch"] == ">=2.8", "from the installed metadata"
