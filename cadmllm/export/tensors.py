"""Weights that are read where and when they are needed, never mapped as a whole.

`safe_open` checks a file's header (offsets without gaps, sizes, length); the bytes are then read into memory of our own. A mapped
file would count as resident once its pages were touched, and a base is larger than what an export should take.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from cadmllm.errors import CadmllmError

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
EXACT = (torch.float32, torch.float16, torch.bfloat16)  # what weights may be kept in to be merged


class Damaged(Exception):
    """Why a file holds no whole weights, in words that follow its path."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(f"{path} {why}")
        self.path, self.why = path, why


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor lies: its file, the name of its type there ('BF16'), its shape, and its first byte."""

    path: Path
    kind: str
    shape: tuple[int, ...]
    begin: int


class Tensors:
    """Named tensors in one or many safetensors files; headers are read at once, values when asked for.

    Args:
        paths: the files; a name may stand in one of them only.

    Raises:
        Damaged: naming the file that is cut short, broken or not safetensors, or holds a name for the second time.
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        self.places: dict[str, Place] = {}
        for path in paths:
            for name, place in _header(path).items():
                if name in self.places:
                    raise Damaged(path, f"holds {name}, as {self.places[name].path.name} does")
                self.places[name] = place

    def renamed(self, rename: Callable[[str], str]) -> Tensors:
        """The same tensors under other names; `rename` must keep different ones apart."""
        other = Tensors(())
        other.places = {rename(name): place for name, place in self.places.items()}
        return other

    def __contains__(self, name: object) -> bool:
        return name in self.places

    def names(self) -> list[str]:
        """In the order of the files."""
        return list(self.places)

    def shape(self, name: str) -> tuple[int, ...]:
        """Of a tensor that is there."""
        return self.places[name].shape

    def kind(self, name: str) -> str:
        """The type as the file names it: 'BF16', 'F8_E4M3', ..."""
        return self.places[name].kind

    def dtype(self, name: str) -> torch.dtype | None:
        """Of a tensor that is there; None for a type that only quantised models have."""
        return DTYPES.get(self.places[name].kind)

    def tensor(self, name: str) -> Tensor:
        """A whole tensor, in memory of its own."""
        return self._read(name, self.places[name].shape, 0)

    def part(self, name: str, start: int, stop: int) -> Tensor:
        """Rows start <= row < stop of a tensor [R, ...], 0 <= start <= stop <= R."""
        rows, *rest = self.places[name].shape
        assert 0 <= start <= stop <= rows, f"rows {start}..{stop} of {rows}"
        return self._read(name, (stop - start, *rest), start)

    def _read(self, name: str, shape: tuple[int, ...], start: int) -> Tensor:
        place = self.places[name]
        value = torch.empty(shape, dtype=DTYPES[place.kind])
        row = value.element_size()
        for size in place.shape[1:]:
            row *= size
        room = memoryview(value.view(-1).view(torch.uint8).numpy()) if value.numel() else memoryview(bytearray())
        try:
            _fill(place.path, place.begin + start * row, room)
        except OSError as error:
            raise CadmllmError(
                "E505",
                f"{place.path} cannot be read any more, at {name} ({error.strerror or error})",
                "see whether somebody moved or replaced it, and export again: cadmllm export",
            ) from error
        return value


def _fill(path: Path, begin: int, room: memoryview) -> None:
    with path.open("rb", buffering=0) as file:
        file.seek(begin)
        filled = 0
        while filled < len(room):
            count = file.readinto(room[filled:])
            if not count:
                raise OSError("it became shorter")
            filled += count


def _header(path: Path) -> dict[str, Place]:
    try:
        with safe_open(path, "pt"):
            pass  # whatever is wrong with the header, the offsets or the length is found here
        with path.open("rb") as file:
            length = struct.unpack("<Q", file.read(8))[0]
            header = json.loads(file.read(length))
    except (OSError, SafetensorError, ValueError, struct.error) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise Damaged(path, f"cannot be read as safetensors ({reason})") from error
    header.pop("__metadata__", None)
    return {
        name: Place(path, entry["dtype"], tuple(entry["shape"]), 8 + length + entry["data_offsets"][0])
        for name, entry in header.items()
    }
