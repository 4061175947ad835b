"""Triangles of a .3mf file (3MF core specification 1.3, with objects in files of their own: the production extension).

Read as a stream by expat; a document type is refused, so no entity of its own can grow or lead outside the file.
https://github.com/3MFConsortium/spec_core.
"""

from __future__ import annotations

import re
import struct
import zipfile
import zlib
from array import array
from dataclasses import dataclass, field
from xml.parsers import expat

import numpy as np

from cadmllm.corpus.arrays import open_archive
from cadmllm.corpus.limits import LARGEST_TEXT, MOST_TRIANGLES, at_most_points, at_most_triangles

UNITS = {"micron": 0.001, "millimeter": 1.0, "centimeter": 10.0, "inch": 25.4, "foot": 304.8, "meter": 1000.0}
ROOT = "3D/3dmodel.model"
_START = re.compile(rb'Target="([^"]{1,500}\.model)"')
_CHUNK = 1 << 16
_DEEPEST = 64
_MOST_COPIES = 3  # objects within objects are put together one in another: what all of these may hold, against one whole mesh

Key = tuple[str, str]  # of an object: the file in the archive and the id in it


@dataclass(slots=True)
class _Object:
    """A mesh of its own, or others put together."""

    vertices: array[float] = field(default_factory=lambda: array("d"))
    faces: array[int] = field(default_factory=lambda: array("q"))
    parts: list[tuple[Key, np.ndarray]] = field(default_factory=list)


def read_3mf(raw: bytes) -> tuple[np.ndarray, np.ndarray, float, str]:
    """Vertices [V, 3] and triangles [F, 3] of all that is to be built, in millimetres, and the unit that the file says.

    Returns:
        vertices, triangles, millimetres a unit, the unit's name.

    Raises:
        EOFError: it ends before its table of contents.
        TooMany: more triangles than are read.
        ValueError: anything else that is wrong.
    """
    archive = open_archive(raw, "a .3mf archive")
    model = _Model(archive, {name.lower().lstrip("/"): name for name in archive.namelist()})
    root = model.root()
    model.read(root)
    while missing := next((key for key in model.named if key[0] not in model.seen), None):
        model.read(missing[0])
    model.check([key for key, _ in model.items])
    vertices, found, before = [np.zeros((0, 3))], [np.zeros((0, 3), np.int64)], 0
    for key, matrix in model.items:
        points, faces = _moved(model.built(key, 0), matrix)
        vertices.append(points)
        found.append(faces + before)
        before += len(points)
    scale = UNITS[model.unit]
    return np.concatenate(vertices) * scale, np.concatenate(found), scale, model.unit


