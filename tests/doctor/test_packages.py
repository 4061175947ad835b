"""Packages that are missing, of another version, broken, crashing or hanging are findings, never crashes."""

from __future__ import annotations

import sys

import pytest

from cadmllm.doctor import imports, packages, ranges
from cadmllm.doctor.cache import Cache
from cadmllm.doctor.check import Level, Situation
from cadmllm.doctor.imports import Trial
from cadmllm.doctor.installed import scan
from cadmllm.doctor.machine import Machine
from cadmllm.doctor.packages import check_packages, check_versions
from cadmllm.doctor.ranges import REQUIRED, optional, pinned_versions, pip_command, required_ranges
from cadmllm.settings import Settings


def findings_of(monkeypatch, trials: list[Trial], settings: Settings | None = None):
    def try_all(situation, chains, *, remember):
        return [trial for trial in trials if any(trial.name in chain for chain in chains.values())]

    monkeypatch.setattr(packages, "try_all", try_all)
    situation = Situation(settings)
    return check_packages(situation).findings, situation


def test_a_broken_torch_is_one_finding_with_the_pip_command(monkeypatch):
    trials = [Trial("torch", "OSError: libcudart.so.13: cannot open shared object file"), Trial("peft", "ImportError: torch")]
    findings, situation = findings_of(monkeypatch, trials)
    assert [(f.code, f.level, f.check) for f in findings] == [("E802", Level.FAIL, "packages")]
    assert "torch cannot be imported: OSError: libcudart" in findings[0].message
    version = scan(tuple(sys.path)).version("torch")
    if "+" in version:
        index = f"https://download.pytorch.org/whl/{version.partition('+')[2]}"
        assert findings[0].remedy.endswith(f"--force-reinstall --no-deps torch=={version} --extra-index-url {index}")
    else:
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


@pytest.mark.parametrize(
    ("name", "reason", "words"),
    [
        ("transformers", "RuntimeError: operator torchvision::nms does not exist", "uninstall -y torchvision"),
        ("bitsandbytes", "ImportError: x.so: undefined symbol: _ZN3c105ErrorC2ENS_14SourceLocationE", "--force-reinstall"),
        ("pydantic", "SystemError: The installed pydantic-core version (2.48.0) is incompatible with ...", "reinstall pydantic"),
        ("h5py", "ValueError: numpy.dtype size changed, may indicate binary incompatibility", "--force-reinstall --no-deps"),
    ],
)
def test_what_was_built_for_another_version_is_a_bad_pair(monkeypatch, name, reason, words):
    settings = Settings(model={"quantization": "nf4"})
    findings, _ = findings_of(monkeypatch, [Trial(name, reason)], settings)
    assert [f.code for f in findings] == ["E805"]
    assert words in findings[0].remedy


def test_an_optional_package_that_breaks_says_which_setting_needs_it(monkeypatch):
    settings = Settings(train={"optimizer": "adamw_8bit"})
    findings, _ = findings_of(monkeypatch, [Trial("bitsandbytes", "OSError: damaged")], settings)
    assert findings[0].code == "E806"
    assert "train.optimizer=adamw_8bit needs it" in findings[0].message
    assert findings[0].remedy.endswith("or --set train.optimizer=adamw")
    assert findings_of(monkeypatch, [Trial("bitsandbytes", "OSError: damaged")], Settings())[0] == ()


def test_another_package_that_is_to_blame_is_what_is_mended(monkeypatch):
    findings, _ = findings_of(monkeypatch, [Trial("peft", "OSError: damaged", "bitsandbytes")])
    assert [f.code for f in findings] == ["E802"]
    assert "peft cannot be imported: OSError: damaged (raised by bitsandbytes, which it imports)" in findings[0].message
    assert "--force-reinstall --no-deps -c" in findings[0].remedy
    assert findings[0].remedy.endswith("pip uninstall -y bitsandbytes")
    findings, _ = findings_of(monkeypatch, [Trial("wandb", "ModuleNotFoundError: No module named 'xxhash_'", "xxhash_")])
    assert findings[0].remedy.endswith("/constraints.txt wandb")
    assert "--force" not in findings[0].remedy
    findings, _ = findings_of(monkeypatch, [Trial("peft", "KeyError: 1", "peft"), Trial("h5py", "KeyError: 2", "who_knows")])
    assert [f.remedy.rpartition(" ")[2] for f in findings] == ["peft", "h5py"]


