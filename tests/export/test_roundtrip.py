"""From a checkpoint to an export and back: with our own `infer`, and in a process that never heard of us."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cadmllm.console import Console
from cadmllm.corpus.types import CAD_SIZE, IMAGE, PLACEHOLDERS, POINTS, Batch
from cadmllm.export import run
from cadmllm.export.prompts import prompts
from cadmllm.export.questions import collator_of
from cadmllm.infer.checkpoint import load_checkpoint
from cadmllm.infer.generate import generate
from cadmllm.models.fusion import CadMLLM
from cadmllm.models.stages import write_manifest
from cadmllm.models.weights import load_model
from cadmllm.settings import Settings
from tests.encoders import make_dino, make_michelangelo

PLAIN = Path(__file__).with_name("plain_answers.py")
PERCEIVER = {"image_bridge": "perceiver", "image_tokens": 6, "resampler_width": 32, "resampler_layers": 1}


@dataclass
class Trip:
    """A checkpoint, what a person would set to use it, and its exports in float32 by kind."""

    folder: Path
    base: Path
    settings: Settings
    model: CadMLLM
    exports: dict[str, Path]


@pytest.fixture(scope="module")
def trip(tmp_path_factory: pytest.TempPathFactory, make_base: Callable[..., Path], make_checkpoint: Callable[..., Any]):
    """`trip(name, stage, kinds, **model)`: a checkpoint and its exports, made once."""
    root = tmp_path_factory.mktemp("trips")
    bases = {tied: make_base(root / f"base-{tied}", tied=tied, max_position_embeddings=1024) for tied in (True, False)}

    known: dict[str, Trip] = {}

    def once(name: str, *args: Any, **options: Any) -> Trip:
        if name not in known:
            known[name] = make(name, *args, **options)
        return known[name]

    def make(name: str, stage: int, kinds: tuple[str, ...], *, tied: bool = True, lora: bool = True, **model: Any) -> Trip:
        checkpoint = make_checkpoint(root / name, bases[tied], stage=stage, lora=lora, **model)
        write_manifest(checkpoint.folder)
        exports = {}
        for kind in kinds:
            settings = checkpoint.settings.model_copy(deep=True)
            settings.infer.checkpoint, settings.export.out = checkpoint.folder, root / f"{name}-{kind}"
            settings.export.to, settings.export.dtype = kind, "fp32"  # ty: ignore[invalid-assignment]
            run.export(settings, Console(quiet=True))
            exports[kind] = root / f"{name}-{kind}"
        places = {key: getattr(checkpoint.settings.model, key) for key in ("llm", "points_checkpoint", "image_encoder")}
        settings = Settings(model=places, dtype="float32", device="cpu")  # ty: ignore[invalid-argument-type]
        return Trip(checkpoint.folder, bases[tied], settings, load_model(checkpoint.folder, settings).eval(), exports)

    return once


def programs(model: CadMLLM, settings: Settings) -> list[tuple[int, ...]]:
    answers = generate(model, prompts(model.stage, model.settings), max_new_tokens=40)
    return [answer.tokens for answer in answers]


def check_infer(trip: Trip) -> None:
    """Every prompt of the stage is answered with the same program from the checkpoint and from its exports."""
    wanted = programs(trip.model, trip.settings)
    assert len({len(tokens) for tokens in wanted}) > 1 or len(set(wanted)) > 1, "answers that are all alike would prove nothing"
    for kind, folder in trip.exports.items():
        settings = trip.settings.model_copy(deep=True)
        settings.infer.checkpoint = folder
        found = load_checkpoint(settings, Console(quiet=True))
        assert found.described()["export"]["kind"] == kind
        assert programs(found.model, settings) == wanted, kind


def test_lora_of_stage_3_with_mlps(trip: Callable[..., Trip]):
    check_infer(trip("mlp", 3, ("merged", "adapter")))


def test_a_whole_model_of_stage_2(trip: Callable[..., Trip]):
    check_infer(trip("whole", 2, ("merged",), tied=False, lora=False))


@pytest.mark.long
def test_frozen_encoders_through_resamplers(trip: Callable[..., Trip], tmp_path: Path):
    """Michelangelo and DINOv2 from files that the export does not hold; the user says where they lie."""
    files = {
        "points_encoder": "michelangelo",
        "points_checkpoint": str(make_michelangelo(tmp_path / "michelangelo.pt")),
        "image_encoder": str(make_dino(tmp_path / "dino")),
        "point_tokens": 4,
    }
    made = trip("frozen", 3, ("merged", "adapter"), **PERCEIVER, **files)
    assert not (made.exports["merged"] / "encoders.safetensors").exists()
    check_infer(made)


@pytest.mark.long
def test_encoders_that_were_trained_go_along(trip: Callable[..., Trip], tmp_path: Path):
    files = {"image_encoder": str(make_dino(tmp_path / "dino")), "train_encoders": True}
    made = trip("trained", 3, ("merged", "adapter"), **PERCEIVER, **files)
    assert (made.exports["merged"] / "encoders.safetensors").exists()
    check_infer(made)


def test_a_run_on_a_base_in_4_bit_is_exported_on_the_base_in_16_bit(
    make_base: Callable[..., Path], make_checkpoint: Callable[..., Any], tmp_path: Path
):
    pytest.importorskip("bitsandbytes", reason="the extra qlora is not installed")
    base = make_base(tmp_path / "base", max_position_embeddings=1024)
    checkpoint = make_checkpoint(tmp_path / "checkpoint", base, quantization="nf4")
    write_manifest(checkpoint.folder)
    settings = checkpoint.settings.model_copy(deep=True)
    settings.infer.checkpoint, settings.export.out, settings.export.dtype = checkpoint.folder, tmp_path / "out", "fp32"
    checked = run.export(settings, Console(quiet=True))["checked"]
    assert "4 bit" in checked["reference"]
    assert checked["worst"]["distance"] < 1e-3
    settings.infer.checkpoint, settings.model.quantization = tmp_path / "out", "none"
    wanted = load_model(checkpoint.folder, settings)
    assert programs(load_checkpoint(settings, Console(quiet=True)).model, settings) == programs(wanted, settings)


def asked_of(trip: Trip, path: Path) -> list[np.ndarray]:
    """Write what the plain script is asked, and give the checkpoint's own scores [T, CAD_SIZE] of it."""
    model, asked, wanted = trip.model, {}, []
    collator = collator_of(model)
    for k, sample in enumerate(
        one for one in prompts(model.stage, model.settings) if one.combination != "text+point_cloud+image"
    ):
        batch: Batch = collator([sample])
        asked[f"ids_{k}"] = batch.input_ids[0].numpy()
        for branch, placeholder, inputs in (
            ("points", POINTS, (batch.points, batch.normals)),
            ("images", IMAGE, (batch.pixels,)),
        ):
            if inputs[0] is not None:
                encoder: Any = getattr(model, branch).encoder
                with torch.no_grad():
                    asked[f"features_{k}"] = encoder(*inputs).flatten(0, 1).numpy()
                asked[f"branch_{k}"] = np.array(branch)
                asked[f"place_{k}"] = np.array(model.text_size + CAD_SIZE + PLACEHOLDERS.index(placeholder))
        with torch.no_grad():
            hidden = model.llm(inputs_embeds=model.embed(batch)).last_hidden_state
            wanted.append(model.rows.logits(hidden)[0].numpy())
    np.savez(path, **asked)
    return wanted


