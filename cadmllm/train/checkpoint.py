"""Saves: written aside, hashed, synced, renamed, then pointed to; verified before they are read. No pickle is written or read.

`<stage folder>/steps/step_000100/` is a model checkpoint (usable by `infer` and `run.init_from`) plus `training/`, what
resuming needs. `steps/newest.json` points to it (`pointer`). The stage folder itself becomes a checkpoint at the stage's end,
when its manifest is moved in, after everything else.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from cadmllm.errors import CadmllmError
from cadmllm.models.stages import MANIFEST, STEPS, sha256, sync_folder, verify, write_manifest
from cadmllm.models.weights import RECORD, write_model
from cadmllm.train import pointer
from cadmllm.train.disk import Writing
from cadmllm.train.pointer import POINTER, Entry
from cadmllm.train.state import Place

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from cadmllm.console import Console

TRAINING = "training"
FINAL = ".final"  # a finished stage on its way into its folder
TOKENIZER_BYTES = 16 << 20  # Qwen's is 11 MiB


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything a save holds, at one moment (`contents.snapshot` takes it).

    Attributes:
        weights: every trained tensor by its name in a checkpoint, on any device; written as they are.
        record: `model.json` but for 'meta' (`weights.model_record`).
        meta: the figures so far; 'meta' of `model.json`.
        texts: file name -> content (settings, curriculum, data, environment, model card).
        tokenizer: written with `save_pretrained`, so that the folder can be used without its base's.
        place: where the stage stands.
        optimizer: its tensors, for `training/`; a finished stage does not need them.
    """

    weights: Mapping[str, Tensor]
    record: Mapping[str, object]
    meta: Mapping[str, object]
    texts: Mapping[str, str]
    tokenizer: PreTrainedTokenizerBase
    place: Place
    optimizer: Mapping[str, Tensor] = field(default_factory=dict)

    def size(self, training: bool) -> int:
        """Bytes it takes on disk, nearly; with or without what resuming needs."""
        tensors = [*self.weights.values(), *(self.optimizer.values() if training else ())]
        texts = sum(len(text.encode()) for text in self.texts.values())
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors) + texts + TOKENIZER_BYTES


@dataclass(frozen=True, slots=True)
class Save:
    """A verified step save.

    Attributes:
        folder, place: which, and where it stands.
        optimizer: its tensors.
        began: the checkpoint that its stage began with, None for the base model.
    """

    folder: Path
    place: Place
    optimizer: dict[str, Tensor]
    began: str | None = None


def save_step(
    stage_dir: Path, snapshot: Snapshot, keep: int, console: Console, stopped: Callable[[], bool] = lambda: False
) -> Path:
    """Write `steps/step_<place.step>`, point to it, and remove all but the newest `keep` whole saves.

    At each moment the pointer names a whole save (once there is one), and what it names is never touched. A disk without room
    is waited for; if that would otherwise be needed, the save that would go next goes first, when a newer one is whole.

    Args:
        stage_dir: the stage's folder.
        snapshot: what to save.
        keep: whole saves that stay, >= 1.
        console: told about waiting and about torn saves.
        stopped: whether the run was asked to end: a save then does not wait for room.

    Returns:
        The save's folder.

    Raises:
        CadmllmError: E607 when it cannot be written; the saves before it are untouched.
    """
    steps = stage_dir / STEPS
    final = pointer.free_name(steps, snapshot.place["step"])
    aside = final.with_name(f".{final.name}")
    manifests: list[str] = []

    def write() -> None:
        _clear(aside)
        _make(steps)
        aside.mkdir()
        manifests.append(_fill(aside, snapshot, training=True))
        os.replace(aside, final)
        sync_folder(steps)

    def undo() -> None:
        _clear(aside)

    what = f"the save after step {snapshot.place['step']}"
    _unless_cut_off(
        Writing(what, steps, snapshot.size(True), undo, lambda: _spare(steps, keep, console), console, stopped), write
    )
    entry = Entry(final.name, manifests[-1])
    kept = [entry, *_whole(steps, keep - 1, console, final.name)]
    Writing(what, steps, 0, lambda: None, lambda: False, console, stopped).run(lambda: pointer.point(steps, kept))
    pointer.remove_others(steps, kept, console)
    return final


def finish_stage(stage_dir: Path, snapshot: Snapshot, console: Console, stopped: Callable[[], bool] = lambda: False) -> None:
    """Make the stage folder a complete checkpoint: model, tokenizer, `texts`, and last the manifest.

    Everything is written and hashed in a folder aside, then moved in file by file; until the manifest stands, the folder
    counts as unfinished and the step saves inside it remain what a resumed run starts from.

    Raises:
        CadmllmError: E607 when it cannot be written.
    """
    aside = stage_dir / FINAL

    def write() -> None:
        _clear(aside)
        _make(stage_dir)
        aside.mkdir()
        _fill(aside, snapshot, training=False)
        (stage_dir / MANIFEST).unlink(missing_ok=True)
        for path in sorted(aside.iterdir(), key=lambda path: path.name == MANIFEST):
            target = stage_dir / path.name
            if target.is_dir():
                shutil.rmtree(target)
            if path.name == MANIFEST:
                sync_folder(stage_dir)
            os.replace(path, target)
        sync_folder(stage_dir)

    what = f"the checkpoint of stage {snapshot.place['stage']}"
    writing = Writing(what, stage_dir, snapshot.size(False), lambda: _clear(aside), lambda: False, console, stopped)
    _unless_cut_off(writing, write)
    aside.rmdir()


