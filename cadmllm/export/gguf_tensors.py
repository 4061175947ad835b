"""The tensors of a GGUF file: their names, types, places, and the bytes of each.

Types are those of llama.cpp's own converter: vectors stay in 32 bit, matrices are written in the type asked for; one whose rows
do not divide into blocks of 32 is written in 16 bit where 8-bit blocks were asked for.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, get_tensor_name_map
from gguf.constants import MODEL_ARCH, MODEL_ARCH_NAMES
from gguf.quants import dequantize, quant_shape_to_byte_shape, quantize
from torch import Tensor

from cadmllm.errors import CadmllmError
from cadmllm.export.gguf_arch import architecture, impossible

F32, F16, BF16, Q8_0 = (GGMLQuantizationType[name] for name in ("F32", "F16", "BF16", "Q8_0"))
OF_DTYPE = {"fp32": F32, "fp16": F16, "bf16": BF16, "q8_0": Q8_0}
ALIGNMENT = 32  # bytes that every tensor begins at a multiple of
SUFFIXES = (".weight", ".bias")
PIECE = 2**22  # numbers rounded at once: 16 MiB in 32 bit


@dataclass(frozen=True, slots=True)
class Slot:
    """Where a tensor goes.

    Attributes:
        name: transformers' name; `inside`: GGUF's.
        shape: as transformers has it, rows first.
        kind: type in the file.
        heads: of a query or key matrix whose rows change places (`interleaved`); 0 for all others.
        begin: first byte, from the beginning of the data.
    """

    name: str
    inside: str
    shape: tuple[int, ...]
    kind: GGMLQuantizationType
    heads: int
    begin: int

    @property
    def nbytes(self) -> int:
        """Bytes of its values, without padding."""
        block, size = GGML_QUANT_SIZES[self.kind]
        return math.prod(self.shape) // block * size

    @property
    def array(self) -> tuple[tuple[int, ...], np.dtype[Any]]:
        """Shape and type of the array that holds it in the file."""
        if self.kind in (F32, F16):
            return self.shape, np.dtype(np.float32 if self.kind == F32 else np.float16)
        return quant_shape_to_byte_shape(self.shape, self.kind), np.dtype(np.uint8)


def slots(config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], dtype: str) -> list[Slot]:
    """Every tensor's place, in the order of `shapes`.

    Args:
        config: of the model, with all defaults.
        shapes: name and shape of every tensor, vocabulary matrices resized and untied.
        dtype: 'fp32', 'fp16', 'bf16' or 'q8_0'.

    Raises:
        CadmllmError: E723 for a dtype or a tensor that has no place.
    """
    if dtype not in OF_DTYPE:
        raise not_written(dtype)
    arch = architecture(config)
    number = next(key for key, name in MODEL_ARCH_NAMES.items() if name == arch.name)
    names = get_tensor_name_map(MODEL_ARCH(number), int(config["num_hidden_layers"]))
    heads = {"q_proj": int(config["num_attention_heads"])}
    heads["k_proj"] = int(config.get("num_key_value_heads") or heads["q_proj"])
    found, begin = [], 0
    for name, shape in shapes.items():
        inside = names.get_name(name, try_suffixes=SUFFIXES)
        if inside is None:
            raise impossible(f"llama.cpp's {arch.name} has no place for {name} {list(shape)}")
        turned = heads.get(name.split(".")[-2], 0) if arch.interleaved else 0
        slot = Slot(name, inside, tuple(shape), _kind(shape, OF_DTYPE[dtype]), turned, begin)
        found.append(slot)
        begin += -(-slot.nbytes // ALIGNMENT) * ALIGNMENT
    return found


def not_written(dtype: str) -> CadmllmError:
    """E723: the gguf package cannot write this type, and what to do then."""
    if dtype != "q4_k_m":
        return impossible(f"matrices in {dtype!r}: the types are {', '.join(OF_DTYPE)}")
    return CadmllmError(
        "E723",
        "no GGUF file in q4_k_m: the gguf package can read 4-bit K-quants, not write them",
        "cadmllm export --to gguf --dtype bf16 --out DIR, then with llama.cpp:"
        " llama-quantize DIR/model-bf16.gguf DIR-q4_k_m.gguf Q4_K_M",
    )


def _kind(shape: tuple[int, ...], asked: GGMLQuantizationType) -> GGMLQuantizationType:
    if len(shape) == 1:
        return F32
    return F16 if asked == Q8_0 and shape[-1] % GGML_QUANT_SIZES[Q8_0][0] else asked


def unquantised(placed: list[Slot], dtype: str) -> list[str]:
    """Names of matrices that 8-bit blocks were asked for and do not fit."""
    return [slot.name for slot in placed if len(slot.shape) > 1 and slot.kind != OF_DTYPE[dtype]]


def packed(slot: Slot, value: Tensor) -> Iterator[tuple[slice, np.ndarray[Any, np.dtype[Any]]]]:
    """What goes into the file, some rows at a time (about `PIECE` numbers), so that a matrix is never held twice.

    Args:
        slot: where it goes.
        value: of the slot's shape, any floating type; 32 bit to be rounded once.

    Yields:
        Rows (a vector is one row) and the array that holds them in the file, a row of it each.

    Raises:
        CadmllmError: E723 when a value is not finite, or too large for the type.
    """
    assert tuple(value.shape) == slot.shape, f"{slot.name}: {tuple(value.shape)}, not {slot.shape}"
    width = slot.shape[-1]
    rows = turned(value, slot.heads).contiguous().view(-1, width)
    step = max(1, PIECE // width)
    for start in range(0, len(rows), step):
        chosen = slice(start, min(start + step, len(rows)))
        yield chosen, _rounded(slot, rows[chosen])


def _rounded(slot: Slot, rows: Tensor) -> np.ndarray[Any, np.dtype[Any]]:
    """[R, width] in the type of the file."""
    exact = rows.to({BF16: torch.bfloat16, F16: torch.float16}.get(slot.kind, torch.float32))
    if not bool(exact.isfinite().all()):
        if bool(rows.isfinite().all()):
            raise _too_large(slot, float(rows.abs().max()))
        raise impossible(f"{slot.name} holds values that are not finite numbers")
    if slot.kind == BF16:
        return exact.view(torch.uint8).numpy()
    if slot.kind != Q8_0:
        return exact.numpy()
    with np.errstate(over="ignore"):  # seen below
        blocks = quantize(exact.numpy(), slot.kind)
    scales = blocks.reshape(-1, GGML_QUANT_SIZES[slot.kind][1])[:, :2].copy().view(np.float16)
    if not np.isfinite(scales).all():
        raise _too_large(slot, float(exact.abs().max()))
    return blocks


def unpacked(slot: Slot, array: np.ndarray[Any, np.dtype[Any]]) -> Tensor:
    """What the file holds, as transformers has it: float32, of the slot's shape."""
    if slot.kind == BF16:
        bits = torch.from_numpy(array.copy()).view(torch.bfloat16)
        return returned(bits.float().view(slot.shape), slot.heads)
    return returned(torch.from_numpy(dequantize(array, slot.kind).copy()).view(slot.shape), slot.heads)


def turned(value: Tensor, heads: int) -> Tensor:
    """Rows of each head from halves (as transformers turns them) to pairs (as llama.cpp's llama does); heads 0: as it is."""
    if not heads:
        return value
    return value.view(heads, 2, -1, *value.shape[1:]).transpose(1, 2).reshape(value.shape)


def returned(value: Tensor, heads: int) -> Tensor:
    """The inverse of `turned`."""
    if not heads:
        return value
    return value.view(heads, -1, 2, *value.shape[1:]).transpose(1, 2).reshape(value.shape)


def _too_large(slot: Slot, most: float) -> CadmllmError:
    return CadmllmError(
        "E723",
        f"{slot.name} holds {most:.4g}, which is too large for {slot.kind.name}",
        "cadmllm export --to gguf --dtype bf16 --out DIR",
    )
