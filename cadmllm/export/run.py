"""An export from beginning to end: written aside, compared with its checkpoint, hashed, and only then put in its place."""

from __future__ import annotations

import errno
import fcntl
import importlib.util
import json
import os
import shutil
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cadmllm.errors import CadmllmError, Exit
from cadmllm.models.record import EXPORT_RECORD
from cadmllm.models.stages import MANIFEST, sync_folder, verify, write_durably, write_manifest

if TYPE_CHECKING:
    from cadmllm.console import Console
    from cadmllm.export.source import Source
    from cadmllm.settings import Settings

LOCK = ".lock"
NAMES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
OF_SETTINGS = {name: short for short, name in NAMES.items()}


def export(settings: Settings, console: Console) -> dict[str, Any]:
    """Write the export that `settings.export` asks for.

    Returns:
        {'out', 'kind', 'dtype', 'files': [{'name', 'bytes'}], 'bytes', 'seconds', 'checked', 'notes'}.

    Raises:
        CadmllmError: E503, E504 (checkpoint), E724 (base), E723 (what cannot be had), E806 (gguf is not installed), E409 (the
            folder holds something), E821 (disk), E721 (it answers differently); nothing is left behind then.
    """
    from cadmllm.export.source import open_source

    asked, begun = settings.export, time.perf_counter()
    _check_packages(asked.to)
    folder = _checkpoint(settings)
    dtype = _dtype(asked.to, asked.dtype, _computed(folder, settings))
    _check_place(asked.out, folder)
    console.note(f"checkpoint: {folder}")
    verify(folder)
    notes: list[str] = []
    source = open_source(folder, settings, notes)
    _check_kind(source, asked.to)
    if asked.to == "gguf" and source.stage > 1:
        notes.append("GGUF has no place for encoders and projectors: this file answers from text alone (--to merged keeps them)")
    for note in notes:
        console.note(f"note: {note}")
    _check_disk(source, asked.to, dtype, asked.out)
    with _aside(asked.out) as aside:
        console.note(f"writing {asked.to} in {dtype}")
        _write(source, aside, settings, dtype, notes)
        checked = _finish(source, aside, settings, dtype, notes, console)
    return _report(asked.out, asked.to, dtype, checked, notes, time.perf_counter() - begun)


def verify_folder(folder: Path) -> dict[str, Any]:
    """Compare every byte of an export with its manifest.

    Returns:
        {'out', 'kind', 'dtype', 'files': [{'name', 'bytes'}], 'bytes'}.

    Raises:
        CadmllmError: E722 naming the file that is missing, cut short, changed, too many, or that a loader would run.
    """
    from cadmllm.models.exported import check_whole

    record = check_whole(folder)
    files = _files(folder)
    return {
        "out": str(folder),
        "kind": record["kind"],
        "dtype": record["dtype"],
        "files": files,
        "bytes": sum(file["bytes"] for file in files),
    }


def _checkpoint(settings: Settings) -> Path:
    from cadmllm.infer.checkpoint import find_checkpoint
    from cadmllm.models.exported import is_export

    folder = find_checkpoint(settings)
    if folder is None:
        raise CadmllmError(
            "E503",
            f"there is no finished stage in {settings.run.dir}",
            "train one: cadmllm train stage1; or name a checkpoint: cadmllm export --checkpoint FOLDER",
        )
    if is_export(folder):
        raise CadmllmError(
            "E723", f"{folder} is an export already", "export from the checkpoint it was made of: --checkpoint FOLDER"
        )
    return folder


def _computed(folder: Path, settings: Settings) -> str:
    """The type that the run computed in, by the `settings.json` of its checkpoint; else that of the settings."""
    try:
        found = json.loads((folder / "settings.json").read_text(encoding="utf-8"))["dtype"]
    except (OSError, ValueError, KeyError, TypeError):
        return settings.dtype  # a checkpoint that was written by hand may have no such file
    return found if found in OF_SETTINGS else settings.dtype


def _dtype(kind: str, asked: str, computed: str) -> str:
    """What the weights are written in: 'fp32', 'bf16', 'fp16' or 'q8_0'."""
    if asked == "auto":
        return OF_SETTINGS[computed]
    if asked == "q4_k_m":
        raise CadmllmError(
            "E723",
            "--dtype q4_k_m: the gguf package can read 4-bit K-quants, not write them",
            "cadmllm export --to gguf --dtype bf16 --out DIR, then with llama.cpp:"
            " llama-quantize DIR/model-bf16.gguf DIR-q4_k_m.gguf Q4_K_M",
        )
    if asked == "q8_0" and kind != "gguf":
        raise CadmllmError(
            "E723",
            f"--dtype q8_0 with --to {kind}: only GGUF files hold 8-bit blocks",
            f"cadmllm export --to {kind} --dtype bf16",
        )
    return asked


def _check_packages(kind: str) -> None:
    if kind == "gguf" and importlib.util.find_spec("gguf") is None:
        raise CadmllmError(
            "E806",
            "--to gguf needs the package gguf, which is not installed",
            f"{sys.executable} -m pip install 'gguf>=0.17' (in a checkout with `-c constraints.txt`); --to merged needs no more",
        )


