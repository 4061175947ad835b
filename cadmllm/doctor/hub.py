"""Where a model lies: a folder, or a snapshot in the Hugging Face cache, and what is half downloaded. Standard library only."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a model is looked for.

    Attributes:
        name: as the settings have it.
        folder: that holds its files; None where there is none.
        hub: it is one of the hub's, so that its files can be downloaded.
        partial: bytes of it that wait in unfinished downloads.
    """

    name: str
    folder: Path | None
    hub: bool
    partial: int = 0


def locate(name: str, environ: Mapping[str, str]) -> Place:
    """The folder that transformers would load a model from."""
    path = Path(name).expanduser()
    if path.is_dir():
        return Place(name, path, hub=False, partial=_half(path.glob(".cache/huggingface/download/**/*.incomplete")))
    if path.exists() or name.startswith((".", "/", "~")) or name.count("/") != 1:
        return Place(name, None, hub=False)
    repository = hub_cache(environ) / folder_name(name)
    return Place(name, snapshot(repository), hub=True, partial=unfinished(repository))


def folder_name(name: str) -> str:
    """`models--Qwen--Qwen3-8B`: what the cache calls a model."""
    return f"models--{name.replace('/', '--')}"


def hub_cache(environ: Mapping[str, str]) -> Path:
    """The cache of the hub (huggingface_hub, "Environment variables")."""
    given = environ.get("HF_HUB_CACHE") or environ.get("HUGGINGFACE_HUB_CACHE")
    if given:
        return Path(given).expanduser()
    home = environ.get("HF_HOME")
    if home:
        return Path(home).expanduser() / "hub"
    return default_cache(environ)


def home(environ: Mapping[str, str]) -> Path:
    """The user's folder."""
    return Path(environ.get("HOME") or Path.home())


def default_cache(environ: Mapping[str, str]) -> Path:
    """Where it is when nothing says otherwise."""
    base = environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else home(environ) / ".cache") / "huggingface" / "hub"


def snapshot(repository: Path) -> Path | None:
    """The snapshot that `main` points to, else the newest."""
    try:
        commit = (repository / "refs" / "main").read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        commit = ""
    if commit and "/" not in commit and (repository / "snapshots" / commit).is_dir():
        return repository / "snapshots" / commit
    snapshots = [path for path in repository.glob("snapshots/*") if path.is_dir()]
    return max(snapshots, key=lambda path: path.stat().st_mtime, default=None)


def unfinished(repository: Path) -> int:
    """Bytes in unfinished downloads of a model; `hf download` goes on from there."""
    return _half(repository.glob("blobs/*.incomplete"))


def _half(paths: Iterable[Path]) -> int:
    return sum(path.stat().st_size for path in paths if path.is_file())


def dangling(path: Path) -> bool:
    """Whether a name of a snapshot leads nowhere: its blob was deleted."""
    return path.is_symlink() and not path.exists()


def download(name: str, files: Iterable[str] = (), *, force: bool = False) -> str:
    """The command that downloads a model, or some files of it."""
    command = Path(sys.executable).with_name("hf")
    parts = [str(command) if command.is_file() else "hf", "download", name, *files]
    return " ".join(shlex.quote(part) for part in (*parts, *(["--force-download"] if force else [])))


def offline(environ: Mapping[str, str]) -> str:
    """The variable that forbids downloads; '' where none does."""
    return next((name for name in OFFLINE if environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE")), "")


def elsewhere(name: str, environ: Mapping[str, str], near: Iterable[Path] = ()) -> Path | None:
    """A folder with this model's configuration and weights that the settings do not name: the default cache of the hub where
    another is set, or a folder of its name nearby (`Qwen3-8B` in `.`, `models`, `checkpoints`, the home folder, `near`)."""
    short = name.rstrip("/").rpartition("/")[2]
    own = home(environ)
    caches = [default_cache(environ), own / ".cache" / "huggingface" / "hub"]
    found = [snapshot(cache / folder_name(name)) for cache in dict.fromkeys(caches) if cache != hub_cache(environ)]
    places = [Path(), Path("models"), Path("checkpoints"), own / "models", own, own / "Downloads", *near]
    found += [place / part for place in places for part in (short, name) if short not in ("", ".", "..")]
    for folder in found:
        if folder is not None and (folder / "config.json").is_file() and any(folder.glob("*.safetensors")):
            return Path(os.path.abspath(folder))
    return None
