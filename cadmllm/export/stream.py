"""Safetensors files written piece by piece: the header announces what is to come, so nothing has to be held until then.

The format (github.com/huggingface/safetensors, "Format"): 8 bytes of length, little-endian; so many bytes of JSON, from a name to
type, shape and offsets; the tensors, one behind the other.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

NAMES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
ALIGNED = 8


@dataclass(frozen=True, slots=True)
class Announced:
    """A tensor that is to be written: its name, type and shape."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """Of its values."""
        return math.prod(self.shape) * self.dtype.itemsize


def write_stream(path: Path, announced: Sequence[Announced], pieces: Iterator[Tensor]) -> Path:
    """Write a safetensors file of which one piece at a time is in memory.

    Args:
        path: the file.
        announced: every tensor, in order; wider types first, so that each stands at a multiple of its own size.
        pieces: consecutive rows of these tensors, in their types, one tensor after the other.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    at = 0
    for tensor in announced:
        assert at % tensor.dtype.itemsize == 0, f"{tensor.name} would stand at {at}"
        header[tensor.name] = {"dtype": NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [at, at + tensor.bytes]}
        at += tensor.bytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNED)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for tensor in announced:
            left = tensor.bytes
            while left > 0:
                piece = next(pieces)
                assert piece.dtype == tensor.dtype, f"{tensor.name}: {piece.dtype}"
                left -= file.write(piece.contiguous().view(-1).view(torch.uint8).numpy())
            assert left == 0, f"{tensor.name}: {-left} bytes too many"
    return path
