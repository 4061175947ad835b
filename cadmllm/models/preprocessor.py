"""What an image encoder's own folder says of how pictures are prepared, against what `corpus/pixels.py` does. No torch."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# of `corpus.pixels.to_pixels`, which models do not import; a test holds them together
SHORTEST, CROP = 256, 224
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
FILE = "preprocessor_config.json"
_KINDS = ("BitImageProcessor", "CLIPImageProcessor")  # both: scale the shortest side, cut the middle out, normalise
_CLIP_MEAN, _CLIP_DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
# what transformers takes where such a file is silent
_UNSAID: dict[str, Any] = {
    "do_resize": True, "size": {"shortest_edge": 224}, "resample": 3, "do_center_crop": True, "crop_size": 224,
    "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True, "image_mean": _CLIP_MEAN, "image_std": _CLIP_DEVIATION,
}  # fmt: skip
_TOLERANCE = 1e-4  # of means and deviations: files round them


def differences(folder: Path) -> list[str]:
    """What `preprocessor_config.json` of a folder asks for that is not what we do, in words; [] where there is no such file."""
    path = folder / FILE
    if not path.is_file():
        return []
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return ["it is not JSON"]
    return compared(said) if isinstance(said, dict) else ["it is not an object of JSON"]


def compared(said: Mapping[str, Any]) -> list[str]:
    """The same of its content."""
    kind = str(said.get("image_processor_type") or said.get("feature_extractor_type") or _KINDS[0])
    found = [] if kind.startswith(_KINDS) else [f"image_processor_type is {kind}, not {_KINDS[0]}"]
    asked = {**_UNSAID, **{key: value for key, value in said.items() if value is not None}}
    wanted: tuple[tuple[str, bool, str], ...] = (
        *((key, asked[key] is True, "true") for key in ("do_resize", "do_center_crop", "do_rescale", "do_normalize")),
        ("size", asked["size"] in (SHORTEST, {"shortest_edge": SHORTEST}), f'{{"shortest_edge": {SHORTEST}}}'),
        ("crop_size", asked["crop_size"] in (CROP, {"height": CROP, "width": CROP}), f"{CROP} x {CROP}"),
        ("resample", asked["resample"] == 3, "3 (bicubic)"),
        ("rescale_factor", _near([asked["rescale_factor"]], (1 / 255,), 1e-6), "1/255"),
        ("image_mean", _near(asked["image_mean"], MEAN), f"{list(MEAN)}"),
        ("image_std", _near(asked["image_std"], DEVIATION), f"{list(DEVIATION)}"),
    )
    for key, same, ours in wanted:
        if not same:
            unsaid = "" if said.get(key) is not None else " (unsaid, so the default)"
            found.append(f"{key} is {str(asked[key])[:80]}{unsaid}, not {ours}")
    return found


def _near(values: Any, wanted: Sequence[float], tolerance: float = _TOLERANCE) -> bool:
    if not isinstance(values, list | tuple) or len(values) != len(wanted):
        return False
    numbers = all(isinstance(value, int | float) for value in values)
    return numbers and all(math.isclose(a, b, abs_tol=tolerance) for a, b in zip(values, wanted, strict=True))


def said_of(found: list[str]) -> str:
    """For a message."""
    return f"its {FILE} prepares pictures otherwise than cadmllm does: {'; '.join(found[:3])}"


def remedy_of(folder: Path | None) -> str:
    """What to do about it. `folder` is the user's own, None for one of the hub's cache."""
    use = "name DINOv2 as it was published: `--set model.image_encoder=facebook/dinov2-large`"
    if folder is None:
        return use
    return (
        f"{use}; or, where the weights are DINOv2's own and that file alone differs: mv '{folder / FILE}' '{folder / FILE}.off'"
    )
