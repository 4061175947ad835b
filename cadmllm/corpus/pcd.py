"""Clouds of the Point Cloud Library: .pcd files of version 0.7 (and the older 0.5 and 0.6), text, binary or packed.

Format: https://pointclouds.org/documentation/tutorials/pcd_file_format.html. Fields stand in any order, as signed (I),
unsigned (U) or floating (F) numbers of 1 to 8 bytes, several in a field (COUNT). What is packed has the fields one behind the
other (all x, then all y, ...) under LZF, the packing of Marc Lehmann's liblzf, which `unpack` undoes.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass

import numpy as np

from cadmllm.corpus.limits import at_most_points, at_most_text

LONGEST_HEADER = 1 << 16  # bytes
LARGEST_RATIO = 88  # of LZF: three bytes stand for 264 at most
NORMALS = (("normal_x", "normal_y", "normal_z"), ("nx", "ny", "nz"))
_TYPES = {"I": (1, 2, 4, 8), "U": (1, 2, 4, 8), "F": (4, 8)}
_KEYS = ("VERSION", "FIELDS", "COLUMNS", "SIZE", "TYPE", "COUNT", "WIDTH", "HEIGHT", "VIEWPOINT", "POINTS", "DATA")


@dataclass(frozen=True, slots=True)
class Header:
    """What a .pcd header says.

    Attributes:
        names: of the fields.
        kinds: numpy's type of each, little endian.
        counts: numbers in each.
        points: rows.
        organised: they are the pixels of a depth camera, and NaN stands where it saw nothing.
        packing: 'ascii', 'binary' or 'binary_compressed'.
        begin: of the data, bytes.
    """

    names: tuple[str, ...]
    kinds: tuple[str, ...]
    counts: tuple[int, ...]
    points: int
    organised: bool
    packing: str
    begin: int


def read_pcd(raw: bytes) -> tuple[np.ndarray, np.ndarray | None, tuple[str, ...]]:
    """Points [N, 3] float64, their normals [N, 3] or None, and what was left out.

    Raises:
        EOFError: it ends before its header says.
        TooMany: it claims more points than are read.
        ValueError: anything else that is wrong.
    """
    header = read_header(raw)
    if not all(axis in header.names for axis in "xyz"):
        raise ValueError(f"its fields are {' '.join(header.names)[:100]}, without x, y and z")
    triple = next((names for names in NORMALS if all(name in header.names for name in names)), ())
    wanted = ("x", "y", "z", *triple)
    found = {"ascii": _text, "binary": _rows, "binary_compressed": _packed}[header.packing](raw, header, wanted)
    points, normals = np.column_stack(found[:3]), np.column_stack(found[3:]) if triple else None
    notes: list[str] = []
    if header.organised and not (seen := ~np.isnan(points).any(axis=1)).all():
        if not seen.any():
            return points, normals, ()
        notes.append(f"{int((~seen).sum()):,} of {len(points):,} pixels of the organised cloud saw nothing (NaN): left out")
        points, normals = points[seen], None if normals is None else normals[seen]
    return points, normals, tuple(notes)


def read_header(raw: bytes) -> Header:
    """The header of a .pcd file. Raises `EOFError` where the file ends within it, `TooMany`, `ValueError`."""
    said: dict[str, list[str]] = {}
    place = 0
    while "DATA" not in said:
        end = raw.find(b"\n", place, LONGEST_HEADER)
        if end < 0:
            if len(raw) < LONGEST_HEADER and said:
                raise EOFError("it ends within its header")
            raise ValueError("it has no PCD header")
        words = raw[place:end].decode("ascii", "replace").split()
        place = end + 1
        if not words or words[0].startswith("#"):
            continue
        if words[0] not in _KEYS or words[0] in said:
            raise ValueError(f"its header has the line {' '.join(words)[:60]!r}")
        said[words[0]] = words[1:]
    names = said.get("FIELDS", said.get("COLUMNS", []))
    counts = [_whole(word, "COUNT") for word in said.get("COUNT", ["1"] * len(names))]
    kinds = [_kind(letter, size) for letter, size in zip(said.get("TYPE", []), said.get("SIZE", []), strict=False)]
    if not names or not len(names) == len(kinds) == len(counts) or not all(0 < count <= 4096 for count in counts):
        raise ValueError("FIELDS, SIZE, TYPE and COUNT of its header do not go together")
    width, height = (_whole(said.get(key, ["1"])[0], key) if said.get(key, ["1"]) else 0 for key in ("WIDTH", "HEIGHT"))
    points = _whole(said["POINTS"][0], "POINTS") if said.get("POINTS") else width * height
    at_most_points(max(points, width * height))
    if "WIDTH" in said and points != width * height:
        raise ValueError(f"its header says {points:,} points and {width:,} x {height:,}")
    packing = " ".join(said["DATA"])
    if packing not in ("ascii", "binary", "binary_compressed"):
        raise ValueError(f"its data is {packing[:40]!r}, not ascii, binary or binary_compressed")
    return Header(tuple(names), tuple(kinds), tuple(counts), points, height > 1, packing, place)


def _whole(word: str, key: str) -> int:
    if not word.isascii() or not word.isdigit() or len(word) > 18:
        raise ValueError(f"{key} of its header is {word[:30]!r}")
    return int(word)


def _kind(letter: str, size: str) -> str:
    if not size.isdigit() or int(size) not in _TYPES.get(letter, ()):
        raise ValueError(f"its header has a field of type {letter[:10]!r} and size {size[:10]!r}")
    return f"<{letter.lower()}{int(size)}"


def _text(raw: bytes, header: Header, wanted: tuple[str, ...]) -> list[np.ndarray]:
    at_most_text(len(raw))
    starts = np.cumsum((0, *header.counts))
    places = [int(starts[header.names.index(name)]) for name in wanted]
    if not header.points:
        return [np.zeros(0) for _ in places]
    there = raw.count(b"\n", header.begin) + (not raw.endswith(b"\n"))
    if there < header.points:  # the last of them may be half a row
        raise EOFError(f"it ends after {there:,} of {header.points:,} points")
    lines = (line.decode("latin-1") for line in io.BytesIO(raw[header.begin :]) if line.strip())
    table = np.loadtxt(lines, dtype=np.float64, comments=None, usecols=places, ndmin=2, max_rows=header.points)
    if len(table) < header.points:
        raise EOFError(f"it ends after {len(table):,} of {header.points:,} points")
    return list(table.T)


def _rows(raw: bytes, header: Header, wanted: tuple[str, ...]) -> list[np.ndarray]:
    # several fields may be called '_', which is padding
    fields = zip(header.kinds, header.counts, strict=True)
    row = np.dtype([(f"{k}", kind, (count,)) for k, (kind, count) in enumerate(fields)])
    there = (len(raw) - header.begin) // row.itemsize
    if there < header.points:
        raise EOFError(f"it ends after {there:,} of {header.points:,} points")
    rows: np.ndarray = np.frombuffer(raw, row, header.points, header.begin)
    return [rows[str(header.names.index(name))][:, 0].astype(np.float64) for name in wanted]


def _packed(raw: bytes, header: Header, wanted: tuple[str, ...]) -> list[np.ndarray]:
    if len(raw) < header.begin + 8:
        raise EOFError("it ends before its packed data")
    packed, size = struct.unpack_from("<II", raw, header.begin)
    widths = [np.dtype(kind).itemsize * count * header.points for kind, count in zip(header.kinds, header.counts, strict=True)]
    if len(raw) - header.begin - 8 < packed:
        raise EOFError(f"it ends after {len(raw) - header.begin - 8:,} of {packed:,} packed bytes")
    if size != sum(widths):
        raise ValueError(f"its data unfolds into {size:,} bytes, its header says {sum(widths):,}")
    data = unpack(raw[header.begin + 8 : header.begin + 8 + packed], size)
    begins = np.cumsum([0, *widths])
    found = []
    for name in wanted:
        k = header.names.index(name)
        numbers: np.ndarray = np.frombuffer(data, header.kinds[k], header.points * header.counts[k], int(begins[k]))
        found.append(numbers[:: header.counts[k]].astype(np.float64))
    return found


def unpack(packed: bytes, size: int) -> bytes:
    """What LZF has packed.

    A control byte below 32 is followed by that many bytes and one more, as they are. Another one says in its three high bits
    how many bytes (and two more; 7: the next byte is added) are copied from behind, and in the low five bits and the byte at
    its end from how far back, less one; a copy may run into itself.

    Args:
        packed: all of it.
        size: bytes it unfolds into.

    Raises:
        ValueError: it unfolds into another size, or refers to before its beginning.
    """
    if size > LARGEST_RATIO * len(packed):
        raise ValueError(f"{len(packed):,} bytes cannot unfold into {size:,}")
    out = bytearray()
    place, end = 0, len(packed)
    try:
        while place < end and len(out) <= size:
            control = packed[place]
            place += 1
            if control < 32:
                out += packed[place : place + control + 1]
                place += control + 1
                continue
            length = control >> 5
            if length == 7:
                length += packed[place]
                place += 1
            back = ((control & 31) << 8 | packed[place]) + 1
            place += 1
            begin = len(out) - back
            if begin < 0:
                raise ValueError("its packed data refers to before its beginning")
            length += 2
            copied = out[begin : begin + length]
            out += (copied * (length // back + 1))[:length] if back < length else copied
    except IndexError as error:
        raise ValueError("its packed data is damaged") from error
    if len(out) != size or place != end:
        raise ValueError(f"its packed data unfolds into {len(out):,} bytes, not {size:,}")
    return bytes(out)
