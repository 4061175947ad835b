"""What an export holds beside weights: config.json, generation_config.json, the tokenizer, what was trained on, the record.

Nothing is copied from the base's folder: what is known to be needed is written anew, so neither custom code (`auto_map`, *.py)
nor pickles come along. Nobody's folders are named: of a path its last part stands in the files.
"""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any

from cadmllm import __version__
from cadmllm.cad.vocabulary import END
from cadmllm.console import jsonable
from cadmllm.corpus.types import ADDED, CAD_SIZE
from cadmllm.errors import CadmllmError
from cadmllm.export.adapter import public_name
from cadmllm.export.tokenizer import pad_id, write_tokenizer
from cadmllm.models.record import vocabulary_hash
from cadmllm.models.stages import MANIFEST, sha256

if TYPE_CHECKING:
    from cadmllm.export.source import Source

FORMAT = 1
CONFIG, GENERATION, METADATA = "config.json", "generation_config.json", "training_metadata.json"
TORCH_NAMES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
# of a base's config.json: code, how it was quantised or loaded, and names that newer versions of transformers have replaced
DROPPED = ("auto_map", "custom_pipelines", "quantization_config", "_name_or_path", "torch_dtype", "_attn_implementation")
PACKAGES = ("torch", "transformers", "peft", "tokenizers", "safetensors", "gguf")
_ABROAD = re.compile(r"^(?:[/~\\]|\.{1,2}[/\\]|[A-Za-z]:[\\/])")  # a path that leads out of where a command is run
HOMES = ("home", "Users")  # what lies right in them bears somebody's name
_INSIDE = re.compile(r"(?<![\w.:/<\\])(?:[A-Za-z]:[\\/]|~?/|\\\\)[^\s'\"`,;:()<>]+")  # such a path in a sentence


def write_papers(source: Source, folder: Path, kind: str, dtype: str) -> list[Path]:
    """Write everything of an export that is neither a weight nor says how it was checked.

    Args:
        source: the checkpoint.
        folder: of the export; it exists.
        kind: 'adapter', 'merged' or 'gguf'.
        dtype: 'fp32', 'bf16', 'fp16' or 'q8_0'.

    Returns:
        The files: the tokenizer's, training_metadata.json, but for gguf generation_config.json, and for merged config.json.

    Raises:
        CadmllmError: E723 when the base's tokenizer leaves no room for the CAD vocabulary, E506 for a base of unknown kind.
    """
    tokenizer = source.base.tokenizer
    paths = write_tokenizer(tokenizer, source.text_size, folder)
    documents: dict[str, object] = {METADATA: training_metadata(source, kind, dtype)}
    if kind == "merged":
        documents[CONFIG] = config_of(source.base.config, source.text_size, source.rows, pad_id(tokenizer), dtype)
    for name, content in documents.items():
        paths.append(_write(folder / name, json.dumps(jsonable(content), indent=1, ensure_ascii=False, allow_nan=False)))
    if kind != "gguf":
        written = generation_config(source.text_size, source.rows, pad_id(tokenizer), longest_answer(source))
        paths.append(_write(folder / GENERATION, json.dumps(written)))  # 150,000 ids: a line each would be a long file
    return paths


