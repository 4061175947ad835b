"""Clouds of the Point Cloud Library: every packing, type and order of fields; files that lie."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cadmllm.corpus.limits import TooMany
from cadmllm.corpus.pcd import read_pcd, unpack
from cadmllm.corpus.points import read_cloud
from cadmllm.errors import CadmllmError

rng = np.random.default_rng(0)
POINTS = rng.uniform(-50, 50, (300, 3))
UP = np.tile([0.0, 0.0, 1.0], (300, 1))
PACKINGS = ("ascii", "binary", "binary_compressed")
Columns = list[tuple[str, str, np.ndarray]]


def pack(data: bytes) -> bytes:
    """LZF, plainly: runs of a byte as copies that run into themselves, everything else as it is."""
    out, k = bytearray(), 0
    while k < len(data):
        run = 1
        while k + run < len(data) and data[k + run] == data[k] and run < 260:
            run += 1
        if run > 4 and k:
            out += bytes([0, data[k]])
            length = run - 1 - 2
            out += bytes([length << 5, 0]) if length < 7 else bytes([7 << 5, length - 7, 0])
            k += run
        else:
            piece = data[k : k + 1]
            out += bytes([0]) + piece
            k += 1
    return bytes(out)


def pcd(columns: Columns, packing: str, height: int = 1, **changes: str) -> bytes:
    """A .pcd of columns (name, numpy type, [N] or [N, COUNT])."""
    tables = [np.asarray(table, kind).reshape(len(table), -1) for _, kind, table in columns]
    count = len(tables[0])
    said = {
        "VERSION": "0.7",
        "FIELDS": " ".join(name for name, _, _ in columns),
        "SIZE": " ".join(str(np.dtype(kind).itemsize) for _, kind, _ in columns),
        "TYPE": " ".join(np.dtype(kind).kind.upper() for _, kind, _ in columns),
        "COUNT": " ".join(str(table.shape[1]) for table in tables),
        "WIDTH": str(count // height),
        "HEIGHT": str(height),
        "VIEWPOINT": "0 0 0 1 0 0 0",
        "POINTS": str(count),
        "DATA": packing,
    } | changes
    header = "# .PCD v0.7 - Point Cloud Data file format\n" + "".join(f"{k} {v}\n" for k, v in said.items() if v)
    if packing == "ascii":
        lines = [" ".join(repr(v) for table in tables for v in table[k].tolist()) for k in range(count)]
        return header.encode() + "\n".join(lines).encode() + b"\n"
    if packing == "binary":
        return header.encode() + b"".join(table[k].tobytes() for k in range(count) for table in tables)
    body = b"".join(table.tobytes() for table in tables)
    packed = pack(body)
    return header.encode() + struct.pack("<II", len(packed), len(body)) + packed


def columns(points: np.ndarray = POINTS, kind: str = "<f4") -> Columns:
    return [(name, kind, points[:, k]) for k, name in enumerate("xyz")]


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("kind", ["<f4", "<f8", "<i1", "<i2", "<i4", "<i8"])
def test_every_packing_and_type(packing: str, kind: str) -> None:
    points, normals, notes = read_pcd(pcd(columns(kind=kind), packing))
    assert np.array_equal(points, POINTS.astype(kind).astype(np.float64))
    assert (normals, notes) == (None, ())


@pytest.mark.parametrize("packing", PACKINGS)
def test_fields_in_any_order_with_others_between(packing: str) -> None:
    x, y, z = columns()
    up = [(name, "<f4", UP[:, k]) for k, name in enumerate(("normal_x", "normal_y", "normal_z"))]
    rgb, pad = ("rgb", "<u4", np.arange(300)), ("_", "<u1", np.zeros((300, 5)))
    histogram = ("fpfh", "<f4", rng.random((300, 33)))
    points, normals, _ = read_pcd(
        pcd([rgb, up[2], z, pad, y, histogram, up[0], x, up[1], pad, ("curvature", "<f4", UP[:, 0])], packing)
    )
    assert np.array_equal(points, POINTS.astype("<f4"))
    assert np.array_equal(normals, UP)


@pytest.mark.parametrize("packing", PACKINGS)
def test_what_a_depth_camera_did_not_see_is_left_out(tmp_path: Path, packing: str) -> None:
    seen = POINTS.copy()
    seen[::3, 2] = np.nan
    points, _, notes = read_pcd(pcd(columns(seen), packing, height=10))
    assert np.array_equal(points, seen[~np.isnan(seen[:, 2])].astype("<f4"))
    assert "100 of 300" in notes[0]
    for height, table in ((1, seen), (10, np.full((300, 3), np.nan))):  # no camera's, or nothing seen
        (tmp_path / "a.pcd").write_bytes(pcd(columns(table), packing, height=height))
        with pytest.raises(CadmllmError) as caught:
            read_cloud(tmp_path / "a.pcd")
        assert caught.value.code == "E431"


def test_older_and_shorter_headers() -> None:
    for changes in ({"COUNT": ""}, {"VERSION": ".5", "VIEWPOINT": ""}, {"POINTS": ""}, {"WIDTH": "", "HEIGHT": ""}):
        assert len(read_pcd(pcd(columns(), "ascii", **changes))[0]) == 300


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"POINTS": "1000000000"}, TooMany),
        ({"POINTS": "", "WIDTH": "1000000000"}, TooMany),
        ({"POINTS": "", "WIDTH": "100000", "HEIGHT": "100000"}, TooMany),
        ({"POINTS": "301"}, ValueError),
        ({"POINTS": "301", "WIDTH": "301"}, EOFError),
        ({"POINTS": "-1"}, ValueError),
        ({"FIELDS": "x y w"}, ValueError),
        ({"FIELDS": "x y"}, ValueError),
        ({"SIZE": "4 4 3"}, ValueError),
        ({"SIZE": "4 4 x"}, ValueError),
        ({"TYPE": "F F Q"}, ValueError),
        ({"COUNT": "1 1 0"}, ValueError),
        ({"COUNT": "1 1 999999999"}, ValueError),
        ({"DATA": "pickle"}, ValueError),
        ({"WIDTH": "9" * 50}, ValueError),
        ({"EXEC": "rm"}, ValueError),
    ],
)
@pytest.mark.parametrize("packing", PACKINGS)
def test_headers_that_lie(packing: str, changes: dict[str, str], error: type[Exception]) -> None:
    order = ["VERSION", "FIELDS", "SIZE", "TYPE", "COUNT", "EXEC", "WIDTH", "HEIGHT", "VIEWPOINT", "POINTS"]
    given_ = {key: changes[key] for key in order if key in changes} | changes
    raw = pcd(columns(), packing, **{k: v for k, v in given_.items() if k != "EXEC"})
    if "EXEC" in changes:
        raw = raw.replace(b"WIDTH", b"EXEC rm\nWIDTH", 1)
    if error is EOFError and packing == "binary_compressed":
        error = ValueError  # its size does not agree
    with pytest.raises(error):
        read_pcd(raw)


@pytest.mark.parametrize("packing", PACKINGS)
def test_a_file_that_is_cut_is_told(tmp_path: Path, packing: str) -> None:
    raw = pcd(columns(), packing)
    for share in (0.05, 0.5, 0.9):
        (tmp_path / "a.pcd").write_bytes(raw[: int(len(raw) * share)])
        with pytest.raises(CadmllmError) as caught:
            read_cloud(tmp_path / "a.pcd")
        assert caught.value.code == "E422"


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(PACKINGS), st.integers(0, 3000), st.binary(max_size=6), st.integers(0, 60))
def test_damage_is_read_or_refused(packing: str, place: int, noise: bytes, cut: int) -> None:
    raw = bytearray(pcd(columns(POINTS[:20]), packing))
    raw[place : place + len(noise)] = noise
    try:
        points, _, _ = read_pcd(bytes(raw[: len(raw) - cut]))
    except (ValueError, EOFError):
        return
    assert points.shape[1] == 3


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=400), st.integers(0, 300))
def test_lzf(data: bytes, run: int) -> None:
    data += bytes([7]) * run + data
    assert unpack(pack(data), len(data)) == data


def test_lzf_copies_from_far_and_into_itself() -> None:
    assert unpack(bytes([2]) + b"abc" + bytes([1 << 5, 2]), 6) == b"abcabc"
    assert unpack(bytes([1]) + b"ab" + bytes([7 << 5, 1, 1]), 12) == b"ab" * 6
    far = bytes(range(32)) * 20
    packed = b"".join(bytes([31]) + far[k : k + 32] for k in range(0, 640, 32)) + bytes([(6 << 5) | 2, 127])
    assert unpack(packed, 648) == far + far[:8]
    for broken, size in (
        (bytes([1 << 5, 0]), 3),
        (bytes([0]), 1),
        (bytes([7 << 5]), 20),
        (b"\0a\0b", 1),
        (b"\0a", 99),
        (b"\0a", 10**9),
    ):
        with pytest.raises(ValueError, match="packed|unfold"):
            unpack(broken, size)
