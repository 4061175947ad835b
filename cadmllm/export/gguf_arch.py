"""Which language models a GGUF file can hold, under which keys llama.cpp looks for their sizes, and what it has no key for."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from cadmllm.errors import CadmllmError

Kind = Literal["UINT32", "INT32", "FLOAT32", "BOOL", "STRING", "STRINGS", "INT32S"]
Field = tuple[str, Any, Kind]


@dataclass(frozen=True, slots=True)
class Architecture:
    """One of llama.cpp's model types.

    Attributes:
        name: of `general.architecture`.
        interleaved: its rotary halves lie next to each other, so rows of the query and key matrices change places.
        qkv_bias: query, key and value have biases.
    """

    name: str
    interleaved: bool = False
    qkv_bias: bool = False


ARCHITECTURES = {
    "qwen3": Architecture("qwen3"),
    "qwen2": Architecture("qwen2", qkv_bias=True),
    "llama": Architecture("llama", interleaved=True),
    "mistral": Architecture("llama", interleaved=True),
}


def architecture(config: Mapping[str, Any]) -> Architecture:
    """The model type that llama.cpp runs this configuration as.

    Args:
        config: as transformers reads a config.json (`to_dict()`): the defaults of its class are in it.

    Raises:
        CadmllmError: E723 naming what llama.cpp would leave out or does not know.
    """
    kind = str(config.get("model_type"))
    found = ARCHITECTURES.get(kind)
    if found is None:
        raise impossible(f"a {kind} language model: the kinds that can be written are {', '.join(ARCHITECTURES)}")
    refused = {
        "hidden_act": config.get("hidden_act", "silu") != "silu",
        "attention_bias": bool(config.get("attention_bias")) and not found.qkv_bias,
        "mlp_bias": bool(config.get("mlp_bias")),
        "sliding_window": _slides(config),
    }
    for name, stands in refused.items():
        if stands:
            raise impossible(f"{name}={config.get(name)} in the base's config.json: llama.cpp has no such {found.name} model")
    return found


def _slides(config: Mapping[str, Any]) -> bool:
    """Whether some layer looks back a part of the context only."""
    if "sliding_attention" in (config.get("layer_types") or ()):
        return True
    window = config.get("sliding_window")
    used = config.get("use_sliding_window", True)
    return bool(used) and window is not None and window < config["max_position_embeddings"]


def head_size(config: Mapping[str, Any]) -> int:
    """Width of one attention head."""
    return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])


def hyperparameters(config: Mapping[str, Any], rows: int) -> Iterator[Field]:
    """Sizes of the model under llama.cpp's keys, `rows` being those of both vocabulary matrices.

    Raises:
        CadmllmError: E723, as `architecture`, and for a rotary scaling that llama.cpp computes otherwise.
    """
    name = architecture(config).name
    heads = config["num_attention_heads"]
    whole = {
        "vocab_size": rows,
        "context_length": config["max_position_embeddings"],
        "embedding_length": config["hidden_size"],
        "block_count": config["num_hidden_layers"],
        "feed_forward_length": config["intermediate_size"],
        "attention.head_count": heads,
        "attention.head_count_kv": config.get("num_key_value_heads") or heads,
        "attention.key_length": head_size(config),
        "attention.value_length": head_size(config),
        "rope.dimension_count": head_size(config),
    }
    for key, number in whole.items():
        yield f"{name}.{key}", int(number), "UINT32"
    yield f"{name}.attention.layer_norm_rms_epsilon", float(config["rms_norm_eps"]), "FLOAT32"
    rope = config.get("rope_parameters") or {}
    yield f"{name}.rope.freq_base", float(rope.get("rope_theta", 10000.0)), "FLOAT32"
    yield from _scaling(name, rope)


def _scaling(name: str, rope: Mapping[str, Any]) -> Iterator[Field]:
    """Keys of linear and YaRN scaling (Peng et al. 2023, arXiv:2309.00071) where llama.cpp computes what transformers does."""
    kind = rope.get("rope_type", "default")
    known = {"rope_type", "rope_theta", "type", "partial_rotary_factor"}
    if float(rope.get("partial_rotary_factor") or 1.0) != 1.0:
        raise impossible(f"partial_rotary_factor={rope['partial_rotary_factor']}: llama.cpp turns whole heads")
    if kind == "default":
        return
    if kind not in ("linear", "yarn"):
        raise impossible(f"rotary scaling of type {kind!r}: only 'linear' and 'yarn' have keys that mean the same in llama.cpp")
    factor = float(rope["factor"])
    yield f"{name}.rope.scaling.type", kind, "STRING"
    yield f"{name}.rope.scaling.factor", factor, "FLOAT32"
    if kind == "yarn":
        known |= {"original_max_position_embeddings", "beta_fast", "beta_slow", "attention_factor", "truncate"}
        yield f"{name}.rope.scaling.original_context_length", int(rope["original_max_position_embeddings"]), "UINT32"
        for key, usual in (("beta_fast", 32.0), ("beta_slow", 1.0)):
            yield f"{name}.rope.scaling.yarn_{key}", float(rope.get(key) or usual), "FLOAT32"
        asked = rope.get("attention_factor")
        if asked is not None and not math.isclose(asked, 0.1 * math.log(factor) + 1.0, rel_tol=1e-6):
            raise impossible(f"YaRN with attention_factor={asked}: llama.cpp takes 0.1 ln(factor) + 1")
        if rope.get("truncate") is False:
            raise impossible("YaRN with truncate=false: llama.cpp rounds the range of its ramp")
    extra = sorted(key for key in rope if key not in known | {"factor"} and rope[key] is not None)
    if extra:
        raise impossible(f"rotary scaling with {extra[0]}={rope[extra[0]]}: there is no key for it that means the same")


def impossible(what: str) -> CadmllmError:
    """E723: no GGUF file can be made of this."""
    return CadmllmError(
        "E723", f"no GGUF file: {what}", "export it for transformers instead: cadmllm export --to merged --dtype bf16 --out DIR"
    )
