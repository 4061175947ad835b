"""`cadmllm export` from the command line: three kinds, proven or nothing, and what may go wrong on the way."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_base import make_base

from cadmllm.cli import main
from cadmllm.export import run
from cadmllm.models.fusion import CadMLLM, build_model
from cadmllm.models.stages import stage_folder, write_manifest
from cadmllm.models.weights import save_model
from cadmllm.resolve import Assignment, Origin, resolve

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A language model that is made in a moment."""
    return make_base(tmp_path_factory.mktemp("base"), head=True)


def made(base: Path, stage: int, *, lora: bool) -> CadMLLM:
    """A model of the tiny preset on it, moved from where LoRA begins."""
    origin = Origin("command line", "test")
    items = [("device", "cpu"), ("model.llm", str(base)), ("lora.enabled", str(lora).lower()), ("lora.r", "4")]
    assignments = [Assignment(key, value, origin) for key, value in items]
    model = build_model(resolve(preset="tiny", assignments=assignments, environ={}).settings, stage=stage)
    torch.manual_seed(0)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "lora_B" in name:
                value.normal_(std=0.05)
    return model


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory, base: Path) -> Path:
    """A run with a finished stage 3 that trained LoRA."""
    folder = tmp_path_factory.mktemp("run")
    save_model(made(base, 3, lora=True), stage_folder(folder, 3), {})
    write_manifest(stage_folder(folder, 3))
    return folder


@pytest.fixture(scope="module")
def merged(tmp_path_factory: pytest.TempPathFactory, run_dir: Path) -> Path:
    """A merged export in 32 bit; read only."""
    out = tmp_path_factory.mktemp("exports") / "merged"
    assert main(["export", "--preset", "tiny", "--output_dir", str(run_dir), "--out", str(out), "--dtype", "fp32"]) == 0
    return out


def export(run_dir: Path, out: Path, *more: str) -> int:
    return main(["export", "--preset", "tiny", "--output_dir", str(run_dir), "--out", str(out), *more])


def test_a_merged_model_says_what_was_checked_and_verifies(merged: Path, capsys: pytest.CaptureFixture[str]):
    record = json.loads((merged / "cadmllm.json").read_text())
    assert (record["kind"], record["dtype"], record["stage"]) == ("merged", "fp32", 3)
    assert record["checked"]["said"]
    assert not list(merged.parent.glob(".*")), "nothing is left beside it"
    assert main(["export", "--verify", str(merged), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {file["name"] for file in found["files"]} >= {
        "config.json",
        "model.safetensors",
        "projectors.safetensors",
        "README.md",
    }


@pytest.mark.parametrize("kind", ["adapter", "gguf"])
def test_the_other_kinds(run_dir: Path, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]):
    assert export(run_dir, tmp_path / "out", "--to", kind, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    names = {file["name"] for file in report["files"]}
    assert names >= {"adapter": {"adapter_model.safetensors", "adapter_config.json"}, "gguf": {"model-fp32.gguf"}}[kind]
    assert report["dtype"] == "fp32", "auto is what the preset computes in"
    assert main(["export", "--verify", str(tmp_path / "out")]) == 0


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json", "cadmllm.json", "projectors.safetensors"])
def test_a_changed_byte_is_found(merged: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]):
    copy = shutil.copytree(merged, tmp_path / "copy")
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content)
    assert main(["export", "--verify", str(copy)]) == 1
    said = capsys.readouterr().err
    assert "E722" in said
    assert name in said


