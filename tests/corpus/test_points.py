"""Point files of every kind, good and bad."""

from __future__ import annotations

import os
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cadmllm.corpus.ply import read_vertices
from cadmllm.corpus.points import FEWEST, load_cloud, read_cloud
from cadmllm.errors import CadmllmError

rng = np.random.default_rng(0)
BOX = rng.uniform([10, 20, 30], [50, 40, 35], (300, 3))  # 40 x 20 x 5, off the origin
NORMALS = np.tile([0.0, 0.0, 2.0], (300, 1))


def write(path: Path, kind: str) -> Path:
    """BOX in one of the formats in use."""
    both = np.hstack([BOX, NORMALS])
    if kind == "npz points":
        np.savez(path := path / "a.npz", other=np.zeros(3), points=BOX)
    elif kind == "npz xyz":
        np.savez(path := path / "a.npz", other=np.zeros(3), xyz=BOX.astype("f4"))
    elif kind == "npz first":
        np.savez(path := path / "a.npz", whatever=both)
    elif kind == "npz normals":
        np.savez_compressed(path := path / "a.npz", points=BOX, normals=NORMALS)
    elif kind == "npy 3":
        np.save(path := path / "a.npy", BOX)
    elif kind == "npy 6":
        np.save(path := path / "a.npy", both.astype("f4"))
    else:
        path = path / "a.ply"
        path.write_bytes(ply(both if "normals" in kind else BOX, kind.split()[1]))
    return path


def ply(table: np.ndarray, form: str) -> bytes:
    """A PLY file with a face element behind the vertices."""
    names = ("x", "y", "z", "nx", "ny", "nz")[: table.shape[1]]
    header = [f"ply\nformat {form} 1.0\ncomment made by a test\nelement vertex {len(table)}"]
    header += [f"property float {name}" for name in names] + ["property uchar red", "element face 1"]
    header += ["property list uchar int vertex_indices", "end_header\n"]
    data = "\n".join(header).encode()
    if form == "ascii":
        return data + "".join(" ".join(map(repr, row.tolist())) + " 255\n" for row in table).encode() + b"3 0 1 2\n"
    mark = "<" if "little" in form else ">"
    rows = b"".join(struct.pack(f"{mark}{len(names)}fB", *row, 255) for row in table)
    return data + rows + struct.pack(f"{mark}Biii", 3, 0, 1, 2)


KINDS = ("npz points", "npz xyz", "npz first", "npz normals", "npy 3", "npy 6", "ply ascii", "ply ascii normals")
KINDS += ("ply binary_little_endian", "ply binary_big_endian normals")


@pytest.mark.parametrize("kind", KINDS)
def test_every_format_gives_the_same_cloud(tmp_path, kind):
    cloud = load_cloud(write(tmp_path, kind), 300, 0)
    assert cloud.points.dtype == cloud.normals.dtype == np.float32
    assert cloud.points.shape == cloud.normals.shape == (300, 3)
    low, high = cloud.points.min(axis=0), cloud.points.max(axis=0)
    assert (high - low).max() == pytest.approx(2.0, abs=1e-5)
    assert np.allclose((low + high) / 2.0, 0.0, atol=1e-5)
    back = cloud.transform.invert(cloud.points)
    assert np.allclose(sorted(back.tolist()), sorted(BOX.tolist()), atol=1e-3)
    assert np.allclose(np.linalg.norm(cloud.normals, axis=1), 1.0, atol=1e-5)
    if "normals" in kind or kind in ("npz first", "npy 6"):
        assert np.allclose(cloud.normals, [0, 0, 1])


def test_a_stored_transform_leads_back_to_millimetres(tmp_path):
    low, high = BOX.min(axis=0), BOX.max(axis=0)
    center, scale = (low + high) / 2.0, 2.0 / (high - low).max()
    exact = (BOX - center) * scale
    np.savez(tmp_path / "own.npz", points=exact * 0.99, normals=NORMALS, center=center, scale=scale * 0.99)
    cloud = load_cloud(tmp_path / "own.npz", 300, 0)
    assert cloud.transform.scale == pytest.approx(scale * 0.99)  # one frame with the program, not the sample's own box
    np.savez(tmp_path / "far.npz", points=exact * 7 + 3, center=center - 3 / 7 / scale, scale=scale * 7)
    for name in ("own", "far"):
        cloud = load_cloud(tmp_path / f"{name}.npz", 300, 0)
        assert np.allclose(sorted(cloud.transform.invert(cloud.points).tolist()), sorted(BOX.tolist()), atol=1e-3)


def test_resampling_is_seeded_and_without_repetition(tmp_path):
    path = write(tmp_path, "npz points")
    few = load_cloud(path, 100, 1)
    assert len(np.unique(few.points, axis=0)) == 100
    assert (few.points == load_cloud(path, 100, 1).points).all()
    assert (few.points != load_cloud(path, 100, 2).points).any()
    many = load_cloud(path, 1000, 1)
    assert len(many.points) == 1000
    assert len(np.unique(many.points, axis=0)) == 300
    assert few.transform == many.transform


