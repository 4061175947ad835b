"""A model from an export folder: merged weights as they are, or a base with the adapter on it; rows, projectors and encoders."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from cadmllm.corpus.types import ADDED, CAD_SIZE
from cadmllm.errors import CadmllmError
from cadmllm.models.backbone import first_line, load_merged, load_tokenizer, pick_device, tokenizer_mark
from cadmllm.models.exported import ADAPTER, ENCODERS, PROJECTORS, broken, check_whole, weight_files
from cadmllm.models.fusion import CadMLLM, build_model
from cadmllm.models.record import BRANCH_STAGES, OF_BRANCH, check_base
from cadmllm.models.weights import load_trained, recorded

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from cadmllm.settings import Settings

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
PEFT = "base_model.model."
PIECE = 8192  # rows of a matrix that are compared at a time


def load(folder: Path, settings: Settings) -> CadMLLM:
    """`exported.load_exported`."""
    record = check_whole(folder)
    if record["kind"] == "gguf":
        raise CadmllmError(
            "E723",
            f"{folder} is a GGUF export, which llama.cpp answers from (its text part alone)",
            f"to answer with cadmllm: cadmllm export --to merged --out DIR, then cadmllm infer --checkpoint DIR;"
            f" with llama.cpp: llama-cli -m {folder}/model-{record['dtype']}.gguf",
        )
    model = _merged(folder, record, settings) if record["kind"] == "merged" else _adapted(folder, record, settings)
    return model.requires_grad_(False).eval()


def parts_of(folder: Path) -> dict[str, Tensor]:
    """Projectors and trained encoders of an export, by their names in a checkpoint.

    Raises:
        CadmllmError: E722.
    """
    found: dict[str, Tensor] = {}
    for name, part in ((PROJECTORS, "projector"), (ENCODERS, "encoder")):
        if not (folder / name).is_file():
            continue
        tensors = _read(folder / name)
        strange = sorted(key for key in tensors if not key.startswith(tuple(f"{branch}.{part}." for branch in OF_BRANCH)))
        if strange:
            raise broken(f"{folder / name} holds {strange[0]}, which is of no {part}")
        found |= tensors
    return found


def check_tokenizer(tokenizer: PreTrainedTokenizerFast, record: Mapping[str, Any], where: Path) -> None:
    """The base's items below text_size, item k of `ADDED` at text_size + k, and nothing else.

    Raises:
        CadmllmError: E722 naming the first that differs.
    """
    text_size, vocabulary = record["text_size"], tokenizer.get_vocab()
    if len(tokenizer) != text_size + len(ADDED):
        raise broken(f"the tokenizer in {where} has {len(tokenizer)} items, and the export {text_size} + {len(ADDED)}")
    ids = cast("list[int]", tokenizer.convert_tokens_to_ids(list(ADDED)))
    for k, (item, found) in enumerate(zip(ADDED, ids, strict=True)):
        if found != text_size + k:
            raise broken(f"the tokenizer in {where} gives {item} the id {found}, and its row is {text_size + k}")
    if tokenizer_mark({item: k for item, k in vocabulary.items() if k < text_size}) != record["base"].get("tokenizer"):
        raise broken(f"the tokenizer in {where} is not that of the base its record names ({record['model']['llm']})")


def _merged(folder: Path, record: Mapping[str, Any], settings: Settings) -> CadMLLM:
    chosen = _recorded(settings, record, folder)
    chosen.model.llm, chosen.lora.enabled = str(folder), True  # its decoder is frozen, as under LoRA
    rows = _rows_of(folder, record)
    try:
        backbone = load_merged(folder, chosen, pick_device(chosen), record["text_size"], rows)
    except CadmllmError as error:
        if error.code != "E501" or str(folder) not in error.message:
            raise  # bitsandbytes is missing, the card cannot compute in the type, ...
        raise broken(f"{folder}: {error.message.partition(': ')[2]}") from error
    _check_names(folder, {name for name, _ in backbone.model.named_parameters()})
    check_tokenizer(backbone.tokenizer, record, folder)
    _check_marks(backbone.fingerprint, record, folder)
    backbone.fingerprint = record["base"]
    model = build_model(chosen, record["stage"], backbone=backbone)
    _take(model, {**parts_of(folder), **{f"rows.{name}": value for name, value in rows.items()}}, folder)
    model.settings.lora.enabled = False  # there is none: saved again, it would be a whole language model
    return model


def _rows_of(folder: Path, record: Mapping[str, Any]) -> dict[str, Tensor]:
    """Rows of the added items in the two resized matrices of a merged export, float32."""
    first, found = record["text_size"], {}
    for part, name, count in (("input", EMBEDDING, len(ADDED)), ("output", HEAD, CAD_SIZE)):
        holders = [path for path in weight_files(folder) if name in _names(path)]
        if len(holders) != 1:
            raise broken(f"{folder}: {len(holders)} of its weight files hold {name}")
        with safe_open(holders[0], "pt") as file:
            piece = file.get_slice(name)
            if len(piece.get_shape()) != 2 or piece.get_shape()[0] != record["rows"]:
                raise broken(f"{holders[0]}: {name} has shape {piece.get_shape()}, not {record['rows']} rows")
            found[part] = piece[first : first + count].float()
    return found


def _check_names(folder: Path, loaded: set[str]) -> None:
    """A tensor that transformers would pass over in silence."""
    held = {name for path in weight_files(folder) for name in _names(path)}
    strange = sorted(held - {f"model.{name}" for name in loaded} - {HEAD})
    if strange:
        raise broken(f"{folder}: its weights hold {strange[0]} and {len(strange) - 1} more that the model does not have")


def _check_marks(found: Mapping[str, str], record: Mapping[str, Any], folder: Path) -> None:
    """The norms are the base's where LoRA left them alone; float16 rounds them otherwise."""
    if record["lora"].get("enabled") and record["dtype"] != "fp16" and found["weights"] != record["base"].get("weights"):
        raise broken(f"{folder}: its norms are not those of the base that its record names ({record['model']['llm']})")


