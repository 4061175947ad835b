"""Damage to point files and views."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from broken import Breakage, cut, page, pointer, reserved, spoilt
from PIL import Image

CLOUD = "pcd/0000/a.npz"
VIEW = "img/0000/a_003.png"


def bytes_of(suffix: str, **arrays: np.ndarray) -> bytes:
    out = io.BytesIO()
    if suffix == ".npz":
        np.savez(out, **arrays)
    else:
        np.save(out, arrays["points"], allow_pickle=True)
    return out.getvalue()


def cloud(name: str, change: Callable[[dict], object], codes: str, loses: str | None = "point_cloud") -> Breakage:
    """A point file of other arrays: `change` edits those of the healthy one."""

    def edited(raw: bytes) -> bytes:
        with np.load(io.BytesIO(raw)) as data:
            arrays = {key: data[key].astype(np.float64) for key in data}
        change(arrays)
        return bytes_of(".npz", **arrays)

    return spoilt(name, CLOUD, edited, codes, loses)


def instead(
    name: str, suffix: str, content: Callable[[np.ndarray], bytes], codes: str, loses: str | None = "point_cloud"
) -> Breakage:
    """A file of another format in place of the healthy one."""

    def make(root: Path) -> None:
        with np.load(root / CLOUD) as data:
            points = data["points"].astype(np.float32)
        (root / CLOUD).unlink()
        (root / CLOUD).with_suffix(suffix).write_bytes(content(points))

    return Breakage(name, make, frozenset(codes.split()), {"0000/a": loses} if loses else {})


def _points(table: Callable[[np.ndarray], np.ndarray]) -> Callable[[dict], None]:
    """Other points, of which nothing else is known."""

    def change(arrays: dict) -> None:
        points = table(arrays["points"])
        arrays.clear()
        arrays["points"] = points

    return change


def _spoil(key: str, rows: slice, value: float) -> Callable[[dict], None]:
    return lambda arrays: arrays[key].__setitem__(rows, value)


def _ply(points: np.ndarray) -> bytes:
    head = f"ply\nformat binary_little_endian 1.0\nelement vertex {len(points)}\n"
    head += "".join(f"property float {axis}\n" for axis in "xyz") + "end_header\n"
    return head.encode() + points.astype("<f4").tobytes()


def _billion(points: np.ndarray) -> bytes:
    return _ply(points).replace(f"vertex {len(points)}".encode(), b"vertex 1000000000")


def _mesh(points: np.ndarray) -> bytes:
    head, _, rows = _ply(points).partition(b"end_header\n")
    head += b"element face 1\nproperty list uchar int vertex_indices\nend_header\n"
    return head + rows + struct.pack("<Biii", 3, 0, 1, 2)


def _bomb(points: np.ndarray) -> bytes:
    """An archive that says that it unfolds into four gigabytes."""
    raw = bytes_of(".npz", points=points)
    size = struct.pack("<I", points.nbytes + 128)
    assert raw.count(size) == 4  # packed and unpacked, in front of the array and in the table of contents
    return raw.replace(size, struct.pack("<I", 2**32 - 2))


def _pipe_as_cloud(root: Path) -> None:
    (root / CLOUD).unlink()
    os.mkfifo(root / CLOUD)


def _too_few(arrays: dict) -> None:
    for key in ("points", "normals"):
        arrays[key] = arrays[key][:100]


CLOUDS = [
    spoilt("a cloud of 0 bytes", CLOUD, lambda raw: b"", "E421", "point_cloud"),
    spoilt("a cloud cut short", CLOUD, cut, "E422", "point_cloud"),
    spoilt("a cloud with reserved zeros", CLOUD, reserved, "E422", "point_cloud"),
    spoilt("a cloud that is a Git LFS pointer", CLOUD, pointer, "E424", "point_cloud"),
    spoilt("a cloud that is a web page", CLOUD, page, "E424", "point_cloud"),
    spoilt("a cloud of something else", CLOUD, lambda raw: b"solid part\nfacet normal 0 0 1\n", "E404", "point_cloud"),
    spoilt("a damaged archive", CLOUD, lambda raw: raw[:3000] + b"\xff" * 9 + raw[3009:], "E404", "point_cloud"),
    instead("an array that is cut short", ".npy", lambda p: cut(bytes_of(".npy", points=p)), "E422"),
    instead("an array with reserved zeros", ".npy", lambda p: reserved(bytes_of(".npy", points=p)), "E422"),
    instead("a pickled array", ".npy", lambda p: bytes_of(".npy", points=np.array([{"a": 1}], dtype=object)), "E404"),
    instead("a .ply cut short", ".ply", lambda p: cut(_ply(p)), "E422"),
    instead("a .ply of another kind", ".ply", lambda p: b"ply\nformat yaml 1.0\nend_header\n", "E404"),
    instead("an archive that unfolds for ever", ".npz", _bomb, "E404"),
    cloud("points of the wrong shape", _points(lambda p: p[:, :2]), "E430"),
    cloud("points that are text", _points(lambda p: p.astype(str)), "E430"),
    cloud("normals of other points", lambda arrays: arrays.update(normals=arrays["normals"][:7]), "E430"),
    cloud("a NaN among the points", _spoil("points", slice(7, 8), np.nan), "E431"),
    cloud("an endless point", _spoil("points", slice(7, 8), np.inf), "E431"),
    cloud("ten points", _points(lambda p: p[:10]), "E432"),
    cloud("fewer points than an encoder sees", _too_few, "E432", None),
    cloud("points that are all the same", _points(lambda p: np.ones_like(p)), "E433"),
    cloud("points on a line", _points(lambda p: np.outer(p[:, 0], [1.0, 2.0, 3.0])), "E433"),
    cloud("points in a plane", _points(lambda p: p @ np.diag([1.0, 1.0, 0.0])), "E434", None),
    cloud("points in millimetres", _points(lambda p: p * 40.0 + 100.0), "E435", None),
    cloud("points without normals", lambda arrays: arrays.pop("normals"), "E436", None),
    cloud("normals that are zeros", _spoil("normals", slice(None), 0.0), "E436", None),
    cloud("a NaN among the normals", _spoil("normals", slice(3, 9), np.nan), "E436", None),
    cloud(
        "colours in place of normals",
        lambda a: a.update(normals=np.random.default_rng(0).uniform(0, 255, (1024, 3))),
        "E436",
        None,
    ),
    instead("a .ply that claims a billion points", ".ply", _billion, "E437"),
    instead("a mesh among the clouds", ".ply", _mesh, "E438", None),
    Breakage("a pipe among the clouds", _pipe_as_cloud, frozenset({"E420"}), {"0000/a": "point_cloud"}),
]


def view(
    name: str, picture: Callable[[Image.Image], Image.Image], codes: str, loses: str | None, every: bool = False
) -> Breakage:
    """Another picture in place of one view, or of all."""

    def make(root: Path) -> None:
        for path in sorted((root / VIEW).parent.glob("a_*.png")) if every else [root / VIEW]:
            with Image.open(path) as old:
                picture(old.convert("RGB")).save(path)

    return Breakage(name, make, frozenset(codes.split()), {"0000/a": loses} if loses else {})


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _huge(raw: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", 30_000, 30_000, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(b"")) + _chunk(b"IEND", b"")


def _gap(root: Path) -> None:
    (root / VIEW).unlink()


def _none(root: Path) -> None:
    for path in (root / VIEW).parent.glob("a_*.png"):
        path.unlink()


def _all_cut(root: Path) -> None:
    for path in (root / VIEW).parent.glob("a_*.png"):
        path.write_bytes(cut(path.read_bytes()))


def _pipe_as_view(root: Path) -> None:
    (root / VIEW).unlink()
    os.mkfifo(root / VIEW)


SCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n(x) run\nshowpage\n"
VIEWS = [
    spoilt("a view of 0 bytes", VIEW, lambda raw: b"", "E421", None),
    spoilt("a view cut short", VIEW, cut, "E440", None),
    spoilt("a view with reserved zeros", VIEW, reserved, "E440", None),
    spoilt("a view that is a Git LFS pointer", VIEW, pointer, "E424", None),
    spoilt("a view that is no picture", VIEW, lambda raw: b"no picture", "E405", None),
    spoilt("a view that is a script for another program", VIEW, lambda raw: SCRIPT, "E405", None),
    spoilt("a damaged view", VIEW, lambda raw: raw[:45] + b"\xff" * 9 + raw[54:], "E405", None),
    spoilt("a view of 900 megapixels", VIEW, _huge, "E444", None),
    view("a view of 8 pixels", lambda old: old.resize((8, 8)), "E441", None),
    view("views of 48 pixels", lambda old: old.resize((48, 48)), "E441", None, every=True),
    view("a view of one colour", lambda old: Image.new("RGB", old.size, (250, 250, 250)), "E442", None),
    view("views of one colour", lambda old: Image.new("RGB", old.size, (250, 250, 250)), "E442", "image", every=True),
    view("views of several sizes", lambda old: old.resize((160, 120)), "E445", None),
    Breakage("a view that is missing", _gap, frozenset({"E443"})),
    Breakage("views cut short, all of them", _all_cut, frozenset({"E440"}), {"0000/a": "image"}),
    Breakage("an id without views", _none, frozenset(), {"0000/a": "image"}),
    Breakage("a pipe among the views", _pipe_as_view, frozenset({"E420"})),
]
