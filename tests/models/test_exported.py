"""Export folders as `cadmllm infer` takes them: whole ones answer, everything else is a coded error and runs no code."""

from __future__ import annotations

import json
import pickle
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from cadmllm.console import Console
from cadmllm.errors import CadmllmError
from cadmllm.export.adapter import write_adapter
from cadmllm.export.merge import write_merged
from cadmllm.export.papers import record_of, write_papers
from cadmllm.export.parts import write_parts
from cadmllm.export.source import open_source
from cadmllm.infer.checkpoint import load_checkpoint
from cadmllm.models.backbone import load_backbone
from cadmllm.models.exported import is_export, load_exported, read_export
from cadmllm.models.fusion import build_model
from cadmllm.models.stages import write_manifest
from cadmllm.models.weights import load_model, save_model
from cadmllm.settings import Settings

RECORD = "cadmllm.json"


class Ran:
    """Would leave a file behind if it were unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory, make_base: Callable[..., Path]) -> dict[str, Path]:
    """A checkpoint of stage 2 with LoRA ('checkpoint'), and all that can be exported from it; 'base' beside them. Read only."""
    root = tmp_path_factory.mktemp("exports")
    base = make_base(root / "tiny-qwen", tied=False)
    settings = Settings(
        model={
            "llm": str(base),
            "points_encoder": "fourier",
            "point_count": 64,
            "point_tokens": 8,
            "fourier_width": 32,
            "image_encoder": "tiny",
            "image_tokens": 4,
        },  # ty: ignore[invalid-argument-type]
        lora={"enabled": True, "r": 4, "alpha": 8},  # ty: ignore[invalid-argument-type]
        dtype="float32",
        device="cpu",
    )
    model = build_model(settings, 2)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "lora_B" in name:
                value.normal_(std=0.1)
    save_model(model, root / "checkpoint", {})
    write_manifest(root / "checkpoint")
    folders = {"base": base, "checkpoint": root / "checkpoint"}
    source = open_source(root / "checkpoint", settings)
    for kind in ("merged", "adapter", "gguf"):
        folders[kind] = root / kind
        folders[kind].mkdir()
        write_papers(source, folders[kind], kind, "fp32")
        write_parts(source, folders[kind], torch.float32)
        if kind == "merged":
            write_merged(source, folders[kind], torch.float32, 10**9)
        elif kind == "adapter":
            write_adapter(source, folders[kind], torch.float32)
        (folders[kind] / RECORD).write_text(json.dumps(record_of(source, kind, "fp32", {}, [])))
        write_manifest(folders[kind])
    return folders


@pytest.fixture
def chosen(exports: dict[str, Path]) -> Settings:
    """What a person would set on this machine: where the base lies, nothing of how the model was made."""
    return Settings(model={"llm": str(exports["base"])}, dtype="float32", device="cpu")  # ty: ignore[invalid-argument-type]


@pytest.mark.parametrize("kind", ["merged", "adapter"])
def test_an_export_has_the_checkpoints_parts(exports: dict[str, Path], chosen: Settings, kind: str):
    ours, theirs = load_model(exports["checkpoint"], chosen), load_exported(exports[kind], chosen)
    assert theirs.stage == 2
    assert theirs.fingerprint == ours.fingerprint
    assert theirs.text_size == ours.text_size
    assert not theirs.training
    assert not any(value.requires_grad for value in theirs.parameters())
    assert torch.equal(ours.rows.input, theirs.rows.input)
    assert torch.equal(ours.rows.output, theirs.rows.output)
    assert ours.points is not None
    assert theirs.points is not None
    pairs = (ours.points.named_parameters(), theirs.points.parameters())
    for (name, a), b in zip(*pairs, strict=True):
        assert torch.equal(a, b), name


def test_what_answers_is_said(exports: dict[str, Path], chosen: Settings):
    chosen.infer.checkpoint = exports["merged"]
    found = load_checkpoint(chosen, Console(quiet=True)).described()
    assert found["export"]["kind"] == "merged"
    assert found["export"]["dtype"] == "fp32"
    assert found["export"]["of"]["checkpoint"] == "checkpoint"
    assert len(found["sha256"]) == 64


def test_a_small_card_takes_a_merged_model_in_4_bit(exports: dict[str, Path], chosen: Settings):
    pytest.importorskip("bitsandbytes", reason="the extra qlora is not installed")
    chosen.model.quantization = "nf4"
    model = load_exported(exports["merged"], chosen)
    packed = [name for name, value in model.named_parameters() if value.dtype == torch.uint8]
    assert len(packed) == 2 * 7


def refused(folder: Path, settings: Settings, code: str, *words: str) -> None:
    with pytest.raises(CadmllmError) as caught:
        load_exported(folder, settings)
    assert caught.value.code == code, caught.value
    assert caught.value.remedy
    for word in words:
        assert word in caught.value.message, caught.value


def test_a_gguf_file_is_for_other_tools(exports: dict[str, Path], chosen: Settings):
    refused(exports["gguf"], chosen, "E723", "llama.cpp")


def test_training_does_not_go_on_from_an_export(exports: dict[str, Path], chosen: Settings):
    for load in (lambda: load_model(exports["merged"], chosen), lambda: load_model(exports["adapter"], chosen, stage=2)):
        with pytest.raises(CadmllmError) as caught:
            load()
        assert caught.value.code == "E504"
        assert "export" in caught.value.message
    chosen.model.llm = str(exports["merged"])
    with pytest.raises(CadmllmError) as caught:
        load_backbone(chosen)
    assert caught.value.code == "E501"
    assert "export" in caught.value.message


def json_of(name: str, **entries: Any) -> Callable[[Path], object]:
    """Change entries of a JSON file; None removes one."""

    def change(folder: Path) -> None:
        held = {**json.loads((folder / name).read_text()), **entries}
        (folder / name).write_text(json.dumps({key: value for key, value in held.items() if value is not None}))

    return change


def tensors_of(name: str, by: Callable[[dict[str, Tensor]], object]) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        tensors = load_file(folder / name)
        by(tensors)
        save_file(tensors, folder / name, {"format": "pt"})

    return change


def pickled(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(pickle.dumps(Ran(folder.parent / "ran")))


def cut(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-64])


def indexed(place: str) -> Callable[[Path], object]:
    """The weights under an index that names another file."""

    def change(folder: Path) -> None:
        names = load_file(folder / "model.safetensors")
        (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": dict.fromkeys(names, place)}))

    return change


def narrower(tensors: dict[str, Tensor]) -> None:
    tensors["lm_head.weight"] = tensors["lm_head.weight"][:-1].contiguous()


def another_row(tensors: dict[str, Tensor]) -> None:
    tensors["base_model.model.model.embed_tokens.weight"][5] += 1.0


SPOILT: list[tuple[str, Callable[[Path], object], str, str]] = [
    ("merged", json_of(RECORD, format=2), "E722", "format"),
    ("merged", json_of(RECORD, kind="onnx"), "E722", "onnx"),
    ("merged", json_of(RECORD, kind=None), "E722", "kind"),
    ("merged", json_of(RECORD, stage=True), "E722", "stage"),
    ("merged", json_of(RECORD, stage=3), "E722", "images"),
    ("merged", json_of(RECORD, vocabulary="0" * 16), "E722", "vocabulary"),
    ("merged", json_of(RECORD, text_size=100), "E722", "tokenizer"),
    ("merged", json_of(RECORD, rows=1600), "E722", "rows"),
    ("merged", json_of(RECORD, rows=5000), "E722", "vocab_size"),
    ("merged", json_of(RECORD, lora=[]), "E722", "lora"),
    ("merged", lambda folder: (folder / RECORD).write_text("[" * 100_000), "E722", RECORD),
    ("merged", lambda folder: (folder / RECORD).write_bytes(b"\xff\xfe{}"), "E722", RECORD),
    ("merged", json_of("config.json", auto_map={"AutoModel": "evil.Model"}), "E722", "auto_map"),
    ("merged", json_of("tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.T", None]}), "E722", "auto_map"),
    ("merged", json_of("config.json", model_type="gpt2"), "E722", "its weights lack"),
    ("merged", json_of("config.json", tie_word_embeddings=True), "E722", "tie_word_embeddings"),
    ("merged", json_of("config.json", quantization_config={"quant_method": "awq"}), "E722", "quantization_config"),
    ("merged", json_of("config.json", hidden_size=64), "E722", ""),
    ("merged", json_of("config.json", num_hidden_layers=1, layer_types=None), "E722", "layers.1"),
    ("merged", json_of("config.json", num_hidden_layers=3, layer_types=None), "E722", "layers.2"),
    ("merged", pickled("pytorch_model.bin"), "E722", "pytorch_model.bin"),
    ("merged", lambda folder: (folder / "modeling.py").write_text("raise SystemExit"), "E722", "modeling.py"),
    ("merged", lambda folder: (folder / "model.safetensors").unlink(), "E722", "model.safetensors"),
    ("merged", cut("model.safetensors"), "E722", "model.safetensors"),
    ("merged", tensors_of("model.safetensors", narrower), "E722", "lm_head"),
    ("merged", indexed("../checkpoint/model.safetensors"), "E722", ".."),
    ("merged", indexed("/etc/passwd"), "E722", "/etc/passwd"),
    ("merged", lambda folder: (folder / "tokenizer.json").write_text("{}"), "E722", "tokenizer"),
    ("merged", lambda folder: (folder / "projectors.safetensors").unlink(), "E504", "points.projector"),
    ("merged", lambda folder: (folder / "encoders.safetensors").unlink(), "E504", "points.encoder"),
    ("merged", tensors_of("projectors.safetensors", lambda t: t.update(extra=torch.zeros(1))), "E722", "extra"),
    ("adapter", json_of("adapter_config.json", lora_alpha=16), "E722", "lora_alpha"),
    ("adapter", json_of("adapter_config.json", use_rslora=True), "E722", "use_rslora"),
    ("adapter", json_of("adapter_config.json", alpha_pattern={"q_proj": 3}), "E722", "alpha_pattern"),
    ("adapter", lambda folder: (folder / "adapter_config.json").unlink(), "E722", "adapter_config.json"),
    ("adapter", cut("adapter_model.safetensors"), "E722", "adapter_model.safetensors"),
    ("adapter", pickled("adapter_model.bin"), "E722", "adapter_model.bin"),
    ("adapter", tensors_of("adapter_model.safetensors", another_row), "E722", "row 5"),
    ("adapter", tensors_of("adapter_model.safetensors", lambda t: t.popitem()), "E722", "lm_head"),
    ("adapter", json_of(RECORD, lora={"enabled": True, "r": 8, "alpha": 16}), "E722", "r is 4"),
]


@pytest.mark.parametrize(
    ("kind", "spoil", "code", "word"), SPOILT, ids=[f"{n} {row[0]} {row[3]}" for n, row in enumerate(SPOILT)]
)
def test_what_contradicts_itself_is_refused_even_under_a_new_manifest(
    exports: dict[str, Path], chosen: Settings, tmp_path: Path, kind: str, spoil: Callable[[Path], object], code: str, word: str
):
    folder = shutil.copytree(exports[kind], tmp_path / "spoilt")
    spoil(folder)
    write_manifest(folder)
    refused(folder, chosen, code, word)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("kind", ["merged", "adapter"])
def test_a_changed_byte_a_missing_and_a_surplus_file_are_found(
    exports: dict[str, Path], chosen: Settings, tmp_path: Path, kind: str
):
    for number, path in enumerate(sorted(exports[kind].iterdir())):
        folder = shutil.copytree(exports[kind], tmp_path / str(number))
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        (folder / path.name).write_bytes(content)
        refused(folder, chosen, "E722", path.name if path.name != "manifest.json" else "")
        (folder / path.name).unlink()
        if path.name == RECORD:
            assert not is_export(folder)
        refused(folder, chosen, "E722", path.name)
    folder = shutil.copytree(exports[kind], tmp_path / "more")
    (folder / "more.txt").write_text("more")
    refused(folder, chosen, "E722", "more.txt")


def test_another_base_under_an_adapter_is_refused(
    exports: dict[str, Path], chosen: Settings, tmp_path: Path, make_base: Callable[..., Path]
):
    chosen.model.llm = str(make_base(tmp_path / "other", seed=1))
    refused(exports["adapter"], chosen, "E504", "another base")


def test_another_tokenizer_is_refused(exports: dict[str, Path], chosen: Settings, tmp_path: Path):
    folder = shutil.copytree(exports["merged"], tmp_path / "spoilt")
    text = (folder / "tokenizer.json").read_text()
    held = json.loads(text)
    vocabulary = held["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    (folder / "tokenizer.json").write_text(json.dumps(held))
    write_manifest(folder)
    refused(folder, chosen, "E722", "tokenizer")


def test_a_base_that_is_not_here_is_asked_for(exports: dict[str, Path], chosen: Settings):
    """The record holds the last part of a path alone; a default that nobody set is not taken for it."""
    assert read_export(exports["adapter"])["model"]["llm"] == "tiny-qwen"
    chosen.model.llm = type(chosen.model).model_fields["llm"].default
    refused(exports["adapter"], chosen, "E501", "tiny-qwen")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


@given(st.data())
def test_a_record_with_anything_in_it_is_taken_or_refused(exports: dict[str, Path], data: st.DataObject):
    record = json.loads((exports["merged"] / RECORD).read_text())
    for key in data.draw(st.lists(st.sampled_from(sorted(record)), min_size=1, max_size=3)):
        record[key] = data.draw(JSON)
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / RECORD).write_text(json.dumps(record))
        try:
            found = read_export(Path(place))
        except CadmllmError as error:
            assert error.code == "E722"
        else:
            assert found["rows"] >= found["text_size"] + found["added"]


@given(st.binary(max_size=64), st.integers(0, 1000))
def test_a_record_of_any_bytes_is_refused(exports: dict[str, Path], junk: bytes, at: int):
    whole = (exports["merged"] / RECORD).read_bytes()
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / RECORD).write_bytes(whole[: at % len(whole)] + junk)
        with pytest.raises(CadmllmError) as caught:
            read_export(Path(place))
        assert caught.value.code == "E722"
