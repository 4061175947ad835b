"""Every required package is there, in its range, and imports. Standard library only: the packages may be what is broken."""

from __future__ import annotations

import importlib.metadata
import re
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from cadmllm.doctor.check import Check, Finding, Level, Outcome, Situation
from cadmllm.doctor.probe import run_probe

CHECKOUT = Path(__file__).resolve().parents[2]
# distribution -> what is imported to try it; two chains run side by side
CHAINS: tuple[dict[str, str], ...] = (
    {
        "torch": "torch",
        "tokenizers": "tokenizers",
        "transformers": "transformers.models.qwen3.modeling_qwen3",
        "accelerate": "accelerate",
        "peft": "peft",
    },
    {
        "numpy": "numpy",
        "scipy": "scipy.spatial",
        "pillow": "PIL.Image",
        "h5py": "h5py",
        "safetensors": "safetensors",
        "trimesh": "trimesh",
        "manifold3d": "manifold3d",
        "cadquery-ocp-novtk": "OCP.BRepPrimAPI",
        "typer": "typer",
        "rich": "rich",
        "pydantic": "pydantic",
        "pydantic-settings": "pydantic_settings",
        "nvidia-ml-py": "pynvml",
        "wandb": "wandb",
    },
)
# a package that fails beside one that it needs is not a finding of its own: the one cause is said once
NEEDS = {
    "torch": ("numpy",),  # imports without it, but not with a broken one
    "wandb": ("numpy", "pydantic"),
    "transformers": ("torch", "tokenizers"),
    "accelerate": ("torch",),
    "peft": ("torch", "transformers"),
    "bitsandbytes": ("torch",),
    "scipy": ("numpy",),
    "h5py": ("numpy",),
    "trimesh": ("numpy",),
    "manifold3d": ("numpy",),
    "pydantic-settings": ("pydantic",),
}
QLORA = ">=0.49"  # of bitsandbytes, which only NF4 and the 8-bit optimizers need (the extra `qlora`)
LIMIT = 150.0  # seconds for one chain: a cold disk under WSL takes a minute
_LIBRARY = re.compile(r"(lib[\w+.-]+\.so[\w.]*): cannot open shared object file")
_APT = {
    "libGL.so.1": "libgl1",
    "libEGL.so.1": "libegl1",
    "libX11.so.6": "libx11-6",
    "libgomp.so.1": "libgomp1",
    "libstdc++.so.6": "libstdc++6",
    "libexpat.so.1": "libexpat1",
}

_SCRIPT = """
import importlib
for pair in sys.argv[1:]:
    name, module = pair.split("=")
    say(begin=name)
    try:
        importlib.import_module(module)
    except BaseException as error:
        say(error=name, type=type(error).__name__, text=str(error)[:400])
    else:
        say(done=name)
"""


@dataclass(frozen=True, slots=True)
class Trial:
    """A package that cannot be imported, and why."""

    name: str
    reason: str


def check_packages(situation: Situation) -> Outcome:
    """Every required package is installed in its range and can be imported."""
    ranges = required_ranges()
    heavy, light = ({**chain} for chain in CHAINS)
    chosen = situation.settings
    if chosen is not None and (chosen.model.quantization == "nf4" or chosen.train.optimizer != "adamw"):
        ranges["bitsandbytes"], heavy["bitsandbytes"] = QLORA, "bitsandbytes"
    findings, missing = _versions(ranges)
    with ThreadPoolExecutor(2) as pool:
        tried = list(pool.map(lambda chain: try_chain({n: m for n, m in chain.items() if n not in missing}), (heavy, light)))
    trials = [trial for found in tried for trial in found]
    broken = missing | {trial.name for trial in trials}
    modules = {name: module.partition(".")[0] for name, module in {**heavy, **light}.items()}
    situation.broken = {modules[name] for name in broken & modules.keys()}
    findings += [_broken(trial, ranges) for trial in trials if not broken & set(NEEDS.get(trial.name, ()))]
    return Outcome(f"{len(modules)} required packages import", tuple(findings))


