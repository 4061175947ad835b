"""The comparison of an export with its checkpoint: what is right passes, and every kind of wrong fails by far."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from cadmllm.console import Console
from cadmllm.corpus.types import CAD_SIZE
from cadmllm.errors import CadmllmError
from cadmllm.export import verify
from cadmllm.export.adapter import write_adapter
from cadmllm.export.compare import EXACT, Distance, Tolerance
from cadmllm.export.merge import write_merged
from cadmllm.export.papers import write_papers
from cadmllm.export.parts import write_parts
from cadmllm.export.room import find_room
from cadmllm.export.source import Source, open_source
from cadmllm.export.verify import verify_export

TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
ANYTHING = Tolerance(math.inf, math.inf)
MERGED, ADAPTER = "model.safetensors", "adapter_model.safetensors"
TEXT = 259


def write(source: Source, folder: Path, kind: str, dtype: str) -> Path:
    """An export without its record and manifest, as it is when it is compared."""
    folder.mkdir(parents=True)
    write_papers(source, folder, kind, dtype)
    write_parts(source, folder, TYPES[dtype])
    if kind == "merged":
        write_merged(source, folder, TYPES[dtype], 10**9)
    else:
        write_adapter(source, folder, TYPES[dtype])
    return folder


@dataclass
class Exported:
    """A checkpoint of stage 3, opened, its answers, and its exports; read only."""

    source: Source
    folders: dict[str, Path]

    def told(self) -> Any:
        return verify._checkpoint(self.source, "merged", find_room(self.source, self.source.settings), Console(quiet=True))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, make_base: Callable[..., Path], make_checkpoint: Callable[..., Any]):
    """Merged and adapter, in float32, of a checkpoint that shows clouds and, through a perceiver, views."""
    base = make_base(tmp_path_factory.mktemp("base"), tied=True, max_position_embeddings=1024)
    options = {"image_bridge": "perceiver", "image_tokens": 6, "resampler_width": 32, "resampler_layers": 1}
    checkpoint = make_checkpoint(tmp_path_factory.mktemp("checkpoint"), base, stage=3, **options)
    source = open_source(checkpoint.folder, checkpoint.settings)
    out = tmp_path_factory.mktemp("exports")
    folders = {f"{kind}-fp32": write(source, out / kind, kind, "fp32") for kind in ("merged", "adapter")}
    return Exported(source, folders)


@pytest.fixture(scope="module")
def told(made: Exported):
    """What the checkpoint answers: asked once."""
    return made.told()


@pytest.fixture
def quick(told: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The checkpoint has answered already: what is spoilt here is the export."""
    monkeypatch.setattr(verify, "_checkpoint", lambda *_: told)


def distances(made: Exported, told: Any, folder: Path, kind: str) -> dict[str, Distance]:
    """Of the logits alone, whatever they are."""
    room = find_room(made.source, made.source.settings)
    return verify._export(made.source, folder, kind, told, room, ANYTHING, "fp32")


def test_every_prompt_of_the_stage_is_asked_and_the_answers_are_the_same(made: Exported):
    found = verify_export(made.source, made.folders["merged-fp32"], "merged", "fp32", Console(quiet=True))
    assert set(found["prompts"]) == {
        *("text-short", "text-long", "cloud-short", "view-long", "views-short", "cloud-views-long"),
    }
    assert found["worst"]["distance"] < 1e-4
    assert found["worst"]["agreement"] == 1.0
    assert found["lora"] > 1.0, "LoRA moves the answers by far more than what is allowed"
    assert found["rows"] == 2 * made.source.rows
    assert found["tensors"] == len(made.source.shapes()) - 2
    assert found["computed"] == "float32 on cpu"
    assert "6 prompts" in found["said"]
    json.dumps(found, allow_nan=False)


@pytest.mark.usefixtures("quick")
def test_an_adapter_answers_the_same_through_peft(made: Exported):
    found = verify_export(made.source, made.folders["adapter-fp32"], "adapter", "fp32", Console(quiet=True))
    assert found["worst"]["distance"] < 1e-4
    assert "peft" in found["loader"]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_rounding_stays_within_its_tolerance_and_is_seen(made: Exported, tmp_path: Path, dtype: str):
    folder = write(made.source, tmp_path / "out", "merged", dtype)
    found = verify_export(made.source, folder, "merged", dtype, Console(quiet=True))
    assert 1e-5 < found["worst"]["distance"] < EXACT[dtype].distance


def change(name: str, by: Callable[[dict[str, Tensor]], None]) -> Callable[[Path], None]:
    """Spoil tensors of a file."""

    def spoil(folder: Path) -> None:
        tensors = load_file(folder / name)
        by(tensors)
        save_file({key: value.contiguous() for key, value in tensors.items()}, folder / name, {"format": "pt"})

    return spoil


def _alpha(folder: Path) -> None:
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "lora_alpha": config["lora_alpha"] * 2}))


