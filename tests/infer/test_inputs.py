"""What a person gives: read right, or refused by a code."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from cadmllm.corpus.prompt import BARE_REQUEST
from cadmllm.errors import CadmllmError
from cadmllm.infer.inputs import MOST_IMAGES, check_modalities, read_cloud, read_image, sample_of


def refused(code: str, *args, **kwargs) -> CadmllmError:
    function, *rest = args
    with pytest.raises(CadmllmError) as caught:
        function(*rest, **kwargs)
    assert caught.value.code == code
    return caught.value


def picture(path: Path, mode: str = "RGB", size: tuple[int, int] = (30, 20), colour=None, **save) -> Path:
    Image.new(mode, size, colour if colour is not None else 0).save(path, **save)
    return path


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp", "tiff", "gif"])
def test_common_formats(tmp_path: Path, suffix: str) -> None:
    pixels = read_image(picture(tmp_path / f"a.{suffix}", colour=(200, 30, 90)))
    assert pixels.shape == (20, 30, 3)
    assert pixels.dtype == np.uint8
    assert np.abs(pixels.astype(int) - [200, 30, 90]).max() <= 40


def test_transparency_is_laid_on_white(tmp_path: Path) -> None:
    clear = read_image(picture(tmp_path / "a.png", "RGBA", colour=(10, 20, 30, 0)))
    assert (clear == 255).all()
    half = read_image(picture(tmp_path / "b.png", "LA", colour=(0, 128)))
    assert np.abs(half.astype(int) - 127).max() <= 1
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 255, 0, 0])
    palette.save(tmp_path / "c.png", transparency=1)
    assert (read_image(tmp_path / "c.png") == 255).all()


def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path: Path) -> None:
    values = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    Image.fromarray(values).save(tmp_path / "a.png")
    assert np.abs(read_image(tmp_path / "a.png")[..., 0].astype(int) - values // 257).max() <= 1


def test_a_photo_is_turned_as_its_exif_says(tmp_path: Path) -> None:
    upright = Image.new("RGB", (40, 20), "white")
    upright.paste("black", (0, 0, 20, 20))  # left half black
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees clockwise
    upright.save(tmp_path / "a.png", exif=exif)
    pixels = read_image(tmp_path / "a.png")
    assert pixels.shape == (40, 20, 3)
    assert pixels[0, 0, 0] == 0
    assert pixels[-1, 0, 0] == 255


def test_what_is_no_picture_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("this is not a picture")
    (tmp_path / "empty.png").write_bytes(b"")
    whole = picture(tmp_path / "whole.png", size=(400, 300), colour=(1, 2, 3)).read_bytes()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 60, 3), np.uint8)).save(tmp_path / "noise.jpg")
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "noise.jpg").read_bytes()[:1500])
    codes = {"text.png": "E405", "empty.png": "E421", "cut.png": "E440", "cut.jpg": "E440", "absent.png": "E405"}
    for name, code in codes.items():
        error = refused(code, read_image, tmp_path / name)
        assert name in error.message
        assert error.remedy
    refused("E420", read_image, tmp_path)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_broken_bytes_are_a_picture_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    suffix = data.draw(st.sampled_from(["png", "jpg", "gif", "bmp", "tiff", "webp"]))
    whole = bytearray(picture(tmp_path / f"whole.{suffix}", size=(9, 7), colour=(9, 99, 199)).read_bytes())
    for place, value in data.draw(st.lists(st.tuples(st.integers(0, len(whole) - 1), st.integers(0, 255)), max_size=6)):
        whole[place] = value
    path = tmp_path / f"broken.{suffix}"
    path.write_bytes(bytes(whole[: data.draw(st.integers(0, len(whole)))]))
    try:
        assert read_image(path).shape[2] == 3
    except CadmllmError as error:
        if error.code not in ("E405", "E421", "E440", "E444"):
            raise


def test_a_decompression_bomb_is_refused_before_it_unfolds(tmp_path: Path) -> None:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    for side in (20_000, 12_000):  # beyond Pillow's limit, and beyond ours alone
        header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
        data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
        (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + data)
        assert "pixels" in refused("E444", read_image, tmp_path / "bomb.png").message


def test_a_strip_is_refused(tmp_path: Path) -> None:
    assert "2000 x 3" in refused("E405", read_image, picture(tmp_path / "a.png", size=(2000, 3))).message


def test_nothing_given() -> None:
    for text in (None, "", "  \n"):
        refused("E703", sample_of, text, [], None, point_count=64, seed=0)


def test_text_and_pictures_become_a_sample(tmp_path: Path) -> None:
    sample = sample_of(" a plate ", [picture(tmp_path / "a.png")] * 2, None, point_count=64, seed=0)
    assert (sample.combination, sample.caption, len(sample.images), sample.clouds) == ("text+image", "a plate", 2, ())
    assert sample.target is None
    assert sample_of("a plate", [], None, point_count=64, seed=0).combination == "text"
    assert sample_of(None, [tmp_path / "a.png"], None, point_count=64, seed=0).caption == BARE_REQUEST


def test_too_much_is_refused(tmp_path: Path) -> None:
    refused("E408", sample_of, "x" * 50_001, [], None, point_count=64, seed=0)
    refused("E405", sample_of, "x", [tmp_path / "a.png"] * (MOST_IMAGES + 1), None, point_count=64, seed=0)


@given(st.text(max_size=300))
@settings(max_examples=100, deadline=None)
def test_any_text_is_taken_or_refused(text: str) -> None:
    try:
        sample = sample_of(text, [], None, point_count=64, seed=0)
    except CadmllmError as error:
        if error.code not in ("E703", "E408"):
            raise
    else:
        assert "<|" not in sample.caption
        sample.caption.encode()


def test_a_mesh_is_no_point_cloud(tmp_path: Path) -> None:
    assert "mesh" in refused("E404", read_cloud, tmp_path / "a.STL", 64, 0).message


def test_a_cloud_comes_with_the_way_back(tmp_path: Path) -> None:
    points = np.random.default_rng(1).uniform([10, 20, 30], [50, 40, 40], (5000, 3))
    np.save(tmp_path / "a.npy", points)
    sample = sample_of("x", [], tmp_path / "a.npy", point_count=128, seed=0)
    (cloud,) = sample.clouds
    assert sample.combination == "text+point_cloud"
    assert cloud.points.shape == cloud.normals.shape == (128, 3)
    assert np.abs(cloud.points).max() <= 1.0 + 1e-5
    back = cloud.transform.invert(cloud.points.astype(np.float64))
    distance = np.linalg.norm(back[:, None] - points[None], axis=-1).min(axis=1)
    assert distance.max() < 1e-3


def test_a_point_file_of_the_wrong_shape(tmp_path: Path) -> None:
    np.save(tmp_path / "flat.npy", np.zeros(30))
    np.save(tmp_path / "wide.npy", np.zeros((30, 5)))
    (tmp_path / "text.npy").write_text("no")
    for name, code in (("flat.npy", "E430"), ("wide.npy", "E430"), ("text.npy", "E404"), ("absent.npy", "E404")):
        assert name in refused(code, read_cloud, tmp_path / name, 64, 0).message


def test_a_modality_without_an_encoder(tmp_path: Path, fake) -> None:
    model = fake()
    sample = sample_of("x", [picture(tmp_path / "a.png")], None, point_count=64, seed=0)
    check_modalities(sample, model, "somewhere")
    model.images = None
    error = refused("E701", check_modalities, sample, model, "somewhere")
    assert "stage 3" in error.message
    assert "cadmllm train" in error.remedy
    check_modalities(sample_of("x", [], None, point_count=64, seed=0), model, "somewhere")
