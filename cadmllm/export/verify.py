"""Whether an export answers as its checkpoint does: both are asked the same fixed prompts, one model in memory at a time."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from cadmllm.errors import CadmllmError
from cadmllm.export.compare import GREEDY, Distance, Tolerance, measure, refuse_far, summary, tolerance
from cadmllm.export.loading import check_prompts, gguf_of, load_plain
from cadmllm.export.matrices import check_layers, check_matrices
from cadmllm.export.prompts import prompts
from cadmllm.export.questions import Answered, ask, collator_of, freed, without_lora
from cadmllm.export.room import Room, find_room, in_ram

if TYPE_CHECKING:
    from cadmllm.console import Console
    from cadmllm.corpus.batch import Collator
    from cadmllm.export.source import Source
    from cadmllm.settings import Settings

TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
NAMES = {"fp32": "32 bit", "bf16": "bfloat16", "fp16": "float16", "q8_0": "blocks of 8 bit"}


@dataclass(frozen=True, slots=True)
class _Told:
    """The checkpoint's side, after its model is gone.

    Attributes:
        answered: a prompt each.
        collator: that made the prompts.
        settings: under which it was loaded.
        effect: what LoRA does to the first answer, as `Distance.distance`; None without LoRA.
    """

    answered: list[Answered]
    collator: Collator
    settings: Settings
    effect: float | None


def verify_export(source: Source, folder: Path, kind: str, dtype: str, console: Console) -> dict[str, Any]:
    """Compare an export with the checkpoint it was made of.

    Args:
        source: the checkpoint and its base, in 16 or 32 bit whatever the run computed on.
        folder: of the export; its record and manifest need not be there yet.
        kind: 'adapter', 'merged' or 'gguf' (text prompts alone).
        dtype: of its weights: 'fp32', 'bf16', 'fp16', 'q8_0'.
        console: is told what is compared with what.

    Returns:
        JSON-ready: 'said' (a sentence), 'prompts' (distance, divergence, agreement each), 'worst', 'allowed', 'computed' (type
        and device), 'reference', 'loader', 'lora' (LoRA's own effect), 'rows' and 'tensors', or 'gguf' (what was compared
        value by value). Of a GGUF file that RAM cannot hold in 32 bit: 'said', no prompts, 'gguf'.

    Raises:
        CadmllmError: E721 naming the prompt, the distance and what is allowed; E722 when plain tools cannot load the export; E814
            when neither model fits into memory.
    """
    exact: dict[str, Any]
    if kind == "gguf":
        exact, room = {"gguf": _check_gguf(source, folder, dtype)}, in_ram(source)
        if room.needed > room.free:
            return _values_alone(exact, room, console)
    else:
        rows, layers = (check(source, folder, kind, TYPES[dtype]) for check in (check_matrices, check_layers))
        exact = {"rows": rows, "tensors": layers}
        room = find_room(source, source.settings, TYPES[dtype])
    allowed = tolerance(dtype, room.dtype)
    console.note(f"comparing answers: {room.said()}, the checkpoint first, then the export")
    told = _checkpoint(source, kind, room, console)
    check_prompts(folder, told.answered, told.collator, source.text_size)
    found = _export(source, folder, kind, told, room, allowed, dtype)
    said = _sentence(found, allowed, dtype, room)
    if told.effect is not None and not told.effect > allowed.distance:
        said += _faint(told.effect, allowed)
        console.note(f"note:{_faint(told.effect, allowed).removeprefix(';')}")
    return {
        "said": said,
        **summary(found, allowed),
        "computed": room.said(),
        "reference": _reference(source),
        "loader": _loader(kind),
        "lora": None if told.effect is None else float(f"{told.effect:.3g}"),
        **exact,
    }


def _check_gguf(source: Source, folder: Path, dtype: str) -> dict[str, Any]:
    from cadmllm.export.gguf_file import check_gguf
    from cadmllm.export.merge import merged_tensors

    return check_gguf(gguf_of(folder), source, merged_tensors(source, torch.float32), dtype, folder)


def _values_alone(exact: dict[str, Any], room: Room, console: Console) -> dict[str, Any]:
    """A GGUF file of which every value was read back, and no model was made: its answers follow from its values."""
    said = (
        "every key, token and tensor of the file read back as it was written; answers were not compared, as the model in 32 bit"
        f" takes {room.needed / 1e9:.1f} GB of memory and {room.free / 1e9:.1f} GB are free"
    )
    console.note(f"note: {said}")
    return {"said": said, "prompts": {}, **exact}


def _checkpoint(source: Source, kind: str, room: Room, console: Console) -> _Told:
    """Ask the checkpoint and forget it again."""
    from cadmllm.models.weights import load_model, recorded

    chosen = recorded(source.settings, source.record)
    chosen.model.llm, chosen.model.quantization = source.settings.model.llm, "none"
    chosen.model.embedding_device, chosen.model.attention = "auto", "sdpa"
    chosen.train.gradient_checkpointing = False
    chosen.dtype, chosen.device = str(room.dtype).removeprefix("torch."), str(room.device)  # ty: ignore[invalid-assignment]
    model = load_model(source.folder, chosen, stage=source.stage)
    samples = [sample for sample in prompts(source.stage, chosen) if kind != "gguf" or sample.combination == "text"]
    answered = ask(model, samples, console.note, greedy=not room.paged)
    if not answered:
        raise CadmllmError(
            "E723",
            f"the language model has {model.positions} positions, too few for every prompt that an export is compared by",
            "train on a base with more positions: --set model.llm=Qwen/Qwen3-8B",
        )
    effect = _effect(without_lora(model, answered[0]), answered[0]) if source.lora else None
    told = _Told(answered, collator_of(model), chosen, effect)
    del model
    freed(room.device)
    return told


def _effect(without: torch.Tensor, one: Answered) -> float:
    """How far LoRA moved the answers: a comparison that allows more than this cannot see whether it arrived."""
    spread = one.logits.double().std(dim=1, keepdim=True)
    return float(((without - one.logits).double().abs() / spread).max())


def _export(
    source: Source, folder: Path, kind: str, told: _Told, room: Room, allowed: Tolerance, dtype: str
) -> dict[str, Distance]:
    from cadmllm.infer.constrain import cad_tables

    plain = load_plain(source, folder, kind, told.settings, told.collator, room)
    tables = cad_tables("cpu")
    found = {}
    for one in told.answered:
        distance = measure(one.logits, plain.logits(one), one.greedy, tables)
        refuse_far(one.sample.id, distance, allowed, NAMES[dtype])
        found[one.sample.id] = distance
    del plain
    freed(room.device)
    return found


def _sentence(found: dict[str, Distance], allowed: Tolerance, dtype: str, room: Room) -> str:
    worst = max(one.distance for one in found.values())
    same = sum(one.agreement == 1.0 for one in found.values())
    greedy = f"all greedy answers the same over {GREEDY} tokens"
    if same < len(found):
        greedy = f"{same} of {len(found)} greedy answers the same over {GREEDY} tokens"
    if room.paged:
        greedy = "greedy answers not asked for"
    return (
        f"{len(found)} prompts: logits within {worst:.2g} of their spread from the checkpoint's (rounding to {NAMES[dtype]}"
        f" may make {allowed.distance:g}), {greedy} ({room.said()})"
    )


def _faint(effect: float, allowed: Tolerance) -> str:
    return (
        f"; LoRA moves these answers by {effect:.2g} alone, less than the {allowed.distance:g} that rounding may: that it"
        " arrived is known from the files' values, not from the answers (--dtype fp32 would show it)"
    )


def _reference(source: Source) -> str:
    if not source.lora:
        return "the checkpoint: the whole language model was trained"
    if source.record["model"].get("quantization") == "nf4":
        return "the base in 16 or 32 bit with the adapter; the run trained on the base in 4 bit, whose answers differ a little"
    return "the checkpoint: base and adapter"


def _loader(kind: str) -> str:
    if kind == "gguf":
        return f"the file's tensors, read with gguf {version('gguf')} into transformers {version('transformers')}"
    peft = f", peft {version('peft')}" if kind == "adapter" else ""
    return f"transformers {version('transformers')}{peft}"
