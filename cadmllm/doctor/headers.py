"""What a weights file says of itself: the header of safetensors, and what lies there instead. Standard library only.

A safetensors file is an 8-byte length, so many bytes of JSON (name -> dtype, shape, offsets), and the tensors, one behind
the other without gaps (github.com/huggingface/safetensors, "Format"). So a header alone tells whether the file is whole,
however large it is.
"""

from __future__ import annotations

import json
import math
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path

LONGEST = 100 * 2**20  # bytes of a header, as the format limits it
BITS = {"BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F4": 4, "I16": 16, "U16": 16, "F16": 16}
BITS |= {"BF16": 16, "I32": 32, "U32": 32, "F32": 32, "F64": 64, "I64": 64, "U64": 64, "C64": 64}
LFS = b"version https://git-lfs"


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor of a file: its type ('BF16'), its shape, and where its bytes stand in the file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def amount(size: float) -> str:
    """Bytes in words: '15.3 GiB', '98 KiB'."""
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20)):
        if size >= 0.1 * scale:
            return f"{size / scale:.1f} {unit}"
    return f"{size / 1024:.0f} KiB"


class BadFile(Exception):
    """Why a file holds no whole weights, in words that follow its name."""


def read_header(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, by name; the file is as long as they say.

    Raises:
        BadFile: it cannot be read, is none, or is cut short.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
            brace = file.read(1)
            file.seek(8)
            text = file.read(length) if 2 <= length <= min(LONGEST, size - 8) else b""
    except OSError as error:
        raise BadFile(f"cannot be read ({error.strerror or error})") from error
    if len(start) < 8:
        raise BadFile(f"has {size} bytes: an empty or cut-off download")
    if not text:
        other = what_it_is(path)
        if other:
            raise BadFile(f"is {other}, not safetensors")
        if length > LONGEST or length < 2 or brace not in (b"{", b""):
            raise BadFile(f"does not begin as safetensors do (a header of {length} bytes)")
        raise BadFile(f"is cut off in its header: {8 + length - size:,} of {8 + length:,} bytes lack")
    return _tensors(_parsed(text), 8 + length, size)


def _parsed(text: bytes) -> dict[str, object]:
    try:
        header = json.loads(text)
    except ValueError:
        raise BadFile("has a header that is not JSON: the file is damaged or not safetensors") from None
    if not isinstance(header, dict):
        raise BadFile("has a header that is not a table of tensors")
    header.pop("__metadata__", None)
    return header


def _tensors(header: dict[str, object], base: int, size: int) -> dict[str, Tensor]:
    found = {}
    for name, entry in header.items():
        try:
            dtype, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]  # ty: ignore
            bits = BITS.get(dtype)
            good = all(isinstance(n, int) and n >= 0 for n in (*shape, begin, end)) and begin <= end
        except (KeyError, TypeError, ValueError):
            raise BadFile(f"has a header in which {name} is not described as a tensor") from None
        if not good or (bits is not None and (end - begin) * 8 != math.prod(shape) * bits):
            raise BadFile(f"has a header in which {name} ({dtype} {list(shape)}) has offsets {begin}..{end}")
        found[name] = Tensor(dtype, shape, base + begin, base + end)
    at = base
    for name, tensor in sorted(found.items(), key=lambda item: (item[1].begin, item[1].end)):
        if tensor.begin != at:
            raise BadFile(f"has a header whose offsets leave a gap or overlap at {name}")
        at = tensor.end
    if size < at:
        raise BadFile(f"is cut off: it has {size:,} bytes of {at:,}, {at - size:,} lack")
    if size > at:
        raise BadFile(f"has {size - at:,} bytes more than its header tells of")
    return found


def what_it_is(path: Path) -> str:
    """What a file that should hold weights is instead, by its first bytes ('a Git LFS pointer'); '' where they do not tell.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        start = file.read(512)
    if not start:
        return "empty"
    if start.startswith(LFS):
        size = next((line[5:].decode() for line in start.splitlines() if line.startswith(b"size ")), "?")
        return f"a Git LFS pointer (a note that {size} bytes lie elsewhere)"
    text = start.lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<head", b"<?xml")):
        return "a web page (what a browser shows before a download, saved in its place)"
    kinds = {b"\xff\xd8\xff": "a JPEG picture", b"\x89PNG": "a PNG picture", b"\x1f\x8b": "a gzip archive", b"%PDF": "a PDF"}
    kinds |= {b"7z\xbc\xaf": "a 7-zip archive", b"Rar!": "a RAR archive", b"\xfd7zXZ": "an xz archive"}
    for magic, kind in kinds.items():
        if start.startswith(magic):
            return kind
    if not any(start):
        return "a file that begins with zeros: nothing was written there"
    return ""


def check_torch_file(path: Path) -> None:
    """Look at a file of torch.save from outside: a whole zip archive, or the older pickle.

    Raises:
        BadFile: it is none, or is cut short.
    """
    try:
        other, size = what_it_is(path), path.stat().st_size
        with path.open("rb") as file:
            start = file.read(10)
        whole = zipfile.is_zipfile(path) if start.startswith(b"PK") else False
    except OSError as error:
        raise BadFile(f"cannot be read ({error.strerror or error})") from error
    if other:
        raise BadFile(f"is {other}, not a PyTorch file")
    if start.startswith(b"PK") and not whole:
        raise BadFile(f"is cut off: a PyTorch file whose end is missing after {size:,} bytes")
    if not start.startswith((b"PK", b"\x80")):
        kind = "a safetensors file" if start[8:9] == b"{" else "something else"
        raise BadFile(f"is {kind}, not a PyTorch file (.pt, .ckpt)")