def save(path: Path, table, **more) -> Path:
    np.savez(path / "bad.npz", points=np.asarray(table), **more)
    return path / "bad.npz"


def spoilt(value: float) -> np.ndarray:
    table = BOX.copy()
    table[5, 1] = value
    return table


BAD = {
    "wrong width": (np.zeros((100, 4)), "E430"),
    "a vector": (np.zeros(100), "E430"),
    "three axes": (np.zeros((5, 5, 3)), "E430"),
    "too few": (BOX[: FEWEST - 1], "E432"),
    "none": (np.zeros((0, 3)), "E432"),
    "NaN": (spoilt(np.nan), "E431"),
    "infinite": (spoilt(np.inf), "E431"),
    "huge": (spoilt(1e300), "E431"),
    "one place": (np.ones((100, 3)), "E433"),
    "one line": (np.outer(np.arange(100.0), [1.0, 2.0, -3.0]) + 5.0, "E433"),
    "text": (np.array([["a", "b", "c"]] * 50), "E430"),
    "complex": (np.ones((50, 3), dtype=complex), "E430"),
    "bits": (np.ones((50, 3), dtype=bool), "E430"),
    "fields": (np.zeros(50, dtype=[("x", "f4"), ("y", "f4"), ("z", "f4")]), "E430"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_tables_are_refused(tmp_path, name):
    table, code = BAD[name]
    with pytest.raises(CadmllmError) as caught:
        load_cloud(save(tmp_path, table), 64, 0)
    assert caught.value.code == code
    assert "bad.npz" in caught.value.message
    assert "cadmllm data prepare" in caught.value.remedy


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("a.npz", b"", "E421"),
        ("a.npz", b"  \n", "E421"),
        ("a.npz", b"PK\x03\x04 broken", "E422"),
        ("a.npz", b"Rar!", "E404"),
        ("a.npy", bytes(900), "E422"),
        ("a.npy", b"\x93NUMPY broken", "E404"),
        ("a.npy", b"\x93NUM", "E422"),
        ("a.npy", b"plain text", "E404"),
        ("a.ply", b"ply\nformat ascii 1.0\nelement vertex 3\nproperty float x\nend_header\n1 2", "E422"),
        ("a.ply", b"ply\nformat ascii 1.0\nelement vertex 3\nproperty fl", "E422"),
        ("a.ply", b"ply\nformat ascii 1.0\nelement vertex -3\nproperty float x\nend_header\n", "E404"),
        ("a.ply", b"ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nend_header\n1", "E404"),
        ("a.ply", b"ply\nformat ascii 1.0\nelement vertex 99999999999\nproperty float x\nend_header\n1 2 3", "E437"),
        ("a.ply", b"not a ply", "E404"),
        ("a.ply", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 7\n", "E424"),
        ("a.npz", b"\n<!DOCTYPE html><html>Quota exceeded</html>", "E424"),
        ("a.xyz", b"1 2 3", "E432"),
        ("a.las", b"1 2 3", "E404"),
    ],
)
def test_broken_files_are_refused(tmp_path, name, content, code):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CadmllmError) as caught:
        read_cloud(tmp_path / name)
    assert caught.value.code == code, caught.value
    assert str(tmp_path / name) in caught.value.message


@pytest.mark.parametrize("kind", KINDS)
def test_any_cut_or_unfilled_file_is_told_from_a_broken_one(tmp_path, kind):
    path = write(tmp_path, kind)
    whole = path.read_bytes()
    for share in (0.02, 0.3, 0.7, 0.9):  # faces stand behind the vertices of a .ply: its very end is not missed
        kept = whole[: int(len(whole) * share)]
        path.write_bytes(kept)
        assert refused(path) == "E422"
        path.write_bytes(kept + bytes(len(whole) - len(kept)))
        assert refused(path) == "E422"


def refused(path: Path) -> str:
    with pytest.raises(CadmllmError) as caught:
        read_cloud(path)
    return caught.value.code


def test_archives_that_lie(tmp_path):
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("points.npy", b"\x93NUMPY\x01\x00\x10\x00" + b"{'no': 'header'}")
    assert refused(path) == "E404"
    np.savez_compressed(path, points=BOX)
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 0xFF
    path.write_bytes(whole)
    assert refused(path) == "E404"
    np.savez(path)
    assert refused(path) == "E404"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("points.npy", b"x" * 100)
    assert refused(path) == "E404"
    np.savez_compressed(path, points=np.zeros((40, 2**20), np.float32))  # 160 KB that unfold into 160 MB
    assert refused(path) == "E430"


def test_what_is_no_file_is_never_opened(tmp_path):
    os.mkfifo(tmp_path / "a.npy")  # whoever opens it waits for a writer
    (tmp_path / "b.npy").mkdir()
    (tmp_path / "c.npy").symlink_to("/dev/zero")
    for name in "abc":
        assert refused(tmp_path / f"{name}.npy") == "E420"


