"""A GGUF file back as a plain transformers model: what another program would compute from it.

Sizes, epsilon and rotary settings are taken from the file's own keys, so that a wrong key shows in the logits. transformers' own
reader of such files leaves out head sizes and rotary scaling, and tied or turned matrices are its guess.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from gguf import GGMLQuantizationType
from torch import Tensor

from cadmllm.export.gguf_arch import ARCHITECTURES
from cadmllm.export.gguf_file import changed, open_gguf
from cadmllm.export.gguf_tensors import slots, unpacked

if TYPE_CHECKING:
    from gguf import GGUFReader
    from transformers import PreTrainedModel

# what config.json calls what a key says
KEYS = {
    "vocab_size": "vocab_size",
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
}
ROPE = {
    "rope.freq_base": "rope_theta",
    "rope.scaling.type": "rope_type",
    "rope.scaling.factor": "factor",
    "rope.scaling.original_context_length": "original_max_position_embeddings",
    "rope.scaling.yarn_beta_fast": "beta_fast",
    "rope.scaling.yarn_beta_slow": "beta_slow",
}
BARE = ("model_type", "hidden_act", "attention_bias", "mlp_bias", "attention_dropout")  # what the file has no key for


def gguf_logits(path: Path, config: Mapping[str, Any], ids: Tensor) -> Tensor:
    """Logits [B, T, V] float32 of token ids [B, T] (no padding), computed on the CPU in 32 bit from what the file holds.

    Args:
        path: the file.
        config: of the base (`config.to_dict()`): its kind and activation; everything that the file has a key for is the file's.
        ids: token ids.

    Raises:
        CadmllmError: E722 when the file is not whole, or lacks a tensor.
    """
    with torch.inference_mode():
        return read_model(path, config)(input_ids=ids, use_cache=False).logits.float()


def read_model(path: Path, config: Mapping[str, Any]) -> PreTrainedModel:
    """The model that a file holds, in float32; arguments and errors as for `gguf_logits`."""
    from transformers import AutoConfig, AutoModelForCausalLM

    reader = open_gguf(path)
    options = _options(path, reader, config)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(str(config["model_type"]), **options), dtype=torch.float32)
    held = {tensor.name: tensor for tensor in reader.tensors}
    values = model.state_dict()
    shapes = {name: tuple(value.shape) for name, value in values.items()}
    for slot in slots(model.config.to_dict(), shapes, "fp32"):
        found = held.pop(slot.inside, None)
        if found is None or tuple(map(int, found.shape)) != slot.shape[::-1]:
            raise changed(path, f"lacks {slot.inside} {list(slot.shape)}")
        values[slot.name].copy_(unpacked(replace(slot, kind=GGMLQuantizationType(found.tensor_type)), found.data))
    if held:
        raise changed(path, f"holds {sorted(held)[0]}, which no model of its sizes has")
    return cast("PreTrainedModel", model.eval())


def _options(path: Path, reader: GGUFReader, config: Mapping[str, Any]) -> dict[str, Any]:
    """config.json by the keys of the file."""
    prefix = ARCHITECTURES[config["model_type"]].name

    def read(names: Mapping[str, str]) -> dict[str, Any]:
        present = {ours: reader.fields.get(f"{prefix}.{key}") for key, ours in names.items()}
        return {ours: field.contents() for ours, field in present.items() if field is not None}

    sizes, rope = read(KEYS), read(ROPE)
    if len(sizes) < len(KEYS):
        raise changed(path, f"lacks the key for {next(ours for ours in KEYS.values() if ours not in sizes)}")
    _check_sizes(path, reader, sizes)
    bare = {key: config[key] for key in BARE if key in config and key != "model_type"}
    window = {"sliding_window": None} if config["model_type"] == "mistral" else {}
    return {**bare, **window, **sizes, "rope_parameters": {"rope_type": "default", **rope}, "tie_word_embeddings": False}


def _check_sizes(path: Path, reader: GGUFReader, sizes: Mapping[str, Any]) -> None:
    """That the keys speak of the tensors in the file: a model is made by them before a tensor is looked at."""
    held = {tensor.name: tuple(map(int, tensor.shape)) for tensor in reader.tensors}
    hidden, last = sizes["hidden_size"], sizes["num_hidden_layers"] - 1
    heads, shared = (sizes[name] * sizes["head_dim"] for name in ("num_attention_heads", "num_key_value_heads"))
    wanted = {
        "token_embd.weight": (hidden, sizes["vocab_size"]),
        f"blk.{last}.attn_q.weight": (hidden, heads),
        f"blk.{last}.attn_k.weight": (hidden, shared),
        f"blk.{last}.ffn_up.weight": (hidden, sizes["intermediate_size"]),
    }
    for name, shape in wanted.items():
        if held.get(name) != shape:
            raise changed(path, f"holds {name} {list(held.get(name, ()))}, and its keys say {list(shape)}")
