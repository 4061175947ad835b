from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cadmllm.corpus.pixels import DEVIATION, MEAN, load_rgb, to_pixels
from cadmllm.errors import CadmllmError
from cadmllm.places import bundled


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth shapes and noise."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 16 + 1, width // 16 + 1, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BILINEAR)) // 2 + rng.integers(
        0, 128, (height, width, 3), dtype=np.uint8
    )


@cache
def official():
    """What the official preprocessor_config.json of facebook/dinov2-* makes, without torchvision."""
    from transformers import BitImageProcessorPil

    return BitImageProcessorPil(
        size={"shortest_edge": 256}, crop_size={"height": 224, "width": 224}, resample=3, do_convert_rgb=True,
        image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225],
    )  # fmt: skip


def away(image: np.ndarray) -> float:
    """The largest distance of our pixels from the official ones, in shares of the range before normalisation."""
    wanted = np.asarray(official()(Image.fromarray(image), return_tensors="np")["pixel_values"][0])
    got = to_pixels(image)
    assert got.shape == wanted.shape == (3, 224, 224)
    assert got.dtype == np.float32
    return float(np.abs((got - wanted) * DEVIATION[:, None, None]).max())


@pytest.mark.parametrize(
    "shape", [(224, 224), (480, 640), (301, 257), (97, 1000), (256, 256), (1000, 333), (1, 1), (14, 15), (2, 200), (255, 257)]
)
def test_equals_the_official_processor(shape: tuple[int, int]):
    assert away(picture(*shape)) <= 1 / 255 + 1e-6


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 700), st.floats(-3.0, 3.0), st.integers(0, 3))
def test_equals_the_official_processor_whatever_the_shape(shorter: int, ratio: float, seed: int):
    """Portrait and landscape up to 20 : 1, tiny ones, and noise, which shows any other rounding or filter."""
    longer = min(4000, max(1, round(shorter * float(np.exp(abs(ratio))))))
    height, width = (shorter, longer) if ratio < 0 else (longer, shorter)
    assert away(picture(height, width, seed)) <= 1 / 255 + 1e-6


def test_our_own_renders_come_out_exactly_as_the_official_processor_makes_them():
    views = sorted((bundled("data") / "img").rglob("*.png"))[::29]
    assert views
    for view in views:
        assert away(load_rgb(view)) < 1e-6, view


def test_a_wrong_filter_would_be_found():
    """The tolerance tells bicubic from bilinear, and the cut from one that is a pixel off."""
    image = picture(480, 640)
    bilinear = np.asarray(Image.fromarray(image).resize((341, 256), Image.Resampling.BILINEAR))
    bicubic = np.asarray(Image.fromarray(image).resize((341, 256), Image.Resampling.BICUBIC))
    want = np.asarray(official()(Image.fromarray(image), return_tensors="np")["pixel_values"][0]).transpose(1, 2, 0)
    for other, top, left, same in ((bicubic, 16, 58, True), (bilinear, 16, 58, False), (bicubic, 16, 59, False)):
        pixels = (other[top : top + 224, left : left + 224] / 255 - MEAN) / DEVIATION
        assert (np.abs((pixels - want) * DEVIATION).max() <= 1 / 255 + 1e-6) == same


def test_white_stays_white_and_transparency_is_white():
    white = to_pixels(np.full((300, 300, 3), 255, np.uint8))
    clear = to_pixels(np.zeros((300, 300, 4), np.uint8))
    np.testing.assert_allclose(white[:, 0, 0], (1 - MEAN) / DEVIATION, rtol=1e-5)
    np.testing.assert_array_equal(white, clear)


def test_grey_arrays():
    grey = picture(240, 300)[..., 0]
    np.testing.assert_array_equal(to_pixels(grey), to_pixels(np.repeat(grey[..., None], 3, axis=2)))


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 80), st.integers(1, 80))
def test_any_usual_shape_gives_finite_pixels(height: int, width: int):
    got = to_pixels(np.full((height, width, 3), 7, np.uint8))
    assert got.shape == (3, 224, 224)
    assert np.isfinite(got).all()


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((4, 4, 2), np.uint8),
        np.zeros((1, 200, 3), np.uint8),
    ],
)
def test_arrays_that_are_no_picture(array: np.ndarray):
    with pytest.raises(CadmllmError) as caught:
        to_pixels(array)
    assert caught.value.code == "E405"


def test_files_are_turned_upright_and_laid_on_white(tmp_path: Path):
    image = Image.fromarray(picture(40, 60))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    image.save(tmp_path / "turned.png", exif=exif)
    assert load_rgb(tmp_path / "turned.png").shape == (60, 40, 3)
    Image.new("RGBA", (4, 4), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    assert (load_rgb(tmp_path / "clear.png") == 255).all()
    Image.fromarray(np.full((4, 4), 65535, np.uint16)).save(tmp_path / "deep.png")
    assert (load_rgb(tmp_path / "deep.png") == 255).all()
    Image.new("P", (4, 4), 0).save(tmp_path / "palette.gif", transparency=0)
    assert (load_rgb(tmp_path / "palette.gif") == 255).all()


def test_files_that_are_no_picture(tmp_path: Path):
    for suffix in ("png", "jpg", "webp", "bmp", "gif", "tiff"):
        Image.fromarray(picture(60, 60)).save(tmp_path / f"whole.{suffix}")
    png, jpg = (tmp_path / "whole.png").read_bytes(), (tmp_path / "whole.jpg").read_bytes()
    contents = {
        "empty.png": (b"", "E421"),
        "text.png": (b"hello", "E405"),
        "page.png": (b"<html>no</html>", "E424"),
        "script.png": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "E405"),
        "zeros.png": (bytes(500), "E440"),
        "cut.png": (png[: len(png) // 2], "E440"),
        "endless.png": (png[:-12], "E440"),
        "reserved.png": (png[: len(png) // 2] + bytes(len(png) // 2), "E440"),
        "bent.png": (png[:40] + png[60:], "E405"),
        "cut.jpg": (jpg[: len(jpg) // 2], "E440"),
        "reserved.jpg": (jpg[: len(jpg) // 2] + bytes(len(jpg)), "E440"),
    }
    for name, (content, code) in contents.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CadmllmError) as caught:
            load_rgb(tmp_path / name)
        assert caught.value.code == code, caught.value
        assert name in caught.value.message
    for gone, code in ((tmp_path / "gone.png", "E405"), (tmp_path, "E420")):
        with pytest.raises(CadmllmError) as caught:
            load_rgb(gone)
        assert caught.value.code == code
    for suffix in ("png", "jpg", "webp", "bmp", "gif", "tiff"):
        assert load_rgb(tmp_path / f"whole.{suffix}").shape == (60, 60, 3)


def test_bytes_behind_a_picture_do_no_harm(tmp_path: Path):
    for suffix in ("png", "jpg"):
        path = tmp_path / f"a.{suffix}"
        Image.fromarray(picture(60, 60)).save(path)
        path.write_bytes(path.read_bytes() + b"camera's own notes")
        assert load_rgb(path).shape == (60, 60, 3)
