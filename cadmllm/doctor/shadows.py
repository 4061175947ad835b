"""Modules that are found elsewhere than where they were installed. Standard library only."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path
from shlex import quote

from cadmllm.doctor.check import Finding, Fix, Level, Situation
from cadmllm.doctor.installed import Distribution, Inventory, homes, inventory
from cadmllm.doctor.pip import pip

# of the standard library, but nothing that a run imports: a folder of that name does no harm
HARMLESS = {"antigravity", "idlelib", "lib2to3", "test", "this", "turtle", "turtledemo", "tkinter"}


@dataclass(frozen=True, slots=True)
class Shadow:
    """A module that hides another.

    Attributes:
        name: of the distribution whose module is hidden; of the module, where it is one of the standard library.
        module: its top-level name.
        taken: the file or folder that Python takes.
        instead: what it hides, in words.
        fails: whether what is taken cannot be what is expected: one file in place of a package, a folder that Python asks first.
    """

    name: str
    module: str
    taken: Path
    instead: str
    fails: bool


def shadows(situation: Situation, modules: Mapping[str, str]) -> tuple[Shadow, ...]:
    """All of them, looked for once.

    Args:
        modules: distribution -> module that is imported to try it.
    """
    stock = inventory(situation)
    given = situation.machine.environ.get("PYTHONPATH", "")
    return situation.once("shadows", lambda: (*_standard(stock, given), *_packages(stock, modules)))


def local(found: Iterable[Shadow]) -> bool:
    """Whether one of them lies in the working folder: what is imported here says nothing about other folders."""
    return any(str(shadow.taken.parent) == os.getcwd() for shadow in found)


def _packages(stock: Inventory, modules: Mapping[str, str]) -> list[Shadow]:
    found = []
    for name, module in modules.items():
        one = stock.get(name)
        top = module.partition(".")[0]
        spec = PathFinder.find_spec(top, stock.path) if one else None
        if one is None or spec is None or not spec.origin or one.editable:
            continue
        package = spec.submodule_search_locations is not None
        taken = Path(spec.origin).parent if package else Path(spec.origin)
        if os.path.realpath(taken.parent) != os.path.realpath(one.base):
            real = one.base / top
            found.append(Shadow(name, top, taken, f"{name} {one.version} in {one.base}", real.is_dir() and not package))
    return found


def _standard(stock: Inventory, given: str) -> list[Shadow]:
    """Modules of the user's that are called like one of the standard library, in the working folder or on PYTHONPATH."""
    first = {os.path.abspath(entry) for entry in given.split(os.pathsep) if entry}
    found = []
    for folder in sorted(first | ({os.getcwd()} & set(stock.path))):
        try:
            entries = sorted(os.listdir(folder))
        except OSError:
            continue
        for entry in entries:
            module = entry.removesuffix(".py")
            path = Path(folder) / entry
            if module not in sys.stdlib_module_names or module in HARMLESS:
                continue
            if entry.endswith(".py") or (path / "__init__.py").is_file():
                found.append(Shadow(module, module, path, f"{module} of Python's standard library", folder in first))
    return found


def shadow_finding(shadow: Shadow, check: str, given: str, reason: str = "", code: str = "E802") -> Finding:
    """What is said of it.

    Args:
        check: the name of the check that says so.
        given: PYTHONPATH.
        reason: why it cannot be imported; empty when it can.
        code: E806 for an optional package.
    """
    message = f"{shadow.module} is taken from {shadow.taken}, which hides {shadow.instead}"
    message = f"{shadow.name} cannot be imported: {reason}; {message}" if reason else message
    level = Level.FAIL if reason or shadow.fails else Level.WARN
    return Finding(code, level, check, message, _way_out(shadow.taken, given))


def _way_out(taken: Path, given: str) -> str:
    if str(taken.parent) in {os.path.abspath(entry) for entry in given.split(os.pathsep) if entry}:
        return f"unset PYTHONPATH (or take {taken.parent} out of it)"
    if "/.local/lib/" in str(taken):
        return "export PYTHONNOUSERSITE=1"
    return f"mv {quote(str(taken))} {quote(str(taken.with_name('my_' + taken.name)))}"


def copies(stock: Inventory, names: list[str]) -> list[tuple[Distribution, Distribution]]:
    """Distributions that hide another version of themselves in this environment: (the one that is used, the hidden one)."""
    own = homes()
    found = []
    for name in names:
        used, others = stock.get(name), stock.found.get(name, [])[1:]
        if used is None or os.path.realpath(used.base) in own:
            continue
        found += [(used, other) for other in others if os.path.realpath(other.base) in own and other.version != used.version]
    return found


def copy_finding(used: Distribution, hidden: Distribution, check: str, given: str) -> tuple[Finding, Fix | None]:
    """E802 for a copy, and the variable that lets this environment's own come first."""
    message = f"{used.name} {used.version} of {used.base} hides {hidden.version} of this environment ({hidden.base})"
    remedy = _way_out(used.metadata, given)
    if remedy.startswith("mv"):
        remedy = pip("uninstall", used.name)
    fix = Fix("environment", "PYTHONNOUSERSITE", "1", message) if remedy.startswith("export") else None
    return Finding("E802", Level.WARN, check, message, remedy), fix
