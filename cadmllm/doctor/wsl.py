"""WSL: which version, what `.wslconfig` gives it, which drives of Windows it has. Standard library only."""

from __future__ import annotations

import configparser
import re
from dataclasses import dataclass
from pathlib import Path

from cadmllm.doctor.check import Check, Finding, Level, Outcome, Situation
from cadmllm.doctor.machine import Machine

LEAST_LIMIT = 2**26  # bytes; WSL takes a smaller `memory=` for a slip ("8" are 8 bytes) and ignores it
NOT_PEOPLE = {"all users", "default", "default user", "public", "wsiaccount"}
_UNITS = {"": 1, "b": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}
_SIZE = re.compile(r"\s*(\d+)\s*([kmgt]?)(?:i?b)?\s*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Config:
    """A `.wslconfig`: what it says about memory.

    Attributes:
        path: as Linux sees it.
        memory, swap: bytes; None where it says nothing, or nothing that can be read.
        odd: lines that are not what WSL understands, in words.
    """

    path: Path
    memory: int | None = None
    swap: int | None = None
    odd: tuple[str, ...] = ()

    @property
    def windows_path(self) -> str:
        r"""`C:\Users\me\.wslconfig`, for messages."""
        return rf"C:\Users\{self.path.parent.name}\.wslconfig"


def version(machine: Machine) -> int:
    """1 or 2; 0 where this is not WSL.

    WSL 1 imitates a kernel ('4.4.0-19041-Microsoft'); that of WSL 2 is a real one ('5.15.153.1-microsoft-standard-WSL2'), which
    people replace by their own: then the hook that starts Windows programs tells.
    """
    said = f"{machine.text('proc/version')} {machine.text('proc/sys/kernel/osrelease')}".lower()
    if "microsoft" in said:
        return 2 if "wsl2" in said or "microsoft-standard" in said else 1
    return 2 if machine.path("proc/sys/fs/binfmt_misc/WSLInterop").exists() else 0


def in_container(machine: Machine) -> bool:
    """Whether this is a Docker, Podman or Kubernetes container."""
    return any(machine.path(name).exists() for name in (".dockerenv", "run/.containerenv")) or bool(
        machine.environ.get("KUBERNETES_SERVICE_HOST")
    )


def mount_root(machine: Machine) -> str:
    """Where drives of Windows are mounted: '/mnt', or what /etc/wsl.conf says ([automount] root)."""
    parsed, _ = _ini(machine.text("etc/wsl.conf"))
    return parsed.get("automount", {}).get("root", "/mnt").rstrip("/") or "/"


def read_config(machine: Machine) -> Config | None:
    """The `.wslconfig` of the Windows user, the newest where there are several; None where there is none."""
    users = machine.path(f"{mount_root(machine)}/c/Users")
    found = []
    try:
        for folder in users.iterdir():
            file = folder / ".wslconfig"
            if folder.name.lower() not in NOT_PEOPLE and file.is_file():
                found.append((file.stat().st_mtime, file))
    except OSError:  # no drive C:, or somebody else's folder
        pass
    if not found:
        return None
    path = max(found)[1]
    try:
        return parse_config(path, path.read_bytes())
    except OSError as error:
        return Config(path, odd=(f"{path} cannot be read: {error.strerror}",))


def parse_config(path: Path, content: bytes) -> Config:
    """What a `.wslconfig` says: sections and `key=value` lines, in the encoding that Notepad chose."""
    text = content.decode("utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig", "replace")
    parsed, odd = _ini(text)
    wanted = parsed.get("wsl2", {})
    sizes: dict[str, int | None] = {}
    for name in ("memory", "swap"):
        sizes[name] = size_of(wanted[name]) if name in wanted else None
        if name in wanted and (sizes[name] is None or name == "memory" and (sizes[name] or 0) < LEAST_LIMIT):
            odd.append(f"{name}={wanted[name]} is no size that WSL understands (write {name}=16GB), so it takes its default")
            sizes[name] = None
        stray = [section for section, values in parsed.items() if section != "wsl2" and name in values]
        if stray:
            odd.append(f"{name}= stands in [{stray[0]}], and WSL reads it in [wsl2] only")
    return Config(path, sizes["memory"], sizes["swap"], tuple(odd))


def size_of(text: str) -> int | None:
    """Bytes of '8GB', '512MB' or '8589934592'; None for anything else."""
    match = _SIZE.fullmatch(text.strip().strip('"'))
    return int(match[1]) * _UNITS[match[2].lower()] if match else None


def _ini(text: str) -> tuple[dict[str, dict[str, str]], list[str]]:
    """Sections in small letters with their keys in small letters, and what cannot be parsed."""
    parser = configparser.ConfigParser(
        strict=False, interpolation=None, allow_no_value=True, inline_comment_prefixes=("#",), default_section="\0"
    )
    odd = []
    try:
        parser.read_string(text)
    except configparser.Error as error:  # what came before the bad line is kept
        odd.append(" ".join(str(error).split()))
    return {name.lower(): {key: value or "" for key, value in parser[name].items()} for name in parser.sections()}, odd


def check_wsl(situation: Situation) -> Outcome:
    """WSL is version 2, as version 1 has no GPU; how much memory it was given is said."""
    machine, settings = situation.machine, situation.settings
    number = version(machine)
    if not number:
        return Outcome(skipped="not WSL")
    release = machine.text("proc/sys/kernel/osrelease").strip() or "unknown"
    name = machine.environ.get("WSL_DISTRO_NAME", "")
    if number == 1:
        message = f"this is WSL 1 (kernel {release}), which has no GPU and is slow with many small files"
        remedy = f"in PowerShell: wsl --set-version {name or 'Ubuntu'} 2" + ("" if name else " (its name: wsl --list --verbose)")
        needs_gpu = settings is not None and settings.device.startswith("cuda")
        level = Level.FAIL if needs_gpu else Level.WARN
        return Outcome(findings=(Finding("E833", level, "wsl", message, remedy),))
    config = read_config(machine)
    if config is None:
        said = "no .wslconfig found: WSL takes half of the machine's memory, and a quarter of that as swap"
        return Outcome(f"WSL 2 ({name or 'unnamed'}, kernel {release})", details=(said,))
    gib = {key: f"{size / 2**30:.3g} GB" for key, size in (("memory", config.memory), ("swap", config.swap)) if size is not None}
    said = ", ".join(f"{key}={size}" for key, size in gib.items()) or "nothing about memory"
    details = (f"{config.windows_path}: {said}", *(f"{config.windows_path}: {line}" for line in config.odd))
    return Outcome(f"WSL 2 ({name or 'unnamed'}, kernel {release})", details=details)


CHECKS = (Check("wsl", "WSL, where this is WSL, is version 2", ("E833",), check_wsl, needs_settings=False),)