def retire(stage_dir: Path, save: Path, console: Console) -> None:
    """Remove a step save that is no longer needed, as its stage is finished; the pointer goes to the one before first."""
    steps = stage_dir / STEPS
    kept = [entry for entry in pointer.candidates(steps, console) if entry.name != save.name]
    try:
        pointer.point(steps, kept)
        shutil.rmtree(save)
    except OSError as error:  # the stage is finished: nothing depends on it
        console.warn(f"the save {save} could not be removed: {error.strerror} (rm -r {save})")


def step_saves(stage_dir: Path) -> list[Path]:
    """The step saves of a stage, oldest first (renamed into place, but not yet verified)."""
    return pointer.step_folders(stage_dir / STEPS)


def newest_save(stage_dir: Path, console: Console) -> Save | None:
    """The save that the pointer names, or the newest before it that is whole; each that is not is named and passed over.

    Saves that no pointer names are whole as well if their manifest says so. They are tried last: a run was killed between
    renaming and pointing, or the pointer itself was lost.
    """
    steps = stage_dir / STEPS
    for name, manifest in pointer.candidates(steps, console):
        try:
            save = load_save(steps / name, manifest)
        except CadmllmError as error:
            console.warn(f"{error.code} {error.message}; trying the save before it")
            continue
        if manifest is None:
            console.note(f"{steps / POINTER} does not name {name}: taken as its own manifest says that it is whole")
        return save
    return None


def load_save(folder: Path, manifest: str | None = None) -> Save:
    """Read a step save.

    Args:
        folder: of the save.
        manifest: SHA-256 that its manifest should have, if it is known.

    Raises:
        CadmllmError: E503 naming the file that is missing, torn, changed or too many, or when the folder is no step save.
    """
    verify(folder, manifest=manifest, exact=True)
    training = folder / TRAINING
    if not (training / "state.json").is_file():
        raise CadmllmError(
            "E503",
            f"{folder} holds a model but no training state",
            f"start a stage from it instead of resuming: --resume_from_ckpt {folder}",
        )
    try:
        place: Place = json.loads((training / "state.json").read_text(encoding="utf-8"))
        began = json.loads((folder / RECORD).read_text(encoding="utf-8"))["meta"].get("started_from")
        optimizer = load_file(training / "optimizer.safetensors")
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise CadmllmError(
            "E503",
            f"the training state in {training} cannot be read ({error})",
            f"remove that save and resume from the one before: rm -r {folder}",
        ) from error
    return Save(folder, place, optimizer, began)


def sweep(stage_dir: Path) -> None:
    """Remove what a crash left half-written; only what bears a name that is given here."""
    _clear(stage_dir / FINAL)
    pointer.sweep(stage_dir / STEPS)


def discard(stage_dir: Path) -> None:
    """Throw a stage away (`--overwrite`); a link is only unlinked."""
    if stage_dir.is_symlink():
        stage_dir.unlink()
    else:
        _clear(stage_dir)


def _fill(folder: Path, snapshot: Snapshot, training: bool) -> str:
    """Write a snapshot into an empty folder, everything on the disk; returns the manifest's SHA-256."""
    write_model(folder, snapshot.weights, snapshot.record, snapshot.meta)
    snapshot.tokenizer.save_pretrained(folder)
    for name, text in snapshot.texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    if training:
        inner = folder / TRAINING
        inner.mkdir()
        (inner / "state.json").write_text(json.dumps(snapshot.place, indent=1) + "\n", encoding="utf-8")
        save_file(dict(snapshot.optimizer), inner / "optimizer.safetensors")
        shutil.copymode(inner / "state.json", inner / "optimizer.safetensors")
    return write_manifest(folder)


def _unless_cut_off(writing: Writing, action: Callable[[], None]) -> None:
    """A second Ctrl-C in the middle of a save leaves no half of it behind (a kill does; the next run sweeps it)."""
    try:
        writing.run(action)
    except BaseException:
        writing.undo()
        raise


def _whole(steps: Path, most: int, console: Console, new: str) -> list[Entry]:
    """The newest `most` saves beside `new`. They are read in full before any other is deleted for their sake."""
    others = [entry for entry in pointer.candidates(steps, console) if entry.name != new]
    whole: list[Entry] = []
    for name, manifest in others:
        if len(whole) == most:
            break
        try:
            if len(others) > most or manifest is None:
                verify(steps / name, manifest=manifest, exact=True)
        except CadmllmError as error:
            console.warn(f"{error.code} {error.message}; it does not count as one of the saves that are kept")
            continue
        whole.append(Entry(name, manifest or sha256(steps / name / MANIFEST)))
    return whole


def _spare(steps: Path, keep: int, console: Console) -> bool:
    """For want of room: delete now what the next save would displace, never the newest whole one."""
    whole = _whole(steps, max(1, keep - 1), console, "")
    removed = pointer.remove_others(steps, whole, console) if whole else []
    for folder in removed:
        console.note(f"the disk is full: {folder} went before its time ({steps / whole[0].name} is whole)")
    return bool(removed)


def _make(folder: Path) -> None:
    """Make a folder, and have each new name on the way to it on the disk."""
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for place in missing:
        sync_folder(place.parent)


def _clear(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
