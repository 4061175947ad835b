"""Pictures as DINOv2 wants them: from a file or an array to normalised pixels, with Pillow and numpy alone.

Equal to the official processor (shortest side 256, bicubic; centre crop 224; /255; ImageNet mean and deviation).
"""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.AvifImagePlugin import AvifImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.Jpeg2KImagePlugin import Jpeg2KImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.PpmImagePlugin import PpmImageFile
from PIL.TgaImagePlugin import TgaImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from cadmllm.corpus.rawfile import AGAIN, ends_in_zeros, read_raw
from cadmllm.errors import CadmllmError

SHORTEST = 256  # the shortest side is scaled to this
CROP = 224  # and the middle is cut out: 12.5 % of a square picture is lost on each side
MEAN = np.array([0.485, 0.456, 0.406], dtype=np.float32)  # of ImageNet, as in the official preprocessor_config.json
DEVIATION = np.array([0.229, 0.224, 0.225], dtype=np.float32)
VERSION = 2  # of what both functions give; raise it when that changes, since cached features are then of other pixels
LARGEST = 100_000_000  # pixels; more is a broken header or a bomb
LARGEST_FILE = 2**29  # bytes
SMALLEST = 14  # one patch of the image encoder
PLAIN = 3  # grey levels that compression makes of one colour
# those that Pillow decodes by itself: a PostScript file named a.png would start another program
_READERS = (PngImageFile, JpegImageFile, WebPImageFile, BmpImageFile, GifImageFile, TiffImageFile, PpmImageFile)
_READERS += (AvifImageFile, Jpeg2KImageFile)  # these two where Pillow was built with their libraries, as its wheels are
FORMATS = tuple(str(reader.format) for reader in _READERS)
_TGA = (".tga", ".targa", ".icb", ".vda", ".vst")  # the one format that begins with no mark: only its name tells it
_ELSEWHERE = {
    (".heic", ".heif"): "a picture of an iPhone: save it as JPEG (`heif-convert IN.heic OUT.jpg`, or share it as JPEG)",
    (".svg", ".svgz", ".pdf", ".eps", ".ps", ".ai", ".dxf", ".dwg"): "a drawing, not a picture: export it as PNG",
    (".psd", ".xcf", ".exr", ".hdr", ".dng", ".cr2", ".nef", ".arw"): "a format of image editors or cameras: export it as PNG",
}
_PNG, _PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"
_JPEG, _JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"
# Pillow's readers raise all of these on damaged files
_DAMAGED = (OSError, ValueError, SyntaxError, EOFError, TypeError, IndexError, KeyError, OverflowError, MemoryError)
_BEHIND = 4096  # bytes that a camera's notes may have behind a picture's end


@dataclass(frozen=True, slots=True)
class Picture:
    """What a picture file shows.

    Attributes:
        pixels: RGB uint8 [H, W, 3], upright.
        several: it holds more pictures (an animation, pages), of which the first was taken.
    """

    pixels: np.ndarray
    several: bool


def load_rgb(path: Path) -> np.ndarray:
    """A picture file as RGB uint8 [H, W, 3]: turned upright (EXIF), transparency laid on white.

    Raises:
        CadmllmError: naming the file: E405 (missing, damaged or no picture), E420 (no regular file), E421 (empty), E424 (a
            placeholder), E440 (cut short), E444 (more than 100 megapixels).
    """
    return picture_of(read_picture(path), path).pixels


def read_picture(path: Path) -> bytes:
    """The bytes of a picture file.

    Raises:
        CadmllmError: E405, E420, E421, E424, E440 (nothing but zeros).
    """
    return _read(path, _remedy(path))


def picture_of(raw: bytes, path: Path) -> Picture:
    """What the bytes of a picture file show.

    Args:
        raw: all of the file.
        path: its name.

    Raises:
        CadmllmError: E405 (damaged or no picture), E440 (cut short), E444 (more than 100 megapixels).
    """
    remedy = _remedy(path)
    if _has_no_end(raw):
        raise _cut(path, len(raw))
    formats = (*FORMATS, str(TgaImageFile.format)) if path.suffix.lower() in _TGA else FORMATS
    try:
        with warnings.catch_warnings():
            # Pillow's remarks on odd tags and large pictures are no message of ours: what matters is raised
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(raw), formats=formats) as picture:
                refuse_large(picture.size, path)
                pixels = np.asarray(_on_white(ImageOps.exif_transpose(picture)))
                return Picture(pixels, _has_more(picture))
    except UnidentifiedImageError as error:
        raise CadmllmError("E405", f"{path}: not a picture", remedy) from error
    except Image.DecompressionBombError as error:
        raise _too_large(path, "so many pixels that Pillow does not open it", remedy) from error
    except _DAMAGED as error:
        if "truncated" in str(error) or ends_in_zeros(raw):
            raise _cut(path, len(raw)) from error
        raise CadmllmError("E405", f"{path}: unreadable picture ({error})", remedy) from error


def rgb_of(picture: Image.Image, name: str) -> np.ndarray:
    """RGB uint8 [H, W, 3] of a picture in memory, as `load_rgb` of a file.

    Args:
        picture: opened by whoever calls, perhaps not yet read.
        name: what to call it in a message.

    Raises:
        CadmllmError: E405, E444.
    """
    refuse_large(picture.size, name)
    try:
        return np.array(_on_white(ImageOps.exif_transpose(picture)))
    except _DAMAGED as error:
        raise CadmllmError("E405", f"{name}: unreadable picture ({error})", "open it anew, or give an array [H, W, 3]") from error


