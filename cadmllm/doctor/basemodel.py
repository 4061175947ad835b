"""The base language model: its files are here and whole, and configuration, weights and tokenizer are of one model."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from cadmllm.doctor.check import Check, Finding, Fix, Level, Outcome, Situation
from cadmllm.doctor.decoder import disagreement, inner, quantised, shape_in, unsupported
from cadmllm.doctor.headers import amount
from cadmllm.doctor.hub import Place, download, elsewhere, locate, offline
from cadmllm.doctor.modelfiles import INDEX, Asked, ModelFiles, open_files
from cadmllm.doctor.vocabulary import Vocabulary, misfit, read_vocabulary
from cadmllm.errors import CadmllmError
from cadmllm.places import bundled
from cadmllm.plan.sizes import GIB, KNOWN

if TYPE_CHECKING:
    from collections.abc import Mapping

NAME = "base-model"
KEY = "model.llm"
BESIDE = ("config.json", "tokenizer.json")
TINY = "--set model.llm=tiny, which needs no download"
HEADROOM = 1.02  # tokenizer and the like, beside the weights


def check_base(situation: Situation) -> Outcome:
    """The language model can be loaded and trained.

    Raises:
        CadmllmError: E501, E505, E506, which the runner makes a finding of.
    """
    settings = situation.needed
    place = base_place(situation)
    if place.folder is None:
        return _absent(place, situation.machine.environ)
    asked = _asked(situation, place)
    files = base_files(situation)
    _refuse_kind(situation, files, asked)
    packed = "quantization_config" in files.config
    wrong = "" if packed else disagreement(files)
    if wrong:
        lacking = asked.get([INDEX] if "lack" in wrong and len(files.files) > 1 else ["config.json"], force=place.hub)
        raise CadmllmError("E506", f"{files.folder}: {wrong}: files of different models, or not all of them", lacking)
    try:
        vocabulary = read_vocabulary(files.folder, situation.cache)
    except ValueError as error:
        mend = asked.get(["tokenizer.json"], force=place.hub)
        raise CadmllmError("E506", f"{files.folder / 'tokenizer.json'} {error}", mend) from None
    rows = _rows(files)
    wrong = misfit(vocabulary, rows) if rows else ""
    if wrong:
        mend = asked.get(["tokenizer.json", "tokenizer_config.json", "config.json"], force=place.hub)
        raise CadmllmError("E506", f"{files.folder}: {wrong}", mend)
    return Outcome(_summary(files, vocabulary, settings.model.llm), _unlike(files, vocabulary, asked), details=_details(files))


def base_place(situation: Situation) -> Place:
    """Where the base model is, or would be."""
    name = situation.needed.model.llm
    if name == "tiny":
        return Place(name, bundled("checkpoints/tiny-base"), hub=False)
    return locate(name, situation.machine.environ)


def base_files(situation: Situation) -> ModelFiles:
    """The base model's files, looked at once.

    Raises:
        CadmllmError: see `open_files`; E501 when there is no folder.
    """
    place = base_place(situation)
    if place.folder is None:
        raise CadmllmError("E501", f"{place.name} is not on this machine", download(place.name))
    return situation.once("base model's files", lambda: open_files(_asked(situation, place)))


def _asked(situation: Situation, place: Place) -> Asked:
    return Asked(place, "E501", KEY, BESIDE, situation.machine.environ, _weight_bytes(place.name))


def _weight_bytes(name: str) -> int:
    """Bytes of the weights of a model that is not here, in 16 bit; 0 where nobody knows."""
    shape = KNOWN.get(name)
    return shape.weight_bytes("bfloat16", "none", head=True) if shape else 0


def _absent(place: Place, environ: Mapping[str, str]) -> Outcome:
    """Nothing of the model is here: what to download, or what to name instead."""
    other = elsewhere(place.name, environ)
    fixes = (Fix("setting", KEY, str(other), f"{place.name} lies there"),) if other else ()
    there = f", but {other} holds one of its name" if other else ""
    use = f"--set {KEY}={other}; or " if other else ""
    if not place.hub:
        path = Path(place.name).expanduser()
        what = "this is a file, not a model folder" if path.exists() else f"there is no such folder ({os.path.abspath(path)})"
        remedy = f"{use}name the folder with config.json, tokenizer.json and *.safetensors: --set {KEY}=DIR; or {TINY}"
        return Outcome(
            findings=(Finding("E501", Level.FAIL, NAME, f"{KEY} is {place.name}: {what}{there}", remedy),), fixes=fixes
        )
    size = _weight_bytes(place.name) * HEADROOM / GIB
    half = f" ({amount(place.partial)} of it are half-way)" if place.partial else ""
    blocked = offline(environ)
    forbidden = f"; {blocked} forbids downloads here" if blocked else ""
    message = f"{place.name} is not on this machine{there}{half}{forbidden}"
    command = f"{'env -u ' + blocked + ' ' if blocked else ''}{download(place.name)}"
    much = f" ({size:.1f} GiB)" if size else ""
    remedy = f"{use}download it before the run{much}: {command}; without a network, copy it here and --set {KEY}=DIR; or {TINY}"
    return Outcome(findings=(Finding("E501", Level.FAIL, NAME, message, remedy),), fixes=fixes)


def _refuse_kind(situation: Situation, files: ModelFiles, asked: Asked) -> None:
    """Raise E501 for a model that training cannot work with, whole as it may be."""
    wrong = unsupported(situation, files)
    if wrong:
        good = f"name a decoder like Qwen3, Qwen2, Llama or Mistral: --set {KEY}=Qwen/Qwen3-8B; or {TINY}"
        raise CadmllmError("E501", f"language model {asked.place.name}: {wrong}", good)
    found = quantised(files.config, situation.needed.model.quantization)
    if found == "bitsandbytes" and files.config["quantization_config"].get("load_in_4bit"):
        message = f"language model {asked.place.name}: its weights are 4-bit already, and model.quantization is none"
        raise CadmllmError("E501", message, f"--set model.quantization=nf4; or name its unquantised base: --set {KEY}=NAME")
    if found:
        full = asked.place.name.rpartition("/")[2]
        base = next((name for name in KNOWN if full.startswith(name.rpartition("/")[2] + "-")), "NAME")
        raise CadmllmError(
            "E501",
            f"language model {asked.place.name}: its weights are quantised ({found}), which training does not work with",
            f"name the unquantised model, which is made small on loading: --set {KEY}={base} --set model.quantization=nf4",
        )


def _rows(files: ModelFiles) -> int:
    table = inner(files.tensors).get("embed_tokens.weight")
    rows = table.shape[0] if table is not None else files.config.get("vocab_size")
    return rows if isinstance(rows, int) else 0


def _unlike(files: ModelFiles, vocabulary: Vocabulary, asked: Asked) -> tuple[Finding, ...]:
    """A Qwen model whose tokenizer lacks the marks of its own chats has the tokenizer of something else."""
    if vocabulary.chat or not str(files.config.get("model_type")).startswith("qwen"):
        return ()
    message = f"{files.folder}: the tokenizer of this {files.config['model_type']} model has no <|im_start|>: not its own"
    mend = asked.get(["tokenizer.json", "tokenizer_config.json"], force=asked.place.hub)
    return (Finding("E506", Level.WARN, NAME, message, mend),)


def _summary(files: ModelFiles, vocabulary: Vocabulary, name: str) -> str:
    shape = shape_in(files.config)
    much = f"{shape.parameters / 1e6:,.1f} M parameters" if shape else f"{files.size / GIB:.1f} GiB"
    shards = f", {len(files.files)} shards" if len(files.files) > 1 else ""
    return f"{name}: {files.config['model_type']}, {much}{shards}, {vocabulary.size:,} items ({files.folder})"


def _details(files: ModelFiles) -> tuple[str, ...]:
    types = sorted({tensor.dtype for tensor in files.tensors.values()})
    lines = [f"{len(files.tensors)} tensors in {', '.join(types)}, {amount(files.size)}; every header is whole"]
    shape = shape_in(files.config)
    if shape:
        lines.append(
            f"{shape.layers} layers of width {shape.hidden}, vocabulary of {shape.vocabulary:,} rows, as config.json says"
        )
    if "auto_map" in files.config:
        lines.append("it brings code of its own (auto_map), which is not run: transformers knows this kind of model")
    return tuple(lines)


CHECKS = (
    Check(
        NAME,
        "the language model's files are here and whole; configuration, weights and tokenizer agree",
        ("E501", "E505", "E506"),
        check_base,
        group="checkpoints",
        cached_by="tokenizer.json (size, time): its vocabulary; config.json and transformers: a kind not known beforehand",
    ),
)
