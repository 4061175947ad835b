"""What an export folder is: its record, its files, and what in them is refused before anything of it is loaded. No torch here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cadmllm.corpus.types import ADDED
from cadmllm.errors import CadmllmError
from cadmllm.models.record import EXPORT_RECORD, vocabulary_hash
from cadmllm.models.stages import MANIFEST, verify

if TYPE_CHECKING:
    from cadmllm.models.fusion import CadMLLM
    from cadmllm.settings import Settings

FORMAT = 1
DTYPES = {
    "adapter": ("fp32", "bf16", "fp16"),
    "merged": ("fp32", "bf16", "fp16"),
    "gguf": ("fp32", "bf16", "fp16", "q8_0"),
}
ADAPTER, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"
PROJECTORS, ENCODERS = "projectors.safetensors", "encoders.safetensors"
LARGEST_TEXT = 16 << 20  # bytes of a JSON file that is read; an index of a thousand shards has some hundred kilobytes
# files that loaders unpickle or run; an export has none
_RUNNABLE = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".npy", ".msgpack", ".h5", ".py", ".pyc", ".so", ".sh")
_CODE_KEYS = ("auto_map", "custom_pipelines", "trust_remote_code")
_SHAPE: dict[str, type] = {
    "format": int,
    "kind": str,
    "dtype": str,
    "stage": int,
    "vocabulary": str,
    "text_size": int,
    "added": int,
    "rows": int,
    "base": dict,
    "lora": dict,
    "model": dict,
}


def is_export(folder: Path) -> bool:
    """Whether a folder is an export (it has a cadmllm.json), whole or not."""
    return (Path(folder) / EXPORT_RECORD).is_file()


def read_export(folder: Path) -> dict[str, Any]:
    """`cadmllm.json` of an export, checked.

    Raises:
        CadmllmError: E722 naming what is missing, of another type, or of another version's vocabulary.
    """
    path = Path(folder) / EXPORT_RECORD
    record = read_json(path)
    for key, kind in _SHAPE.items():
        if not isinstance(record.get(key), kind) or isinstance(record[key], bool):
            raise broken(f"{path} has no {key!r} that is {'an' if kind is int else 'a'} {kind.__name__}")
    if record["format"] != FORMAT:
        newer = "use the version of cadmllm that made it, or export again with this one"
        raise broken(f"{path} is of format {record['format']}, and this version reads {FORMAT}", newer)
    if record["kind"] not in DTYPES or record["dtype"] not in DTYPES[record["kind"]]:
        raise broken(f"{path} says it is {record['kind']!r} in {record['dtype']!r}, which no export is")
    if record["stage"] not in (1, 2, 3) or "llm" not in record["model"]:
        raise broken(f"{path} says neither a stage from 1 to 3 nor the base model")
    if record["vocabulary"] != vocabulary_hash() or record["added"] != len(ADDED):
        raise broken(
            f"{path}: its CAD vocabulary is another ({record['vocabulary']}, {record['added']} items; now {vocabulary_hash()},"
            f" {len(ADDED)})",
            f"use the version of cadmllm that made it ({_maker(record)}), or train and export again with this one",
        )
    if not 0 < record["text_size"] <= record["rows"] - len(ADDED):
        raise broken(
            f"{path}: {record['rows']} rows cannot hold {record['text_size']} items of the tokenizer and {len(ADDED)} added ones"
        )
    if not all(isinstance(value, str) for value in record["base"].values()):
        raise broken(f"{path} has no fingerprint of the base")
    return record


def check_whole(folder: Path) -> dict[str, Any]:
    """Compare every byte with the manifest, and refuse what a loader could run.

    Returns:
        `read_export` of the folder.

    Raises:
        CadmllmError: E722 naming the file that is missing, cut short, changed, too many, or not safe.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise broken(f"there is no folder {folder}")
    try:
        verify(folder, exact=True)
    except CadmllmError as error:
        raise broken(f"{folder}: {error.message.partition(' is missing or incomplete: ')[2] or error.message}") from error
    record = read_export(folder)
    for name in sorted(read_json(folder / MANIFEST)["files"]):
        if Path(name).suffix in _RUNNABLE:
            raise broken(f"{folder / name} is of a kind that loaders unpickle or run: no export has one")
    for name in ("config.json", "tokenizer_config.json", ADAPTER_CONFIG):
        if (folder / name).is_file():
            _check_config(folder / name)
    if record["kind"] == "merged":
        _check_merged(folder, record)
    elif record["kind"] == "adapter":
        _check_adapter(folder, record)
    return record


