"""Vertices and faces of a PLY file, ASCII or binary of either byte order (Turk's format 1.0)."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np

from cadmllm.corpus.limits import at_most_points, at_most_text, at_most_triangles

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
CORNERS = ("vertex_indices", "vertex_index")  # what the list of a face's corners is called
LONGEST_HEADER = 1 << 16  # bytes
_CODES = {"i1": "b", "u1": "B", "i2": "h", "u2": "H", "i4": "i", "u4": "I", "f4": "f", "f8": "d"}


@dataclass(frozen=True, slots=True)
class Field:
    """A property: its name, numpy type, and for a list the numpy type of its count."""

    name: str
    kind: str
    counted: str = ""


@dataclass(slots=True)
class Element:
    """What the header says about one kind of row."""

    name: str
    count: int
    fields: list[Field]


@dataclass(frozen=True, slots=True)
class Header:
    """What a PLY header says."""

    order: str  # '' for ASCII, else numpy's byte order
    elements: tuple[Element, ...]  # vertices first
    begin: int  # of the data, bytes

    @property
    def vertices(self) -> Element:
        """The first element, which has no lists."""
        return self.elements[0]

    @property
    def faces(self) -> int:
        """How many faces it claims."""
        return sum(element.count for element in self.elements if element.name == "face")


def read_vertices(data: bytes) -> dict[str, np.ndarray]:
    """Vertex properties by name, float64 [N] each. Faces and the rest are skipped.

    Raises:
        EOFError: it ends before its header says.
        TooMany: more points than are read.
        ValueError: anything else that is wrong.
    """
    return _vertices(data, read_header(data))[0]


def read_mesh(data: bytes) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Vertex properties, and the faces as polygons: corners of all, one behind the other [sum], and how many each has [F].

    Raises:
        EOFError, TooMany, ValueError: as `read_vertices`.
    """
    header = read_header(data)
    at_most_triangles(header.faces)
    found, rest = _vertices(data, header)
    for element in header.elements[1:]:
        if element.name == "face":
            corners, sizes = _text_faces(rest, element) if not header.order else _faces(data, rest, header.order, element)
            return found, corners, sizes
        if any(field.counted for field in element.fields):
            raise ValueError(f"lists ({element.name}) stand before its faces")
        if header.order:
            rest += element.count * sum(np.dtype(field.kind).itemsize for field in element.fields)
        else:
            rest = rest[element.count * len(element.fields) :]
    return found, np.zeros(0, np.int64), np.zeros(0, np.int64)


def _vertices(data: bytes, header: Header):
    """The vertices and where the rest begins: a place in the bytes, or the words of a text."""
    element = header.vertices
    count, names = at_most_points(element.count), [field.name for field in element.fields]
    if not header.order:
        at_most_text(len(data))
        limit = -1 if header.faces else count * len(names)  # without faces what stands behind is no matter
        words = data[header.begin :].split(None, limit)
        if len(words) < count * len(names):
            raise EOFError(f"it ends after {len(words) // len(names)} of {count} vertices")
        table = np.array(words[: count * len(names)], dtype=np.float64).reshape(count, len(names))
        return {name: table[:, k] for k, name in enumerate(names)}, words[count * len(names) :]
    row = np.dtype([(field.name, header.order + field.kind) for field in element.fields])
    if len(data) - header.begin < count * row.itemsize:
        raise EOFError(f"it ends after {(len(data) - header.begin) // row.itemsize} of {count} vertices")
    rows: np.ndarray = np.frombuffer(data, dtype=row, count=count, offset=header.begin)
    return {name: rows[name].astype(np.float64) for name in names}, header.begin + count * row.itemsize


def _faces(data: bytes, begin: int, order: str, element: Element) -> tuple[np.ndarray, np.ndarray]:
    """Faces of a binary file: at once where all have as many corners as the first, else one by one."""
    which = _which(element)
    sizes: list[int] = []
    place = begin
    corners: list[tuple[int, ...]] = []
    alike = _alike(data, begin, order, element, which)
    if alike is not None:
        return alike
    for k in range(element.count):
        for field in element.fields:
            length = 1
            try:
                if field.counted:
                    (length,) = struct.unpack_from(order + _CODES[field.counted], data, place)
                    place += np.dtype(field.counted).itemsize
                step = length * np.dtype(field.kind).itemsize
                if length < 0 or place + step > len(data):
                    raise EOFError(f"it ends after {k} of {element.count} faces")
                if field.name == which:
                    sizes.append(length)
                    corners.append(struct.unpack_from(f"{order}{length}{_CODES[field.kind]}", data, place))
            except struct.error as error:
                raise EOFError(f"it ends after {k} of {element.count} faces") from error
            place += step
    return np.array([corner for face in corners for corner in face], np.int64), np.array(sizes, np.int64)


