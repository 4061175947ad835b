"""Which encoders are frozen, where they come from, and what their files are like: what can be told without torch."""

from __future__ import annotations

import hashlib
from pathlib import Path

from cadmllm.errors import CadmllmError
from cadmllm.plan.parts import UnknownShape, given_tokens
from cadmllm.plan.sizes import cached
from cadmllm.settings import Settings


def why_trained(settings: Settings, part: str) -> str:
    """Why the encoder of a part ('points', 'images') is trained along and has no features to keep; '' where it is frozen."""
    model = settings.model
    if part == "points" and model.points_encoder == "fourier":
        return "model.points_encoder=fourier"
    if part == "images" and model.image_encoder == "tiny":
        return "model.image_encoder=tiny"
    return "model.train_encoders=true" if model.train_encoders else ""


def refuse_trained(settings: Settings, part: str) -> None:
    """Raise E472 when the encoder of a part is trained: its features change with every step."""
    reason = why_trained(settings, part)
    if reason:
        frozen = {"points": "model.points_encoder=michelangelo", "images": "model.image_encoder=facebook/dinov2-large"}[part]
        raise CadmllmError(
            "E472",
            f"the encoder of {'clouds' if part == 'points' else 'views'} is being trained ({reason}):"
            " its features change at every step and cannot be cached",
            f"use a frozen one: --set {frozen} --set model.train_encoders=false; or train without data.features",
        )


def encoder_name(settings: Settings, part: str) -> tuple[str, str]:
    """(kind of the frozen encoder, where it comes from)."""
    model = settings.model
    return ("michelangelo", str(model.points_checkpoint)) if part == "points" else ("dinov2", model.image_encoder)


def feature_tokens(settings: Settings, part: str, found: int = 0) -> int | None:
    """Features that a frozen encoder hands on for a cloud or a view: all of them, where a resampler follows.

    Args:
        settings: resolved.
        part: 'points' or 'images'.
        found: features that a store of this encoder holds. How many a Michelangelo has its file alone tells, and a store holds
            the shape token or all: so any larger number than 1 is taken for all, if `model.point_tokens` can be made of it.

    Returns:
        None where only the encoder itself can tell.
    """
    model = settings.model
    if part == "points":
        if model.point_tokens == 1:
            return 1
        return found if found > 1 and found >= model.point_tokens else None
    try:
        return given_tokens(settings, "images")
    except UnknownShape:
        return found or None


def files_hash(settings: Settings, part: str) -> str:
    """SHA-256 of the files of a frozen encoder; '' when they are not on this machine.

    Nothing is loaded or downloaded. Other files may hold the same weights (a state dict and the checkpoint it was cut from).
    """
    files = encoder_files(settings, part)
    if not files:
        return ""
    found = hashlib.sha256()
    for file in files:
        with file.open("rb") as content:
            found.update(hashlib.file_digest(content, "sha256").digest())
    return found.hexdigest()


def encoder_files(settings: Settings, part: str) -> list[Path]:
    """The files of a frozen encoder; [] when they are not on this machine."""
    _, source = encoder_name(settings, part)
    path = Path(source).expanduser()
    if part == "points":
        return [path] if path.is_file() else []
    folder = path if path.is_dir() else cached(source)
    return _weight_files(folder) if folder is not None else []


def _weight_files(folder: Path) -> list[Path]:
    """config.json and the weights that transformers takes: safetensors where there are any; [] where there are none."""
    weights = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
    config = folder / "config.json"
    return [config, *weights] if weights and config.is_file() else []
