"""The adapter as peft reads it: LoRA under peft's names, and the two resized matrices beside it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from cadmllm.errors import CadmllmError
from cadmllm.export.merge import pieces, rounded
from cadmllm.export.source import Source
from cadmllm.export.stream import Announced, write_stream
from cadmllm.models.backbone import LORA_TARGETS

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."  # what peft puts before the names of the model inside
CACHED = re.compile(r"models--(.+?)--(.+)")  # a repository in the cache of the hub


def write_adapter(source: Source, folder: Path, dtype: torch.dtype) -> list[Path]:
    """Write adapter_config.json and adapter_model.safetensors.

    `PeftModel.from_pretrained` loads both LoRA and matrices into a causal language model that has been untied (where the base
    is tied) and resized to `source.rows` rows. LoRA stays in float32, as it was trained, unless `export.dtype` asks for 16 bit.

    Args:
        source: of `open_source`.
        folder: that takes them, there already.
        dtype: of the two matrices.

    Raises:
        CadmllmError: E723 when no LoRA was trained; else as `merge.merged_tensors`.
    """
    if not source.lora:
        raise CadmllmError(
            "E723",
            f"{source.folder} trained the whole language model (lora.enabled=false): there is no adapter in it",
            f"cadmllm export --checkpoint {source.folder} --to merged --out DIR",
        )
    config = folder / CONFIG
    config.write_text(json.dumps(adapter_config(source), indent=2, sort_keys=True) + "\n", encoding="utf-8")
    tensors = announced(source, dtype)
    return [config, write_stream(folder / WEIGHTS, tensors, _values(source, tensors))]


def adapter_config(source: Source) -> dict[str, object]:
    """What peft's own `LoraConfig` says of this adapter."""
    from cadmllm.models.backbone import quiet_bitsandbytes

    quiet_bitsandbytes()
    from peft import LoraConfig

    lora = source.record["lora"]
    config = LoraConfig(
        r=lora["r"],
        lora_alpha=lora["alpha"],
        lora_dropout=float(lora.get("dropout", 0.0)),
        target_modules=list(LORA_TARGETS),
        task_type="CAUSAL_LM",
        base_model_name_or_path=public_name(source.base.name),
        inference_mode=True,
    )
    return config.to_dict() | {"target_modules": list(LORA_TARGETS)}  # peft keeps a set, whose order changes from run to run


def public_name(name: str) -> str:
    """What a base is called outside this machine: its name on the hub, else its folder's own name, never the path to it."""
    folder = Path(name).expanduser()
    if not folder.is_absolute() and not folder.is_dir():
        return name
    cached = next((found for part in folder.parts if (found := CACHED.fullmatch(part))), None)
    return f"{cached[1]}/{cached[2]}" if cached else folder.resolve().name


def announced(source: Source, dtype: torch.dtype) -> list[Announced]:
    """The tensors of adapter_model.safetensors: LoRA, then the matrices."""
    layout = source.base.layout
    narrow = source.settings.export.dtype in ("bf16", "fp16")  # asked for in words, not 'auto'
    kept = [
        Announced(_peft_name(source, part), dtype if narrow else torch.float32, source.state.shape(part))
        for name in layout.linears
        for part in source.pair(name) or ()
    ]
    matrices = [Announced(PREFIX + name, dtype, (source.rows, source.width)) for name in (layout.input, layout.output)]
    return kept + matrices


def _peft_name(source: Source, name: str) -> str:
    return PREFIX + source.base.layout.prefix + name.removeprefix("llm.")


def _values(source: Source, tensors: list[Announced]) -> Iterator[Tensor]:
    layout = source.base.layout
    for tensor in tensors:
        name = tensor.name.removeprefix(PREFIX)
        if name in (layout.input, layout.output):
            yield from pieces(source, name, tensor.dtype)
        else:
            yield rounded(name, source.state.tensor(source.own(name)).float(), tensor.dtype)