def _alike(data: bytes, begin: int, order: str, element: Element, which: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Faces whose lists are all as long as those of the first face; None where they are not."""
    place, parts = begin, []
    for k, field in enumerate(element.fields):
        length = 1
        if field.counted:
            if place + np.dtype(field.counted).itemsize > len(data):
                return None
            (length,) = struct.unpack_from(order + _CODES[field.counted], data, place)
            if not 0 < length <= 255:
                return None
            parts.append((f"count {k}", order + field.counted, (1,)))
            place += np.dtype(field.counted).itemsize
        parts.append((f"field {k}", order + field.kind, (int(length),)))
        place += int(length) * np.dtype(field.kind).itemsize
    row = np.dtype(parts)
    if begin + element.count * row.itemsize > len(data):
        return None
    rows: np.ndarray = np.frombuffer(data, dtype=row, count=element.count, offset=begin)
    for k, field in enumerate(element.fields):
        if field.counted and (rows[f"count {k}"] != rows[f"field {k}"].shape[1]).any():
            return None
    found = rows[f"field {[field.name for field in element.fields].index(which)}"].astype(np.int64)
    return found.ravel(), np.full(element.count, found.shape[1], np.int64)


def _text_faces(words: list[bytes], element: Element) -> tuple[np.ndarray, np.ndarray]:
    which = _which(element)
    corners: list[int] = []
    sizes: list[int] = []
    place = 0
    for k in range(element.count):
        for field in element.fields:
            if place >= len(words):
                raise EOFError(f"it ends after {k} of {element.count} faces")
            length = int(words[place]) if field.counted else 1
            place += 1 if field.counted else 0
            if length < 0 or place + length > len(words):
                raise EOFError(f"it ends after {k} of {element.count} faces")
            if field.name == which:
                corners.extend(map(int, words[place : place + length]))
                sizes.append(length)
            place += length
    return np.array(corners, np.int64), np.array(sizes, np.int64)


def _which(element: Element) -> str:
    names = [field.name for field in element.fields if field.counted and field.kind[0] in "iu" and field.counted[0] in "iu"]
    found = next((name for name in CORNERS if name in names), None)
    if found is None:
        raise ValueError("its faces have no list of vertex_indices")
    return found


def read_header(data: bytes) -> Header:
    """The header of a PLY file. Raises `EOFError` where the file ends within it, `ValueError` where it cannot be used."""
    end = data.find(b"end_header", 0, LONGEST_HEADER)
    if not data.startswith(b"ply"):
        raise ValueError("it has no PLY header")
    begin = data.find(b"\n", end) + 1
    if end < 0 or begin == 0:
        if len(data) < LONGEST_HEADER:
            raise EOFError("it ends within its header")
        raise ValueError("its header does not end")
    order: str | None = None
    elements: list[Element] = []
    for line in data[:end].decode("ascii", "replace").splitlines()[1:]:
        words = line.split()
        if len(words) > 1 and words[0] == "format":
            order = ORDERS.get(words[1])
        elif len(words) == 3 and words[0] == "element":
            if not elements and words[1] != "vertex":
                raise ValueError("vertices are not its first element")
            count = int(words[2])
            if count < 0:
                raise ValueError(f"it has {count} rows of {words[1]}")
            elements.append(Element(words[1], count, []))
        elif words and words[0] == "property" and elements:
            elements[-1].fields.append(_field(words, elements[-1].name))
    if order is None:
        raise ValueError("its format is unknown")
    vertices = elements[0] if elements else Element("vertex", 0, [])
    if vertices.count < 1 or not vertices.fields or len({field.name for field in vertices.fields}) < len(vertices.fields):
        raise ValueError("it has no vertices with properties of their own")
    return Header(order, tuple(elements), begin)


def _field(words: list[str], element: str) -> Field:
    plain, listed = len(words) == 3, len(words) == 5 and words[1] == "list"
    if listed and element == "vertex":
        raise ValueError("a vertex property is a list")
    kinds = words[1:2] if plain else words[2:4]
    if not plain and not listed or any(kind not in TYPES for kind in kinds):
        raise ValueError(f"the {element} property type {' '.join(words[1:-1])[:60]!r} is unknown")
    if listed and TYPES[kinds[0]][0] == "f":
        raise ValueError(f"the lengths of {words[-1][:40]!r} are no whole numbers")
    return Field(words[-1], TYPES[kinds[-1]], TYPES[kinds[0]] if listed else "")
