"""Known bad pairs and what packages declare, on made-up inventories; the environment of the tests has none."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from cadmllm.doctor.check import Level, Situation
from cadmllm.doctor.installed import Inventory, scan, search_path
from cadmllm.doctor.pairs import KNOWN, check_pairs, conflicts
from cadmllm.settings import Settings

TORCH = ("torch", "2.13.0+cpu")


@pytest.fixture
def stock(tmp_path):
    """Makes an inventory of (name, version, *requirements)."""

    def make(*items: tuple[str, ...]) -> Inventory:
        for name, version, *needs in items:
            folder = tmp_path / f"{name.replace('-', '_')}-{version}.dist-info"
            folder.mkdir()
            lines = ["Metadata-Version: 2.1", *(f"Requires-Dist: {need}" for need in needs), "", "Requires-Dist: not-this"]
            (folder / "METADATA").write_text("\n".join(lines))
        return scan((str(tmp_path),))

    return make


def look(inventory: Inventory, settings: Settings | None = None):
    situation = Situation(settings)
    situation.once("inventory", lambda: inventory)
    return check_pairs(situation).findings


@pytest.mark.parametrize(
    ("torch", "vision", "words"),
    [
        ("2.13.0+cpu", "0.28.0+cpu", ""),
        ("2.13.0", "0.28.0", ""),
        ("2.8.0+cu128", "0.23.0+cu128", ""),
        ("2.8.0", "0.23.1+cu128", ""),
        ("2.13.0+cpu", "0.21.0+cpu", "built for torch 2.6"),
        ("2.13.0+cpu", "0.28.0", "different kinds"),
        ("2.13.0+cu130", "0.28.0+cu126", "different releases"),
        ("2.8.0+cu128", "0.23.0+cu126", ""),
        ("2.13.0+cu130", "0.28.0+cpu", "different kinds"),
        ("2.13.0", "", ""),
    ],
)
def test_torchvision_goes_with_one_torch(stock, torch, vision, words):
    found = look(stock(("torch", torch), *([("torchvision", vision)] if vision else [])))
    assert [f.level for f in found] == ([Level.FAIL] if words else [])
    assert not words or (words in found[0].message and "uninstall -y torchvision" in found[0].remedy)


@pytest.mark.parametrize(
    ("peft", "torchao", "lora", "bad"),
    [("0.21.2", "0.10.0", True, True), ("0.21.2", "0.16.0", True, False), ("0.18.0", "0.10.0", True, False)]
    + [("0.21.2", "0.10.0", False, False)],
)
def test_torchao_too_old_matters_to_lora_alone(stock, peft, torchao, lora, bad):
    found = look(stock(("peft", peft), ("torchao", torchao)), Settings(lora={"enabled": lora}))
    assert [f.code for f in found] == (["E805"] if bad else [])


@pytest.mark.parametrize(
    ("items", "level"),
    [
        ([("pynvml", "11.5.0"), ("nvidia-ml-py", "13.1")], Level.WARN),
        ([("nvidia-ml-py3", "7.352.0"), ("nvidia-ml-py", "13.1")], Level.WARN),
        ([("pynvml", "13.0.1"), ("nvidia-ml-py", "13.1")], None),
        ([("cadquery-ocp", "7.8.1.1"), ("cadquery-ocp-novtk", "8.0.1.1.0")], Level.FAIL),
        ([("cadquery-ocp-novtk", "8.0.1.1.0"), ("cadquery-ocp-proxy", "8.0.1.1.0")], None),
    ],
)
def test_two_packages_with_one_module(stock, items, level):
    assert [f.level for f in look(stock(*items))] == ([level] if level else [])


@pytest.mark.parametrize(
    ("cuda", "shipped", "bad"),
    [("'13.0'", ["129", "130"], False), ("'13.2'", ["130"], False), ("'13.0'", ["118", "128"], True), ("None", ["118"], False)],
)
def test_bitsandbytes_carries_a_library_for_torchs_cuda(stock, tmp_path, cuda, shipped, bad):
    for name, files in (("torch", ["version.py"]), ("bitsandbytes", [f"libbitsandbytes_cuda{v}.so" for v in shipped])):
        (tmp_path / name).mkdir()
        for file in files:
            (tmp_path / name / file).write_text(f"cuda: Optional[str] = {cuda}\nhip: Optional[str] = None\n")
    made = stock(("torch", "2.13.0"), ("bitsandbytes", "0.49.0"))
    found = look(made, Settings(model={"quantization": "nf4"}))
    assert [f.code for f in found] == (["E805"] if bad else [])
    assert look(made, Settings()) == (), "only NF4 and the 8-bit optimizers ask for it"


def test_what_packages_declare(stock):
    made = stock(
        ("transformers", "5.23.0", "tokenizers<0.24.0,>=0.23.1", "regex>=2025", "gone-one; python_version < '3'"),
        ("tokenizers", "0.22.1", "hub-of-it[fast]>=1"),
        ("hub-of-it", "1.0", "lacking; extra == 'fast'", "other-lacking; extra == 'slow'"),
        ("peft", "0.21.2", "torch>=1.13", "transformers"),
        (*TORCH, "nvidia-cublas==13.0"),
        ("bystander", "1.0", "numpy<1"),
        ("numpy", "2.4.6"),
    )
    found = look(made)
    assert [(f.code, f.level) for f in found] == [("E805", Level.WARN)] * 2
    assert found[0].message == "transformers 5.23.0 needs tokenizers<0.24.0,>=0.23.1, and 0.22.1 is installed"
    assert found[1].message == "transformers 5.23.0 needs regex>=2025, which is not installed"
    assert found[1].remedy.endswith(" regex")


def test_extras_that_are_asked_for_are_followed(stock):
    made = stock(("tokenizers", "1", "hub-of-it[fast]"), ("hub-of-it", "1", "helper; extra == 'fast'"), ("helper", "1", "deep>2"))
    assert [f.message for f in look(made)] == ["helper 1 needs deep>2, which is not installed"]


def test_a_neighbour_of_another_torch_is_said_once(stock):
    made = stock(TORCH, ("torchvision", "0.21.0", "torch==2.6.0"), ("torchaudio", "2.6.0", "torch==2.6.0"))
    found = look(made)
    assert [(f.message.split()[0], f.level) for f in found] == [("torchvision", Level.FAIL), ("torchaudio", Level.WARN)]
    assert "uninstall -y torchaudio" in found[1].remedy


def test_a_build_of_the_same_release_is_the_one_that_is_asked_for(stock):
    assert look(stock(TORCH, ("torchaudio", "2.13.0+cpu", "torch==2.13.0"))) == ()


def test_the_environment_of_the_tests_fits_together():
    outcome = check_pairs(Situation(None))
    assert outcome.findings == ()
    assert int(outcome.summary.split()[0]) > 40
    assert conflicts(Situation(None)) == ()


def test_every_known_pair_has_a_source_and_a_command():
    for pair in KNOWN:
        assert pair.source.startswith("https://") or ".py" in pair.source
        assert pair.remedy.startswith(f"{sys.executable} -m pip ")
    assert len({pair.name for pair in KNOWN}) == len(KNOWN)


def test_the_search_path_is_that_of_a_process_with_this_environment(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = search_path({"PYTHONPATH": f"{tmp_path}/a::{tmp_path}/b"})
    assert path[:3] == (str(tmp_path), f"{tmp_path}/a", f"{tmp_path}/b")
    assert search_path({"PYTHONSAFEPATH": "1"})[0] != str(tmp_path)


def test_names_of_folders_are_read(tmp_path):
    for name in ("Foo_Bar-1.2.dist-info", "old-0.9-py3.11.egg-info", "~gone-1.dist-info", "plain", "x.dist-info.txt"):
        (tmp_path / name).mkdir()
    develop = tmp_path / "dev.egg-info"
    develop.mkdir()
    (develop / "PKG-INFO").write_text("Name: dev\nVersion: 3.1\n\nVersion: no")
    found = scan((str(tmp_path), str(tmp_path / "gone"), str(tmp_path)))
    assert {name: found.version(name) for name in found.found} == {"foo-bar": "1.2", "old": "0.9", "dev": "3.1"}
    assert found.leftovers == [Path(tmp_path / "~gone-1.dist-info")]
    assert found.get("FOO.bar") is not None
    assert len(found.found["foo-bar"]) == 1, "a folder that is twice on the path is read once"