def load_exported(folder: Path, settings: Settings) -> CadMLLM:
    """The model that an export holds, in evaluation mode, frozen.

    Args:
        folder: a merged export, or an adapter, whose base is loaded from where `cadmllm.json` says or else from `model.llm`.
        settings: resolved. The export's own count for everything its answers depend on; dtype, device, quantization, attention
            and where files lie (`model.points_checkpoint`) are taken from here.

    Raises:
        CadmllmError: E722 when the folder is incomplete, changed or contradicts itself; E504 when its tensors or the base do not
            fit; E723 for a GGUF file, which llama.cpp answers from; E501, E502 from its parts.
    """
    from cadmllm.models.fromexport import load

    return load(Path(folder), settings)


def read_json(path: Path) -> dict[str, Any]:
    """An object from a JSON file that may come from anywhere.

    Raises:
        CadmllmError: E722.
    """
    try:
        if path.stat().st_size > LARGEST_TEXT:
            raise broken(f"{path} has {path.stat().st_size:,} bytes, which no file of this name needs")
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise broken(f"{path} is missing") from None
    except (OSError, ValueError, RecursionError) as error:
        raise broken(f"{path} cannot be read ({(str(error).splitlines() or [type(error).__name__])[0]})") from error
    if not isinstance(found, dict):
        raise broken(f"{path} holds a {type(found).__name__}, not an object")
    return found


def weight_files(folder: Path) -> list[Path]:
    """The weights of a merged export: one file, or those that its index names.

    Raises:
        CadmllmError: E722 when they are missing, or the index names something else than a file of the folder.
    """
    index, single = folder / "model.safetensors.index.json", folder / "model.safetensors"
    if not index.is_file():
        if not single.is_file():
            raise broken(f"{folder} has neither {single.name} nor {index.name}")
        return [single]
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not places or not all(isinstance(name, str) for name in places.values()):
        raise broken(f"{index} has no 'weight_map'")
    names = sorted(set(places.values()))
    for name in names:
        if Path(name).name != name or not name.endswith(".safetensors") or not (folder / name).is_file():
            raise broken(f"{index} names {name!r}, which is no safetensors file of this folder")
    if single.is_file():
        raise broken(f"{folder} has both {single.name} and {index.name}: loaders take one and ignore the other")
    return [folder / name for name in names]


def _maker(record: Mapping[str, Any]) -> str:
    made = record.get("made_with")
    return str(made.get("cadmllm", "not recorded") if isinstance(made, dict) else made or "not recorded")


def _check_config(path: Path) -> None:
    """Refuse what asks a loader to run code that comes along."""
    found = [key for key in _CODE_KEYS if key in read_json(path)]
    if found:
        raise broken(f"{path} has {found[0]!r}, which names code to be run on loading: no export has it")


def _check_merged(folder: Path, record: Mapping[str, Any]) -> None:
    config = read_json(folder / "config.json")
    for key, wanted in (("tie_word_embeddings", False), ("vocab_size", record["rows"])):
        if config.get(key) != wanted:
            raise broken(f"{folder / 'config.json'}: {key} is {config.get(key)!r}, and {wanted!r} in {EXPORT_RECORD}")
    if "quantization_config" in config:
        raise broken(f"{folder / 'config.json'} has 'quantization_config': merged exports are not quantised")
    weight_files(folder)


def _check_adapter(folder: Path, record: Mapping[str, Any]) -> None:
    """What scales LoRA must be what the checkpoint was trained with: peft reads it here, `cadmllm infer` in the record."""
    path = folder / ADAPTER_CONFIG
    config, lora = read_json(path), record["lora"]
    if lora.get("enabled") is not True:
        raise broken(f"{folder / EXPORT_RECORD}: an adapter of a checkpoint without LoRA")
    wanted = {"peft_type": "LORA", "r": lora.get("r"), "lora_alpha": lora.get("alpha")}
    for key, value in wanted.items():
        if config.get(key) != value:
            raise broken(f"{path}: {key} is {config.get(key)!r}, and {value!r} in {EXPORT_RECORD}")
    for key in ("use_rslora", "use_dora", "fan_in_fan_out", "lora_bias", "rank_pattern", "alpha_pattern", "modules_to_save"):
        if config.get(key):
            raise broken(f"{path}: {key} is {config[key]!r}, which no export has")


def broken(found: str, remedy: str = "") -> CadmllmError:
    """E722."""
    again = "export it again, or fetch it again from where it came: cadmllm export --checkpoint FOLDER --out NEW_FOLDER"
    return CadmllmError("E722", found, remedy or again)