def test_a_plain_script_gets_the_same_logits_from_words_clouds_and_views(trip: Callable[..., Trip], tmp_path: Path):
    check_plain({"mlp": trip("mlp", 3, ("merged", "adapter"))}, tmp_path)


@pytest.mark.long
def test_a_plain_script_over_an_untied_base_and_a_whole_model(trip: Callable[..., Trip], tmp_path: Path):
    trips = {
        "untied": trip("untied", 1, ("merged", "adapter"), tied=False),
        "whole": trip("whole", 2, ("merged",), tied=False, lora=False),
    }
    check_plain(trips, tmp_path)


def check_plain(trips: dict[str, Trip], tmp_path: Path) -> None:
    """The exports of some checkpoints, loaded in a process without us, give the checkpoints' own scores."""
    jobs, wanted = [], {}
    for name, one in trips.items():
        wanted[name] = asked_of(one, tmp_path / f"{name}.npz")
        for kind, folder in one.exports.items():
            rows = json.loads((folder / "cadmllm.json").read_text())["rows"]
            base = str(one.base) if kind == "adapter" else None
            places = {"asked": str(tmp_path / f"{name}.npz"), "out": str(tmp_path / f"{name}-{kind}-out.npz")}
            jobs.append({"folder": str(folder), "base": base, "rows": rows, **places})
    (tmp_path / "jobs.json").write_text(json.dumps(jobs))
    ran = subprocess.run(
        [sys.executable, "-I", str(PLAIN), str(tmp_path / "jobs.json")], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert "no cadmllm" in ran.stdout
    for name, one in trips.items():
        for kind in one.exports:
            found = np.load(tmp_path / f"{name}-{kind}-out.npz")
            for k, ours in enumerate(wanted[name]):
                theirs = found[f"logits_{k}"][:, one.model.text_size : one.model.text_size + CAD_SIZE]
                np.testing.assert_allclose(theirs, ours, atol=2e-4 * ours.std(), err_msg=f"{name} {kind} prompt {k}")


@pytest.mark.long
def test_a_run_that_was_trained_is_exported_by_the_command_and_answers_the_same(tmp_path: Path):
    from cadmllm.cli import main

    rates = [item for stage in (1, 2, 3) for item in ("--set", f"stages.{stage}.lr=0.01")]
    common = ["--preset", "tiny", "--output_dir", str(tmp_path / "run"), "--set", "device=cpu"]
    few = [
        "--set",
        "lora.enabled=true",
        "--set",
        "data.synthetic=8",
        "--set",
        "train.max_steps=3",
        "--set",
        "train.warmup_steps=1",
    ]
    assert main(["train", "stage1", "stage2", "stage3", *common, *few, *rates, "--set", "train.judge_samples=0"]) == 0
    settings = Settings(dtype="float32", device="cpu")
    model = load_model(tmp_path / "run" / "stage3_all_model", settings)
    wanted = programs(model, settings)
    for kind in ("merged", "adapter"):
        assert main(["export", *common, "--to", kind, "--dtype", "fp32", "--out", str(tmp_path / kind)]) == 0
        assert main(["export", "--verify", str(tmp_path / kind)]) == 0
        record = json.loads((tmp_path / kind / "cadmllm.json").read_text())
        assert record["checked"]["lora"] > 0.01, "LoRA learned something"
        settings.infer.checkpoint = tmp_path / kind
        assert programs(load_checkpoint(settings, Console(quiet=True)).model, settings) == wanted
