"""Triangles of glTF 2.0: a .glb, or a .gltf with its buffers in it. Metres and +Y up become millimetres and +Z up.

Read here and not by a library, since nothing outside the one file may be opened, no picture in it decoded, and no array made
that its bytes do not back. Written from the specification: https://registry.khronos.org/glTF/specs/2.0/glTF-2.0.html.
"""

from __future__ import annotations

import base64
import binascii
import json
import struct
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cadmllm.corpus.limits import at_most_text, at_most_triangles

MILLIMETRES = 1000.0
GLB = b"glTF"
_JSON, _BIN = 0x4E4F534A, 0x004E4942
_TYPES = {5120: "<i1", 5121: "<u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
_WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4}
_PACKED = ("KHR_draco_mesh_compression", "EXT_meshopt_compression", "KHR_meshopt_compression")
_UPRIGHT = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 1.0, 0.0]])  # (x, y, z) becomes (x, -z, y)


def read_gltf(raw: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Vertices [V, 3], mm, +Z up, and triangles [F, 3] of all parts of the scene. Lines and points are left out.

    Raises:
        EOFError: it ends before its header or a part of it says.
        TooMany: more triangles than are read.
        ValueError: anything else that is wrong, packed parts and buffers in other files among it.
    """
    tree, binary = _parts(raw)
    try:
        return _Scene(tree, binary).triangles()
    except (KeyError, TypeError, IndexError, AttributeError, RecursionError, struct.error) as error:
        # what any entry of a tree that somebody else wrote may be: of another type, missing, out of range
        raise ValueError(f"its description does not hold together ({type(error).__name__}: {str(error)[:80]})") from error


def _parts(raw: bytes) -> tuple[dict[str, Any], bytes | None]:
    """The description and the binary part."""
    text, binary = raw, None
    if raw.startswith(GLB):
        if len(raw) < 20:
            raise EOFError("it ends within its header")
        version, length = struct.unpack_from("<II", raw, 4)
        if version != 2:
            raise ValueError(f"it is glTF {version}, and version 2 is read")
        if length > len(raw):
            raise EOFError(f"it ends after {len(raw):,} of {length:,} bytes")
        place, text = 12, b""
        while place + 8 <= length:
            size, kind = struct.unpack_from("<II", raw, place)
            if place + 8 + size > len(raw):
                raise EOFError(f"it ends within a chunk of {size:,} bytes")
            if kind == _JSON and not text:
                text = raw[place + 8 : place + 8 + size]
            elif kind == _BIN and binary is None:
                binary = raw[place + 8 : place + 8 + size]
            place += 8 + size
    at_most_text(len(text))
    try:
        tree = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"its description is no JSON ({str(error)[:80]})") from error
    if not isinstance(tree, dict) or not isinstance(tree.get("asset"), dict):
        raise ValueError("it is no glTF: it has no asset")
    if not str(tree["asset"].get("version", "")).startswith("2"):
        raise ValueError(f"it is glTF {str(tree['asset'].get('version'))[:20]}, and version 2 is read")
    return tree, binary


@dataclass(slots=True)
class _Scene:
    tree: dict[str, Any]
    binary: bytes | None
    buffers: dict[int, bytes] = field(default_factory=dict)
    meshes: dict[int, list[tuple[np.ndarray, np.ndarray]]] = field(default_factory=dict)

    def triangles(self) -> tuple[np.ndarray, np.ndarray]:
        if packed := [name for name in self.tree.get("extensionsUsed", []) if name in _PACKED]:
            raise ValueError(f"it is packed by {packed[0]}: save it without compression")
        placed = self._placed()
        at_most_triangles(sum(len(faces) for mesh, _ in placed for _, faces in self._mesh(mesh)))
        vertices, found, before = [np.zeros((0, 3))], [np.zeros((0, 3), np.int64)], 0
        for mesh, matrix in placed:
            turned = _UPRIGHT @ matrix[:3]
            for points, faces in self._mesh(mesh):
                vertices.append((points @ turned[:, :3].T + turned[:, 3]) * MILLIMETRES)
                found.append((faces if np.linalg.det(turned[:, :3]) >= 0.0 else faces[:, ::-1]) + before)
                before += len(points)
        return np.concatenate(vertices), np.concatenate(found)

    def _placed(self) -> list[tuple[int, np.ndarray]]:
        """The meshes of the scene, each with the matrix [4, 4] to the scene's frame."""
        nodes, scenes = self.tree.get("nodes", []), self.tree.get("scenes", [])
        if not scenes:
            below = {child for node in nodes for child in node.get("children", [])}
            roots = [k for k in range(len(nodes)) if k not in below]
        else:
            roots = scenes[self.tree.get("scene", 0)].get("nodes", [])
        pending = [(root, np.eye(4)) for root in reversed(roots)]
        seen: set[int] = set()
        placed = []
        while pending:
            k, above = pending.pop()
            if k in seen or k < 0:
                raise ValueError(f"its node {k} stands in more than one place: nodes of a scene are trees")
            seen.add(k)
            node = nodes[k]
            matrix = above @ _matrix(node)
            if "mesh" in node:
                placed.append((int(node["mesh"]), matrix))
            pending += [(child, matrix) for child in reversed(node.get("children", []))]
        return placed

    def _mesh(self, number: int) -> list[tuple[np.ndarray, np.ndarray]]:
        if number not in self.meshes:
            self.meshes[number] = []
            for part in self.tree["meshes"][_index(number)]["primitives"]:
                mode = part.get("mode", 4)
                if mode in (4, 5, 6):
                    points = self._array(part["attributes"]["POSITION"], 3)
                    order = np.arange(len(points)) if "indices" not in part else self._array(part["indices"], 1)[:, 0]
                    self.meshes[number].append((points, _faces(order.astype(np.int64), mode, len(points))))
        return self.meshes[number]

    def _array(self, number: int, width: int) -> np.ndarray:
        """An accessor as [N, width] float64."""
        accessor = self.tree["accessors"][_index(number)]
        if "sparse" in accessor or "bufferView" not in accessor:
            raise ValueError("it has a sparse array: save it without")
        if _WIDTHS.get(accessor["type"]) != width:
            raise ValueError(f"an array of it is {accessor['type']!r} where {width} numbers a row should be")
        kind, count = np.dtype(_TYPES[accessor["componentType"]]), _index(accessor["count"])
        view = self.tree["bufferViews"][_index(accessor["bufferView"])]
        data = self._buffer(_index(view["buffer"]))
        begin, within = _index(view.get("byteOffset", 0)), _index(accessor.get("byteOffset", 0))
        step = _index(view.get("byteStride", 0)) or kind.itemsize * width
        needed = within + (step * (count - 1) + kind.itemsize * width if count else 0)
        if needed > _index(view["byteLength"]) or begin + needed > len(data) or step < kind.itemsize * width:
            raise EOFError(f"an array of {count:,} rows does not fit into the {len(data):,} bytes of its buffer")
        if not count:
            return np.zeros((0, width))
        rows: np.ndarray = np.ndarray((count, width), kind, data, begin + within, (step, kind.itemsize))
        found = rows.astype(np.float64)
        # KHR_mesh_quantization: whole numbers that stand for -1..1 or 0..1
        return np.maximum(found / np.iinfo(kind.str).max, -1.0) if accessor.get("normalized") and kind.kind != "f" else found

    def _buffer(self, number: int) -> bytes:
        if number not in self.buffers:
            self.buffers[number] = self._bytes(number, self.tree["buffers"][number])
        return self.buffers[number]

    def _bytes(self, number: int, buffer: dict[str, Any]) -> bytes:
        uri = buffer.get("uri")
        if uri is None:
            if number or self.binary is None:
                raise ValueError(f"its buffer {number} is nowhere")
            return self.binary
        head, _, body = str(uri).partition(",")
        if not head.startswith("data:") or not head.endswith(";base64"):
            raise ValueError(f"its buffer {str(uri)[:60]!r} is another file, which is not opened: save it as one .glb")
        try:
            return base64.b64decode(body, validate=True)
        except (binascii.Error, ValueError) as error:
            raise ValueError(f"its buffer {number} is no base64") from error


def _index(value: object) -> int:
    """A count or place: a whole number from 0 (a negative one would count from the end)."""
    if type(value) is not int or value < 0:
        raise ValueError(f"it has {str(value)[:40]!r} where a whole number should be")
    return value


def _matrix(node: dict[str, Any]) -> np.ndarray:
    """The matrix [4, 4] of a node: given by columns, or as translation, rotation (x, y, z, w) and scale."""
    if "matrix" in node:
        return np.array(node["matrix"], dtype=np.float64).reshape(4, 4).T
    x, y, z, w = np.array(node.get("rotation", (0.0, 0.0, 0.0, 1.0)), dtype=np.float64)
    turn = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )
    matrix = np.eye(4)
    matrix[:3, :3] = turn * np.array(node.get("scale", (1.0, 1.0, 1.0)), dtype=np.float64).reshape(3)
    matrix[:3, 3] = np.array(node.get("translation", (0.0, 0.0, 0.0)), dtype=np.float64).reshape(3)
    return matrix


def _faces(order: np.ndarray, mode: int, count: int) -> np.ndarray:
    """Triangles [F, 3] of a list (4), a strip (5) or a fan (6)."""
    if len(order) and int(order.max()) >= count:
        raise ValueError(f"a triangle names vertex {int(order.max())} (from 0), and there are {count:,}")
    if mode == 4:
        return order[: len(order) // 3 * 3].reshape(-1, 3)
    if len(order) < 3:
        return np.zeros((0, 3), np.int64)
    if mode == 6:
        return np.column_stack([np.full(len(order) - 2, order[0]), order[1:-1], order[2:]])
    strip = np.column_stack([order[:-2], order[1:-1], order[2:]])
    strip[1::2] = strip[1::2][:, [1, 0, 2]]
    return strip
