"""The command that installs or removes packages in this environment, whoever made it. Standard library only."""

from __future__ import annotations

import functools
import shutil
import sys
from importlib.machinery import PathFinder
from shlex import quote


def pip(action: str, arguments: str) -> str:
    """A whole command for this interpreter.

    Environments of `uv venv` have no pip: uv is asked there, and where that is not at hand, Python brings its own pip.

    Args:
        action: 'install' or 'uninstall' (which asks nothing).
        arguments: options and names.
    """
    python = quote(sys.executable)
    if _maker() == "uv":
        return f"uv pip {action} --python {python} {arguments}"
    first = f"{python} -m ensurepip && " if _maker() == "none" else ""
    return f"{first}{python} -m pip {action}{' -y' if action == 'uninstall' else ''} {arguments}"


@functools.cache
def _maker() -> str:
    if PathFinder.find_spec("pip") is not None:
        return "pip"
    return "uv" if shutil.which("uv") else "none"