def _layers(tensors: dict[str, Tensor]) -> None:
    """Queries of one layer for those of the other."""
    names = [f"model.layers.{k}.self_attn.q_proj.weight" for k in (0, 1)]
    tensors[names[0]], tensors[names[1]] = tensors[names[1]], tensors[names[0]]


def _one_off(name: str) -> Callable[[dict[str, Tensor]], None]:
    def shift(tensors: dict[str, Tensor]) -> None:
        tensors[name][TEXT : TEXT + CAD_SIZE] = tensors[name][TEXT : TEXT + CAD_SIZE].roll(1, dims=0)

    return shift


def _missing_row(tensors: dict[str, Tensor]) -> None:
    tensors["lm_head.weight"][TEXT + 700] = 0


def _without(part: str) -> Callable[[dict[str, Tensor]], None]:
    def zero(tensors: dict[str, Tensor]) -> None:
        for name in tensors:
            if name.startswith(part):
                tensors[name].zero_()

    return zero


def _no_lora(tensors: dict[str, Tensor]) -> None:
    for name in tensors:
        if "lora_B" in name:
            tensors[name].zero_()


SPOILT = {
    "alpha over r is twice as large": ("adapter", _alpha),
    "LoRA did not arrive": ("adapter", change(ADAPTER, _no_lora)),
    "two layers exchanged": ("merged", change(MERGED, _layers)),
    "a row of the output matrix is missing": ("merged", change(MERGED, _missing_row)),
    "input rows are one off": ("merged", change(MERGED, _one_off("model.embed_tokens.weight"))),
    "output rows are one off": ("merged", change(MERGED, _one_off("lm_head.weight"))),
    "the projector of clouds is zero": ("merged", change("projectors.safetensors", _without("points.projector.out"))),
    "the resampler of views is zero": ("merged", change("projectors.safetensors", _without("images.projector"))),
    "the encoder of clouds is zero": ("merged", change("encoders.safetensors", _without("points.encoder"))),
}


@pytest.mark.parametrize("what", SPOILT)
def test_every_kind_of_wrong_is_far_outside_the_widest_tolerance(made: Exported, told: Any, tmp_path: Path, what: str):
    kind, spoil = SPOILT[what]
    folder = shutil.copytree(made.folders[f"{kind}-fp32"], tmp_path / "spoilt")
    spoil(folder)
    found = distances(made, told, folder, kind)
    worst = max(one.distance for one in found.values())
    drift, same = max(one.divergence for one in found.values()), min(one.agreement for one in found.values())
    print(f"{what}: distance {worst:.2g}, divergence {drift:.2g}, agreement {same:.2f}")  # docs/export.md has these, by pytest -s
    assert worst > 2.5 * EXACT["bf16"].distance, f"{what}: {worst:.3g}"


def test_a_gguf_file_that_ram_cannot_hold_is_read_back_value_by_value(
    made: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from cadmllm.export.gguf_file import write_gguf
    from cadmllm.export.merge import merged_tensors

    write_papers(made.source, tmp_path, "gguf", "bf16")
    write_gguf(made.source, merged_tensors(made.source, torch.float32), tmp_path, tmp_path / "model-bf16.gguf", "bf16")
    found = verify_export(made.source, tmp_path, "gguf", "bf16", Console(quiet=True))
    assert set(found["prompts"]) == {"text-short", "text-long"}
    assert found["worst"]["distance"] < EXACT["bf16"].distance
    monkeypatch.setattr("cadmllm.export.room.free_bytes", lambda device: 10**6)
    found = verify_export(made.source, tmp_path, "gguf", "bf16", Console(quiet=True))
    assert found["prompts"] == {}
    assert "read back" in found["said"]
    assert found["gguf"]["tensors"] > 10


@pytest.mark.usefixtures("quick")
def test_a_wrong_scale_is_refused_with_prompt_distance_and_tolerance(made: Exported, tmp_path: Path):
    folder = shutil.copytree(made.folders["adapter-fp32"], tmp_path / "spoilt")
    _alpha(folder)
    with pytest.raises(CadmllmError) as caught:
        verify_export(made.source, folder, "adapter", "fp32", Console(quiet=True))
    assert caught.value.code == "E721"
    assert "'text-short'" in caught.value.message
    assert "0.001" in caught.value.message


@pytest.mark.usefixtures("quick")
def test_lora_of_other_matrices_is_refused(made: Exported, tmp_path: Path):
    """A and B exchanged do not even fit; transposed into each other's names, peft refuses them."""
    folder = shutil.copytree(made.folders["adapter-fp32"], tmp_path / "spoilt")

    def exchange(tensors: dict[str, Tensor]) -> None:
        for name in [name for name in tensors if "lora_A" in name]:
            other = name.replace("lora_A", "lora_B")
            tensors[name], tensors[other] = tensors[other], tensors[name]

    change(ADAPTER, exchange)(folder)
    with pytest.raises(CadmllmError) as caught:
        verify_export(made.source, folder, "adapter", "fp32", Console(quiet=True))
    assert caught.value.code == "E722"


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("row", "word"),
    [(3, "of the base"), (TEXT + 1600, "<|cad_points|>"), (TEXT + 5, "<cad:plane_tilted>"), (-1, "<|cad_image|>")],
)
def test_a_row_that_no_prompt_reads_is_compared_as_well(made: Exported, tmp_path: Path, row: int, word: str):
    folder = shutil.copytree(made.folders["merged-fp32"], tmp_path / "spoilt")

    def nudge(tensors: dict[str, Tensor]) -> None:
        tensors["model.embed_tokens.weight"][row, 0] *= 1.001

    change(MERGED, nudge)(folder)
    with pytest.raises(CadmllmError) as caught:
        verify_export(made.source, folder, "merged", "fp32", Console(quiet=True))
    assert caught.value.code == "E721"
    assert word in caught.value.message


