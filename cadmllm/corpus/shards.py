"""Files of cached encoder features. Any reader of safetensors opens them; nothing here needs torch.

    DIR/points/00000.safetensors   features [rows, tokens, width], crc [rows]; the header says which ids lie in which rows
    DIR/points/index.safetensors   the same of all shards as columns sorted by id, for training
    DIR/images/...                 likewise, a row a view

The header and its padding are written by us, not by the library: it has no bfloat16 without torch, and orders what it writes
differently from run to run. A shard is never changed once it stands; what is encoded again goes into a new one, and the entry
of the later shard counts.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cadmllm.cad.files import whole
from cadmllm.errors import CadmllmError

PARTS = ("points", "images")  # of a store; the names of the model's branches
FLAGS = {"points": "--points", "images": "--views"}  # of `data encode`
INDEX = "index.safetensors"
FORMAT = 1
SHARD_BYTES = 2**26  # of features a shard; what an interruption loses at most
LARGEST_HEADER = 2**27  # bytes; beyond it the file is broken
# what a stored type is called in the file, and what numpy reads it as (it has no bfloat16: its bits)
DTYPES = {"bfloat16": ("BF16", "<u2"), "float16": ("F16", "<f2"), "float32": ("F32", "<f4")}
_COLUMNS = {"ids": "U8", "shard": "U32", "row": "U32", "count": "U16", "stamp": "U8", "digest": "U8", "crc": "U32"}
_NUMPY = {"U8": "<u1", "U16": "<u2", "U32": "<u4"} | dict(DTYPES.values())


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that the numbers of a part depend on.

    Attributes:
        encoder: 'michelangelo' or 'dinov2'.
        weights: SHA-256 of the encoder's tensors as they ran, and of the settings they were run with.
        tokens, width: of a feature.
        compute: precision the encoder ran in (the setting dtype).
        dtype: precision of what is stored, a key of `DTYPES`.
        inputs: what its input was made by: counts and versions ('point_count', 'draws', 'normals', ...).
        files: SHA-256 of the encoder's files: recognises it without loading it. Others may hold the same weights.
        source: where the encoder came from, for people.
    """

    encoder: str
    weights: str
    tokens: int
    width: int
    compute: str
    dtype: str
    inputs: dict[str, int]
    files: str = field(default="", compare=False)
    source: str = field(default="", compare=False)

    @property
    def key(self) -> str:
        """32 hexadecimal digits that are equal where the numbers are."""
        known = {name: value for name, value in asdict(self).items() if name not in ("files", "source")}
        return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:32]

    @property
    def draws(self) -> int:
        """Fixed draws of points an id has; 0 for views."""
        return self.inputs.get("draws", 0)

    @property
    def row_bytes(self) -> int:
        """Bytes of one row of features."""
        return self.tokens * self.width * np.dtype(DTYPES[self.dtype][1]).itemsize

    @classmethod
    def parse(cls, data: Any) -> Recipe:
        """From JSON; a ValueError where it is none."""
        kinds = {"tokens": int, "width": int, "inputs": dict}
        wanted = {item.name: kinds.get(item.name, str) for item in fields(cls)}
        if not isinstance(data, dict) or data.keys() != wanted.keys():
            raise ValueError("its recipe is not one")
        if not all(isinstance(data[name], kind) for name, kind in wanted.items()) or data["dtype"] not in DTYPES:
            raise ValueError("its recipe is not one")
        if data["tokens"] < 1 or data["width"] < 1 or not all(isinstance(value, int) for value in data["inputs"].values()):
            raise ValueError("its recipe is not one")
        return cls(**data)


class Entry(NamedTuple):
    """The rows of an id in a shard: their count, the first one, and its source files' stamp and content (32 hex digits each)."""

    id: str
    row: int
    count: int
    stamp: str
    digest: str


class Broken(NamedTuple):
    """A row without features (NaN), because its cloud or view could not be read."""

    id: str
    row: int
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Shard:
    """What a shard's header says, and where in the file the features begin."""

    path: Path
    recipe: Recipe
    entries: tuple[Entry, ...]
    broken: tuple[Broken, ...]
    rows: int
    offset: int
    bytes: int

    @property
    def number(self) -> int:
        """Its place among the shards."""
        return int(self.path.stem)


def shard_path(folder: Path, number: int) -> Path:
    """`folder/00007.safetensors`."""
    return folder / f"{number:05d}.safetensors"


def shard_paths(folder: Path) -> list[Path]:
    """The shards in a folder, in order."""
    found = [path for path in folder.glob("*.safetensors") if path.stem.isascii() and path.stem.isdigit()]
    return sorted(found, key=lambda path: int(path.stem))


