"""`environment.json`: on what a checkpoint was made, so that a number that differs elsewhere can be explained.

No host name, no user name, no path: a checkpoint may be published as it is.
"""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cadmllm import __version__
from cadmllm.places import under_wsl

if TYPE_CHECKING:
    import torch

PACKAGES = (  # those that numbers come from first
    *("torch", "transformers", "peft", "accelerate", "tokenizers", "safetensors", "numpy", "bitsandbytes", "triton"),
    *("flash-attn", "scipy", "pillow", "h5py", "trimesh", "manifold3d", "cadquery-ocp-novtk", "pydantic", "pydantic-settings"),
    *("typer", "rich", "wandb", "nvidia-ml-py", "ray"),
)
_VERSION = re.compile(r"^Version:(.+)$", re.MULTILINE)
CHECKOUT = Path(__file__).resolve().parent.parent.parent


def environment(device: torch.device) -> dict[str, Any]:
    """Versions, system and device: {'cadmllm', 'commit', 'python', 'packages', 'system', 'wsl', 'cpu', 'threads', 'device'}.

    Args:
        device: on which was trained.
    """
    import torch

    facts = host()
    facts["cpu"] |= {"threads": torch.get_num_threads()}
    return facts | {"device": device_facts(device)}


def host() -> dict[str, Any]:
    """What of `environment` can be told without torch: all but 'device' and the number of threads."""
    return {
        "cadmllm": __version__,
        "commit": commit(),
        "python": platform.python_version(),
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "distribution": _distribution(),
        "wsl": under_wsl(),
        "cpu": {"name": _cpu(), "cores": os.cpu_count()},
    }


@functools.cache
def commit(checkout: Path = CHECKOUT) -> str | None:
    """The git commit of a checkout, with '+' behind it when files were changed since; None for an installed package."""
    if not (checkout / ".git").exists() or not (checkout / "pyproject.toml").is_file():
        return None
    git = ["git", "-C", str(checkout), "--no-optional-locks"]
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=True)
        changed = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):  # no git, somebody else's checkout, a hanging network drive
        return None
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "")


def _version(package: str) -> str | None:
    """Of its metadata the one line: to parse all of it, as importlib.metadata.version does, takes ten times as long."""
    try:
        found = importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
        return None
    match = _VERSION.search(found.read_text("METADATA") or found.read_text("PKG-INFO") or "")
    return match[1].strip() if match else None


def _distribution() -> str | None:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME")
    except OSError:
        return None


def _cpu() -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor() or None
    names = [line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "Hardware"))]
    return names[0] if names else platform.machine()


def device_facts(device: torch.device) -> dict[str, Any]:
    """The device on which is trained: {'type'}, and of a GPU its name, driver, compute capability, memory and CUDA."""
    import torch

    if device.type != "cuda":
        return {"type": device.type}
    facts = torch.cuda.get_device_properties(device)
    return {
        "type": "cuda",
        "name": facts.name,
        "compute_capability": f"{facts.major}.{facts.minor}",
        "memory_gib": round(facts.total_memory / 2**30, 2),
        "driver": _driver(),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "devices": torch.cuda.device_count(),
    }


@functools.cache
def _driver() -> str | None:
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    try:
        version = pynvml.nvmlSystemGetDriverVersion()
        return version if isinstance(version, str) else version.decode()
    except pynvml.NVMLError:
        return None
    finally:
        pynvml.nvmlShutdown()


def as_line(facts: dict[str, Any]) -> str:
    """For people: 'cadmllm 0.4, Python 3.11.7, torch 2.13.0, NVIDIA H100 (driver 560.35)'."""
    device, packages = facts["device"], facts["packages"]
    on = facts["cpu"]["name"] or "CPU"
    if device["type"] == "cuda":
        on = f"{device['name']} (driver {device['driver'] or 'unknown'})"
    versions = ", ".join(f"{name} {packages[name]}" for name in ("torch", "transformers", "peft") if name in packages)
    return f"cadmllm {facts['cadmllm']}, Python {facts['python']}, {versions}; {on}{', WSL' if facts['wsl'] else ''}"
