"""What a save tells people: where it stands in the curriculum, on what it was trained and where, and a card that is true."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from cadmllm.corpus import synth
from cadmllm.corpus.layout import open_dataset
from cadmllm.models.stages import STEPS
from cadmllm.settings import DataSettings, Settings
from cadmllm.train import contents, environment, loop
from cadmllm.train.card import model_card
from cadmllm.train.curriculum import plan_stages

META = {
    "step": 500,
    "total_steps": 1000,
    "made_at": "2026-01-02T03:04:05+00:00",
    "started_from": "/home/somebody/checkpoints/stage1_text_model",
    "groups": [
        {"component": "llm", "branch": "", "parameters": 1000, "lr": 2e-4},
        {"component": "llm", "branch": "", "parameters": 24, "lr": 2e-4},
        {"component": "projectors", "branch": "points", "parameters": 10, "lr": 1e-3},
    ],
    "shown": {"text": 100, "text+point_cloud": 300},
    "baseline": {"text": 0.5, "all": 0.9},
    "val_loss": {"text": 0.25, "text+point_cloud": 0.75, "all": 0.5},
    "judged": {"all": 0.875},
    "loss_begin": 1.5,
    "loss_end": 0.5,
    "seconds": 7200.0,
    "supervised_tokens": 123456,
}
DATA = {
    "train": {"ids": 8000},
    "held_out": {"ids": 400},
    "left_out": {"E602": 3},
    "modalities": {"text": 8000, "point_cloud": 7000, "image": 1},
}
FACTS = {
    "cadmllm": "9.9",
    "python": "3.11.7",
    "packages": {"torch": "2.13"},
    "wsl": True,
    "cpu": {"name": "a CPU"},
    "device": {"type": "cuda", "name": "RTX 5070 Ti", "driver": "576.02"},
}


def card_of(stage: int = 2, **groups: dict) -> str:
    s = Settings(**{"model": {"llm": "Qwen/Qwen3-8B"}, **groups})  # ty: ignore[invalid-argument-type]
    return model_card(s, plan_stages(s, [stage])[0], META, DATA, FACTS)


def test_a_card_tells_what_it_is_and_how_good() -> None:
    text = card_of()
    assert text.startswith("---\nlibrary_name: cadmllm\nbase_model: Qwen/Qwen3-8B\nbase_model_relation: adapter\ntags:\n")
    for said in (
        "# CAD-MLLM, stage2_text_pc (from `Qwen/Qwen3-8B`)",
        "Reads text, point cloud;",
        "step 500 of 1,000",
        "| text | 30% | 25.0% | 0.5000 | 0.2500 |",
        "| text+point_cloud | 70% | 75.0% | - | 0.7500 |",
        "| all |  |  | 0.9000 | 0.5000 |",
        "| all | 87.5% |",
        "1.5000 at first, 0.5000 at last",
        "8,000 ids (7,000 with a point cloud), 400 held out",
        "| left out | E602 x 3 |",
        "500 steps of 16 samples (1.00 epochs), 2 h 00 min",
        "1,034: llm 1,024, projectors (points) 10",
        "projectors (points) 0.001",
        "LoRA r 16, alpha 32",
        "RTX 5070 Ti (driver 576.02), WSL",
        "the Michelangelo point encoder",
        "--pc part.npz",
    ):
        assert said in text, said
    assert "--image" not in text
    assert "somebody" not in text


def test_a_card_names_only_what_belongs_to_it() -> None:
    whole = card_of(1, model={"llm": "/home/somebody/my-base"}, lora={"enabled": False})
    assert "base_model" not in whole
    assert "the configuration of `my-base`" in whole
    assert "somebody" not in whole
    assert "Michelangelo" not in whole
    assert "lora" not in whole.split("---")[1]
    third = card_of(3)
    assert "`facebook/dinov2-large`" in third
    assert "--image part.png" in third
    assert "Michelangelo" in third


def test_every_table_of_a_card_is_a_table() -> None:
    for block in card_of().split("\n\n"):
        rows = [line for line in block.splitlines() if line.startswith("|")]
        if rows:
            assert len({row.count("|") for row in rows}) == 1, block
            assert re.fullmatch(r"\|(---\|)+", rows[1])


def test_a_save_tells_where_it_stands(settings, parts, console) -> None:
    s = settings(train={"save_steps": 2, "max_steps": 5})
    loop.train(s, [1, 2], parts, console, origins={"train.save_steps": "command line --set", "train.clip": "default"})
    folder = s.run.dir / "stage2_text_pc_model"
    save = folder / STEPS / "step_000004"
    for place, step in ((save, 4), (folder, 5)):
        told = {path.stem: json.loads(path.read_text()) for path in place.glob("*.json")}
        where = told["curriculum"]
        assert (where["stage"], where["step"], where["total_steps"], where["step_in_epoch"]) == (2, step, 5, step)
        assert [stage["state"] for stage in where["stages"]] == ["finished", "this one", "to come"]
        assert sum(where["shown"].values()) == 4 * step
        assert {"patience", "rates", "vigil", "flow", "squeeze"} <= where["states"].keys()
        assert told["data"]["train"] == {"ids": 22, "sha256": contents.ids_hash(parts.split()[0])}
        assert told["data"]["index_sha256"] == parts.fingerprint()
        assert told["settings"]["train"]["save_steps"] == 2
        assert told["origins"] == {"train.save_steps": "command line --set"}
        assert told["environment"]["packages"]["torch"] == torch.__version__
        assert told["training_metadata"]["started_from"] == str(s.run.dir / "stage1_text_model")
        assert (place / "tokenizer.json").is_file()
        assert f"{step} steps of 4 samples" in (place / "README.md").read_text()
    assert "step 4 of 5" in (save / "README.md").read_text()
    assert "A save in the middle" not in (folder / "README.md").read_text()
    command = re.search(r'python -c "(.+)"', (folder / "README.md").read_text())
    assert command
    environ = {**os.environ, "PYTHONPATH": str(environment.CHECKOUT)}
    done = subprocess.run([sys.executable, "-c", command[1]], cwd=folder, env=environ, check=False)
    assert done.returncode == 0, "what the card says how to verify works"


def test_others_may_read_what_others_may_read(settings, parts, console) -> None:
    s = settings(train={"save_steps": 1, "max_steps": 1})
    loop.train(s, [1], parts, console)
    folder = s.run.dir / "stage1_text_model"
    modes = {path.stat().st_mode & 0o777 for path in folder.rglob("*") if path.is_file()}
    (folder / "mine").touch()
    assert modes == {(folder / "mine").stat().st_mode & 0o777}


def test_a_resumed_stage_still_tells_what_it_started_from(settings, parts, console) -> None:
    s = settings(train={"save_steps": 2, "max_steps": 4})
    loop.train(s, [1], parts, console)

    def judge(model, stage):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        loop.train(s, [2], parts, console, validator=judge)
    folder = s.run.dir / "stage2_text_pc_model"
    loop.train(s, [2], parts, console, resume=True)
    meta = json.loads((folder / "training_metadata.json").read_text())
    assert meta["started_from"] == str(s.run.dir / "stage1_text_model")
    assert "| started from | `stage1_text_model` |" in (folder / "README.md").read_text()


def test_the_environment_holds_no_name_and_no_path(tmp_path: Path) -> None:
    facts = environment.environment(torch.device("cpu"))
    text = json.dumps(facts)
    assert os.uname().nodename not in text
    assert str(Path.home()) not in text.replace(str(Path("/root")), "")
    assert "/" not in text.replace("GNU/Linux", "")
    assert facts["device"] == {"type": "cpu"}
    assert environment.as_line(facts).startswith(f"cadmllm {facts['cadmllm']}, Python ")


def test_a_commit_is_told_of_checkouts_alone(tmp_path: Path) -> None:
    assert environment.commit(tmp_path) is None
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=b"]
    (tmp_path / "pyproject.toml").write_text("")
    subprocess.run([*git, "init", "-q"], check=True)
    assert environment.commit(tmp_path / ".") is None  # no commit yet
    environment.commit.cache_clear()
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "x"], check=True)
    found = environment.commit(tmp_path)
    assert found is not None
    assert re.fullmatch("[0-9a-f]{40}", found)
    environment.commit.cache_clear()
    (tmp_path / "pyproject.toml").write_text("changed")
    assert environment.commit(tmp_path) == f"{found}+"
    environment.commit.cache_clear()


def test_the_data_sets_fingerprint_changes_with_what_training_sees(tmp_path: Path) -> None:
    seen = set()
    for seed, count in ((0, 4), (1, 4), (0, 5)):
        root = tmp_path / f"{seed}-{count}"
        synth.write_dataset(root, count, seed)
        found = open_dataset(DataSettings(root=root)).fingerprint()
        assert found == open_dataset(DataSettings(root=root)).fingerprint()
        seen.add(found)
    assert len(seen) == 3


def test_a_gpu_is_told_with_its_driver(monkeypatch) -> None:
    facts = SimpleNamespace(name="NVIDIA GeForce RTX 5070 Ti", major=12, minor=0, total_memory=17_094_934_528)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: facts)
    monkeypatch.setattr(environment, "_driver", lambda: None)
    told = environment.environment(torch.device("cuda"))
    assert told["device"]["compute_capability"] == "12.0"
    assert told["device"]["memory_gib"] == 15.92
    assert "NVIDIA GeForce RTX 5070 Ti (driver unknown)" in environment.as_line(told)