def _adapted(folder: Path, record: Mapping[str, Any], settings: Settings) -> CadMLLM:
    chosen = _recorded(settings, record, folder)
    if not _there(str(record["model"]["llm"])):
        chosen.model.llm = _named(settings, "llm", record, folder, "E501")
    state = parts_of(folder)
    tensors = _read(folder / ADAPTER)
    first = record["text_size"]
    matrices = {}
    for part, name, count in (("input", EMBEDDING, len(ADDED)), ("output", HEAD, CAD_SIZE)):
        matrix = tensors.pop(PEFT + name, None)
        if matrix is None or matrix.ndim != 2 or matrix.shape[0] != record["rows"]:
            shape = "is missing" if matrix is None else f"has shape {list(matrix.shape)}, not {record['rows']} rows"
            raise broken(f"{folder / ADAPTER}: {PEFT + name} {shape}")
        matrices[part] = matrix
        state[f"rows.{part}"] = matrix[first : first + count].float()
    for name, value in tensors.items():
        if not name.startswith(PEFT + "model.layers."):
            raise broken(f"{folder / ADAPTER} holds {name}, which is of no layer")
        state["llm." + name.removeprefix(PEFT + "model.")] = value
    model = build_model(chosen, record["stage"])
    check_base(record, model.fingerprint, chosen, str(folder))
    if model.text_size != first:
        raise broken(f"{folder}: its added rows begin at {first}, and the base's tokenizer has {model.text_size} items")
    _check_prompt_rows(matrices["input"], model, folder)
    _take(model, state, folder)
    check_tokenizer(own_tokenizer(folder), record, folder)
    return model


def _recorded(settings: Settings, record: Mapping[str, Any], folder: Path) -> Settings:
    """The settings with the export's own put in; of a local folder the record holds the name alone, and the user says where."""
    chosen = recorded(settings, record)
    encoder = str(record["model"].get("image_encoder", "tiny"))
    if record["stage"] >= BRANCH_STAGES["images"] and not _there(encoder):
        chosen.model.image_encoder = _named(settings, "image_encoder", record, folder, "E502")
    return chosen


def _named(settings: Settings, key: str, record: Mapping[str, Any], folder: Path, code: str) -> str:
    """What the user's settings say where the record names a folder that is not here.

    A default is nobody's word, and of a frozen encoder nothing else tells whether it is the right one: its name must be the same.
    """
    was, now = str(record["model"][key]), str(getattr(settings.model, key))
    unasked = now == type(settings.model).model_fields[key].default
    if Path(now).name != Path(was).name and (unasked or key == "image_encoder"):
        what = {"llm": "base", "image_encoder": "image encoder"}[key]
        raise CadmllmError(
            code,
            f"{folder} was made with the {what} {was!r}, a folder that is not here, and model.{key} is {now}",
            f"say where it lies: `--set model.{key}=FOLDER/{Path(was).name}`",
        )
    return now


def _there(name: str) -> bool:
    """Whether a base may be found by this name: the bundled one, a folder, or one of the hub."""
    return name == "tiny" or Path(name).expanduser().is_dir() or (name.count("/") == 1 and not name.startswith((".", "/", "~")))


def _check_prompt_rows(matrix: Tensor, model: CadMLLM, folder: Path) -> None:
    """peft takes the rows of words from the adapter's file, we take the base's: they must be the same, but for rounding.

    Rounding to 16 bit moves a number by 2**-8 of it at most (bfloat16), or by 2**-24 (the least step of float16).
    """
    from cadmllm.models.backbone import input_embedding

    base = input_embedding(model.llm).weight
    if base.shape[1] != matrix.shape[1]:
        raise broken(f"{folder / ADAPTER}: its embedding has the width {matrix.shape[1]}, and the base {base.shape[1]}")
    for start in range(0, model.text_size, PIECE):
        stop = min(start + PIECE, model.text_size)
        ours, theirs = matrix[start:stop].float(), base[start:stop].detach().to("cpu").float()
        off = ((ours - theirs).abs() > theirs.abs() * 2.0**-7 + 2.0**-23).any(dim=1)
        if bool(off.any()):
            row = start + int(off.nonzero()[0])
            raise broken(
                f"{folder / ADAPTER}: row {row} of its embedding is not the base's, so that peft would read prompts otherwise"
            )


def own_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer that comes with an export, with which other tools read prompts.

    Raises:
        CadmllmError: E722.
    """
    try:
        return load_tokenizer(str(folder))
    except CadmllmError as error:
        raise broken(f"{folder}: {error.message.partition(': ')[2]}") from error


def _take(model: CadMLLM, state: Mapping[str, Tensor], folder: Path) -> None:
    fresh = load_trained(model, state, str(folder))
    if fresh:
        raise broken(f"{folder} lacks {fresh[0]}, without which a model of stage {model.stage} cannot answer")


def _names(path: Path) -> set[str]:
    try:
        with safe_open(path, "pt") as file:
            return set(file.keys())
    except (OSError, SafetensorError) as error:
        raise broken(f"{path} is no whole safetensors file ({first_line(error)})") from error


def _read(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise broken(f"{path} is no whole safetensors file ({first_line(error)})") from error