def test_nothing_is_unpickled(tmp_path):
    class Trap:
        def __reduce__(self):
            return print, ("unpickled",)

    objects = np.array([Trap()] * 50, dtype=object)
    np.save(tmp_path / "a.npy", objects, allow_pickle=True)
    np.savez(tmp_path / "a.npz", points=objects)
    for name in ("a.npy", "a.npz", "missing.npz"):
        with pytest.raises(CadmllmError) as caught:
            read_cloud(tmp_path / name)
        assert caught.value.code == "E404"


def test_zero_normals_are_no_normals(tmp_path):
    path = save(tmp_path, BOX, normals=np.zeros_like(BOX))
    assert read_cloud(path).normals is None
    assert np.allclose(np.linalg.norm(load_cloud(path, 64, 0).normals, axis=1), 1.0, atol=1e-5)
    for wrong in (np.zeros((3, 3)), np.zeros(300)):
        assert refused(save(tmp_path, BOX, normals=wrong)) == "E430"
    for center, scale in (([1, 2], 1.0), ([0, 0, np.nan], 1.0), ([0, 0, 0], 0.0), (["a", "b", "c"], 1.0)):
        assert refused(save(tmp_path, BOX, center=center, scale=scale)) == "E404"


def test_what_is_no_normal_is_not_taken_for_one(tmp_path):
    colours = np.random.default_rng(3).integers(0, 256, (300, 3))
    raw = read_cloud(save(tmp_path, np.hstack([BOX, colours])))
    assert raw.normals is None
    assert [(flaw.code, flaw.level) for flaw in raw.remarks if "colours" in flaw.message] == [("E436", "warn")]
    some = np.tile([0.0, 0.0, 1.0], (300, 1))
    some[:20] = 0.0
    some[20, 1] = np.nan
    raw = read_cloud(save(tmp_path, BOX, normals=some))
    assert raw.points.shape == raw.normals.shape == (279, 3)
    assert (raw.points == BOX[21:]).all()
    assert "21 of 300" in raw.remarks[-1].message


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    hnp.arrays(
        st.sampled_from([np.float32, np.float16, np.int32, np.bool_]),
        hnp.array_shapes(min_dims=0, max_dims=3, max_side=40),
        fill=st.nothing(),
    )
)
def test_any_array_is_read_or_refused(tmp_path, table):
    path = save(tmp_path, table)
    try:
        cloud = load_cloud(path, 32, 0)
    except CadmllmError as error:
        refusal = error
    else:
        assert np.isfinite(cloud.points).all()
        assert np.isfinite(cloud.normals).all()
        return
    assert refusal.code in ("E422", "E430", "E431", "E432", "E433")


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2000), st.binary(max_size=6), st.integers(0, 60))
def test_damaged_ply_is_read_or_refused(place, noise, cut):
    data = bytearray(ply(BOX[:20], "binary_little_endian"))
    data[place : place + len(noise)] = noise
    damaged = bytes(data[: len(data) - cut])
    try:
        found = read_vertices(damaged)
    except (ValueError, EOFError):
        return
    assert len({len(column) for column in found.values()}) == 1


@pytest.mark.parametrize("pickled", [False, True])
def test_nobody_is_advised_to_load_a_pickle(tmp_path, pickled):
    path = tmp_path / "cloud.npy"
    if pickled:
        np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    else:
        path.write_bytes(b"junk")
    with pytest.raises(CadmllmError) as caught:
        read_cloud(path)
    assert caught.value.code == "E404"
    assert "pickled data is never loaded" in caught.value.message
    assert "unsafe" not in caught.value.message


def test_of_a_mesh_in_a_data_set_the_vertices_are_taken_and_it_is_said(tmp_path):
    raw = read_cloud(write(tmp_path, "ply ascii"))
    assert len(raw.points) == 300
    assert [flaw.level for flaw in raw.remarks if flaw.code == "E438"] == ["warn"]


def test_a_header_that_claims_too_much_is_refused_by_its_number(tmp_path):
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000, 3), }".ljust(117) + b"\n"
    raw = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(1000)
    (tmp_path / "a.npy").write_bytes(raw)
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive, archive.open("points.npy", "w") as file:
        file.write(raw + bytes(2**20))
    for name in ("a.npy", "a.npz"):
        with pytest.raises(CadmllmError) as caught:
            read_cloud(tmp_path / name)
        assert caught.value.code == "E437"
        assert "1,000,000,000" in caught.value.message
        assert "20,000,000" in caught.value.message


def test_an_archive_of_too_many_files_is_not_listed(tmp_path, monkeypatch):
    monkeypatch.setattr("cadmllm.corpus.arrays.MOST_ENTRIES", 2)
    np.savez(tmp_path / "a.npz", points=BOX, a=1, b=2)
    assert refused(tmp_path / "a.npz") == "E404"