def config_of(base: Mapping[str, Any], text_size: int, rows: int, pad: int | None, dtype: str) -> dict[str, Any]:
    """`config.json` of the merged model: the base's, with larger and untied matrices.

    Args:
        base: the base's config.json.
        text_size: id of the first added item.
        rows: of the input and the output matrix.
        pad: id that batches are padded with.
        dtype: 'fp32', 'bf16' or 'fp16'.

    Raises:
        CadmllmError: E506 when transformers has no causal language model of the base's kind.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    kind = base.get("model_type")
    known = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(kind) if isinstance(kind, str) else None
    if not isinstance(known, str):
        raise CadmllmError(
            "E506",
            f"the base's config.json says model_type {kind!r}, which transformers {version('transformers')} does not know",
            "train on another base, or upgrade: pip install -U transformers",
        )
    kept = {name: value for name, value in base.items() if name not in DROPPED}
    return {
        **kept,
        "architectures": [known],
        "vocab_size": rows,
        "tie_word_embeddings": False,
        "dtype": TORCH_NAMES[dtype],
        "eos_token_id": text_size + END,
        "pad_token_id": pad,
    }


def generation_config(text_size: int, rows: int, pad: int | None, longest: int) -> dict[str, Any]:
    """`generation_config.json`: greedy answers that hold CAD items alone and end with the CAD end item.

    The ids that are no CAD items stand in `suppress_tokens`, so that `model.generate()` answers rightly in any tool, without a
    line of code: a text item, whose scores were never trained, or a placeholder, whose output row is zero, could otherwise win.
    With Qwen3's 151,671 ids that is 1.1 MB, and no slower than a processor that slices (benchmarks/suppress.py: 15 % of a token's
    time on one core at 0.6B).

    Args:
        text_size: id of the first added item.
        rows: of the output matrix.
        pad: id that batches are padded with.
        longest: tokens of an answer, end included.
    """
    answer = range(text_size, text_size + CAD_SIZE)
    return {
        "do_sample": False,
        "eos_token_id": text_size + END,
        "pad_token_id": pad,
        "max_new_tokens": longest,
        "suppress_tokens": [*range(answer.start), *range(answer.stop, rows)],
        "transformers_version": version("transformers"),
    }


def longest_answer(source: Source) -> int:
    """Tokens that plain tools may write: `infer.max_new_tokens`, half of the base's positions at most, as prompts need some."""
    longest, positions = source.settings.infer.max_new_tokens, source.base.config.get("max_position_embeddings")
    return min(longest, positions // 2) if isinstance(positions, int) and positions > 1 else longest


def training_metadata(source: Source, kind: str, dtype: str) -> dict[str, Any]:
    """`training_metadata.json`: the checkpoint's own, the data it saw, and what of it this export is."""
    told = read_json(source.folder / METADATA) or source.record.get("meta")
    return {
        **(named(told) if isinstance(told, Mapping) else {}),
        "data": named(read_json(source.folder / "data.json")),
        "environment": named(read_json(source.folder / "environment.json")),
        "export": {
            "kind": kind,
            "dtype": dtype,
            "text_size": source.text_size,
            "added": len(ADDED),
            "rows": source.rows,
            "checkpoint": checkpoint_of(source),
        },
    }


def record_of(source: Source, kind: str, dtype: str, checked: Mapping[str, Any], notes: Sequence[str]) -> dict[str, Any]:
    """`cadmllm.json`: what the export is of, what it must agree with, and what was measured when it was compared.

    Args:
        source: the checkpoint.
        kind, dtype: as for `write_papers`.
        checked: of `verify_export`.
        notes: what is worth knowing of the export, a line each.
    """
    record = source.record
    return {
        "format": FORMAT,
        "kind": kind,
        "dtype": dtype,
        "stage": record["stage"],
        "vocabulary": vocabulary_hash(),
        "text_size": source.text_size,
        "added": len(ADDED),
        "rows": source.rows,
        "base": record["base"],
        "lora": record["lora"],
        "model": public_settings(record["model"]),
        "source": checkpoint_of(source),
        "notes": [without_folders(str(note), folders_of(source)) for note in notes],
        "checked": jsonable(named(dict(checked))),
        "made_with": versions(),
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def public_settings(model: Mapping[str, Any]) -> dict[str, Any]:
    """Model settings as a stranger can use them: what lies in the hub's cache by its hub name, folders by their own names."""
    return named({name: public_name(value) if name in ("llm", "image_encoder") else value for name, value in model.items()})


def checkpoint_of(source: Source) -> dict[str, str | None]:
    """The checkpoint's name and the SHA-256 of its manifest, which holds those of all its files (None without one)."""
    manifest = source.folder / MANIFEST
    return {"checkpoint": source.folder.resolve().name, "manifest": sha256(manifest) if manifest.is_file() else None}


def named(value: Any) -> Any:
    """JSON data with every path in it cut to its last part; hub names and relative paths inside a folder stay."""
    if isinstance(value, Mapping):
        return {named(key): named(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [named(inner) for inner in value]
    return _encodable(last_part(value)) if isinstance(value, str) else value


def last_part(text: str) -> str:
    """The last part of a path that leads out of the working folder (the rest is nobody's business), else the text as it is."""
    if not _ABROAD.match(text):
        return text
    path = PureWindowsPath(text) if "\\" in text or text[1:2] == ":" else PurePosixPath(text)
    return "home" if path.parent.name in HOMES or text == "~" else path.name or "folder"


def without_folders(text: str, folders: Sequence[object] = ()) -> str:
    """A sentence with every path in it cut to its last part.

    Args:
        text: the sentence.
        folders: that may stand in it; blanks in others end them.
    """
    for folder in sorted(map(str, folders), key=len, reverse=True):
        if _ABROAD.match(folder):
            text = text.replace(folder, last_part(folder))
    return _encodable(_INSIDE.sub(lambda found: last_part(found[0]), text))


def folders_of(source: Source) -> list[object]:
    """Folders that a note on a source may name."""
    base = source.base
    return [source.folder, source.folder.resolve(), base.folder, base.name, source.record["model"]["llm"], Path.home()]


def versions() -> dict[str, str]:
    """Of cadmllm, Python and the packages that wrote the export; what is not installed is left out."""
    found = {"cadmllm": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object from a checkpoint's folder; None where there is no such file or it holds something else."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None  # checkpoints of older versions, and those written by `save_model` alone, do not have it
    return found if isinstance(found, dict) else None


def _encodable(text: str) -> str:
    """Names of files may hold bytes that are no UTF-8, and JSON may hold halves of characters."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _write(path: Path, text: str) -> Path:
    path.write_text(text + "\n", encoding="utf-8")
    return path
