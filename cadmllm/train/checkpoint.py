"""Saves: written aside, hashed, then renamed; verified before they are read. No pickle is written or read.

`<stage folder>/steps/step_000100/` is a model checkpoint (usable by `infer` and `run.init_from`) plus `training/`, what
resuming needs. The stage folder itself becomes a checkpoint at the stage's end, when its manifest is written.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from cadmllm.errors import CadmllmError
from cadmllm.models.stages import MANIFEST, STEPS, verify, write_manifest
from cadmllm.models.weights import save_model
from cadmllm.train.guards import SAVE_PREFIX
from cadmllm.train.state import Place, optimizer_tensors, random_tensors

if TYPE_CHECKING:
    import torch

    from cadmllm.console import Console
    from cadmllm.models.fusion import CadMLLM
    from cadmllm.train.optim import GroupInfo

TRAINING = "training"


@dataclass(frozen=True, slots=True)
class Save:
    """A verified step save: its folder, the place, the optimizer's and the random state's tensors."""

    folder: Path
    place: Place
    optimizer: dict[str, torch.Tensor]
    random: dict[str, torch.Tensor]


def save_step(
    stage_dir: Path,
    model: CadMLLM,
    meta: Mapping[str, object],
    place: Place,
    optimizer: torch.optim.Optimizer,
    infos: list[GroupInfo],
    keep: int,
) -> Path:
    """Write `steps/step_<place.step>` and remove all but the newest `keep` saves.

    Raises:
        CadmllmError: E607 when it cannot be written; what was there before is untouched.
    """
    final = stage_dir / STEPS / f"{SAVE_PREFIX}{place['step']:06d}"

    def write(folder: Path) -> None:
        save_model(model, folder, dict(meta))
        (folder / TRAINING).mkdir()
        save_file(optimizer_tensors(optimizer, infos), folder / TRAINING / "optimizer.safetensors")
        save_file(random_tensors(), folder / TRAINING / "random.safetensors")
        (folder / TRAINING / "state.json").write_text(json.dumps(place, indent=1) + "\n", encoding="utf-8")

    _guard_disk(final, lambda: _write_aside(final, write))
    for old in step_saves(stage_dir)[:-keep]:
        shutil.rmtree(old)
    return final


def finish_stage(stage_dir: Path, model: CadMLLM, meta: Mapping[str, object], texts: Mapping[str, str]) -> None:
    """Make the stage folder a complete checkpoint: the model, `texts` (file name -> content), and last the manifest.

    The files move in one by one from a folder aside; until the manifest stands, the folder counts as unfinished and the
    step saves inside it remain what a resumed run starts from.

    Raises:
        CadmllmError: E607 when it cannot be written.
    """
    aside = stage_dir / ".final"

    def write() -> None:
        _clear(aside)
        aside.mkdir(parents=True)
        save_model(model, aside, dict(meta))
        model.tokenizer.save_pretrained(aside)
        for name, text in texts.items():
            (aside / name).write_text(text, encoding="utf-8")
        (stage_dir / MANIFEST).unlink(missing_ok=True)
        for path in sorted(aside.iterdir()):
            target = stage_dir / path.name
            if target.is_dir():
                shutil.rmtree(target)
            os.replace(path, target)
        aside.rmdir()
        write_manifest(stage_dir)

    _guard_disk(stage_dir, write)


def step_saves(stage_dir: Path) -> list[Path]:
    """The step saves of a stage, oldest first (renamed into place, but not yet verified)."""
    return sorted((stage_dir / STEPS).glob(f"{SAVE_PREFIX}*"))


def newest_save(stage_dir: Path, console: Console) -> Save | None:
    """The newest step save that verifies; each newer one that does not is named and passed over."""
    for folder in reversed(step_saves(stage_dir)):
        try:
            return load_save(folder)
        except CadmllmError as error:
            console.warn(f"{error.message}; trying the save before it")
    return None


def load_save(folder: Path) -> Save:
    """Read a step save.

    Raises:
        CadmllmError: E503 naming the file that is missing, torn or changed, or when the folder is no step save.
    """
    verify(folder)
    training = folder / TRAINING
    if not (training / "state.json").is_file():
        raise CadmllmError(
            "E503",
            f"{folder} holds a model but no training state",
            f"start a stage from it instead of resuming: --resume_from_ckpt {folder}",
        )
    place: Place = json.loads((training / "state.json").read_text(encoding="utf-8"))
    return Save(folder, place, load_file(training / "optimizer.safetensors"), load_file(training / "random.safetensors"))


def sweep(stage_dir: Path) -> None:
    """Remove what a crash left half-written."""
    _clear(stage_dir / ".final")
    for leftover in (stage_dir / STEPS).glob(f".{SAVE_PREFIX}*"):
        _clear(leftover)


def discard(stage_dir: Path) -> None:
    """Throw a stage away (`--overwrite`); a link is only unlinked."""
    if stage_dir.is_symlink():
        stage_dir.unlink()
    else:
        _clear(stage_dir)


def _write_aside(final: Path, write: Callable[[Path], None]) -> None:
    aside = final.with_name(f".{final.name}")
    _clear(aside)
    aside.mkdir(parents=True)
    try:
        write(aside)
        write_manifest(aside)
    except BaseException:
        _clear(aside)
        raise
    if final.exists():  # the same step, saved before an interruption: as good, but a torn one may stand there
        shutil.rmtree(final)
    os.replace(aside, final)


def _guard_disk(target: Path, action: Callable[[], None]) -> None:
    try:
        action()
    except (OSError, SafetensorError) as error:  # safetensors reports a full disk as its own error
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        reason = "the disk is full" if full else str(error)
        raise CadmllmError(
            "E607",
            f"the checkpoint {target} cannot be written: {reason}",
            "make room (or keep fewer saves: --set train.save_total_limit=1), then continue from the save before: --resume",
        ) from error


def _clear(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
