"""`doctor --fix`: what may be done at once, as all of it is local and can be taken back."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cadmllm.doctor.check import Fix
from cadmllm.errors import CadmllmError
from cadmllm.tomlfile import set_values

HINTS = Path("cadmllm.env")  # beside cadmllm.toml; a shell reads it with: source cadmllm.env


@dataclass(frozen=True, slots=True)
class Done:
    """What was done, and the command that takes it back."""

    what: str
    undo: str


def describe(fix: Fix, config: Path) -> str:
    """What a fix would do, one line."""
    what = {
        "folder": f"make the folder {fix.name}",
        "setting": f"write {fix.name} = {fix.value} into {config}",
        "environment": f"write export {fix.name}={fix.value} into {HINTS}",
    }[fix.kind]
    return f"{what} ({fix.why})" if fix.why else what


def apply(fixes: Sequence[Fix], config: Path) -> list[Done]:
    """Do it.

    Args:
        fixes: what.
        config: the settings file; made where there is none, a copy of the old one stays beside it as FILE.bak.

    Raises:
        CadmllmError: E822 for what cannot be written, E104 where the settings file is not TOML; nothing of that file is changed.
    """
    done = []
    try:
        for fix in fixes:
            if fix.kind == "folder":
                done += _folder(Path(fix.name))
        settings: dict[str, object] = {fix.name: fix.value for fix in fixes if fix.kind == "setting"}
        if settings:
            existed = config.is_file()
            for line in set_values(config, settings):
                done.append(Done(line, f"cp {config}.bak {config}" if existed else f"rm {config}"))
        done += [_hint(fix) for fix in fixes if fix.kind == "environment"]
    except OSError as error:
        name = error.filename or config
        raise CadmllmError("E822", f"{name}: {error.strerror or error}", f"ls -ld {shlex.quote(str(name))}") from error
    return done


def _folder(path: Path) -> list[Done]:
    made = []
    for folder in [*reversed(path.parents), path]:
        if not folder.exists():
            folder.mkdir()
            made.append(folder)
    return [Done(f"made {path}", "rmdir " + " ".join(shlex.quote(str(folder)) for folder in reversed(made)))] if made else []


def _hint(fix: Fix) -> Done:
    """One `export` line a variable: an older line of the same variable goes."""
    line = f"export {fix.name}={shlex.quote(str(fix.value))}"
    old = HINTS.read_text(encoding="utf-8").splitlines() if HINTS.is_file() else []
    kept = [text for text in old if not text.startswith(f"export {fix.name}=")]
    aside = HINTS.with_suffix(".env.tmp")
    aside.write_text("\n".join([*kept, line]) + "\n", encoding="utf-8")
    os.replace(aside, HINTS)
    return Done(f"wrote {line} into {HINTS}: source {HINTS}", f"unset {fix.name}; rm {HINTS}" if not kept else f"edit {HINTS}")
