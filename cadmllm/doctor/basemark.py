"""The mark by which a checkpoint recognises its base (`models.backbone.Backbone.fingerprint`), from the base's files alone.

What the files say directly costs milliseconds. Where that differs from what a checkpoint noted, transformers is asked how it
would read them, in a process of its own, before anything is called another base.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from typing import TYPE_CHECKING

from cadmllm.doctor.basemodel import base_files
from cadmllm.doctor.cache import file_key
from cadmllm.doctor.decoder import decoder_tensors, inner, shape_in
from cadmllm.doctor.probe import run_probe
from cadmllm.doctor.vocabulary import read_vocabulary
from cadmllm.errors import CadmllmError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cadmllm.doctor.check import Situation
    from cadmllm.doctor.modelfiles import ModelFiles

SECONDS = 120.0
SHAPE = ("model_type", "hidden_size", "num_hidden_layers", "vocab_size", "intermediate_size")
_AS_LOADED = """
import hashlib, json, sys
from types import SimpleNamespace
import torch
from safetensors import safe_open
from cadmllm.models.backbone import fingerprint_of, quiet_transformers
with quiet_transformers():
    from transformers import AutoConfig, AutoModel, AutoTokenizer
    tokenizer = AutoTokenizer.from_pretrained(sys.argv[1], trust_remote_code=False)
    config = AutoConfig.from_pretrained(sys.argv[1], trust_remote_code=False)
    with torch.device("meta"):
        model = AutoModel.from_config(config)
files = {}
for path in sys.argv[2:]:
    file = safe_open(path, "pt")
    files |= dict.fromkeys(file.keys(), file)
prefix = "model." if any(name.startswith("model.") for name in files) else ""
small = [(name, files[prefix + name].get_tensor(prefix + name)) for name, value in model.named_parameters()
         if value.ndim == 1 and prefix + name in files]
complete = len(small) == sum(value.ndim == 1 for value in model.parameters())
mark = fingerprint_of(SimpleNamespace(config=config, named_parameters=lambda: small), tokenizer)
say(**(mark if complete else {name: mark[name] for name in ("config", "tokenizer")}))
"""


def base_mark(situation: Situation, noted: Mapping[str, str]) -> dict[str, str]:
    """The base's mark, as far as it can be told: 'config', 'tokenizer', 'weights', or some of them.

    Args:
        situation: whose settings name the base.
        noted: what a checkpoint has; where the files alone say the same nobody else is asked.

    Returns:
        Empty when the base itself cannot be read (its own check says so).
    """
    try:
        files = base_files(situation)
        found = situation.once("mark of the base", lambda: _from_files(situation, files))
    except (CadmllmError, ValueError):
        return {}
    if len(found) == 3 and all(found[part] == noted.get(part) for part in found):
        return found
    if situation.broken & {"torch", "transformers"}:
        return {}
    return situation.once("mark of the base as loaded", lambda: _as_loaded(situation, files)) or {}


def _from_files(situation: Situation, files: ModelFiles) -> dict[str, str]:
    mark = {}
    if shape_in(files.config) is not None and all(name in files.config for name in SHAPE):
        shape = [files.config[name] for name in SHAPE]
        mark["config"] = hashlib.sha256(json.dumps(shape).encode()).hexdigest()[:16]
    digest = read_vocabulary(files.folder, situation.cache).digest
    if digest:
        mark["tokenizer"] = digest
    weights = _norms(situation, files)
    return mark | {"weights": weights} if weights else mark


def _norms(situation: Situation, files: ModelFiles) -> str:
    """Hash of the norms and biases in bfloat16; '' where they are of no usual type, or of a kind of model that is not known."""
    shape = shape_in(files.config)
    if shape is None:
        return ""
    keys = [file_key(path) for path in files.files]
    kept = situation.cache.get("norms", *keys)
    if isinstance(kept, str):
        return kept
    tensors, holder = inner(files.tensors), {name.removeprefix("model."): path for name, path in files.holder.items()}
    found = hashlib.sha256()
    for name, size in decoder_tensors(shape).items():
        tensor = tensors.get(name)
        if len(size) != 1:
            continue
        if tensor is None or tensor.dtype not in ("BF16", "F16", "F32"):
            return ""
        with holder[name].open("rb") as file:
            file.seek(tensor.begin)
            raw = file.read(tensor.end - tensor.begin)
        found.update(name.encode() + (raw if tensor.dtype == "BF16" else _rounded(raw, tensor.dtype)))
    situation.cache.put("norms", *keys, answer=found.hexdigest()[:16])
    return found.hexdigest()[:16]


def _rounded(raw: bytes, dtype: str) -> bytes:
    """float32 or float16 as bfloat16, to nearest, ties to even."""
    import numpy as np

    wide = np.frombuffer(raw, "<f2" if dtype == "F16" else "<f4").astype("<f4")
    bits = wide.view("<u4").astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2").tobytes()


def _as_loaded(situation: Situation, files: ModelFiles) -> dict[str, str] | None:
    """As transformers reads the files: exact, some seconds."""
    paths = [files.folder / name for name in ("config.json", "tokenizer.json", "tokenizer_config.json")]
    key = (*(file_key(path) for path in (*paths, *files.files)), importlib.metadata.version("transformers"))
    kept = situation.cache.get("mark of a base", *key)
    if isinstance(kept, dict):
        return kept
    arguments = (str(files.folder), *(str(path) for path in files.files))
    probe = run_probe(_AS_LOADED, *arguments, seconds=SECONDS, environ=situation.machine.environ)
    if not probe.lines:
        return None
    situation.cache.put("mark of a base", *key, answer=probe.lines[-1])
    return probe.lines[-1]