def write_shard(
    path: Path, recipe: Recipe, entries: Sequence[Entry], broken: Sequence[Broken], features: Sequence[np.ndarray]
) -> None:
    """Put a shard in place, whole or not at all.

    Args:
        path: from `shard_path`.
        recipe: of the features.
        entries: in the order of their rows.
        broken: rows that hold NaN.
        features: [tokens, width] a row, in the numpy type of `recipe.dtype`.

    Raises:
        CadmllmError: E303 when it cannot be written.
    """
    rows = [np.ascontiguousarray(row).tobytes() for row in features]
    crc = np.array([zlib.crc32(row) for row in rows], dtype="<u4")
    meta = {"format": FORMAT, "recipe": asdict(recipe), "entries": entries, "broken": broken}
    tensors = [
        ("features", DTYPES[recipe.dtype][0], [len(rows), recipe.tokens, recipe.width], recipe.row_bytes * len(rows)),
        ("crc", "U32", [len(rows)], crc.nbytes),
    ]
    _write(path, meta, tensors, [*rows, crc.tobytes()])


def read_shard(path: Path) -> Shard:
    """A shard's header, checked against the file's size.

    Raises:
        CadmllmError: E471 naming what is wrong with it.
    """
    try:
        meta, tensors, begin, size = _header(path)
        recipe = Recipe.parse(meta.get("recipe"))
        entries = tuple(_entry(item) for item in meta["entries"])
        broken = tuple(Broken(str(a), int(b), str(c), str(d)) for a, b, c, d in meta["broken"])
        rows = sum(entry.count for entry in entries)
        dtype, shape, at, end = tensors["features"]
        if (dtype, shape) != (DTYPES[recipe.dtype][0], [rows, recipe.tokens, recipe.width]) or tensors["crc"][1] != [rows]:
            raise ValueError("its tensors do not have the shapes that its header announces")
        if end - at != rows * recipe.row_bytes:
            raise ValueError("its features do not have the size that its header announces")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise broken_file(path, getattr(error, "strerror", None) or str(error)) from error
    return Shard(path, recipe, entries, broken, rows, begin + at, size)


def read_crc(shard: Shard) -> np.ndarray:
    """CRC-32 of each row, as recorded, uint32 [rows].

    Raises:
        CadmllmError: E471.
    """
    try:
        with shard.path.open("rb") as file:
            file.seek(shard.offset + shard.rows * shard.recipe.row_bytes)
            return np.frombuffer(file.read(4 * shard.rows), dtype="<u4", count=shard.rows)
    except (OSError, ValueError) as error:
        raise broken_file(shard.path, str(error)) from error


def damaged_rows(shard: Shard) -> int:
    """Rows whose bytes are not those that were written (the whole shard is read)."""
    wanted = read_crc(shard)
    with shard.path.open("rb") as file:
        file.seek(shard.offset)
        return sum(zlib.crc32(file.read(shard.recipe.row_bytes)) != int(crc) for crc in wanted)


def write_index(folder: Path, recipe: Recipe, shards: Sequence[Shard], stamps: Mapping[str, str]) -> None:
    """Write the index of a part.

    Args:
        folder: of the part.
        recipe: of all its shards.
        shards: all of them, in order.
        stamps: newer stamps of ids whose files were touched but hold what they held.

    Raises:
        CadmllmError: E471 when a shard went meanwhile, E303 when it cannot be written.
    """
    latest = latest_entries(shards)
    names = sorted((id_.encode(), id_) for id_ in latest)
    count = len(names)
    columns = {
        "ids": np.array([name for name, _ in names], dtype="S") if count else np.zeros(0, dtype="S1"),
        "shard": np.fromiter((latest[id_][0] for _, id_ in names), "<u4", count),
        "row": np.fromiter((latest[id_][1].row for _, id_ in names), "<u4", count),
        "count": np.fromiter((latest[id_][1].count for _, id_ in names), "<u2", count),
        "stamp": _hexes(stamps.get(id_, latest[id_][1].stamp) for _, id_ in names),
        "digest": _hexes(latest[id_][1].digest for _, id_ in names),
        "crc": np.concatenate([read_crc(shard) for shard in shards]) if shards else np.zeros(0, "<u4"),
    }
    columns["ids"] = columns["ids"].view("<u1").reshape(count, -1) if count else np.zeros((0, 1), "<u1")
    kept = [[shard.path.name, shard.bytes, shard.rows, shard.offset] for shard in shards]
    meta = {"format": FORMAT, "recipe": asdict(recipe), "shards": kept}
    tensors = [(name, kind, list(columns[name].shape), columns[name].nbytes) for name, kind in _COLUMNS.items()]
    _write(folder / INDEX, meta, tensors, [columns[name].tobytes() for name in _COLUMNS])


