"""Which packages a run needs, in which versions, and the command that installs one. Standard library only."""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from cadmllm.doctor.check import Situation
from cadmllm.doctor.installed import Inventory
from cadmllm.doctor.pip import pip
from cadmllm.doctor.requirement import Requirement, normal, parse_requirement

CHECKOUT = Path(__file__).resolve().parents[2]
# what the command line itself stands on; tried first, as without it nothing else can be said
SHELL = {"typer": "typer", "rich": "rich", "pydantic": "pydantic", "pydantic-settings": "pydantic_settings"}
HEAVY = {
    "torch": "torch",
    "tokenizers": "tokenizers",
    "transformers": "transformers.models.qwen3.modeling_qwen3",
    "accelerate": "accelerate",
    "peft": "peft",
}
LIGHT = {
    "numpy": "numpy",
    "scipy": "scipy.spatial",
    "pillow": "PIL.Image",
    "h5py": "h5py",
    "safetensors": "safetensors",
    "trimesh": "trimesh",
    "manifold3d": "manifold3d",
    "cadquery-ocp-novtk": "OCP.BRepPrimAPI",
    "nvidia-ml-py": "pynvml",
    "tomlkit": "tomlkit",
    "wandb": "wandb",
}
REQUIRED = {**SHELL, **HEAVY, **LIGHT}


@dataclass(frozen=True, slots=True)
class Extra:
    """A package that only some settings need.

    Attributes:
        name, module: the distribution, and what is imported to try it.
        wanted: its range.
        why: the setting that needs it.
        without: the setting that does not.
        install: arguments of pip, where the plain name is not enough.
    """

    name: str
    module: str
    wanted: str
    why: str
    without: str
    install: str = ""


def optional(situation: Situation) -> tuple[Extra, ...]:
    """The optional packages that these settings need."""
    chosen = situation.settings
    if chosen is None:
        return ()
    found = []
    extras = extra_ranges()
    if chosen.model.quantization == "nf4":
        why, without = "model.quantization=nf4", "--set model.quantization=none"
    else:
        why, without = f"train.optimizer={chosen.train.optimizer}", "--set train.optimizer=adamw"
    if chosen.model.quantization == "nf4" or chosen.train.optimizer != "adamw":
        found.append(Extra("bitsandbytes", "bitsandbytes", extras.get("bitsandbytes", ""), why, without))
    if chosen.model.attention == "flash_attention_2":
        why, without = "model.attention=flash_attention_2", "--set model.attention=auto"
        found.append(Extra("flash-attn", "flash_attn", ">=2.6", why, without, "--no-build-isolation flash-attn"))
    return tuple(found)


def required_ranges(stock: Inventory | None = None) -> dict[str, str]:
    """Version ranges by distribution, from pyproject.toml in a checkout, else from the installed metadata."""
    return {need.name: need.wanted for need in _declared(stock) if not need.marker}


def extra_ranges(stock: Inventory | None = None) -> dict[str, str]:
    """Ranges of the packages that extras name."""
    return {need.name: need.wanted for need in _declared(stock) if "extra" in need.marker}


def _declared(stock: Inventory | None) -> list[Requirement]:
    project = CHECKOUT / "pyproject.toml"
    if project.is_file():
        table = tomllib.loads(project.read_text(encoding="utf-8"))["project"]
        lines = list(table["dependencies"])
        for extra, needs in table["optional-dependencies"].items():
            lines += [f"{line}; extra == '{extra}'" for line in needs if extra != "dev"]
        return [parse_requirement(line) for line in lines]
    if stock is None:
        from cadmllm.doctor.installed import scan

        stock = scan(tuple(sys.path))
    own = stock.get("cadmllm")
    return [] if own is None else own.requires()


def pinned_versions() -> dict[str, str]:
    """The exact versions that the tests run with, from constraints.txt; empty outside a checkout."""
    try:
        text = (CHECKOUT / "constraints.txt").read_text(encoding="utf-8")
    except OSError:
        return {}
    return {normal(name): version for name, version in re.findall(r"^([\w.-]+)==(\S+)", text, re.MULTILINE)}


def pip_command(name: str, wanted: str, *, reinstall: bool = False) -> str:
    """The command that installs a package in the version that the tests run with (or, outside a checkout, in its range)."""
    return pip_commands({name: wanted}, "--force-reinstall --no-deps " if reinstall else "")


def pip_commands(ranges: Mapping[str, str], options: str = "") -> str:
    """The same for several packages at once."""
    constraints = CHECKOUT / "constraints.txt"
    if constraints.is_file():
        what = f"-c {quote(str(constraints))} {' '.join(ranges)}"
    else:
        what = " ".join(f"'{name}{wanted}'" for name, wanted in ranges.items())
    return pip("install", f"{options}{what}")
