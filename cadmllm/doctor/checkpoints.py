"""The base model and the encoders are on this machine, so that no run dies in a download."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from cadmllm.doctor.check import Check, Finding, Level, Outcome, Situation
from cadmllm.doctor.features import is_cached
from cadmllm.doctor.probe import run_probe
from cadmllm.places import bundled
from cadmllm.plan.sizes import GIB, cached, shape_of

if TYPE_CHECKING:
    from cadmllm.settings import Settings

DOWNLOAD = "https://drive.google.com/file/d/1wzfa4EoijmyfTpLPfma9r03wvQ_mbjFD/view"
NAMES = ("michelangelo_point_encoder_state_dict.pt", "shapevae-256.ckpt", "michelangelo.ckpt")  # as found in the wild
_LOAD = """
from pathlib import Path
from typing import TYPE_CHECKING
from cadmllm.errors import CadmllmError
from cadmllm.models.points import load_michelangelo
try:
    encoder = load_michelangelo(Path(sys.argv[1]))
except CadmllmError as error:
    say(message=error.message)
else:
    say(tokens=encoder.tokens, width=encoder.width)
"""


def check_base(situation: Situation) -> Outcome:
    """The language model's files are here and whole."""
    settings = situation.needed
    name = settings.model.llm
    folder = bundled("checkpoints/tiny-base") if name == "tiny" else Path(name) if Path(name).is_dir() else cached(name)
    if folder is None:
        return Outcome(findings=(_not_here("base-model", "E501", name, "model.llm"),))
    lacking = missing_file(folder, tokenizer=True)
    if lacking:
        mend = f"{_hf()} download {name}" if not Path(name).is_dir() and name != "tiny" else f"put {lacking} into {folder}"
        return Outcome(findings=(Finding("E501", Level.FAIL, "base-model", f"{folder} lacks {lacking}", mend),))
    shape = shape_of(str(folder))
    size = f", {shape.parameters / 1e6:,.1f} M parameters" if shape else ""
    return Outcome(f"{name}{size} ({folder})")


def check_points(situation: Situation) -> Outcome:
    """The frozen point encoder's checkpoint is here and is one."""
    settings = situation.needed
    if not shows(settings, situation.stages, "point_cloud"):
        return Outcome(skipped="no stage to be trained shows point clouds")
    if settings.model.points_encoder == "fourier":
        return Outcome("fourier: trained here, needs no file")
    if is_cached(settings, "points"):
        return Outcome(skipped=f"not loaded: its features are read from {settings.data.features}")
    path = settings.model.points_checkpoint
    if not path.is_file():
        other = next((p for p in (path.parent / n for n in NAMES) if p.is_file()), None)
        way = "or train an encoder that needs no file: --set model.points_encoder=fourier"
        get = f"--set model.points_checkpoint={other}" if other else f"download {DOWNLOAD} and put it at {path}"
        message = f"the Michelangelo checkpoint {path} does not exist" + (f", but {other} does" if other else "")
        return Outcome(findings=(Finding("E502", Level.FAIL, "points-encoder", message, f"{get}; {way}"),))
    size = f"{path.stat().st_size / 2**20:.0f} MiB"
    if "torch" in situation.broken:
        return Outcome(skipped=f"{path} ({size}) cannot be read without torch")
    probe = run_probe(_LOAD, str(path), seconds=120)
    said = probe.lines[0] if probe.lines else {"message": f"reading {path} ended with {probe.end} {probe.stderr}"}
    if "message" in said:
        remedy = f"download it again: {DOWNLOAD}; or --set model.points_encoder=fourier"
        return Outcome(findings=(Finding("E502", Level.FAIL, "points-encoder", said["message"], remedy),))
    return Outcome(f"michelangelo, {said['tokens']} tokens of width {said['width']} ({path}, {size})")


def check_image(situation: Situation) -> Outcome:
    """The image encoder's files are here and whole."""
    settings = situation.needed
    name = settings.model.image_encoder
    if not shows(settings, situation.stages, "image"):
        return Outcome(skipped="no stage to be trained shows images")
    if name == "tiny":
        return Outcome("tiny: trained here, needs no file")
    if is_cached(settings, "images"):
        return Outcome(skipped=f"not loaded: its features are read from {settings.data.features}")
    folder = Path(name) if Path(name).is_dir() else cached(name)
    if folder is None:
        return Outcome(findings=(_not_here("image-encoder", "E502", name, "model.image_encoder"),))
    lacking = missing_file(folder, tokenizer=False)
    if lacking:
        mend = f"{_hf()} download {name}" if not Path(name).is_dir() else f"put {lacking} into {folder}"
        return Outcome(findings=(Finding("E502", Level.FAIL, "image-encoder", f"{folder} lacks {lacking}", mend),))
    return Outcome(f"{name} ({folder})")


def shows(settings: Settings, stages: tuple[int, ...], modality: str) -> bool:
    """Whether any of the stages shows the modality ('point_cloud', 'image') to the model."""
    return any(share > 0 and modality in name.split("+") for n in stages for name, share in settings.stages[n].reached.items())


def missing_file(folder: Path, *, tokenizer: bool) -> str | None:
    """The first file that a Hugging Face model folder lacks, or None when it is whole."""
    if not (folder / "config.json").is_file():
        return "config.json"
    if tokenizer and not (folder / "tokenizer.json").is_file():
        return "tokenizer.json"
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return f"a readable {index.name}"
        return next((shard for shard in shards if not (folder / shard).is_file()), None)
    return None if (folder / "model.safetensors").is_file() else "model.safetensors"


def _not_here(check: str, code: str, name: str, key: str) -> Finding:
    remedy = f"--set {key}=tiny, which needs no download"
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        return Finding(code, Level.FAIL, check, f"{key} is {name}, and there is no such folder", f"correct the path; or {remedy}")
    shape = shape_of(name)
    size = f" ({shape.weight_bytes('bfloat16', 'none', head=True) / GIB:.1f} GiB)" if shape else ""
    message = f"{name} is not on this machine"
    return Finding(code, Level.FAIL, check, message, f"download it before the run{size}: {_hf()} download {name}; or {remedy}")


def _hf() -> str:
    return str(Path(sys.executable).with_name("hf"))


CHECKS = (
    Check("base-model", "the language model's files are here and whole", ("E501",), check_base, group="checkpoints"),
    Check(
        "points-encoder", "the frozen point encoder's checkpoint is here and is one", ("E502",), check_points, group="checkpoints"
    ),
    Check("image-encoder", "the image encoder's files are here and whole", ("E502",), check_image, group="checkpoints"),
)