def read_index(path: Path) -> tuple[Recipe, list[tuple[str, int, int, int]], dict[str, np.ndarray]]:
    """An index: the recipe, the shards (file name, bytes, rows, where their features begin), and the columns.

    Raises:
        CadmllmError: E471 naming what is wrong with it.
    """
    try:
        meta, tensors, begin, _ = _header(path)
        recipe = Recipe.parse(meta.get("recipe"))
        shards = [(str(name), int(size), int(rows), int(offset)) for name, size, rows, offset in meta["shards"]]
        columns = {}
        with path.open("rb") as file:
            for name, kind in _COLUMNS.items():
                dtype, shape, at, end = tensors[name]
                file.seek(begin + at)
                columns[name] = np.frombuffer(file.read(end - at), dtype=_NUMPY[dtype]).reshape(shape)
                if dtype != kind:
                    raise ValueError(f"its column {name} is {dtype}")
        _check_columns(columns, shards)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise broken_file(path, getattr(error, "strerror", None) or str(error)) from error
    return recipe, shards, columns


def latest_entries(shards: Iterable[Shard]) -> dict[str, tuple[int, Entry]]:
    """By id: the place of the shard that counts (the last one that has the id) in the sequence, and the entry there."""
    return {entry.id: (place, entry) for place, shard in enumerate(shards) for entry in shard.entries}


def broken_file(path: Path, reason: str) -> CadmllmError:
    """E471 for a file of a store."""
    part = path.parent.name if path.parent.name in PARTS else PARTS[0]
    remedy = f"encode it again: cadmllm data encode ROOT --out {path.parent.parent} {FLAGS[part]} --verify"
    return CadmllmError("E471", f"{path}: {reason[:200]}", remedy)


def _check_columns(columns: dict[str, np.ndarray], shards: list[tuple[str, int, int, int]]) -> None:
    ids = len(columns["ids"])
    rows = np.array([rows for _, _, rows, _ in shards], dtype=np.int64)
    lengths = {len(columns[name]) for name in ("shard", "row", "count", "stamp", "digest")}
    if lengths != {ids} or len(columns["crc"]) != rows.sum():
        raise ValueError("its columns have different lengths")
    if columns["ids"].ndim != 2 or columns["stamp"].shape != (ids, 16) or columns["digest"].shape != (ids, 16):
        raise ValueError("its columns have the wrong shapes")
    ends = columns["row"].astype(np.int64) + columns["count"]
    if ids and (columns["shard"].max() >= len(shards) or np.any(ends > rows[columns["shard"]])):
        raise ValueError("it names rows that no shard has")
    for name, size, _, offset in shards:
        if Path(name).name != name or not name.endswith(".safetensors") or size < 0 or offset < 8:
            raise ValueError(f"it names a shard {name[:60]!r}")


def _entry(item: Any) -> Entry:
    id_, row, count, stamp, digest = item
    hexes = all(len(bytes.fromhex(text)) == 16 for text in (stamp, digest))
    if not isinstance(id_, str) or min(int(row), int(count)) < 0 or not hexes:
        raise ValueError("its header has an entry that is none")
    return Entry(id_, int(row), int(count), stamp, digest)


def _hexes(texts: Iterable[str]) -> np.ndarray:
    return np.frombuffer(bytes.fromhex("".join(texts)), dtype="<u1").reshape(-1, 16)


def _write(path: Path, meta: dict[str, Any], tensors: list[tuple[str, str, list[int], int]], data: Sequence[bytes]) -> None:
    header: dict[str, Any] = {"__metadata__": {"cadmllm": json.dumps(meta, ensure_ascii=False, separators=(",", ":"))}}
    at = 0
    for name, dtype, shape, size in tensors:
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with whole(path) as aside, aside.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for piece in data:
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())  # the name must not survive a power cut that the content does not


def _header(path: Path) -> tuple[dict[str, Any], dict[str, tuple[str, list[int], int, int]], int, int]:
    """Our metadata, the tensors (dtype, shape, begin, end), where the data begin, the file's size; ValueError if broken."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(LARGEST_HEADER, size - 8):
            raise ValueError("it is no safetensors file, or cut short")
        header = json.loads(file.read(length))
    meta = json.loads(header.pop("__metadata__")["cadmllm"])
    if not isinstance(meta, dict) or meta.get("format") != FORMAT:
        raise ValueError("it was written by another version of cadmllm")
    tensors = {}
    for name, item in header.items():
        at, end = (int(place) for place in item["data_offsets"])
        shape = [int(length) for length in item["shape"]]
        if not 0 <= at <= end or math.prod(shape) * np.dtype(_NUMPY[item["dtype"]]).itemsize != end - at:
            raise ValueError(f"its tensor {name} has another size than its shape says")
        tensors[name] = (item["dtype"], shape, at, end)
    if max((end for _, _, _, end in tensors.values()), default=0) != size - 8 - length:
        raise ValueError(f"it has {size} bytes, and its header announces another size (cut short?)")
    return meta, tensors, 8 + length, size
