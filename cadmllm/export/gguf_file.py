"""The text part of a merged model as one GGUF file: written in a stream, and read back tensor by tensor.

Only the language model has a place in such a file. A checkpoint that reads clouds and images answers texts alone from it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from gguf import GGUFReader, GGUFValueType, GGUFWriter
from gguf.constants import GGML_QUANT_VERSION, LlamaFileType
from gguf.quants import dequantize
from gguf.utility import size_label
from torch import Tensor

from cadmllm.corpus.prompt import HEAD, TAIL
from cadmllm.corpus.types import CAD_SIZE
from cadmllm.errors import CadmllmError
from cadmllm.export.adapter import public_name
from cadmllm.export.gguf_arch import Field, architecture, hyperparameters
from cadmllm.export.gguf_grammar import write_grammar
from cadmllm.export.gguf_tensors import Q8_0, Slot, packed, slots, turned, unquantised
from cadmllm.export.gguf_tokens import Vocabulary, read_vocabulary
from cadmllm.export.terms import of_base
from cadmllm.models.stages import STAGE_NAMES

if TYPE_CHECKING:
    from cadmllm.export.source import Source

FILE_TYPES = {"fp32": "ALL_F32", "fp16": "MOSTLY_F16", "bf16": "MOSTLY_BF16", "q8_0": "MOSTLY_Q8_0"}
VALUES = {
    "UINT32": GGUFValueType.UINT32,
    "INT32": GGUFValueType.INT32,
    "FLOAT32": GGUFValueType.FLOAT32,
    "BOOL": GGUFValueType.BOOL,
    "STRING": GGUFValueType.STRING,
}
ITEMS = {"STRINGS": GGUFValueType.STRING, "INT32S": GGUFValueType.INT32}
IN_32_BIT = 127 * 2**-22  # steps: ties of up to 127 steps are decided by a division and a product in float32
# what GGUFReader raises for a file that is cut short or was changed
BROKEN = (ValueError, IndexError, KeyError, TypeError, OverflowError, OSError, MemoryError)


def write_gguf(source: Source, tensors: Iterator[tuple[str, Tensor]], tokenizer_folder: Path, path: Path, dtype: str) -> Path:
    """Write the merged model; beside it the grammar of answers, `cad.gbnf`.

    Args:
        source: of the export; what llama.cpp does otherwise is added to its notes.
        tensors: name and value of every tensor of the merged model, in 32 bit, in any order; one is in memory at a time.
        tokenizer_folder: with tokenizer.json.
        path: of the new file.
        dtype: of the matrices: 'fp32', 'bf16', 'fp16' or 'q8_0'; vectors stay in 32 bit.

    Returns:
        `path`.

    Raises:
        CadmllmError: E723 for a model, a tokenizer or a dtype that has no place in such a file.
    """
    config = source.base.layout.config.to_dict()
    placed = slots(config, source.shapes(), dtype)
    vocabulary = read_vocabulary(tokenizer_folder, source.text_size, source.rows)
    fields = _metadata(source, config, vocabulary, placed, dtype)
    short = unquantised(placed, dtype)
    if short:
        source.notes.append(f"{len(short)} matrices are in 16 bit, as their rows are no multiple of 32 long: {short[0]}, ...")
    source.notes.extend(vocabulary.notes)
    _stream(path, architecture(config).name, fields, placed, tensors)
    write_grammar(path.parent)
    return path


def _metadata(source: Source, config: dict[str, Any], vocabulary: Vocabulary, placed: list[Slot], dtype: str) -> list[Field]:
    """Every key but the architecture, which the writer puts first."""
    base = public_name(source.record["model"]["llm"])
    parameters = sum(math.prod(slot.shape) for slot in placed)
    fields: list[Field] = [
        ("general.type", "model", "STRING"),
        ("general.name", f"cadmllm {STAGE_NAMES[source.stage]} on {Path(base).name}", "STRING"),
        (
            "general.description",
            "Writes parametric CAD programs from a text, as tokens <cad:...>. The language model of a cadmllm checkpoint: its"
            " projectors and encoders of point clouds and images have no place in a GGUF file.",
            "STRING",
        ),
        ("general.license", "unknown", "STRING"),
        ("general.license.name", "see-base-and-data", "STRING"),
        ("general.size_label", size_label(parameters, 0, 0, 0), "STRING"),
        ("general.base_model.count", 1, "UINT32"),
        *_base(base),
        ("general.file_type", int(LlamaFileType[FILE_TYPES[dtype]]), "UINT32"),
        ("general.quantization_version", GGML_QUANT_VERSION, "UINT32"),
        *hyperparameters(config, source.rows),
        *_tokens(vocabulary),
        ("cadmllm.stage", source.stage, "UINT32"),
        ("cadmllm.vocabulary", source.record["vocabulary"], "STRING"),
        ("cadmllm.first_token", source.text_size, "UINT32"),
        ("cadmllm.token_count", CAD_SIZE, "UINT32"),
        ("cadmllm.prompt", f"{HEAD}TEXT{TAIL}", "STRING"),
    ]
    return fields


def _base(name: str) -> Iterator[Field]:
    """The base by its public name, where it is to be had, and its terms as far as they are known."""
    owner, _, model = name.rpartition("/")
    yield "general.base_model.0.name", model, "STRING"
    if owner:
        yield "general.base_model.0.organization", owner, "STRING"
        yield "general.base_model.0.repo_url", f"https://huggingface.co/{name}", "STRING"
    yield "general.base_model.0.description", f"licence: {of_base(name)}", "STRING"


def _tokens(vocabulary: Vocabulary) -> Iterator[Field]:
    key = "tokenizer.ggml"
    yield f"{key}.model", "gpt2", "STRING"
    yield f"{key}.pre", vocabulary.pre, "STRING"
    yield f"{key}.tokens", vocabulary.tokens, "STRINGS"
    yield f"{key}.token_type", vocabulary.types, "INT32S"
    yield f"{key}.merges", vocabulary.merges, "STRINGS"
    yield f"{key}.eos_token_id", vocabulary.eos, "UINT32"
    yield f"{key}.bos_token_id", vocabulary.bos, "UINT32"
    if vocabulary.pad is not None:
        yield f"{key}.padding_token_id", vocabulary.pad, "UINT32"
    for name in ("add_bos_token", "add_eos_token", "add_space_prefix"):
        yield f"{key}.{name}", False, "BOOL"
    # the head of a checkpoint knows CAD items alone: llama.cpp's own tools (from 2026) never sample these, older ones ignore it
    yield f"{key}.suppress_tokens", vocabulary.suppressed, "INT32S"
    if vocabulary.template:
        yield "tokenizer.chat_template", vocabulary.template, "STRING"


def _stream(path: Path, name: str, fields: list[Field], placed: list[Slot], tensors: Iterator[tuple[str, Tensor]]) -> None:
    """Keys and tensor infos first, then each tensor at its place as it comes."""
    writer = GGUFWriter(path, name)
    for key, value, kind in fields:
        sub = ITEMS.get(kind)
        writer.add_key_value(key, value, VALUES.get(kind, GGUFValueType.ARRAY), sub)
    for slot in placed:
        shape, kind = slot.array
        writer.add_tensor_info(slot.inside, shape, kind, slot.nbytes, raw_dtype=slot.kind)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        assert writer.fout is not None
        file = writer.fout[0]
        writer.write_padding(file, file.tell())
        start, left = file.tell(), {slot.name: slot for slot in placed}
        for tensor, value in tensors:
            slot = left.pop(tensor)
            file.seek(start + slot.begin)
            for _, rows in packed(slot, value):
                rows.tofile(file)
            writer.write_padding(file, slot.nbytes)
            del value  # before the next one is made
        assert not left, f"tensors that never came: {sorted(left)}"
    finally:
        writer.close()


def check_gguf(
    path: Path, source: Source, tensors: Iterator[tuple[str, Tensor]], dtype: str, tokenizer_folder: Path | None = None
) -> dict[str, Any]:
    """Read a file back and compare every key, token and tensor with what it was made of.

    Args:
        path: the file.
        source, tensors, dtype: as `write_gguf` got them.
        tokenizer_folder: with tokenizer.json; None: the file's folder.

    Returns:
        {'bytes', 'keys', 'tokens', 'tensors', 'types': {'F32': count, ...}, 'largest_error': of q8_0 in steps of its block (half
        a step is what rounding takes, a little more what the scale's own 16 bit take), else 0.0}.

    Raises:
        CadmllmError: E722 when the file is cut short, or not the one that was written; E721 when a tensor holds other values.
    """
    config = source.base.layout.config.to_dict()
    placed = {slot.name: slot for slot in slots(config, source.shapes(), dtype)}
    vocabulary = read_vocabulary(tokenizer_folder or path.parent, source.text_size, source.rows)
    fields = _metadata(source, config, vocabulary, list(placed.values()), dtype)
    reader = open_gguf(path)
    keys = _check_keys(path, reader, [("general.architecture", architecture(config).name, "STRING"), *fields])
    held = {tensor.name: tensor for tensor in reader.tensors}
    _check_places(path, reader, list(placed.values()))
    kinds: dict[str, int] = {}
    worst = 0.0
    for name, value in tensors:
        slot = placed.pop(name)
        kinds[slot.kind.name] = kinds.get(slot.kind.name, 0) + 1
        worst = max(worst, _check_values(path, slot, value, held[slot.inside].data))
        del value  # before the next one is made
    assert not placed, f"tensors that never came: {sorted(placed)}"
    sizes = {"bytes": path.stat().st_size, "keys": keys, "tokens": len(vocabulary.tokens), "tensors": len(held)}
    return {**sizes, "types": kinds, "largest_error": worst}


class Reader(GGUFReader):
    """The package's reader over a plain array: each of a vocabulary's entries is a slice, and slices of a memmap take five times
    as long."""

    def _get(self, offset: int, dtype: Any, count: int = 1, override_order: Any = None) -> np.ndarray:
        if isinstance(self.data, np.memmap):
            self.data = self.data.view(np.ndarray)  # still mapped: the view holds on to the file
        return super()._get(offset, dtype, count, override_order)


def open_gguf(path: Path) -> GGUFReader:
    """A reader of a file.

    Raises:
        CadmllmError: E722 when it is no whole GGUF file.
    """
    try:
        return Reader(path)
    except BROKEN as error:
        raise changed(path, f"cannot be read as GGUF ({(str(error).splitlines() or [type(error).__name__])[0][:200]})") from error


def changed(path: Path, what: str) -> CadmllmError:
    """E722: the file is not the one that was written."""
    return CadmllmError("E722", f"{path} {what}", "export it again: cadmllm export --to gguf --out NEW_FOLDER")


def _check_keys(path: Path, reader: GGUFReader, fields: list[Field]) -> int:
    known = {"GGUF.version", "GGUF.tensor_count", "GGUF.kv_count", *(field[0] for field in fields)}
    extra = [key for key in reader.fields if key not in known]
    if extra:
        raise changed(path, f"has the key {extra[0]!r}, which was not written")
    for key, value, kind in fields:
        field = reader.fields.get(key)
        if field is None:
            raise changed(path, f"lacks the key {key!r}")
        wanted = [VALUES[kind]] if kind in VALUES else [GGUFValueType.ARRAY, ITEMS[kind]]
        try:
            found = field.contents()
        except BROKEN as error:
            raise changed(path, f"has an unreadable {key!r}") from error
        if field.types != wanted or found != (float(np.float32(value)) if kind == "FLOAT32" else value):
            raise changed(path, f"has another {key!r}{_where(found, value)}")
    return len(fields)


def _where(found: Any, value: Any) -> str:
    if not isinstance(value, list) or not isinstance(found, list):
        return f": {str(found)[:80]!r}, not {str(value)[:80]!r}"
    first = next((k for k, pair in enumerate(zip(found, value, strict=False)) if pair[0] != pair[1]), min(len(found), len(value)))
    return f": of {len(value)} entries, entry {first} differs"


def _check_places(path: Path, reader: GGUFReader, placed: list[Slot]) -> None:
    """Names, shapes, types and bytes, and that the file ends where the last tensor does."""
    found = [(tensor.name, tuple(map(int, tensor.shape)), tensor.tensor_type, tensor.data_offset) for tensor in reader.tensors]
    wanted = [(slot.inside, slot.shape[::-1], slot.kind, reader.data_offset + slot.begin) for slot in placed]
    for ours, theirs in zip(wanted, found, strict=False):
        if ours != theirs:
            raise changed(
                path, f"holds {theirs[0]} {list(theirs[1])} in {theirs[2].name} where {ours[0]} {list(ours[1])} was written"
            )
    if len(found) != len(wanted):
        raise changed(path, f"holds {len(found)} tensors, and {len(wanted)} were written")
    last = placed[-1]
    end, size = reader.data_offset + last.begin + -(-last.nbytes // reader.alignment) * reader.alignment, path.stat().st_size
    if size != end:
        raise changed(path, f"has {size} bytes, and {end} were written")


def _check_values(path: Path, slot: Slot, value: Tensor, held: np.ndarray) -> float:
    """Every byte of a tensor; gives the largest error of 8-bit blocks, in steps."""
    there, worst = held.reshape(-1, held.shape[-1]), 0.0
    exact = turned(value, slot.heads).reshape(-1, slot.shape[-1]) if slot.kind == Q8_0 else None
    for rows, expected in packed(slot, value):
        found = np.ascontiguousarray(there[rows])
        if not np.array_equal(expected.view(np.uint8), found.view(np.uint8)):
            raise _other(path, slot, expected, found)
        if exact is not None:
            worst = max(worst, _check_blocks(path, slot, exact[rows], found))
    return worst


def _other(path: Path, slot: Slot, expected: np.ndarray, found: np.ndarray) -> CadmllmError:
    with np.errstate(invalid="ignore", over="ignore"):  # changed bytes may be any numbers
        apart = np.abs(dequantize(expected, slot.kind).astype(np.float64) - dequantize(found, slot.kind))
    count, most = int((apart > 0).sum()), float(np.nan_to_num(apart, nan=np.inf).max())
    return CadmllmError(
        "E721",
        f"{path}: {slot.inside} differs in {count} of {apart.size} values, by {most:.3g} at most",
        "export it again: cadmllm export --to gguf --out NEW_FOLDER",
    )


def _check_blocks(path: Path, slot: Slot, value: Tensor, found: np.ndarray) -> float:
    """Largest error of 8-bit blocks of 32 values, in steps (largest magnitude of the block / 127): at most half of one.

    The scale itself is kept in 16 bit: a value of n steps is off by up to n times the scale's own rounding more.
    """
    exact = value.reshape(-1, 32).double().numpy()
    read = dequantize(found, slot.kind).reshape(-1, 32).astype(np.float64)
    step = np.abs(exact).max(axis=1, keepdims=True) / 127
    kept = step.astype(np.float16).astype(np.float64)
    error = np.abs(exact - read)
    if (error > step * (0.5 + IN_32_BIT) + 127 * np.abs(step - kept)).any():
        raise CadmllmError(
            "E721",
            f"{path}: {slot.inside} is off by more than half a step of its blocks",
            "export in a wider type: cadmllm export --to gguf --dtype bf16 --out NEW_FOLDER",
        )
    return float((error / np.where(step > 0, step, 1)).max())