@pytest.mark.parametrize(
    ("chosen", "names"),
    [
        ({}, []),
        ({"model": {"quantization": "nf4"}}, ["bitsandbytes"]),
        ({"train": {"optimizer": "paged_adamw_8bit"}}, ["bitsandbytes"]),
        ({"model": {"attention": "flash_attention_2"}}, ["flash-attn"]),
    ],
)
def test_what_is_optional_is_needed_by_settings_alone(chosen, names):
    assert [extra.name for extra in optional(Situation(Settings(**chosen)))] == names
    assert optional(Situation(None)) == ()


def versions_of(monkeypatch, wanted: dict[str, str], settings: Settings | None = None):
    monkeypatch.setattr(packages, "required_ranges", lambda stock: wanted)
    return check_versions(Situation(settings))


def test_versions_outside_the_range_and_missing_packages(monkeypatch):
    found = versions_of(monkeypatch, {"torch": ">=99", "no-such-package": ">=1", "numpy": ">=2"}).findings
    assert [(f.code, f.level, f.check) for f in found] == [("E803", "fail", "versions"), ("E802", "fail", "versions")]
    assert "is outside >=99" in found[0].message
    assert found[1].message == "no-such-package is not installed"
    assert "pip install" in found[1].remedy


def test_several_that_are_missing_take_one_command(monkeypatch):
    (finding,) = versions_of(monkeypatch, {"gone-one": ">=1", "numpy": ">=2", "gone-two": ">=2", "gone-three": ""}).findings
    assert finding.message == "gone-one, gone-two and gone-three are not installed"
    assert finding.remedy.endswith("/constraints.txt gone-one gone-two gone-three")


def test_a_version_in_range_that_is_not_the_tested_one_is_a_detail(monkeypatch):
    monkeypatch.setattr(packages, "pinned_versions", lambda: {"numpy": "2.0.1", "torch": pinned_versions()["torch"]})
    outcome = versions_of(monkeypatch, {"torch": ">=2.8", "numpy": ">=2"})
    assert outcome.findings == ()
    assert [line.split()[0] for line in outcome.details] == ["numpy"]
    assert outcome.details[0].endswith("in range, tested with 2.0.1")
    assert outcome.summary == "2 packages in their ranges, 1 other than tested (-v)"


def test_flash_attention_that_is_missing_is_said_with_pip_and_with_the_setting(monkeypatch):
    found = versions_of(monkeypatch, {}, Settings(model={"attention": "flash_attention_2"})).findings
    assert [f.code for f in found] == ["E806"]
    assert "--no-build-isolation flash-attn; or --set model.attention=auto" in found[0].remedy


@pytest.fixture
def stubs(tmp_path, monkeypatch):
    """A folder on PYTHONPATH, and a situation that sees it."""
    folder = tmp_path / "stubs"
    folder.mkdir()
    monkeypatch.chdir(tmp_path)

    def metadata(name: str, *lines: str, whole: bool = True) -> None:
        place = folder / f"{name}.dist-info"
        place.mkdir()
        if whole:
            place.joinpath("METADATA").write_text("\n".join(("Metadata-Version: 2.1", *lines, "", "")))

    def situation(settings=None) -> Situation:
        machine = Machine(tmp_path, {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(folder)})
        return Situation(settings, machine=machine, cache=Cache(tmp_path / "cache.json"))

    return folder, metadata, situation


def test_half_installations_and_double_metadata(stubs):
    _, metadata, situation = stubs
    metadata("torch-2.13.0", whole=False)
    metadata("numpy-2.1.0")
    metadata("numpy-2.4.6")
    metadata("~ransformers-5.0.0")
    outcome = check_versions(situation())
    told = {f.message.split()[0]: f for f in outcome.findings}
    assert "half installed" in told["torch"].message
    assert "versions 2.1.0 and 2.4.6" in told["numpy"].message
    assert told["numpy"].remedy.count("numpy") == 2
    assert any("~ransformers" in line and "rm -r" in line for line in outcome.details)


def test_a_copy_that_hides_this_environments_own(stubs, monkeypatch):
    _, metadata, situation = stubs
    metadata("trimesh-4.9.0")
    (finding,) = check_versions(situation()).findings
    assert (finding.code, finding.level) == ("E802", "warn")
    assert "trimesh 4.9.0 of" in finding.message
    assert finding.remedy.startswith("unset PYTHONPATH")


