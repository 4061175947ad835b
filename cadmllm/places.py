"""Where the folders that ship with cadmllm lie, and what a Windows path is called inside WSL."""

from __future__ import annotations

import re
from pathlib import Path

from cadmllm.errors import CadmllmError, Exit

BUNDLED = "bundled"  # `data.root = "bundled"` names the data set that ships with cadmllm
_PACKAGE = Path(__file__).resolve().parent
_DRIVE = re.compile(r"^([A-Za-z]):(?:[\\/]+(.*))?$", re.DOTALL)
_WSL_SHARE = re.compile(r"^[\\/]{2}wsl(?:\$|\.localhost)[\\/]+[^\\/]+[\\/]*(.*)$", re.DOTALL | re.IGNORECASE)


def bundled(name: str) -> Path:
    """The folder or file `name` ('presets', 'data', 'checkpoints/tiny-base') that ships with cadmllm.

    A checkout has it at its top level; a wheel carries it inside the package as `_bundled/<name>`.

    Raises:
        CadmllmError: E503 when neither is there.
    """
    for base in (_PACKAGE.parent, _PACKAGE / "_bundled"):
        if (base / name).exists() and (base == _PACKAGE / "_bundled" or (base / "pyproject.toml").is_file()):
            return base / name
    raise CadmllmError(
        "E503",
        f"the bundled {name} is neither in {_PACKAGE.parent} nor in {_PACKAGE / '_bundled'}",
        "reinstall: pip install --force-reinstall --no-deps cadmllm (or, in a checkout: git checkout -- " + name + ")",
    )


def under_wsl(version_file: Path = Path("/proc/version")) -> bool:
    """Whether this Linux runs inside WSL, told from the kernel's version line."""
    try:
        return "microsoft" in version_file.read_text(encoding="utf-8", errors="replace").lower()
    except OSError:
        return False


def is_windows_path(text: str) -> bool:
    r"""Whether `text` is a path as Windows writes it: `W:\data`, `C:/data` or `\\wsl$\Ubuntu\home`."""
    text = _bare(text)
    return bool(_DRIVE.match(text) or _WSL_SHARE.match(text))


def _bare(text: str) -> str:
    """Without the quotes that Explorer's "Copy as path" brings along, or that a closing backslash has kept."""
    inner = text.strip().strip("\"'").strip()
    return inner if _DRIVE.match(inner) or _WSL_SHARE.match(inner) else text


def local_path(text: str, *, wsl: bool | None = None) -> Path:
    r"""The path as this system knows it: under WSL `W:\data\x y` is `/mnt/w/data/x y`; other paths are left alone.

    Args:
        text: as the user wrote it.
        wsl: whether this is WSL; None asks the kernel.

    Raises:
        CadmllmError: E831 for a Windows path on a Linux that is not WSL.
    """
    if not is_windows_path(text):
        return Path(text)
    if not (under_wsl() if wsl is None else wsl):
        raise CadmllmError(
            "E831",
            f"{text} is a Windows path, and this system is not WSL, so no drive of Windows is mounted",
            "give the path as this system knows it, for example ./data/Omni-CAD",
            exit_code=Exit.USAGE,
        )
    text = _bare(text)
    share = _WSL_SHARE.match(text)
    if share:
        return Path("/") / share.group(1).replace("\\", "/")
    drive = _DRIVE.match(text)
    assert drive is not None
    return Path("/mnt") / drive.group(1).lower() / (drive.group(2) or "").replace("\\", "/")