def _check_kind(source: Source, kind: str) -> None:
    if kind == "adapter" and not source.lora:
        raise CadmllmError(
            "E723",
            f"{source.folder} trained the whole language model (lora.enabled=false): there is no adapter in it",
            f"cadmllm export --checkpoint {source.folder} --to merged --out DIR",
        )


def _check_place(out: Path, checkpoint: Path) -> None:
    from cadmllm.infer.answer import check_out

    if out.resolve() == checkpoint.resolve() or checkpoint.resolve() in out.resolve().parents:
        raise CadmllmError(
            "E105", f"--out {out} lies in the checkpoint's own folder", "name a folder elsewhere: --out DIR", exit_code=Exit.USAGE
        )
    if out.is_dir():
        held = sorted(path.name for path in out.iterdir())
        if held:
            raise CadmllmError("E409", f"{out} holds {held[0]!r}: an export needs a new or empty folder", "--out NEW_FOLDER")
    elif out.exists() or out.is_symlink():
        raise CadmllmError("E409", f"{out} is a file", "--out NEW_FOLDER")
    check_out(out)


def _check_disk(source: Source, kind: str, dtype: str, out: Path) -> None:
    from cadmllm.export.merge import needed_bytes

    standing = out.absolute()
    while not standing.exists():
        standing = standing.parent
    needed, free = needed_bytes(source, kind, dtype), shutil.disk_usage(standing).free
    if needed > free:
        raise CadmllmError(
            "E821",
            f"the export takes {needed / 1e9:.1f} GB, and {standing} has {free / 1e9:.1f} GB free",
            "name a folder on a larger disk: --out DIR; --to adapter is the smallest",
        )


def _write(source: Source, aside: Path, settings: Settings, dtype: str, notes: list[str]) -> None:
    import torch

    from cadmllm.export.adapter import write_adapter
    from cadmllm.export.merge import merged_tensors, write_merged
    from cadmllm.export.papers import write_papers
    from cadmllm.export.parts import write_parts

    kind = settings.export.to
    exact = getattr(torch, NAMES[dtype]) if dtype in NAMES else torch.bfloat16
    write_papers(source, aside, kind, dtype)
    if kind == "gguf":
        from cadmllm.export.gguf_file import write_gguf

        write_gguf(source, merged_tensors(source, torch.float32), aside, aside / f"model-{dtype}.gguf", dtype)
        return
    write_parts(source, aside, exact)
    if kind == "merged":
        write_merged(source, aside, exact, int(settings.export.shard_gb * 1e9))
    else:
        write_adapter(source, aside, exact)


def _finish(source: Source, aside: Path, settings: Settings, dtype: str, notes: list[str], console: Console) -> dict[str, Any]:
    """The comparison, and the papers that say what came of it."""
    from cadmllm.export.card import write_card
    from cadmllm.export.papers import record_of
    from cadmllm.export.verify import verify_export

    kind = settings.export.to
    checked = verify_export(source, aside, kind, dtype, console)
    write_card(source, aside, kind, dtype, checked)
    record = record_of(source, kind, dtype, checked, notes)
    write_durably(aside / EXPORT_RECORD, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    write_manifest(aside)
    return checked


@contextmanager
def _aside(out: Path) -> Generator[Path]:
    """A folder beside `out` that becomes `out` at the end, or is gone with all that is in it."""
    aside = out.parent / f".{out.name}.partial"
    out.parent.mkdir(parents=True, exist_ok=True)
    aside.mkdir(exist_ok=True)
    with (aside / LOCK).open("w") as lock:
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # freed by the system when a process is killed
        except OSError as error:
            raise CadmllmError(
                "E409", f"another export is writing {out}", "wait for it, or name another folder: --out DIR"
            ) from error
        try:
            _emptied(aside)
            yield aside
            (aside / LOCK).unlink()
            if out.is_dir():
                out.rmdir()
            os.rename(aside, out)
            sync_folder(out.parent)
        except OSError as error:
            shutil.rmtree(aside, ignore_errors=True)
            raise _unwritten(out, error) from error
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise


def _unwritten(out: Path, error: OSError) -> Exception:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return CadmllmError(
            "E821", f"{out}: the disk was full before the export was whole", "name a folder on a larger disk: --out DIR"
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTEMPTY):
        return CadmllmError("E303", f"cannot write {out}: {error.strerror}", "name a folder that you may write to: --out DIR")
    return error


def _emptied(aside: Path) -> None:
    """What a killed export left is removed."""
    for path in aside.iterdir():
        if path.name != LOCK:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _files(folder: Path) -> list[dict[str, Any]]:
    listed = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
    return [{"name": name, "bytes": int(entry["bytes"])} for name, entry in sorted(listed.items())]


def _report(out: Path, kind: str, dtype: str, checked: dict[str, Any], notes: list[str], seconds: float) -> dict[str, Any]:
    files = _files(out)
    total = sum(file["bytes"] for file in files)
    found = {"out": str(out), "kind": kind, "dtype": dtype, "files": files, "bytes": total}
    return {**found, "seconds": seconds, "checked": checked, "notes": notes}