def refuse_large(size: tuple[int, int], path: Path | str) -> None:
    """Raise E444 for a picture of more than `LARGEST` pixels (width, height)."""
    if size[0] * size[1] > LARGEST:
        raise _too_large(path, f"{size[0]} x {size[1]} pixels", "make it smaller: the image encoder sees 224 x 224")


def _has_more(picture: Image.Image) -> bool:
    try:
        picture.seek(1)
    except _DAMAGED:
        return False
    return True


def _remedy(path: Path) -> str:
    special = next((said for endings, said in _ELSEWHERE.items() if path.suffix.lower() in endings), "")
    return f"{path.suffix} is {special}" if special else f"replace {path} by a PNG or JPEG, or leave it out"


def _has_no_end(raw: bytes) -> bool:
    """Whether a picture's end mark is missing, which its reader may not miss."""
    if raw.startswith(_PNG):
        return _PNG_END not in raw[-_BEHIND:]
    # a JPEG without an end is read as grey below; zeros that were reserved for the rest are read as if they were part of it
    return raw.startswith(_JPEG) and ends_in_zeros(raw) and _JPEG_END not in raw.rstrip(b"\0")[-_BEHIND:]


def _read(path: Path, remedy: str) -> bytes:
    try:
        return read_raw(path, LARGEST_FILE, "E405", remedy)
    except CadmllmError as error:
        if error.code != "E422":
            raise
        raise CadmllmError("E440", error.message, error.remedy) from error


def _cut(path: Path, size: int) -> CadmllmError:
    return CadmllmError("E440", f"{path} is cut short, after {size:,} bytes", AGAIN)


def _too_large(path: Path | str, size: str, remedy: str) -> CadmllmError:
    return CadmllmError("E444", f"{path} has {size}, more than the {LARGEST:,} that are read", remedy)


def load_view(path: Path) -> np.ndarray:
    """A view of a data set, as `load_rgb`.

    Raises:
        CadmllmError: E405, E440, E444; E441 and E442 for a picture that can teach nothing: tiny, or of one colour.
    """
    image = load_rgb(path)
    remedy = "draw the views anew: cadmllm data prepare ROOT --out DIR --views"
    if min(image.shape[:2]) < SMALLEST:
        raise CadmllmError("E441", f"{path} has {image.shape[1]} x {image.shape[0]} pixels", remedy)
    if is_blank(image):
        raise CadmllmError("E442", f"{path} shows nothing: it is of one colour", remedy)
    return image


def is_blank(picture: np.ndarray) -> bool:
    """Whether a picture uint8 [H, W, 3] is of one colour."""
    few = picture[::16, ::16].reshape(-1, 3)  # most pictures are told by a few of their pixels
    return all((np.ptp(part, axis=0) <= PLAIN).all() for part in (few, picture.reshape(-1, 3)))


def to_pixels(image: np.ndarray) -> np.ndarray:
    """Normalised pixels float32 [3, 224, 224] of a picture uint8 [H, W, 3] (or [H, W] grey, [H, W, 4] with transparency).

    Raises:
        CadmllmError: E405 for an array of another type or shape, or a picture too narrow to be scaled (more than 100 : 1).
    """
    shape_ok = image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (3, 4))
    if image.dtype != np.uint8 or not shape_ok or min(image.shape[:2]) == 0 or max(image.shape[:2]) > 100 * min(image.shape[:2]):
        raise CadmllmError(
            "E405",
            f"an array {image.dtype} {image.shape} is not a picture",
            "give 8-bit RGB of a usual shape, [height, width, 3]",
        )
    picture = _on_white(Image.fromarray(image))
    width, height = picture.size
    share = SHORTEST / min(width, height)
    # the official processor truncates the longer side
    picture = picture.resize((max(SHORTEST, int(width * share)), max(SHORTEST, int(height * share))), Image.Resampling.BICUBIC)
    left, top = (picture.width - CROP) // 2, (picture.height - CROP) // 2
    pixels = np.asarray(picture.crop((left, top, left + CROP, top + CROP)), dtype=np.float32) / 255.0
    return np.ascontiguousarray(((pixels - MEAN) / DEVIATION).transpose(2, 0, 1))


def _on_white(picture: Image.Image) -> Image.Image:
    """RGB, what is transparent being white paper (the default of plain conversion is black)."""
    if picture.mode == "RGB":
        return picture
    if picture.mode.startswith(("I", "F")):
        # 16- and 32-bit grey would be clipped, not scaled
        values = np.nan_to_num(np.asarray(picture, dtype=np.float64), nan=0.0, posinf=0.0, neginf=0.0)
        top = values.max(initial=0.0)
        full = 1.0 if picture.mode == "F" and top <= 1.0 else 65535.0 if top > 255 else 255.0
        values = values / full * 255.0
        picture = Image.fromarray(values.clip(0, 255).astype(np.uint8))
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    layer = picture.convert("RGBA")
    paper = Image.new("RGBA", layer.size, (255, 255, 255, 255))
    return Image.alpha_composite(paper, layer).convert("RGB")