def test_cut_short_missing_and_surplus_files_are_found(merged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for number, spoil in enumerate(
        (
            lambda copy: (copy / "model.safetensors").write_bytes((copy / "model.safetensors").read_bytes()[:-100]),
            lambda copy: (copy / "config.json").unlink(),
            lambda copy: (copy / "more.py").write_text("print('hello')"),
            lambda copy: (copy / "manifest.json").unlink(),
        )
    ):
        copy = shutil.copytree(merged, tmp_path / str(number))
        spoil(copy)
        assert main(["export", "--verify", str(copy)]) == 1
        assert "E722" in capsys.readouterr().err
    assert main(["export", "--verify", str(tmp_path / "nowhere")]) == 1
    assert "E722" in capsys.readouterr().err


def refused(capsys: pytest.CaptureFixture[str], code: str, *words: str) -> None:
    said = capsys.readouterr().err
    assert code in said
    assert "hint:" in said
    for word in words:
        assert word in said


def test_what_cannot_be_had(base: Path, run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert export(run_dir, tmp_path / "a", "--dtype", "q8_0") == 1
    refused(capsys, "E723", "GGUF")
    assert export(run_dir, tmp_path / "a", "--to", "gguf", "--dtype", "q4_k_m") == 1
    refused(capsys, "E723", "llama-quantize")
    assert export(tmp_path / "no-run", tmp_path / "a") == 1
    refused(capsys, "E503")
    whole = tmp_path / "whole"
    save_model(made(base, 1, lora=False), stage_folder(whole, 1), {})
    write_manifest(stage_folder(whole, 1))
    assert export(whole, tmp_path / "a", "--to", "adapter") == 1
    refused(capsys, "E723", "merged")
    assert not (tmp_path / "a").exists()


WITHOUT_GGUF = """
import importlib.abc, sys
class Gone(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "gguf":
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Gone())
import importlib.util
there = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name == "gguf" else there(name, package)
from cadmllm.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize(("kind", "code"), [("adapter", 0), ("gguf", 1)])
def test_only_gguf_files_need_the_package(run_dir: Path, tmp_path: Path, kind: str, code: int):
    words = ["export", "--preset", "tiny", "--output_dir", str(run_dir), "--to", kind, "--out", str(tmp_path / "out")]
    done = subprocess.run([sys.executable, "-c", WITHOUT_GGUF, *words], capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == code, done.stderr
    assert ("E806" in done.stderr) == (code == 1)


def test_an_export_is_not_exported_again(merged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["export", "--preset", "tiny", "--checkpoint", str(merged), "--out", str(tmp_path / "a")]) == 1
    refused(capsys, "E723", "export already")


def test_only_new_and_empty_folders_are_written(run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("years of work")
    assert export(run_dir, tmp_path / "full") == 1
    refused(capsys, "E409", "thesis.tex")
    assert export(run_dir, tmp_path / "full" / "thesis.tex") == 1
    refused(capsys, "E409")
    assert export(run_dir, stage_folder(run_dir, 3) / "inside") == 2
    refused(capsys, "E105")
    (tmp_path / "empty").mkdir()
    assert export(run_dir, tmp_path / "empty", "--to", "adapter") == 0
    assert (tmp_path / "full" / "thesis.tex").read_text() == "years of work"


def test_a_spoilt_checkpoint_is_refused(run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    copy = shutil.copytree(run_dir, tmp_path / "run")
    weights = stage_folder(copy, 3) / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert export(copy, tmp_path / "a") == 1
    refused(capsys, "E503", "model.safetensors")


@pytest.mark.parametrize("stop", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_what_is_stopped_leaves_nothing(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: BaseException, capsys: pytest.CaptureFixture[str]
):
    def stopped(*args: object) -> None:
        raise stop

    monkeypatch.setattr(run, "_finish", stopped)
    code = export(run_dir, tmp_path / "out" / "a")
    assert code == (130 if stop is KeyboardInterrupt else 1)
    assert list((tmp_path / "out").iterdir()) == []
    if code == 1:
        refused(capsys, "E821")


def test_what_a_kill_left_is_written_over(run_dir: Path, tmp_path: Path):
    left = tmp_path / ".a.partial"
    left.mkdir()
    (left / "model.safetensors").write_bytes(b"half")
    (left / ".lock").touch()
    assert export(run_dir, tmp_path / "a", "--to", "adapter") == 0
    assert not left.exists()
    assert not (tmp_path / "a" / "model.safetensors").exists()


def test_a_small_disk_is_said_before_anything_is_written(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    from shutil import _ntuple_diskusage

    monkeypatch.setattr(run.shutil, "disk_usage", lambda path: _ntuple_diskusage(10**9, 10**9 - 1000, 1000))
    assert export(run_dir, tmp_path / "a") == 1
    refused(capsys, "E821", "GB free")
    assert not list(tmp_path.iterdir())