def _one_number(name: str) -> Callable[[dict[str, Tensor]], None]:
    def nudge(tensors: dict[str, Tensor]) -> None:
        tensors[name][3, 5] *= 1.01

    return nudge


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("kind", "file", "name"),
    [
        ("merged", MERGED, "model.layers.1.mlp.down_proj.weight"),
        ("adapter", ADAPTER, "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"),
    ],
)
def test_a_number_that_no_answer_shows_is_compared_as_well(made: Exported, tmp_path: Path, kind: str, file: str, name: str):
    folder = shutil.copytree(made.folders[f"{kind}-fp32"], tmp_path / "spoilt")
    change(file, _one_number(name))(folder)
    with pytest.raises(CadmllmError) as caught:
        verify_export(made.source, folder, kind, "fp32", Console(quiet=True))
    assert caught.value.code == "E721"
    assert name in caught.value.message


def _drop(name: str) -> Callable[[dict[str, Tensor]], None]:
    def drop(tensors: dict[str, Tensor]) -> None:
        del tensors[name]

    return drop


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("spoil", "word"),
    [
        (lambda folder: (folder / "projectors.safetensors").unlink(), "points."),
        (lambda folder: (folder / "encoders.safetensors").unlink(), "points.encoder"),
        (change("projectors.safetensors", _drop("images.projector.latents")), "images.projector.latents"),
        (change(MERGED, _drop("model.layers.1.mlp.up_proj.weight")), "model.layers.1.mlp.up_proj.weight"),
        (lambda folder: (folder / "tokenizer.json").write_text("{}"), "tokenizer"),
        (lambda folder: (folder / "config.json").unlink(), "config"),
        (lambda folder: (folder / MERGED).write_bytes((folder / MERGED).read_bytes()[:-200]), MERGED),
    ],
    ids=["no projectors", "no encoders", "a projector's tensor", "a weight", "tokenizer", "config", "cut short"],
)
def test_what_is_missing_is_named(made: Exported, tmp_path: Path, spoil: Callable[[Path], None], word: str):
    folder = shutil.copytree(made.folders["merged-fp32"], tmp_path / "spoilt")
    spoil(folder)
    with pytest.raises(CadmllmError) as caught:
        verify_export(made.source, folder, "merged", "fp32", Console(quiet=True))
    assert caught.value.code == "E722"
    assert word in caught.value.message


@pytest.mark.usefixtures("quick")
def test_a_tokenizer_that_reads_words_otherwise_is_refused(made: Exported, tmp_path: Path):
    folder = shutil.copytree(made.folders["merged-fp32"], tmp_path / "spoilt")
    written = json.loads((folder / "tokenizer.json").read_text())
    written["normalizer"] = {"type": "Lowercase"}
    (folder / "tokenizer.json").write_text(json.dumps(written))
    with pytest.raises(CadmllmError) as caught:
        verify_export(made.source, folder, "merged", "fp32", Console(quiet=True))
    assert caught.value.code == "E721"
    assert "text-long" in caught.value.message


def test_a_faint_lora_is_said(
    made: Exported, tmp_path: Path, make_checkpoint: Callable[..., Any], make_base: Callable[..., Path]
):
    """LoRA that moved less than bfloat16 resolves cannot be seen in the answers, whether it arrived or not."""
    base = make_base(tmp_path / "base", max_position_embeddings=1024)
    checkpoint = make_checkpoint(tmp_path / "checkpoint", base)
    tensors = load_file(checkpoint.folder / "model.safetensors")
    faint = {name: value * 1e-4 if "lora_B" in name else value for name, value in tensors.items()}
    save_file(faint, checkpoint.folder / "model.safetensors", {"format": "pt"})
    source = open_source(checkpoint.folder, checkpoint.settings)
    folder = write(source, tmp_path / "out", "merged", "bf16")
    found = verify_export(source, folder, "merged", "bf16", Console(quiet=True))
    assert "LoRA moves these answers by" in found["said"]
    assert found["lora"] < 0.3