def test_a_copy_in_the_users_folder_can_be_left_out(tmp_path, monkeypatch):
    user = tmp_path / ".local" / "lib" / "python3.11" / "site-packages"
    (user / "trimesh-4.9.0.dist-info").mkdir(parents=True)
    (user / "trimesh-4.9.0.dist-info" / "METADATA").write_text("\n\n")
    monkeypatch.setattr(sys, "path", [sys.path[0], str(user), *sys.path[1:]])
    outcome = check_versions(Situation(None))
    assert outcome.findings[0].remedy == "export PYTHONNOUSERSITE=1"
    assert [(fix.kind, fix.name, fix.value) for fix in outcome.fixes] == [("environment", "PYTHONNOUSERSITE", "1")]


SMALL = {"typer": "typer", "rich": "rich"}


@pytest.fixture
def small(monkeypatch):
    """Only two light packages are tried."""
    for name, chain in (("SHELL", SMALL), ("HEAVY", {}), ("LIGHT", {})):
        monkeypatch.setattr(packages, name, chain)


def test_a_file_in_place_of_a_package_is_named(stubs, small):
    folder, _, situation = stubs
    (folder / "rich.py").write_text("")
    found = check_packages(situation()).findings
    assert [(f.code, f.level) for f in found] == [("E802", "fail")]
    assert f"rich is taken from {folder / 'rich.py'}, which hides rich " in found[0].message
    assert found[0].remedy.startswith("unset PYTHONPATH")


def test_a_file_in_the_working_folder_is_to_be_renamed(stubs, small, tmp_path):
    _, _, situation = stubs
    (tmp_path / "rich.py").write_text("raise RuntimeError('mine')")
    (tmp_path / "statistics.py").write_text("")
    looked = situation()
    told = {f.message.split()[0]: f for f in check_packages(looked).findings}
    assert told.keys() == {"rich", "statistics"}
    assert told["rich"].message.startswith("rich cannot be imported: RuntimeError: mine; rich is taken from ")
    assert told["rich"].remedy == f"mv {tmp_path}/rich.py {tmp_path}/my_rich.py"
    assert (told["statistics"].level, told["rich"].level) == ("warn", "fail")
    assert looked.broken == {"rich"}


def test_a_checkout_in_the_working_folder_that_imports_deserves_a_warning_and_is_not_remembered(stubs, small, tmp_path):
    _, _, situation = stubs
    (tmp_path / "rich").mkdir()
    (tmp_path / "rich" / "__init__.py").write_text("")
    (finding,) = check_packages(situation()).findings
    assert (finding.level, finding.code) == ("warn", "E802")
    assert not (tmp_path / "cache.json").exists()


def test_good_imports_are_made_once_until_a_file_changes(stubs, small, monkeypatch, tmp_path):
    folder, metadata, situation = stubs
    metadata(f"typer-{scan(tuple(sys.path)).version('typer')}")
    (folder / "typer.py").write_text("import helper_of_typer")
    (folder / "helper_of_typer.py").write_text("")
    monkeypatch.setattr(packages, "SHELL", {"typer": "typer"})
    seen: list[dict] = []
    true = imports.try_chain
    monkeypatch.setattr(imports, "try_chain", lambda chain, environ: seen.append(chain) or true(chain, environ))
    for _ in range(3):
        assert check_packages(situation()).findings == ()
    assert len(seen) == 1, "the second and third time nothing is imported"
    (folder / "helper_of_typer.py").write_text("raise ValueError('edited')")
    for tries in (2, 3):
        (finding,) = check_packages(situation()).findings
        assert "ValueError: edited" in finding.message
        assert len(seen) == tries, "what fails is looked at anew each time"


def test_the_ranges_of_the_project_are_what_is_tried():
    assert set(required_ranges()) == set(REQUIRED), "a dependency of pyproject.toml must be tried by doctor, and nothing else"
    assert set(packages.NEEDS) <= set(REQUIRED) | {"bitsandbytes", "flash-attn"}
    assert required_ranges().items() >= {("torch", ">=2.8"), ("cadquery-ocp-novtk", ">=8.0,<8.1")}
    assert ranges.extra_ranges()["bitsandbytes"] == ">=0.49"


def test_outside_a_checkout_pip_is_given_the_range(monkeypatch, tmp_path):
    monkeypatch.setattr(ranges, "CHECKOUT", tmp_path)
    assert pip_command("torch", ">=2.8").endswith("-m pip install 'torch>=2.8'")
    assert required_ranges()["torch"] == ">=2.8", "from the installed metadata"
    assert ranges.extra_ranges()["bitsandbytes"] == ">=0.49"
    assert pinned_versions() == {}
