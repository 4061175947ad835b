"""Vertices of a PLY file, ASCII or binary of either byte order (Turk's format 1.0). Faces and the rest are skipped."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

TYPES = {
    "char": "i1",
    "int8": "i1",
    "uchar": "u1",
    "uint8": "u1",
    "short": "i2",
    "int16": "i2",
    "ushort": "u2",
    "uint16": "u2",
    "int": "i4",
    "int32": "i4",
    "uint": "u4",
    "uint32": "u4",
    "float": "f4",
    "float32": "f4",
    "double": "f8",
    "float64": "f8",
}
ORDERS = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}
LONGEST_HEADER = 1 << 16  # bytes


@dataclass(frozen=True, slots=True)
class Header:
    """What a PLY header says about its vertices."""

    order: str  # '' for ASCII, else numpy's byte order
    count: int
    fields: tuple[tuple[str, str], ...]  # (name, numpy type)
    begin: int  # of the data, bytes


def read_vertices(data: bytes) -> dict[str, np.ndarray]:
    """Vertex properties by name, float64 [N] each.

    Raises:
        EOFError: it ends before its header says.
        ValueError: anything else that is wrong.
    """
    header = _header(data)
    names = [name for name, _ in header.fields]
    if not header.order:
        words = data[header.begin :].split(None, header.count * len(names))[: header.count * len(names)]
        if len(words) < header.count * len(names):
            raise EOFError(f"it ends after {len(words) // len(names)} of {header.count} vertices")
        table = np.array(words, dtype=np.float64).reshape(header.count, len(names))
        return {name: table[:, k] for k, name in enumerate(names)}
    row = np.dtype([(name, header.order + kind) for name, kind in header.fields])
    if len(data) - header.begin < header.count * row.itemsize:
        raise EOFError(f"it ends after {(len(data) - header.begin) // row.itemsize} of {header.count} vertices")
    rows: np.ndarray = np.frombuffer(data, dtype=row, count=header.count, offset=header.begin)
    return {name: rows[name].astype(np.float64) for name in names}


def _header(data: bytes) -> Header:
    end = data.find(b"end_header", 0, LONGEST_HEADER)
    if not data.startswith(b"ply"):
        raise ValueError("it has no PLY header")
    begin = data.find(b"\n", end) + 1
    if end < 0 or begin == 0:
        if len(data) < LONGEST_HEADER:
            raise EOFError("it ends within its header")
        raise ValueError("its header does not end")
    order: str | None = None
    element, count = "", 0
    fields: list[tuple[str, str]] = []
    for line in data[:end].decode("ascii", "replace").splitlines()[1:]:
        words = line.split()
        if len(words) > 1 and words[0] == "format":
            order = ORDERS.get(words[1])
        elif len(words) == 3 and words[0] == "element":
            if element == "" and words[1] != "vertex":
                raise ValueError("vertices are not its first element")
            element = words[1]
            if element == "vertex":
                count = int(words[2])
        elif len(words) == 3 and words[0] == "property" and element == "vertex":
            if words[1] not in TYPES:
                raise ValueError(f"the vertex property type {words[1]!r} is unknown")
            fields.append((words[2], TYPES[words[1]]))
        elif words and words[0] == "property" and element == "vertex":
            raise ValueError("a vertex property is a list")
    if order is None:
        raise ValueError("its format is unknown")
    if count < 1 or not fields or len({name for name, _ in fields}) < len(fields):
        raise ValueError("it has no vertices with properties of their own")
    return Header(order, count, tuple(fields), begin)
