"""What a person gives: read right, or refused by a code."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cadmllm.cad.mesh import Mesh
from cadmllm.corpus.prompt import BARE_REQUEST
from cadmllm.errors import CadmllmError
from cadmllm.infer.inputs import MOST_CLOUDS, Shown, check_modalities, read_inputs

BOX = np.random.default_rng(1).uniform([10, 20, 30], [50, 40, 40], (5000, 3))


def read(text=None, images=(), clouds=(), *, point_count: int = 64, seed: int = 0, **more) -> Shown:
    return read_inputs(text, images, clouds, point_count=point_count, seed=seed, **more)


def refused(code: str, *args, **more) -> CadmllmError:
    with pytest.raises(CadmllmError) as caught:
        read(*args, **more)
    assert caught.value.code == code, caught.value
    assert caught.value.remedy
    assert caught.value.message.isprintable()
    return caught.value


def picture(path: Path, size: tuple[int, int] = (30, 20)) -> Path:
    Image.linear_gradient("L").resize(size).convert("RGB").save(path)
    return path


def part() -> trimesh.Trimesh:
    """40 x 20 x 10 about (30, 30, 35)."""
    box = trimesh.creation.box((40.0, 20.0, 10.0))
    box.apply_translation([30.0, 30.0, 35.0])
    return box


def back(shown: Shown) -> np.ndarray:
    (cloud,) = shown.sample.clouds
    return cloud.transform.invert(cloud.points.astype(np.float64))


def test_nothing_given() -> None:
    for text in (None, "", "  \n"):
        assert "cadmllm infer" in refused("E703", text).remedy
    assert read("a cube", None, None).sample.combination == "text"


def test_text_and_pictures_become_a_sample(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png")
    shown = read(" a plate ", [path, str(path)])
    sample = shown.sample
    assert (sample.combination, sample.caption, len(sample.images), sample.clouds) == ("text+image", "a plate", 2, ())
    assert sample.target is None
    assert read(None, [path]).sample.caption == BARE_REQUEST
    record = shown.described[0]
    assert record["kind"] == "image"
    assert record["file"].endswith("a.png")
    assert record["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert record["pixels"] == [30, 20]


def test_everything_together(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", BOX)
    shown = read("a box", [picture(tmp_path / "a.png")], [tmp_path / "a.npy"], name="7")
    assert shown.sample.combination == "text+point_cloud+image"
    assert shown.sample.id == "7"
    assert [record["kind"] for record in shown.described] == ["image", "point cloud"]
    assert shown.described[1]["points"] == 5000
    assert [note for note in shown.notes if "no normals" in note]


def test_long_or_odd_text_is_refused() -> None:
    assert "50000" in refused("E408", "x" * 50_000).message
    assert "int" in refused("E408", 7).message


@given(st.text(max_size=300))
@settings(max_examples=100, deadline=None)
def test_any_text_is_taken_or_refused(text: str) -> None:
    try:
        sample = read(text).sample
    except CadmllmError as error:
        if error.code not in ("E703", "E408"):
            raise
    else:
        assert "<|" not in sample.caption
        sample.caption.encode()


def test_a_cloud_comes_with_the_way_back(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", BOX)
    shown = read("x", (), [tmp_path / "a.npy"], point_count=128)
    (cloud,) = shown.sample.clouds
    assert cloud.points.shape == cloud.normals.shape == (128, 3)
    assert np.abs(cloud.points).max() <= 1.0 + 1e-5
    assert np.linalg.norm(back(shown)[:, None] - BOX[None], axis=-1).min(axis=1).max() < 1e-3


def test_another_draw_needs_no_second_reading(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", BOX)
    shown = read("x", (), [tmp_path / "a.npy"])
    again = read("x", (), [tmp_path / "a.npy"], point_count=99, seed=3)
    (tmp_path / "a.npy").unlink()
    drawn = shown.drawn(99, 3)
    assert (drawn.sample.clouds[0].points == again.sample.clouds[0].points).all()
    assert drawn.described == shown.described
    assert shown.drawn(64, 0) is shown
    assert read("x").drawn(99, 3).sample.clouds == ()


@pytest.mark.parametrize(("units", "millimetres"), [("mm", 1.0), ("cm", 10.0), ("m", 1000.0), ("in", 25.4), ("ft", 304.8)])
def test_units_lead_to_millimetres(tmp_path: Path, units: str, millimetres: float) -> None:
    np.save(tmp_path / "a.npy", BOX)
    part().export(tmp_path / "a.stl")
    for given_ in (tmp_path / "a.npy", BOX, tmp_path / "a.stl", part()):
        points = back(read(None, (), [given_], units=units, point_count=4000))
        assert points.min(axis=0) == pytest.approx(np.array([10, 20, 30]) * millimetres, abs=0.2 * millimetres)
        assert points.max(axis=0) == pytest.approx(np.array([50, 40, 40]) * millimetres, abs=0.2 * millimetres)


def test_what_says_its_own_unit_is_believed(tmp_path: Path) -> None:
    trimesh.Scene(part()).export(tmp_path / "a.glb")
    shown = read(None, (), [tmp_path / "a.glb"], units="in", point_count=4000)
    points = back(shown)  # metres, +Y up: y is up, z comes from -z
    assert points.max(axis=0) == pytest.approx(np.array([50, -30, 40]) * 1000.0, rel=0.01)
    assert shown.described[0]["unit"] == "meter"
    assert "metres" in shown.notes[0]
    inches = part()
    inches.units = "inches"
    assert np.ptp(back(read(None, (), [inches], point_count=4000)), axis=0).max() == pytest.approx(1016.0, rel=0.01)
    center, up = np.array([30.0, 30.0, 35.0]), np.tile([0.0, 0.0, 1.0], (5000, 1))
    np.savez(tmp_path / "own.npz", points=(BOX - center) * 0.05, normals=up, center=center, scale=np.array(0.05))
    shown = read(None, (), [tmp_path / "own.npz"], units="in")
    assert "not applied" in shown.notes[0]
    assert np.ptp(back(shown), axis=0).max() <= 40.0
    refused("E705", None, (), [BOX], units="furlong")


def test_a_mesh_gives_points_with_the_normals_of_its_triangles() -> None:
    shown = read(None, (), [part()], point_count=2000)
    (cloud,) = shown.sample.clouds
    assert cloud.transform.center == pytest.approx((30.0, 30.0, 35.0))
    assert cloud.transform.scale == 0.05  # of the box itself, not of the points
    lengths = np.abs(cloud.normals).max(axis=1)
    assert (lengths == 1.0).all()
    outside = back(shown) + cloud.normals
    assert (np.abs(outside - [30, 30, 35]) > np.array([20, 10, 5]) + 0.5).any(axis=1).all()
    again = read(None, (), [part()], point_count=2000)
    assert (again.sample.clouds[0].points == cloud.points).all()
    ours = Mesh(part().vertices, part().faces.astype(np.int32), np.zeros(12, np.int32), np.zeros(12, np.int32))
    assert (read(None, (), ours, point_count=2000).sample.clouds[0].points == cloud.points).all()
    assert shown.described[0]["triangles"] == 12
    assert "file" not in shown.described[0]


def test_several_scans_are_one_cloud(tmp_path: Path) -> None:
    left, right = BOX[BOX[:, 0] < 30], BOX[BOX[:, 0] >= 30]
    np.save(tmp_path / "left.npy", left)
    shown = read(None, (), [tmp_path / "left.npy", right], point_count=4000)
    assert len(shown.sample.clouds) == 1
    assert np.ptp(back(shown), axis=0) == pytest.approx([40, 20, 10], abs=0.2)
    assert "2 point clouds" in shown.notes[-1]
    assert [record["points"] for record in shown.described] == [len(left), len(right)]
    with_normals = np.hstack([right, np.tile([0.0, 0.0, 1.0], (len(right), 1))])
    assert "no normals" in read(None, (), [left, with_normals]).notes[-1]
    moved = part()
    moved.apply_translation([100.0, 0.0, 0.0])
    assert np.ptp(back(read(None, (), [part(), moved], point_count=4000)), axis=0) == pytest.approx([140, 20, 10], abs=0.2)
    refused("E404", None, (), [BOX] * (MOST_CLOUDS + 1))


def test_cleaning_says_what_it_left_out() -> None:
    random = np.random.default_rng(0)
    surface = trimesh.sample.sample_surface(part(), 4000, seed=0)[0]
    noise = random.uniform([-50, -50, -50], [120, 120, 120], (200, 3))
    dirty = np.vstack([surface, noise])
    assert np.ptp(back(read(None, (), [dirty], point_count=4200)), axis=0).max() > 100
    shown = read(None, (), [dirty], clean=True, point_count=4200)
    assert np.ptp(back(shown), axis=0).max() < 60
    assert "are left out" in shown.notes[-1]
    assert "0 of 4,000" in read(None, (), [surface], clean=True).notes[-1]
    assert "mesh" in read(None, (), [part()], clean=True).notes[-1]
    assert not [note for note in read(None, (), [dirty]).notes if "cleaning" in note]


def test_values_that_are_no_points() -> None:
    for value, code in (
        (np.zeros((30, 5)), "E430"),
        (np.zeros(30), "E430"),
        (np.array([["a", "b", "c"]] * 30), "E430"),
        (np.ones((30, 3), dtype=object), "E430"),
        (np.full((30, 3), np.nan), "E431"),
        (np.where(np.arange(5000)[:, None] == 7, np.inf, BOX), "E431"),
        (BOX[:3], "E432"),
        (np.ones((30, 3)), "E433"),
        (np.broadcast_to(np.float32(0.0), (10**9, 3)), "E437"),
        (Mesh(np.zeros((3, 3)), np.array([[0, 1, 2]]), np.zeros(1), np.zeros(1)), "E438"),
        (trimesh.Trimesh(np.full((3, 3), np.nan), [[0, 1, 2]], process=False, validate=False), "E438"),
        (trimesh.Scene(part()), "E430"),
        ({"points": BOX}, "E430"),
        (7, "E430"),
    ):
        refused(code, None, (), [value])
    assert "1,000,000,000" in refused("E437", None, (), [np.broadcast_to(np.float32(0.0), (10**9, 3))]).message


def test_an_array_is_not_changed() -> None:
    before = BOX.copy()
    read(None, (), BOX, units="in", clean=True)
    assert (before == BOX).all()


def test_paths_that_are_none(tmp_path: Path) -> None:
    for place in ("https://a.b/c.ply", "s3://bucket/c.ply", Path("https://a.b/c.ply"), "file:///etc/c.ply"):
        assert "curl" in refused("E404", None, (), [place]).remedy
        refused("E405", None, [place])
    for place in (r"C:\scans\a.ply", "D:/scans/a.png"):
        refused("E831", None, (), [place])
        refused("E831", None, [place])
    for place in ("absent.ply", "a" * 5000 + ".ply", "a\0.ply", "no ending", "part.step", "scan.las", "a.ply.gz"):
        refused("E404", None, (), [tmp_path / place])
    refused("E404", None, (), "")
    assert ".stl" in refused("E404", None, (), ["part.STEP"]).remedy
    for place in ("absent.png", "a\0.png", "photo.heic"):
        refused("E405", None, [tmp_path / place])
    assert "JPEG" in refused("E405", None, [picture(tmp_path / "a.png").rename(tmp_path / "b.heic.txt"), "c.heic"]).remedy


def test_what_is_no_file_is_never_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.ply")  # whoever opens it waits for a writer
    (tmp_path / "zero.ply").symlink_to("/dev/zero")
    (tmp_path / "folder.ply").mkdir()
    for name in ("pipe.ply", "zero.ply", "folder.ply"):
        error = refused("E420", None, (), [tmp_path / name])
        assert "data set" not in error.remedy
        refused("E420", None, [tmp_path / name])
    refused("E420", None, (), ["/dev/zero"])
    (tmp_path / "empty.stl").write_bytes(b"")
    refused("E421", None, (), [tmp_path / "empty.stl"])


def test_names_with_odd_characters(tmp_path: Path) -> None:
    for name in ("a b.npy", "été ✈.npy", "semi;colon$(x).npy", "-rf.npy", "line\nbreak.npy", "red\x1b[31m.npy", b"\xff\xfe.npy"):
        path = tmp_path / (os.fsdecode(name) if isinstance(name, bytes) else name)
        np.save(path, BOX)
        shown = read(None, (), [path])
        assert all(note.isprintable() for note in shown.notes)
        assert shown.described[0]["file"].isprintable()
        path.write_bytes(b"junk")
        refused("E404", None, (), [path])


def test_a_modality_without_an_encoder(tmp_path: Path, fake) -> None:
    model = fake()
    sample = read("x", [picture(tmp_path / "a.png")]).sample
    check_modalities(sample, model, "somewhere")
    model.images = None
    with pytest.raises(CadmllmError) as caught:
        check_modalities(sample, model, "somewhere")
    assert caught.value.code == "E701"
    assert "stage 3" in caught.value.message
    assert "cadmllm train" in caught.value.remedy
    check_modalities(read("x").sample, model, "somewhere")
