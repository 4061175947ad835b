"""The image encoder: DINOv2's files are here and whole, configuration and weights agree, and it answers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from cadmllm.doctor.cache import file_key
from cadmllm.doctor.check import Check, Finding, Fix, Level, Outcome, Situation
from cadmllm.doctor.encoders import SAME, loader_version, probed, shows
from cadmllm.doctor.features import is_cached
from cadmllm.doctor.hub import Place, download, elsewhere, locate, offline
from cadmllm.doctor.modelfiles import Asked, ModelFiles, layer_count, open_files
from cadmllm.errors import CadmllmError

if TYPE_CHECKING:
    from cadmllm.doctor.headers import Tensor
    from cadmllm.settings import Settings

NAME = "image-encoder"
KEY = "model.image_encoder"
PIXELS = 224  # side of what it sees
KNOWN_BYTES = {"facebook/dinov2-small": 88e6, "facebook/dinov2-base": 346e6, "facebook/dinov2-large": 1.22e9}
KNOWN_BYTES |= {"facebook/dinov2-giant": 4.55e9}
TINY = f"--set {KEY}=tiny, which is trained here and needs no download"
_ANSWER = (
    SAME
    + """
import sys
from cadmllm.errors import CadmllmError
import torch
try:
    from cadmllm.models.dino import PIXELS, load_dino
    from cadmllm.models.image import ImageEncoder
    dino = load_dino(sys.argv[1], torch.float32)
    encoder = ImageEncoder(dino, int(sys.argv[2])).eval()
except CadmllmError as error:
    say(**error.as_dict())
    sys.exit()
lines = torch.linspace(-2, 2, PIXELS)
picture = torch.stack([lines.expand(PIXELS, -1), lines[:, None].expand(-1, PIXELS), (lines[:, None] * lines).sin()])[None]
with torch.inference_mode():
    first, second = encoder(picture), encoder(picture.flip(-1))
wrong = judge(first, second, "a picture of gradients, as it is and mirrored")
if wrong:
    say(silent=wrong)
else:
    say(width=encoder.width, grid=encoder.grid, parameters=sum(value.numel() for value in dino.parameters()))
