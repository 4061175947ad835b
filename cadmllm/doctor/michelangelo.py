"""The frozen point encoder: found, of the right kind, with every weight, and it answers."""

from __future__ import annotations

import glob
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from cadmllm.doctor.cache import file_key
from cadmllm.doctor.check import Check, Finding, Fix, Level, Outcome, Situation
from cadmllm.doctor.encoders import SAME, loader_version, probed, shows
from cadmllm.doctor.features import is_cached
from cadmllm.doctor.headers import BadFile, check_torch_file
from cadmllm.doctor.hub import download, folder_name, home, hub_cache, snapshot
from cadmllm.errors import CadmllmError

if TYPE_CHECKING:
    from cadmllm.doctor.machine import Machine

NAME = "points-encoder"
KEY = "model.points_checkpoint"
DOWNLOAD = "https://drive.google.com/file/d/1wzfa4EoijmyfTpLPfma9r03wvQ_mbjFD/view"
AUTHORS = "Maikou/Michelangelo"  # the authors' weights on the hub; the same encoder in a Lightning checkpoint
AUTHORS_FILE = "checkpoints/aligned_shape_latents/shapevae-256.ckpt"
NAMES = ("michelangelo_point_encoder_state_dict.pt", "shapevae-256.ckpt", "michelangelo.ckpt")  # as found in the wild
ALIKE = ("[Mm]ichelangelo", "[Ss]hape[Vv][Aa][Ee]", "[Ss]hapevae")
FOLDERS = (".", "checkpoints", "checkpoints/aligned_shape_latents", "Michelangelo", "Michelangelo/checkpoints")
FOURIER = "--set model.points_encoder=fourier, which trains one of its own"
_ANSWER = (
    SAME
    + """
import math, sys
from pathlib import Path
from cadmllm.errors import CadmllmError
try:
    from cadmllm.models.michelangelo import load_michelangelo
    encoder = load_michelangelo(Path(sys.argv[1]))
except CadmllmError as error:
    say(**error.as_dict())
    sys.exit()
import torch
count = int(sys.argv[2])
turn = torch.arange(count, dtype=torch.float64) + 0.5
z, angle = 1 - 2 * turn / count, turn * math.pi * (3 - math.sqrt(5))
sphere = torch.stack([(1 - z * z).sqrt() * angle.cos(), (1 - z * z).sqrt() * angle.sin(), z], -1).float()[None]
turned = sphere[..., [2, 0, 1]]
with torch.inference_mode():
    first, second = encoder(sphere, sphere), encoder(turned, turned)
wrong = judge(first, second, f"a sphere of {count} points, as it is and turned")
if first.shape != (1, encoder.tokens, encoder.width):
    wrong = f"it answers with {list(first.shape)}, not {[1, encoder.tokens, encoder.width]}"
if wrong:
    say(silent=wrong)
else:
    parameters = sum(parameter.numel() for parameter in encoder.parameters())
    say(tokens=encoder.tokens, width=encoder.width, parameters=parameters, size=float(first.abs().mean()))
"""
)


def check_points(situation: Situation) -> Outcome:
    """The frozen point encoder's checkpoint is here, has every weight, and answers."""
    settings = situation.needed
    if not shows(settings, situation.stages, "point_cloud"):
        return Outcome(skipped="no stage to be trained shows point clouds")
    if settings.model.points_encoder == "fourier":
        if settings.model.point_tokens > settings.model.point_count:
            return _too_many(settings.model.point_tokens, settings.model.point_count, "there are points (model.point_count)")
        return Outcome("fourier: trained here, needs no file")
    if is_cached(settings, "points"):
        return Outcome(skipped=f"not loaded: its features are read from {settings.data.features}")
    path = settings.model.points_checkpoint
    if not path.is_file():
        return _missing(situation, path)
    try:
        check_torch_file(path)
    except BadFile as error:
        return _refused(situation, path, "E505", f"the Michelangelo checkpoint {path} {error}")
    if "torch" in situation.broken:
        return Outcome(skipped=f"{path} ({_size(path)}) cannot be read without torch")
    count = settings.model.point_count
    key = (file_key(path.absolute()), count, loader_version("michelangelo", "torchfile", "fourier"))
    try:
        said = probed(situation, "points encoder", _ANSWER, key, str(path), str(count))
    except CadmllmError as error:
        return _refused(situation, path, error.code, error.message)
    if settings.model.point_tokens > said["tokens"]:
        return _too_many(settings.model.point_tokens, said["tokens"], "the Michelangelo encoder gives")
    details = (
        f"{said['parameters'] / 1e6:.1f} M parameters, every key and shape right, all numbers finite",
        f"a sphere of {count} points gives {said['tokens']} x {said['width']} numbers of mean size {said['size']:.3g}",
        "sizes seen: 128 or 256 MB the encoder alone (16, 32 bit), 369 or 738 MB the whole VAE; the guide's 150-200 fits none",
    )
    summary = f"michelangelo, {said['tokens']} tokens of width {said['width']}, answers ({path}, {_size(path)})"
    return Outcome(summary, details=details)


