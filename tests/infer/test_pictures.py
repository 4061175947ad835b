"""Pictures that a person gives: read right, or refused by a code."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from cadmllm.errors import CadmllmError
from cadmllm.infer.pictures import MOST_IMAGES, read_views

FORMATS = ["png", "jpg", "webp", "bmp", "gif", "tiff", "ppm", "tga", "avif", "jp2"]


def read_image(value) -> np.ndarray:
    return read_views([value])[0][0]


def refused(code: str, value) -> CadmllmError:
    with pytest.raises(CadmllmError) as caught:
        read_views([value])
    assert caught.value.code == code, caught.value
    assert caught.value.remedy
    return caught.value


def picture(path: Path, mode: str = "RGB", size: tuple[int, int] = (30, 20), colour=None, **save) -> Path:
    Image.new(mode, size, colour if colour is not None else 0).save(path, **save)
    return path


@pytest.mark.parametrize("suffix", FORMATS)
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
    palette = Image.new("P", (20, 20), 1)
    palette.putpalette([0, 0, 0, 255, 0, 0])
    palette.save(tmp_path / "c.png", transparency=1)
    assert (read_image(tmp_path / "c.png") == 255).all()
    assert (read_image(np.zeros((20, 20, 4), np.uint8)) == 255).all()


def test_other_kinds_of_pixels(tmp_path: Path) -> None:
    values = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    Image.fromarray(values).save(tmp_path / "a.png")
    assert np.abs(read_image(tmp_path / "a.png")[..., 0].astype(int) - values // 257).max() <= 1  # scaled, not clipped
    floats = np.linspace(0.0, 1.0, 256, dtype=np.float32).reshape(16, 16)
    Image.fromarray(floats).save(tmp_path / "a.tiff")
    assert np.abs(read_image(tmp_path / "a.tiff")[..., 0] / 255.0 - floats).max() <= 0.005
    red = read_image(picture(tmp_path / "a.jpg", "CMYK", colour=(0, 255, 255, 0)))
    assert red[0, 0, 0] > 200
    assert red[0, 0, 1:].max() < 60
    assert read_image(picture(tmp_path / "b.png", "1", colour=1)).min() == 255


def test_a_photo_is_turned_as_its_exif_says(tmp_path: Path) -> None:
    upright = Image.new("RGB", (40, 20), "white")
    upright.paste("black", (0, 0, 20, 20))  # left half black
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees clockwise
    upright.save(tmp_path / "a.png", exif=exif)
    with Image.open(tmp_path / "a.png") as opened:
        for value in (tmp_path / "a.png", opened):
            pixels = read_image(value)
            assert pixels.shape == (40, 20, 3)
            assert pixels[0, 0, 0] == 0
            assert pixels[-1, 0, 0] == 255


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tiff"])
def test_of_several_pictures_the_first_is_taken_and_said(tmp_path: Path, suffix: str) -> None:
    frames = [Image.linear_gradient("L").rotate(90 * k).convert("RGB") for k in range(3)]
    frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:])
    (pixels,), _, notes = read_views([tmp_path / f"a.{suffix}"])
    assert np.abs(pixels.astype(int) - np.asarray(frames[0]).astype(int)).mean() < 12
    assert "the first is taken" in notes[0]
    (note,) = read_views([picture(tmp_path / f"b.{suffix}", colour=(1, 99, 3))])[2]
    assert note.endswith(f"b.{suffix} shows nothing: it is of one colour")


def test_arrays_and_opened_pictures() -> None:
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (30, 40, 3), np.uint8)
    (one, two, three), records, notes = read_views([pixels, Image.fromarray(pixels), (pixels / 255.0).astype(np.float32)])
    assert (one == pixels).all()
    assert (two == pixels).all()
    assert (three == pixels).all()
    assert [record["kind"] for record in records] == ["image"] * 3
    assert all(len(record["sha256"]) == 64 and "file" not in record for record in records)
    assert notes == []
    assert read_image(pixels[..., 0]).shape == (30, 40, 3)


@pytest.mark.parametrize(
    "value",
    [
        np.zeros((3, 30, 40), np.uint8),
        np.zeros((30, 40, 2), np.uint8),
        np.zeros((2, 30, 40, 3), np.uint8),
        np.zeros((30, 0, 3), np.uint8),
        np.zeros((30, 40, 3), np.int64),
        np.zeros((30, 40, 3), dtype=object),
        np.full((30, 40, 3), 255.0),
        np.full((30, 40, 3), -0.1),
        np.full((30, 40, 3), np.nan),
        np.array("a.png"),
        7,
        None,
        b"bytes",
    ],
)
def test_values_that_are_no_pictures(value) -> None:
    refused("E405", value)


def test_what_is_no_picture_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("this is not a picture")
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "script.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n")  # nothing starts ghostscript
    (tmp_path / "text.tga").write_text("this is not a picture either, whatever its name says")
    whole = picture(tmp_path / "whole.png", size=(400, 300), colour=(1, 2, 3)).read_bytes()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 60, 3), np.uint8)).save(tmp_path / "noise.jpg")
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "noise.jpg").read_bytes()[:1500])
    codes = {"text.png": "E405", "empty.png": "E421", "cut.png": "E440", "cut.jpg": "E440", "absent.png": "E405"}
    for name, code in {**codes, "script.png": "E405", "text.tga": "E405"}.items():
        assert name in refused(code, tmp_path / name).message
    refused("E420", tmp_path)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_broken_bytes_are_a_picture_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    suffix = data.draw(st.sampled_from(FORMATS))
    whole = bytearray(picture(tmp_path / f"whole.{suffix}", size=(29, 17), colour=(9, 99, 199)).read_bytes())
    for place, value in data.draw(st.lists(st.tuples(st.integers(0, len(whole) - 1), st.integers(0, 255)), max_size=6)):
        whole[place] = value
    path = tmp_path / f"broken.{suffix}"
    path.write_bytes(bytes(whole[: data.draw(st.integers(0, len(whole)))]))
    try:
        assert read_image(path).shape[2] == 3
    except CadmllmError as error:
        if error.code not in ("E405", "E421", "E422", "E440", "E441", "E444"):
            raise


def test_a_decompression_bomb_is_refused_before_it_unfolds(tmp_path: Path) -> None:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    for side in (20_000, 12_000):  # beyond Pillow's limit, and beyond ours alone
        header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
        data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
        (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + data)
        assert "pixels" in refused("E444", tmp_path / "bomb.png").message
    assert "pixels" in refused("E444", np.broadcast_to(np.uint8(0), (20_000, 20_000, 3))).message
    large = np.broadcast_to(np.arange(256, dtype=np.uint8)[:, None, None], (256, 20, 3))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cadmllm.infer.pictures.MOST_PIXELS", 2 * 256 * 20)
        assert len(read_views([large] * 2)[0]) == 2
        with pytest.raises(CadmllmError, match="E444"):
            read_views([large] * 3)


def test_what_shows_nearly_nothing_is_refused(tmp_path: Path) -> None:
    assert "2000 x 30" in refused("E405", picture(tmp_path / "a.png", size=(2000, 30))).message
    assert "9 x 12" in refused("E441", picture(tmp_path / "b.png", size=(9, 12))).message


def test_too_many_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CadmllmError, match="E405"):
        read_views([tmp_path / "a.png"] * (MOST_IMAGES + 1))
