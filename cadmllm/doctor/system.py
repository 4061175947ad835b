"""Python, the virtual environment, main memory and Windows drives. Standard library only."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

from cadmllm.doctor.check import Check, Finding, Level, Outcome, Situation
from cadmllm.places import under_wsl

OLDEST = (3, 11)
LEAST_MEMORY = 4 * 2**30  # torch, transformers and the CAD kernel's two workers take about 2.5 GiB before any model
MEMINFO = Path("/proc/meminfo")


def check_python(_: Situation, version: tuple[int, ...] = sys.version_info[:3]) -> Outcome:
    """Python is one that cadmllm is tested with."""
    text = ".".join(str(part) for part in version)
    if version[:2] < OLDEST:
        oldest = ".".join(str(part) for part in OLDEST)
        remedy = f"sudo apt-get install python{oldest} python{oldest}-venv && make setup PYTHON=python{oldest}"
        message = f"Python {text} is older than {oldest}"
        return Outcome(findings=(Finding("E801", Level.FAIL, "python", message, remedy),))
    return Outcome(f"{text} ({sys.executable})")


def check_environment(_: Situation) -> Outcome:
    """Where the packages live; installing into the system's Python breaks others and is refused by Debian."""
    conda = os.environ.get("CONDA_DEFAULT_ENV")
    system = f"{platform.system()} {platform.release()}{' (WSL)' if under_wsl() else ''}, {os.cpu_count()} cores"
    if sys.prefix != sys.base_prefix:
        return Outcome(f"virtual environment {sys.prefix}, {system}")
    if conda:
        return Outcome(f"conda environment {conda}, {system}")
    return Outcome(f"no virtual environment: {sys.prefix}, {system}")


def check_memory(_: Situation) -> Outcome:
    """There is enough main memory to start at all."""
    total, available = main_memory()
    if not total:
        return Outcome(skipped=f"{MEMINFO} does not say how much memory there is")
    text = f"{total / 2**30:.1f} GiB, {available / 2**30:.1f} GiB free"
    if total >= LEAST_MEMORY:
        return Outcome(text)
    where = (
        "raise it in %UserProfile%\\.wslconfig ([wsl2] memory=8GB), then: wsl --shutdown" if under_wsl() else "add memory or swap"
    )
    message = f"{text}; loading torch, transformers and the CAD kernel alone takes 2.5 GiB"
    return Outcome(findings=(Finding("E814", Level.WARN, "memory", message, f"{where}; or --set kernel.workers=1"),))


def main_memory(meminfo: Path = MEMINFO) -> tuple[int, int]:
    """Total and available main memory in bytes; zeros where Linux' meminfo does not exist."""
    values: dict[str, int] = {}
    try:
        for line in meminfo.read_text(encoding="ascii").splitlines():
            name, _, rest = line.partition(":")
            number = rest.split()[:1]
            if number and number[0].isdigit():
                values[name] = int(number[0]) * 1024
    except OSError:
        return 0, 0
    return values.get("MemTotal", 0), values.get("MemAvailable", 0)


def check_drives(situation: Situation) -> Outcome:
    """Data and checkpoints under WSL do not lie on a Windows drive, which is 10 to 50 times slower."""
    if not under_wsl():
        return Outcome(skipped="not WSL")
    settings = situation.needed
    slow = [
        f"{key} ({path})" for key, path in (("data.root", settings.data.root), ("run.dir", settings.run.dir)) if on_drive(path)
    ]
    if not slow:
        return Outcome("data and checkpoints are on the Linux file system")
    remedy = f"copy it once: cp -r '{settings.data.root}' ~/data, then --set data.root=~/data"
    message = f"{' and '.join(slow)}: a Windows drive seen from WSL is 10 to 50 times slower than the Linux file system"
    return Outcome(findings=(Finding("E832", Level.WARN, "drives", message, remedy),))


def on_drive(path: Path) -> bool:
    """Whether a path lies on a Windows drive as WSL mounts it (/mnt/<letter>/...)."""
    parts = Path(os.path.abspath(path)).parts
    return len(parts) > 2 and parts[1] == "mnt" and len(parts[2]) == 1


CHECKS = (
    Check("python", "Python is one that cadmllm is tested with", ("E801",), check_python, needs_settings=False),
    Check("environment", "where the packages live, the system, its cores", (), check_environment, needs_settings=False),
    Check("memory", "there is enough main memory to start at all", ("E814",), check_memory, needs_settings=False),
)
LATER = (Check("drives", "under WSL, data and checkpoints are not on a Windows drive", ("E832",), check_drives),)