def found_nearby(path: Path, machine: Machine) -> Path | None:
    """A Michelangelo file under another name or in another folder: beside `path`, in the usual folders, where a browser puts
    downloads (under WSL: Windows' own, too), in the cache of the hub. Only one that is a PyTorch file from outside."""
    own = home(machine.environ)
    folders = [path.parent, *(Path(name) for name in FOLDERS), own / "Downloads", own / "checkpoints", own]
    if machine.wsl:
        folders += [Path(name) for name in sorted(glob.glob(str(machine.path("mnt/c/Users/*/Downloads"))))]
    kept = snapshot(hub_cache(machine.environ) / folder_name(AUTHORS))
    folders += [kept / AUTHORS_FILE.rpartition("/")[0]] if kept else []
    for folder in folders:
        alike = [found for part in ALIKE for end in ("pt", "pth", "ckpt") for found in sorted(folder.glob(f"*{part}*.{end}"))]
        for candidate in (*(folder / name for name in NAMES), *alike):
            if candidate.is_file() and not _same(candidate, path) and _is_torch_file(candidate):
                return candidate
    return None


def _same(path: Path, other: Path) -> bool:
    return other.exists() and path.samefile(other)


def _is_torch_file(path: Path) -> bool:
    try:
        check_torch_file(path)
    except BadFile:
        return False
    return True


def _missing(situation: Situation, path: Path) -> Outcome:
    other = found_nearby(path, situation.machine)
    what = "is a folder" if path.is_dir() else "does not exist"
    if other:
        message = f"the Michelangelo checkpoint {path} {what}, but {other} does"
        remedy = f"--set {KEY}={shlex.quote(str(other))}; or {FOURIER}"
        fix = Fix("setting", KEY, os.path.abspath(other), "the Michelangelo checkpoint lies there")
    else:
        message = f"the Michelangelo checkpoint {path} {what}: stages 2 and 3 show clouds through it"
        remedy = f"download {DOWNLOAD} and put it at {path.absolute()}; or the authors' own: {_authors()}; or {FOURIER}"
        fix = Fix("setting", "model.points_encoder", "fourier", "clouds without Michelangelo's checkpoint")
    return Outcome(findings=(Finding("E502", Level.FAIL, NAME, message, remedy),), fixes=(fix,))


def _authors() -> str:
    return f"{download(AUTHORS, [AUTHORS_FILE, '--local-dir', '.'])} and --set {KEY}={AUTHORS_FILE}"


def _refused(situation: Situation, path: Path, code: str, message: str) -> Outcome:
    """A file that is there and cannot be used."""
    other = found_nearby(path, situation.machine)
    use = f"--set {KEY}={shlex.quote(str(other))}, which is there as well; or " if other else ""
    again = f"download it again from {DOWNLOAD} to {path.absolute()}"
    if "web page" in message:
        again = f"open {DOWNLOAD} in a browser, confirm the download there, and put the file at {path.absolute()}"
    if "would run code" in message:
        again = f"take a file of tensors alone, as the guide's is: {again}"
    return Outcome(findings=(Finding(code, Level.FAIL, NAME, message, f"{use}{again}; or {FOURIER}"),))


def _too_many(wanted: int, there: int, what: str) -> Outcome:
    message = f"model.point_tokens is {wanted}, more than {what}: {there}"
    fix = Fix("setting", "model.point_tokens", there, "as many tokens as a cloud can give")
    return Outcome(findings=(Finding("E102", Level.FAIL, NAME, message, f"--set model.point_tokens={there}"),), fixes=(fix,))


def _size(path: Path) -> str:
    return f"{path.stat().st_size / 2**20:.0f} MiB"


CHECKS = (
    Check(
        NAME,
        "the frozen point encoder's checkpoint is here, has every weight, and answers on a sphere",
        ("E102", "E502", "E505", "E507", "E508", "E509"),
        check_points,
        group="checkpoints",
        cached_by="the file's size and time, our loader's source, torch: that it loads and answers",
    ),
)
