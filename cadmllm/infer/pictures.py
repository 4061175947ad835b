"""Views that a person gives, files or values, to RGB pixels."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cadmllm.corpus.pixels import LARGEST, SMALLEST, is_blank, picture_of, read_picture, refuse_large, rgb_of
from cadmllm.errors import CadmllmError
from cadmllm.infer.given import advising, described, path_of, printable

SLIMMEST = 20.0  # sides' ratio: the encoder sees a square cut from the middle, and of a slimmer picture nothing
MOST_IMAGES = 16
MOST_PIXELS = 2 * LARGEST  # of all pictures together: 600 MB
_VALUES = "give a path, a PIL image, or a numpy array [H, W, 3] or [H, W, 4] of uint8, or of floats from 0 to 1"
REMEDIES = {
    "E420": "name the picture itself: folders, pipes and devices are not read",
    "E421": "save or download the picture again",
    "E441": "give a larger picture: the image encoder sees 224 x 224 pixels",
    "E444": "make it smaller: the image encoder sees 224 x 224 pixels",
}


def read_views(values: Sequence[object]) -> tuple[list[np.ndarray], list[dict[str, Any]], list[str]]:
    """Pictures, what the record says of each, and what deserves to be said.

    Args:
        values: paths (str or Path), PIL images, or arrays uint8 (or float 0..1) [H, W], [H, W, 3] or [H, W, 4].

    Returns:
        RGB uint8 [H, W, 3] each: upright, transparency on white; records; notes.

    Raises:
        CadmllmError: E405 (no picture, too slim, too many), E420, E421, E424, E440 (cut short), E441 (too small), E444 (too
            large); E831 (a Windows path).
    """
    if len(values) > MOST_IMAGES:
        raise CadmllmError("E405", f"{len(values)} images were given", f"give at most {MOST_IMAGES} views of one part")
    found: list[np.ndarray] = []
    records: list[dict[str, Any]] = []
    notes: list[str] = []
    for number, value in enumerate(values, 1):
        with advising(REMEDIES):
            pixels, record = _read(value, number, notes)
        name = record.get("file", f"image {number}")
        height, width = pixels.shape[:2]
        if sum(picture.shape[0] * picture.shape[1] for picture in found) + width * height > MOST_PIXELS:
            raise CadmllmError("E444", f"the pictures have more than {MOST_PIXELS:,} pixels together", REMEDIES["E444"])
        if max(height, width) > SLIMMEST * min(height, width):
            message = f"{name} is {width} x {height} pixels, of which the square that the encoder sees shows nearly nothing"
            raise CadmllmError("E405", message, "crop the picture to the part")
        if min(height, width) < SMALLEST:
            raise CadmllmError("E441", f"{name} has {width} x {height} pixels", REMEDIES["E441"])
        if is_blank(pixels):
            notes.append(f"{name} shows nothing: it is of one colour")
        found.append(pixels)
        records.append({**record, "pixels": [width, height]})
    return found, records, notes


def _read(value: object, number: int, notes: list[str]) -> tuple[np.ndarray, dict[str, Any]]:
    name = f"image {number}"
    if isinstance(value, (str, os.PathLike)):
        return _from_file(path_of(value, "E405"), notes)
    if isinstance(value, np.ndarray):
        pixels = _from_array(value, name)
        return pixels, described("image", None, [value])
    if isinstance(value, Image.Image):
        pixels = rgb_of(value, name)
        return pixels, described("image", None, [pixels])
    raise CadmllmError("E405", f"{name} is a {type(value).__module__}.{type(value).__qualname__}, not a picture", _VALUES)


def _from_file(path: Path, notes: list[str]) -> tuple[np.ndarray, dict[str, Any]]:
    raw = read_picture(path)
    picture = picture_of(raw, path)
    if picture.several:
        notes.append(f"{printable(str(path))} holds several pictures (an animation, or pages): the first is taken")
    return picture.pixels, described("image", path, raw)


def _from_array(value: np.ndarray, name: str) -> np.ndarray:
    if value.ndim == 3 and value.shape[0] in (3, 4) and value.shape[2] not in (3, 4):
        raise CadmllmError("E405", f"{name} has the shape {list(value.shape)}: channels stand first", "image.transpose(1, 2, 0)")
    shaped = value.ndim == 2 or (value.ndim == 3 and value.shape[2] in (3, 4))
    if not shaped or not value.size or not (value.dtype == np.uint8 or value.dtype.kind == "f"):
        raise CadmllmError("E405", f"{name} is an array {value.dtype} {list(value.shape)}, not a picture", _VALUES)
    refuse_large((value.shape[1], value.shape[0]), name)
    if value.dtype.kind == "f":
        low, high = float(value.min()), float(value.max())
        if not (low >= 0.0 and high <= 1.0):  # NaN is neither
            raise CadmllmError("E405", f"{name} is an array of floats from {low:g} to {high:g}, not from 0 to 1", _VALUES)
        value = np.rint(value * 255.0).astype(np.uint8)
    return rgb_of(Image.fromarray(np.ascontiguousarray(value)), name)