@dataclass(slots=True)
class _Model:
    archive: zipfile.ZipFile
    names: dict[str, str]  # by the name in small letters
    unit: str = "millimeter"
    objects: dict[Key, _Object] = field(default_factory=dict)
    items: list[tuple[Key, np.ndarray]] = field(default_factory=list)
    named: list[Key] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)
    counts: dict[Key, int] = field(default_factory=dict)
    made: dict[Key, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    _current: _Object | None = None
    _file: str = ""
    _points: int = 0  # of all objects
    _triangles: int = 0

    def root(self) -> str:
        """The file that the archive's relationships name, else the usual one."""
        relations = b"".join(self._content("_rels/.rels")) if "_rels/.rels" in self.names else b""
        found = _START.search(relations)
        name = found[1].decode("utf-8", "replace").lstrip("/").lower() if found else ROOT.lower()
        if name not in self.names:
            raise ValueError(f"the archive holds no {name[:80]}")
        return name

    def read(self, name: str) -> None:
        """Take in the objects of one file of the archive."""
        self.seen.add(name)
        if name not in self.names:
            raise ValueError(f"the archive holds no {name[:80]!r}, which its model names")
        self._file, self._current = name, None
        parser = expat.ParserCreate(namespace_separator="|")
        parser.StartElementHandler, parser.EndElementHandler = self._start, self._end
        parser.StartDoctypeDeclHandler = _refuse_doctype
        try:
            for chunk in self._content(name):
                parser.Parse(chunk, False)
            parser.Parse(b"", True)
        except expat.ExpatError as error:
            raise ValueError(f"{name[:80]} is no XML ({error})") from error
        except KeyError as error:
            raise ValueError(f"an element of {name[:80]} lacks {error}") from error

    def _content(self, name: str):
        """A file of the archive in pieces."""
        info = self.archive.getinfo(self.names[name])
        if info.file_size > LARGEST_TEXT:
            raise ValueError(f"its {name[:80]} unfolds into {info.file_size:,} bytes")
        try:
            with self.archive.open(info) as file:
                while chunk := file.read(_CHUNK):
                    yield chunk
        except (zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError, EOFError, OSError, struct.error) as error:
            # RuntimeError: encrypted
            raise ValueError(f"its {name[:80]} is damaged: {str(error)[:100]}") from error

    def _start(self, tag: str, said: dict[str, str]) -> None:
        kind = tag.rpartition("|")[2]
        mesh = self._current
        if kind == "vertex" and mesh is not None:
            mesh.vertices.extend((float(said["x"]), float(said["y"]), float(said["z"])))
            self._points = at_most_points(self._points + 1)
        elif kind == "triangle" and mesh is not None:
            mesh.faces.extend((int(said["v1"]), int(said["v2"]), int(said["v3"])))
            self._triangles = at_most_triangles(self._triangles + 1)
        elif kind == "object":
            self._current = self.objects[self._file, said["id"]] = _Object()
        elif kind == "component" and mesh is not None:
            mesh.parts.append((self._key(said), _transform(said)))
        elif kind == "item":
            self.items.append((self._key(said), _transform(said)))
        elif kind == "model" and self.unit == "millimeter":
            self.unit = said.get("unit", "millimeter")
            if self.unit not in UNITS:
                raise ValueError(f"its unit is {self.unit[:40]!r}")

    def _end(self, tag: str) -> None:
        if tag.rpartition("|")[2] == "object":
            self._current = None

    def _key(self, said: dict[str, str]) -> Key:
        path = next((value for name, value in said.items() if name.rpartition("|")[2] == "path"), None)
        key = (path.lstrip("/").lower() if path else self._file, said["objectid"])
        self.named.append(key)
        return key

    def check(self, keys: list[Key]) -> None:
        """Refuse objects that are missing, hold themselves, or come to too many triangles, before any is put together."""
        at_most_triangles(sum(self._count(key, 0) for key in keys))
        if (copies := sum(self.counts.values())) > _MOST_COPIES * MOST_TRIANGLES:
            raise ValueError(f"its objects, each with all that it is put together from, come to {copies:,} triangles")

    def _count(self, key: Key, depth: int) -> int:
        if key not in self.objects:
            raise ValueError(f"there is no object {key[1][:40]!r}")
        if depth > _DEEPEST:
            raise ValueError(f"its objects are nested more than {_DEEPEST} deep, or hold themselves")
        if key not in self.counts:
            this = self.objects[key]
            self.counts[key] = len(this.faces) // 3 + sum(self._count(part, depth + 1) for part, _ in this.parts)
            at_most_triangles(self.counts[key])
        return self.counts[key]

    def built(self, key: Key, depth: int) -> tuple[np.ndarray, np.ndarray]:
        """Vertices and triangles of an object with all its parts."""
        if key not in self.made:
            this = self.objects[key]
            points = np.array(this.vertices).reshape(-1, 3)
            faces = np.array(this.faces, np.int64).reshape(-1, 3)
            if len(faces) and not 0 <= int(faces.min()) <= int(faces.max()) < len(points):
                raise ValueError(f"a triangle of object {key[1][:40]!r} names a vertex that is not there")
            for part, matrix in this.parts:
                if self.counts[part]:
                    more, of_them = _moved(self.built(part, depth + 1), matrix)
                    faces = np.concatenate([faces, of_them + len(points)])
                    points = np.concatenate([points, more])
            self.made[key] = (points, faces)
        return self.made[key]


def _refuse_doctype(*_: object) -> None:
    raise ValueError("it declares a document type, which no 3MF file has")


def _transform(said: dict[str, str]) -> np.ndarray:
    """[4, 3], for rows: [x y z 1] times it."""
    text = said.get("transform")
    numbers = np.array(text.split(), dtype=np.float64) if text else np.eye(4)[:, :3].ravel()
    if numbers.size != 12:
        raise ValueError(f"a transform of it has {numbers.size} numbers, not 12")
    return numbers.reshape(4, 3)


def _moved(mesh: tuple[np.ndarray, np.ndarray], matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A mesh under a transform; one that mirrors turns the triangles, so that they still face outwards."""
    points, faces = mesh
    return points @ matrix[:3] + matrix[3], faces if np.linalg.det(matrix[:3]) >= 0.0 else faces[:, ::-1]
