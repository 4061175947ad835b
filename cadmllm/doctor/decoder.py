"""A language model's configuration against its weights: layers, widths, vocabulary, and what training can do with it."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from typing import TYPE_CHECKING, Any

from cadmllm.doctor.modelfiles import ModelFiles, first_wrong, layer_count
from cadmllm.doctor.probe import run_probe
from cadmllm.plan.sizes import EXACT, LlmShape, shape_from

if TYPE_CHECKING:
    from cadmllm.doctor.check import Situation
    from cadmllm.doctor.headers import Tensor

SECONDS = 120.0
_KIND = """
import json, sys
from cadmllm.models.backbone import LORA_TARGETS, quiet_transformers
import torch
with quiet_transformers():
    from transformers import CONFIG_MAPPING, AutoConfig, AutoModel, AutoModelForCausalLM, __version__
    if sys.argv[3] not in CONFIG_MAPPING:
        say(wrong=f"transformers {__version__} does not know models of the kind {sys.argv[3]!r}")
        sys.exit()
    try:
        config = AutoConfig.from_pretrained(sys.argv[1], trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError) as error:
        say(wrong=(str(error).strip().splitlines() or [type(error).__name__])[0][:200])
        sys.exit()
    if type(config) not in AutoModelForCausalLM._model_mapping:
        say(wrong=f"a {config.model_type} is not a causal language model")
        sys.exit()
    with torch.device("meta"):
        model = AutoModel.from_config(config)
present = {name.rsplit(".", 1)[-1] for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
absent = [name for name in LORA_TARGETS if name not in present]
say(wrong=f"it has no linear layer called {absent[0]}: not a Qwen3-style model" if absent and sys.argv[2] == "True" else "")
"""


def decoder_tensors(shape: LlmShape) -> dict[str, tuple[int, ...]]:
    """Name and shape of every weight of a decoder of the Llama family, in the order of its modules, without the output matrix."""
    tensors: dict[str, tuple[int, ...]] = {"embed_tokens.weight": (shape.vocabulary, shape.hidden)}
    attention = {
        "self_attn.q_proj": (shape.query, shape.hidden, shape.qkv_bias),
        "self_attn.k_proj": (shape.key, shape.hidden, shape.qkv_bias),
        "self_attn.v_proj": (shape.key, shape.hidden, shape.qkv_bias),
        "self_attn.o_proj": (shape.hidden, shape.query, shape.out_bias),
    }
    mlp = {
        "mlp.gate_proj": (shape.mlp, shape.hidden, shape.mlp_bias),
        "mlp.up_proj": (shape.mlp, shape.hidden, shape.mlp_bias),
        "mlp.down_proj": (shape.hidden, shape.mlp, shape.mlp_bias),
    }
    for layer in (f"layers.{number}" for number in range(shape.layers)):
        tensors |= _linears(layer, attention)
        if shape.qk_norm:
            tensors |= {f"{layer}.self_attn.{name}.weight": (shape.head_dim,) for name in ("q_norm", "k_norm")}
        tensors |= _linears(layer, mlp)
        tensors |= {f"{layer}.{name}.weight": (shape.hidden,) for name in ("input_layernorm", "post_attention_layernorm")}
    return tensors | {"norm.weight": (shape.hidden,)}


def _linears(layer: str, sizes: dict[str, tuple[int, int, bool]]) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {}
    for name, (out, into, biased) in sizes.items():
        found[f"{layer}.{name}.weight"] = (out, into)
        if biased:
            found[f"{layer}.{name}.bias"] = (out,)
    return found


def inner(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by their names in the decoder itself: a causal model's file has `model.` before them."""
    if any(name.startswith("model.") for name in tensors):
        return {name.removeprefix("model."): tensor for name, tensor in tensors.items() if name.startswith("model.")}
    return tensors


def shape_in(config: dict[str, Any]) -> LlmShape | None:
    """The shape of a decoder of a kind whose every weight is known; None for other kinds."""
    try:
        return shape_from(config) if config.get("model_type") in EXACT else None
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None


def disagreement(files: ModelFiles) -> str:
    """How the weights differ from config.json, in words; '' where they agree."""
    config, tensors = files.config, inner(files.tensors)
    said, there = config.get("num_hidden_layers"), layer_count(list(tensors), r"layers\.(\d+)\.")
    if isinstance(said, int) and there != said:
        return f"config.json says {said} layers, the weights hold {there}"
    shape = shape_in(config)
    if shape is not None:
        return first_wrong(tensors, decoder_tensors(shape), _differs)
    vocabulary, hidden = config.get("vocab_size"), config.get("hidden_size")
    table = tensors.get("embed_tokens.weight")
    if table is not None and isinstance(vocabulary, int) and isinstance(hidden, int) and table.shape != (vocabulary, hidden):
        return _differs("embed_tokens.weight", table.shape, (vocabulary, hidden))
    return ""


def _differs(name: str, there: tuple[int, ...], wanted: tuple[int, ...]) -> str:
    meaning = {"embed_tokens.weight": " (vocab_size x hidden_size)"}.get(name, "")
    return f"{name} has shape {list(there)}, and config.json makes it {list(wanted)}{meaning}"


def quantised(config: dict[str, Any], asked: str) -> str:
    """How the weights are quantised, where that keeps training from working with them; '' where nothing does.

    Args:
        config: of the model.
        asked: `model.quantization`.
    """
    found = config.get("quantization_config")
    if not isinstance(found, dict):
        return ""
    method = str(found.get("quant_method") or ("bitsandbytes" if found.get("load_in_4bit") or found.get("load_in_8bit") else "?"))
    if method == "bitsandbytes" and found.get("load_in_4bit") and asked == "nf4":
        return ""
    bits = f", {found['bits']} bit" if isinstance(found.get("bits"), int) else ""
    return f"{method}{bits}"


def unsupported(situation: Situation, files: ModelFiles) -> str:
    """Why training cannot take a model of this kind, in words; '' where it can. Known kinds cost nothing, others a process."""
    kind = files.config.get("model_type")
    if not isinstance(kind, str) or not kind:
        return "its config.json has no model_type: not a model of transformers"
    if kind in EXACT:
        lacking = shape_in(files.config) is None
        return f"the config.json of a {kind} model lacks its sizes (num_hidden_layers, hidden_size, ...)" if lacking else ""
    if situation.broken & {"torch", "transformers"}:
        return ""
    lora = str(situation.needed.lora.enabled)
    text = hashlib.sha256(json.dumps(files.config, sort_keys=True).encode()).hexdigest()
    key = (text, lora, importlib.metadata.version("transformers"))
    if situation.cache.get("kind of model", *key) is not None:
        return ""
    probe = run_probe(_KIND, str(files.folder), lora, kind, seconds=SECONDS, environ=situation.machine.environ)
    wrong = probe.lines[-1]["wrong"] if probe.lines else f"transformers did not answer ({probe.end} {probe.stderr})".strip()
    if not wrong:
        situation.cache.put("kind of model", *key, answer=True)
    elif "auto_map" in files.config:
        wrong = f"{wrong}; its own code (auto_map) would be needed, which is never run here"
    return wrong
