"""The operating system, Python and the environment that the packages live in. Standard library only."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import sys
import sysconfig
from pathlib import Path

from cadmllm.doctor import clock, drives, limits, ram, windowspaths, wsl
from cadmllm.doctor.check import Check, Finding, Level, Outcome, Situation
from cadmllm.doctor.machine import Machine
from cadmllm.doctor.oldpython import OLDEST

# modules of the standard library that a Python compiled without their headers lacks, and what Debian calls these
PARTS = {
    "_sqlite3": "libsqlite3-dev",
    "_ctypes": "libffi-dev",
    "_ssl": "libssl-dev",
    "_bz2": "libbz2-dev",
    "_lzma": "liblzma-dev",
}
NEEDED = ("_sqlite3", "_ctypes", "_ssl")  # the index of a data set, torch and the kernel, downloads and wandb
WATCHED = ("torch", "numpy", "transformers", "peft", "bitsandbytes", "cadquery_ocp_novtk", "wandb")
_DIST = re.compile(r"(?P<name>.+?)-(?P<version>\d[^-]*)\.(?:dist-info|egg-info)")


def running() -> tuple[int, int, int]:
    """The version of the Python that runs this."""
    return sys.version_info[:3]


def check_os(situation: Situation) -> Outcome:
    """The operating system is Linux, the only one that this is made for and tested on."""
    name, machine = platform.system(), situation.machine
    arch = platform.machine()
    if name == "Windows":
        message = "this is native Windows, and CUDA training, worker processes and signals here are those of Linux"
        remedy = "in PowerShell: wsl --install -d Ubuntu-24.04, then install cadmllm inside it (README.md)"
        return Outcome(findings=(Finding("E834", Level.FAIL, "os", message, remedy),))
    if name != "Linux":
        settings = situation.settings
        wants = settings is not None and settings.device.startswith("cuda")
        message = f"{'macOS' if name == 'Darwin' else name} ({arch}) has no CUDA, and nothing was tested on it"
        remedy = "use Linux for training; a small model may work here: --preset tiny --set device=cpu"
        return Outcome(findings=(Finding("E834", Level.FAIL if wants else Level.WARN, "os", message, remedy),))
    pretty = re.search(r'^PRETTY_NAME="?([^"\n]*)', machine.text("etc/os-release"), re.MULTILINE)
    where = ", in a container" if wsl.in_container(machine) else ""
    text = f"{pretty[1] if pretty else 'Linux'}{where}, kernel {platform.release()}, {arch}, {os.cpu_count()} cores"
    return Outcome(text)


def check_python(situation: Situation) -> Outcome:
    """Python is one that cadmllm is tested with, and whole."""
    del situation
    found = running()
    text = ".".join(str(part) for part in found)
    oldest = ".".join(str(part) for part in OLDEST)
    anew = f"make setup PYTHON=python{oldest} (sudo apt-get install python{oldest} python{oldest}-venv)"
    if found[:2] < OLDEST:
        return _bad_python(f"Python {text} is older than {oldest}", anew)
    if sys.maxsize < 2**32:
        return _bad_python(f"Python {text} is a 32-bit one, for which there is no torch", anew)
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        return _bad_python(f"Python {text} is a free-threaded build, for which the CAD kernel is not made", anew)
    lacking = [name for name in PARTS if not _has(name)]
    if set(lacking) & set(NEEDED):
        headers = " ".join(PARTS[name] for name in lacking)
        remedy = f"sudo apt-get install {headers}, then compile this Python anew; or {anew}"
        return _bad_python(f"{sys.executable} was compiled without {', '.join(name.strip('_') for name in lacking)}", remedy)
    details = (f"without {', '.join(lacking)}, which nothing here needs",) if lacking else ()
    return Outcome(f"{text} ({sys.executable})", details=details)


def _bad_python(message: str, remedy: str) -> Outcome:
    return Outcome(findings=(Finding("E801", Level.FAIL, "python", message, remedy),))


def _has(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def check_environment(situation: Situation) -> Outcome:
    """Where the packages live; what mixes with them from outside is said, as it explains odd import errors."""
    machine = situation.machine
    conda = machine.environ.get("CONDA_DEFAULT_ENV")
    in_conda = (Path(sys.prefix) / "conda-meta").is_dir()
    if sys.prefix != sys.base_prefix:
        kind = f"virtual environment {sys.prefix}"
    elif in_conda:
        kind = f"conda environment {conda or Path(sys.prefix).name} ({sys.prefix})"
    else:
        kind = f"no virtual environment: {sys.prefix}"
    return Outcome(kind, details=tuple(_mixtures(machine, in_conda)))


def _mixtures(machine: Machine, in_conda: bool) -> list[str]:
    """Who installed what, and which folders outside the environment take part in imports."""
    site = Path(sysconfig.get_path("purelib"))
    lines = []
    owners, twice = installers(site)
    if in_conda:
        by_pip = sorted(name for name, owner in owners.items() if owner != "conda" and name in WATCHED)
        if by_pip:
            lines.append(f"conda environment with packages by pip: {', '.join(by_pip)} (do not update these with conda)")
    lines += [f"{name} is installed twice in {site}: {sys.executable} -m pip install --force-reinstall {name}" for name in twice]
    active = machine.environ.get("VIRTUAL_ENV")
    if active and os.path.realpath(active) != os.path.realpath(sys.prefix):
        lines.append(f"the shell has activated {active}, and this Python is that of {sys.prefix}")
    path = machine.environ.get("PYTHONPATH")
    if path:
        lines.append(f"PYTHONPATH={path} goes before the environment's own packages: unset PYTHONPATH")
    own = [entry for entry in sys.path if "/.local/lib/python" in entry]
    if own:
        lines.append(f"packages in {own[0]} mix in: export PYTHONNOUSERSITE=1")
    return lines


def installers(site: Path) -> tuple[dict[str, str], list[str]]:
    """Who installed each package of `WATCHED` ('pip', 'conda', 'uv', '' unknown), and which are there twice."""
    found: dict[str, str] = {}
    twice = []
    try:
        entries = [entry for entry in os.scandir(site) if entry.name.endswith((".dist-info", ".egg-info"))]
    except OSError:
        return {}, []
    for entry in sorted(entries, key=lambda entry: entry.name):
        match = _DIST.fullmatch(entry.name)
        name = match["name"].lower().replace("-", "_").replace(".", "_") if match else ""
        if name not in WATCHED:
            continue
        if name in found:
            twice.append(name)
        try:
            found[name] = (Path(entry.path) / "INSTALLER").read_text(encoding="utf-8").strip()
        except OSError:
            found[name] = ""
    return found, twice


CHECKS = (
    Check("os", "the operating system is Linux", ("E834",), check_os, needs_settings=False),
    Check("python", "Python is one that cadmllm is tested with, and whole", ("E801",), check_python, needs_settings=False),
    Check("environment", "where the packages live, what mixes with them", (), check_environment, needs_settings=False),
    *wsl.CHECKS,
    *ram.CHECKS,
    *clock.CHECKS,
    *limits.CHECKS,
    *windowspaths.CHECKS,
)
LATER = drives.CHECKS  # they look at the data set, which earlier checks open