def try_chain(chain: dict[str, str]) -> list[Trial]:
    """Imports a chain of packages in one process; a crash or a hang is blamed on the package that was begun last,
    and the rest goes on in another process.
    """
    failures: list[Trial] = []
    left = dict(chain)
    while left:
        probe = run_probe(_SCRIPT, *(f"{name}={module}" for name, module in left.items()), seconds=LIMIT)
        begun = ""
        for line in probe.lines:
            begun = line.get("begin", begun)
            if "error" in line:
                failures.append(Trial(line["error"], f"{line['type']}: {line['text']}"))
            if "error" in line or "done" in line:
                left.pop(begun, None)
        if probe.end and left:
            blamed = begun if begun in left else next(iter(left))
            failures.append(Trial(blamed, f"the import ended with {probe.end} {probe.stderr}".rstrip()))
            left.pop(blamed)
        elif left:
            break
    return failures


def required_ranges() -> dict[str, str]:
    """Version ranges by distribution, from pyproject.toml in a checkout, else from the installed metadata."""
    project = CHECKOUT / "pyproject.toml"
    if project.is_file():
        lines = tomllib.loads(project.read_text(encoding="utf-8"))["project"]["dependencies"]
    else:
        lines = [line for line in importlib.metadata.requires("cadmllm") or [] if "extra ==" not in line]
    found = {}
    for line in lines:
        match = re.match(r"([A-Za-z0-9._-]+)(?:\[[^\]]*\])?\s*([^;]*)", line)
        if match:
            found[match.group(1).lower()] = match.group(2).strip()
    return found


def in_range(version: str, wanted: str) -> bool:
    """Whether a version ('2.13.0+cpu') satisfies a range ('>=2.8,<3'); numeric parts are compared, suffixes ignored."""

    def numbers(text: str) -> tuple[int, ...]:
        parts = re.match(r"\d+(?:\.\d+)*", text.strip())
        values = [int(part) for part in parts.group().split(".")] if parts else [0]
        while len(values) > 1 and values[-1] == 0:
            values.pop()
        return tuple(values)

    have = numbers(version)
    tests = {
        ">=": lambda bound: have >= bound,
        "<=": lambda bound: have <= bound,
        "==": lambda bound: have == bound,
        "!=": lambda bound: have != bound,
        ">": lambda bound: have > bound,
        "<": lambda bound: have < bound,
    }
    for clause in filter(None, (part.strip() for part in wanted.split(","))):
        operator = re.match(r">=|<=|==|!=|>|<", clause)
        if operator and not tests[operator.group()](numbers(clause[operator.end() :])):
            return False
    return True


def _versions(ranges: dict[str, str]) -> tuple[list[Finding], set[str]]:
    """Findings about versions, and the packages that are not installed at all."""
    findings, missing = [], set()
    for name, wanted in ranges.items():
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            missing.add(name)
            findings.append(Finding("E802", Level.FAIL, "packages", f"{name} is not installed", pip_command(name, wanted)))
            continue
        if not in_range(version, wanted):
            message = f"{name} {version} is outside {wanted}"
            findings.append(Finding("E803", Level.FAIL, "packages", message, pip_command(name, wanted)))
    return findings, missing


def pip_command(name: str, wanted: str, *, reinstall: bool = False) -> str:
    """The command that installs a package in the version that the tests run with (or, outside a checkout, in its range)."""
    force = "--force-reinstall --no-deps " if reinstall else ""
    constraints = CHECKOUT / "constraints.txt"
    what = f"-c {constraints} {name}" if constraints.is_file() else f"'{name}{wanted}'"
    return f"{sys.executable} -m pip install {force}{what}"


def _broken(trial: Trial, ranges: dict[str, str]) -> Finding:
    library = _LIBRARY.search(trial.reason)
    if library and (library.group(1) in _APT or trial.name == "cadquery-ocp-novtk"):
        file = library.group(1)
        package = _APT.get(file)
        apt = "sudo apt-get install --no-install-recommends"
        remedy = f"{apt} {package}" if package else f"install the package that holds {file}: apt-file search {file}"
        return Finding("E804", Level.FAIL, "packages", f"{trial.name} needs the system library {file}", remedy)
    remedy = pip_command(trial.name, ranges.get(trial.name, ""), reinstall=True)
    return Finding("E802", Level.FAIL, "packages", f"{trial.name} cannot be imported: {trial.reason}", remedy)


CHECKS = (
    Check(
        "packages",
        "every required package is installed in its range and imports",
        ("E802", "E803", "E804"),
        check_packages,
        needs_settings=False,
        group="packages",
    ),
)
