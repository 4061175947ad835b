"""Takes out of a text what nobody should paste into an issue: tokens, names of people and machines. Standard library only."""

from __future__ import annotations

import getpass
import re
import socket
from pathlib import Path

from cadmllm.doctor.machine import Machine

SECRET = "<secret>"
# of services that training people use; each has its own look
_TOKENS = re.compile(
    r"\b(hf_[A-Za-z0-9]{16,}|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}|sk-[\w-]{16,}|wandb_v\d_\w{16,}"
    r"|AKIA[A-Z0-9]{16}|xox[abprs]-[\w-]{10,}|AIza[\w-]{30,})"
)
_KEY = re.compile(r"\b[0-9a-fA-F]{40}\b")  # wandb's older keys; a git commit looks the same, and is no loss
_IN_ADDRESS = re.compile(r"(?<=://)[^/\s@]+@")  # user:password@host
_NAMED = re.compile(r"(?i)\b((?:[a-z_]*)(?:token|api_?key|secret|password|passwd)[a-z_]*\s*[=:]\s*)\S+")
_ENVIRONMENT = re.compile(r"(?i)(token|key|secret|password|passwd|credential)")
_HOME = r"(?:/mnt/[a-z])?/(?:home|Users)/|[A-Za-z]:[\\/]Users[\\/]"
_HOMES = re.compile(
    rf"({_HOME})([^/\\'\"`|)\n]+(?=[/\\])|[^/\\\s'\"`|)]+)"
)  # a name may have blanks: rather too much than too little
_SHORT = 3  # letters: a name as short as that stands in too many words


def redacted(text: str, machine: Machine, home: Path | None = None) -> str:
    """The text without tokens, home folders, user and host names.

    Args:
        text: any.
        machine: whose environment variables that are named like secrets are taken out wherever they stand.
        home: the home folder, written as `~`; None: of this user.
    """
    values = [value for name, value in machine.environ.items() if _ENVIRONMENT.search(name) and len(value) >= 8]
    for value in sorted(values, key=len, reverse=True):
        if not Path(value).is_absolute():  # SSH_AUTH_SOCK and the like name files
            text = text.replace(value, SECRET)
    text = _TOKENS.sub(SECRET, text)
    text = _KEY.sub(SECRET, text)
    text = _IN_ADDRESS.sub(f"{SECRET}@", text)
    text = _NAMED.sub(rf"\1{SECRET}", text)
    text = text.replace(str(home or Path.home()), "~")
    text = _HOMES.sub(r"\1<user>", text)
    for name, mask in ((_user(), "<user>"), (socket.gethostname(), "<host>")):
        if len(name) > _SHORT and name not in ("root", "user", "localhost"):
            text = re.sub(rf"(?<![\w-]){re.escape(name)}(?![\w-])", mask, text)
    return text


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user without a name
        return ""