"""
)


def check_image(situation: Situation) -> Outcome:
    """The image encoder can be loaded and answers.

    Raises:
        CadmllmError: E102, E502, E505 to E509, which the runner makes a finding of.
    """
    settings = situation.needed
    name = settings.model.image_encoder
    if not shows(settings, situation.stages, "image"):
        return Outcome(skipped="no stage to be trained shows images")
    if name == "tiny":
        _tokens(settings, PIXELS // 28)
        return Outcome("tiny: trained here, needs no file")
    if is_cached(settings, "images"):
        return Outcome(skipped=f"not loaded: its features are read from {settings.data.features}")
    place = locate(name, situation.machine.environ)
    if place.folder is None:
        return _absent(situation, place)
    asked = Asked(place, "E502", KEY, ("config.json",), situation.machine.environ, int(KNOWN_BYTES.get(name, 0)))
    try:
        files = open_files(asked)
    except CadmllmError as error:
        raise CadmllmError(error.code, error.message, f"{error.remedy}; or {TINY}") from None
    _check_config(files, asked)
    tokens = _tokens(settings, PIXELS // int(files.config["patch_size"]))
    if situation.broken & {"torch", "transformers"}:
        return Outcome(skipped=f"{name} is whole, and cannot be loaded without torch and transformers")
    keys = [file_key(path) for path in (files.folder / "config.json", *files.files)]
    try:
        said = probed(
            situation, "image encoder", _ANSWER, (*keys, tokens, loader_version("image", "dino")), str(files.folder), str(tokens)
        )
    except CadmllmError as error:
        mend = asked.get([path.name for path in files.files], force=place.hub)
        raise CadmllmError(error.code, error.message, f"{mend}; or {TINY}") from None
    summary = f"{name}: width {said['width']}, {said['grid']} x {said['grid']} patches, answers ({files.folder})"
    details = (f"{said['parameters'] / 1e6:.1f} M parameters, all there and finite; headers are whole",)
    return Outcome(summary, details=details)


def _absent(situation: Situation, place: Place) -> Outcome:
    environ = situation.machine.environ
    other = elsewhere(place.name, environ)
    fixes = (Fix("setting", KEY, str(other), f"{place.name} lies there"),) if other else ()
    there = f", but {other} holds one of its name" if other else ""
    use = f"--set {KEY}={other}; or " if other else ""
    if place.hub:
        blocked, size = offline(environ), KNOWN_BYTES.get(place.name, 0) / 1e9
        message = f"{place.name} is not on this machine{there}"
        command = f"{'env -u ' + blocked + ' ' if blocked else ''}{download(place.name)}"
        much = f" ({size:.1f} GB)" if size else ""
        remedy = f"{use}download it before the run{much}: {command}; or a folder that holds it: --set {KEY}=DIR; or {TINY}"
    else:
        message = f"{KEY} is {place.name}, and there is no such folder{there}"
        remedy = f"{use}correct the path: --set {KEY}=facebook/dinov2-large or a folder; or {TINY}"
        fixes = fixes or (Fix("setting", KEY, "tiny", "views without DINOv2's files"),)
    return Outcome(findings=(Finding("E502", Level.FAIL, NAME, message, remedy),), fixes=fixes)


def _check_config(files: ModelFiles, asked: Asked) -> None:
    """The kind of model, and its sizes in configuration and weights.

    Raises:
        CadmllmError: E502 for another kind, E506 where the two differ.
    """
    from cadmllm.models.preprocessor import differences, remedy_of, said_of

    config, kind = files.config, files.config.get("model_type")
    if kind != "dinov2":
        message = f"image encoder {asked.place.name}: it is a {kind or 'model without a model_type'}, not a dinov2"
        raise CadmllmError("E502", message, f"name DINOv2: --set {KEY}=facebook/dinov2-large; or {TINY}")
    others = differences(files.folder)
    if others:
        own = None if asked.place.hub else files.folder
        raise CadmllmError("E502", f"image encoder {asked.place.name}: {said_of(others)}", f"{remedy_of(own)}; or {TINY}")
    wrong = _difference(config, {name.removeprefix("dinov2."): tensor for name, tensor in files.tensors.items()})
    if wrong:
        mend = asked.get(["config.json", *(path.name for path in files.files)], force=asked.place.hub)
        raise CadmllmError("E506", f"{files.folder}: {wrong}: files of different models", f"{mend}; or {TINY}")


def _difference(config: dict, tensors: dict[str, Tensor]) -> str:
    hidden, layers, patch, side = (config.get(k) for k in ("hidden_size", "num_hidden_layers", "patch_size", "image_size"))
    if not all(isinstance(number, int) and number > 0 for number in (hidden, layers, patch, side)):
        return "config.json lacks its sizes (hidden_size, num_hidden_layers, patch_size, image_size)"
    there = layer_count(list(tensors), r"encoder\.layer\.(\d+)\.")
    if there != layers:
        return f"config.json says {layers} layers, the weights hold {there}"
    wanted = {
        "embeddings.patch_embeddings.projection.weight": (hidden, 3, patch, patch),
        "embeddings.position_embeddings": (1, (int(side or 0) // int(patch or 1)) ** 2 + 1, hidden),
        "layernorm.weight": (hidden,),
    }
    for name, shape in wanted.items():
        if name not in tensors:
            return f"the weights lack {name}"
        if tensors[name].shape != shape:
            return f"{name} has shape {list(tensors[name].shape)}, and config.json makes it {list(shape)}"
    return ""


def _tokens(settings: Settings, grid: int) -> int:
    """Features of a view: all patches where the perceiver reads them, else `model.image_tokens`.

    Raises:
        CadmllmError: E102 for a number that patches cannot be pooled to (`models.image.ImageEncoder`).
    """
    if settings.model.image_bridge == "perceiver":
        return grid * grid
    tokens = settings.model.image_tokens
    side = math.isqrt(tokens)
    if tokens - side * side > 1 or side > grid or tokens < 1:
        message = f"model.image_tokens is {tokens}, which is neither n*n nor n*n + 1 with n up to {grid}"
        raise CadmllmError("E102", message, f"--set model.image_tokens={grid * grid + 1} (all), or 16")
    return tokens


CHECKS = (
    Check(
        NAME,
        "the image encoder's files are here and whole, agree with each other, and it answers on a picture",
        ("E102", "E502", "E505", "E506", "E507", "E508", "E509"),
        check_image,
        group="checkpoints",
        cached_by="its files' sizes and times, model.image_tokens, our loader's source, torch, transformers: that it answers",
    ),
)
