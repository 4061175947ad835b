"""Triangles of .stl, .obj, .off and .ply files, from their bytes alone: what they name outside themselves is not opened."""

from __future__ import annotations

import io
import struct
from array import array
from collections.abc import Iterator

import numpy as np

from cadmllm.corpus.limits import at_most_points, at_most_text, at_most_triangles
from cadmllm.corpus.ply import read_mesh
from cadmllm.corpus.pointfiles import columns_of
from cadmllm.corpus.polygons import triangles

STL_HEADER = 84  # bytes, the count of triangles being the last four
_TAIL = 1 << 16  # bytes at the end of a text that must hold its last mark
_TRIANGLE = np.dtype([("normal", "<f4", (3,)), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])


def read_stl(raw: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Vertices [V, 3] and triangles [F, 3] of a binary or text .stl, three vertices a triangle. Stored normals are not read.

    Raises:
        EOFError: fewer triangles than its header says.
        TooMany: more triangles than are read, or a header that claims them.
        ValueError: anything else that is wrong.
    """
    if raw[:512].lstrip()[:5].lower() == b"solid" and b"facet" in raw[:4096].lower():
        corners = _stl_text(raw)
    else:
        corners = _stl_binary(raw)
    return corners, np.arange(len(corners), dtype=np.int64).reshape(-1, 3)


def _stl_binary(raw: bytes) -> np.ndarray:
    if len(raw) < STL_HEADER:
        raise EOFError("it ends within its header")
    (count,) = struct.unpack_from("<I", raw, STL_HEADER - 4)
    at_most_triangles(count)
    there = (len(raw) - STL_HEADER) // _TRIANGLE.itemsize
    if there < count:
        raise EOFError(f"it ends after {there:,} of {count:,} triangles")
    found: np.ndarray = np.frombuffer(raw, _TRIANGLE, count, STL_HEADER)
    return found["corners"].astype(np.float64).reshape(-1, 3)


def _stl_text(raw: bytes) -> np.ndarray:
    at_most_text(len(raw))
    at_most_triangles(raw.count(b"\n") // 7)
    tail = raw[-_TAIL:].lower()
    if tail.rfind(b"endsolid") <= tail.rfind(b"endfacet"):
        raise EOFError(f"it ends within a solid, after {len(raw):,} bytes")
    numbers = array("d")
    for line in _lines(raw):
        words = line.split()
        if words and words[0].lower() == b"vertex":
            _three(words, numbers)
    if len(numbers) % 9:
        raise ValueError(f"it has {len(numbers) // 3:,} corners, which are no triangles")
    return np.array(numbers).reshape(-1, 3)


def read_obj(raw: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Vertices [V, 3] and triangles [F, 3] of a Wavefront .obj: all objects and groups; materials and curves are not read.

    Raises:
        TooMany: more than is read.
        ValueError: a line that cannot be understood, or a face that names a vertex that is not there.
    """
    at_most_text(len(raw))
    numbers, corners, sizes = array("d"), array("q"), array("q")
    for line in _lines(raw.replace(b"\\\r\n", b" ").replace(b"\\\n", b" ")):
        words = line.split()
        if not words:
            continue
        if words[0] == b"v":
            _three(words, numbers)
        elif words[0] in (b"f", b"fo"):
            there = len(numbers) // 3
            for word in words[1:]:
                index = int(word.partition(b"/")[0])
                if index == 0 or index < -there:
                    raise ValueError(f"face {len(sizes) + 1} names vertex {index}, and there are {there:,} before it (from 1)")
                corners.append(index - 1 if index > 0 else there + index)
            sizes.append(len(words) - 1)
    vertices = np.array(numbers).reshape(-1, 3)
    at_most_points(len(vertices))
    return vertices, triangles(vertices, np.array(corners, np.int64), np.array(sizes, np.int64))


def read_off(raw: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Vertices [V, 3] and triangles [F, 3] of a Geomview .off (also COFF, NOFF, CNOFF, STOFF: three numbers a row are read).

    Raises:
        EOFError: it ends before its header says.
        TooMany: more than is read, or a header that claims it.
        ValueError: anything else that is wrong.
    """
    at_most_text(len(raw))
    rows = (words for line in _lines(raw) if (words := line.partition(b"#")[0].split()))
    first = next(rows, [])
    if not first or not first[0].upper().endswith(b"OFF") or b"4" in first[0] or b"n" in first[0]:
        raise ValueError("it does not begin with OFF")
    counts = first[1:] or next(rows, [])
    if len(counts) < 2 or not counts[0].isdigit() or not counts[1].isdigit():
        raise ValueError("it does not say how many vertices and faces it has")
    points, faces = at_most_points(int(counts[0])), at_most_triangles(int(counts[1]))
    numbers, corners, sizes = array("d"), array("q"), array("q")
    for k in range(points):
        row = next(rows, None)
        if row is None:
            raise EOFError(f"it ends after {k:,} of {points:,} vertices")
        _three([b"", *row], numbers)
    for k in range(faces):
        row = next(rows, None)
        if row is None or len(row) <= (size := int(row[0])):
            raise EOFError(f"it ends after {k:,} of {faces:,} faces")
        corners.extend(map(int, row[1 : size + 1]))
        sizes.append(size)
    vertices = np.array(numbers).reshape(-1, 3)
    return vertices, triangles(vertices, np.array(corners, np.int64), np.array(sizes, np.int64))


def read_ply(raw: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Vertices [V, 3] and triangles [F, 3] of a .ply with faces.

    Raises:
        EOFError, TooMany, ValueError: as `ply.read_mesh` and `polygons.triangles`.
    """
    found, corners, sizes = read_mesh(raw)
    vertices = columns_of(found)[:, :3]
    return vertices, triangles(vertices, corners, sizes)


def _three(words: list[bytes], numbers: array[float]) -> None:
    if len(words) < 4:
        raise ValueError(f"it has the line {b' '.join(words)[:60].decode('latin-1')!r} where three numbers should be")
    numbers.extend((float(words[1]), float(words[2]), float(words[3])))


def _lines(raw: bytes) -> Iterator[bytes]:
    """Lines, whatever they end with."""
    return iter(io.BytesIO(raw if b"\n" in raw else raw.replace(b"\r", b"\n")))
