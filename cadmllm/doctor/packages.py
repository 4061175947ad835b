"""Every package that the run needs is there, in its range, and imports. Standard library only: packages may be what is broken."""

from __future__ import annotations

import re

from cadmllm.doctor import compiler, pairs
from cadmllm.doctor.check import Check, Finding, Fix, Level, Outcome, Situation
from cadmllm.doctor.imports import Trial, try_all
from cadmllm.doctor.installed import inventory
from cadmllm.doctor.pip import pip
from cadmllm.doctor.ranges import (
    HEAVY,
    LIGHT,
    REQUIRED,
    SHELL,
    Extra,
    optional,
    pinned_versions,
    pip_command,
    pip_commands,
    required_ranges,
)
from cadmllm.doctor.requirement import in_range, normal, parse_version
from cadmllm.doctor.shadows import Shadow, copies, copy_finding, local, shadow_finding, shadows

# a package that fails beside one that it needs is not a finding of its own: the one cause is said once
NEEDS = {
    "torch": ("numpy",),  # imports without it, but not with a broken one
    "typer": ("rich", "pydantic"),
    "wandb": ("numpy", "pydantic"),
    "transformers": ("torch", "tokenizers", "numpy", "safetensors"),
    "accelerate": ("torch", "numpy", "safetensors"),
    "peft": ("torch", "transformers", "accelerate", "bitsandbytes"),  # the last where it is there
    "bitsandbytes": ("torch",),
    "flash-attn": ("torch",),
    "scipy": ("numpy",),
    "h5py": ("numpy",),
    "trimesh": ("numpy",),
    "manifold3d": ("numpy",),
    "pydantic-settings": ("pydantic",),
}
_LIBRARY = re.compile(r"(lib[\w+.-]+\.so[\w.]*): cannot open shared object file")
_APT = {
    "libGL.so.1": "libgl1",
    "libEGL.so.1": "libegl1",
    "libX11.so.6": "libx11-6",
    "libXrender.so.1": "libxrender1",
    "libgomp.so.1": "libgomp1",
    "libstdc++.so.6": "libstdc++6",
    "libexpat.so.1": "libexpat1",
    "libfontconfig.so.1": "libfontconfig1",
    "libfreetype.so.6": "libfreetype6",
    "libnuma.so.1": "libnuma1",
}


def check_versions(situation: Situation) -> Outcome:
    """Every package that is needed is installed once, whole, and in its range."""
    stock = inventory(situation)
    ranges = required_ranges(stock)
    extra = {one.name: one for one in optional(situation)}
    findings: list[Finding] = []
    details: list[str] = []
    fixes: list[Fix] = []
    tested = pinned_versions()
    absent = [name for name in ranges if stock.get(name) is None]
    if len(absent) > 1:  # one command for all of them
        message = f"{', '.join(absent[:-1])} and {absent[-1]} are not installed"
        findings.append(Finding("E802", Level.FAIL, "versions", message, pip_commands({name: ranges[name] for name in absent})))
    for name, wanted in {**ranges, **{one.name: one.wanted for one in extra.values()}}.items():
        if len(absent) > 1 and name in absent:
            continue
        problem = _version_problem(situation, name, wanted, extra.get(name))
        if problem is not None:
            findings.append(problem)
            continue
        version, known = stock.version(name), tested.get(normal(name), "")
        if known and parse_version(version).key != parse_version(known).key:
            details.append(f"{name} {version}: in range, tested with {known}")
    given = situation.machine.environ.get("PYTHONPATH", "")
    told = {finding.message.partition(" ")[0] for finding in findings}
    for used, hidden in copies(stock, [name for name in (*ranges, *extra) if name not in told]):
        finding, fix = copy_finding(used, hidden, "versions", given)
        findings.append(finding)
        fixes += [fix] if fix else []
    details += [f"{path}: left over from an installation that was interrupted: rm -r '{path}'" for path in stock.leftovers]
    count = len(ranges) + len(extra)
    differ = sum("tested with" in line for line in details)
    summary = f"{count} packages in their ranges" + (f", {differ} other than tested (-v)" if differ else "")
    return Outcome(summary, tuple(findings), details=tuple(details), fixes=tuple(dict.fromkeys(fixes)))


def _version_problem(situation: Situation, name: str, wanted: str, extra: Extra | None) -> Finding | None:
    stock = inventory(situation)
    one = stock.get(name)
    install = _install(name, wanted, extra)
    if one is None:
        code, reason = ("E806", f", and {extra.why} needs it") if extra else ("E802", "")
        remedy = f"{install}; or {extra.without}" if extra else install
        return Finding(code, Level.FAIL, "versions", f"{name} is not installed{reason}", remedy)
    again = pip_command(name, wanted, reinstall=True)
    if not one.whole:
        message = f"{name} {one.version} is half installed: {one.metadata} has no METADATA"
        return Finding("E802", Level.FAIL, "versions", message, again)
    twins = [other.version for other in stock.found[normal(name)] if other.base == one.base]
    if len(twins) > 1:
        message = f"{name} has metadata of versions {' and '.join(twins)} in {one.base}: an update was interrupted"
        return Finding("E802", Level.FAIL, "versions", message, f"{pip('uninstall', name)} && {again}")
    if not in_range(one.version, wanted):
        return Finding("E803", Level.FAIL, "versions", f"{name} {one.version} is outside {wanted}", install)
    return None


def _install(name: str, wanted: str, extra: Extra | None) -> str:
    return pip("install", extra.install) if extra and extra.install else pip_command(name, wanted)


def check_packages(situation: Situation) -> Outcome:
    """Every package that is needed can be imported, and is the one that was installed."""
    stock = inventory(situation)
    extra = {one.name: one for one in optional(situation)}
    heavy = {**HEAVY, **{name: one.module for name, one in extra.items()}}
    modules = {**SHELL, **heavy, **LIGHT}
    missing = {name for name in modules if stock.get(name) is None}
    hidden = {shadow.name: shadow for shadow in shadows(situation, modules)}
    there = {
        name: {package: module for package, module in chain.items() if package not in missing or package in hidden}
        for name, chain in (("heavy", heavy), ("shell", SHELL), ("light", LIGHT))
    }
    trials = {trial.name: trial for trial in try_all(situation, there, remember=not local(hidden.values()))}
    broken = missing | trials.keys()
    situation.broken |= {modules[name].partition(".")[0] for name in broken}
    given = situation.machine.environ.get("PYTHONPATH", "")
    ranges = required_ranges(stock)
    findings = []
    for name, trial in trials.items():
        if broken & set(NEEDS.get(name, ())):
            continue
        findings.append(_library(trial) or _mismatch(trial) or _broken(situation, trial, ranges, extra, hidden.pop(name, None)))
    findings += [shadow_finding(shadow, "packages", given) for shadow in hidden.values() if shadow.name not in trials]
    lacking = f", {len(missing)} are not installed" if missing else ""
    return Outcome(f"{len(modules) - len(missing)} packages import{lacking}", tuple(findings))


def _library(trial: Trial) -> Finding | None:
    """A system library that is missing, where apt has it (those of CUDA come with torch)."""
    found = _LIBRARY.search(trial.reason)
    if found is None or not (found[1] in _APT or trial.name == "cadquery-ocp-novtk"):
        return None
    file, package = found[1], _APT.get(found[1])
    apt = "sudo apt-get install --no-install-recommends"
    remedy = f"{apt} {package}" if package else f"install the package that holds {file}: apt-file search {file}"
    return Finding("E804", Level.FAIL, "packages", f"{trial.name} needs the system library {file}", remedy)


def _mismatch(trial: Trial) -> Finding | None:
    """A package that was built for another version of one that it uses."""
    for sign in pairs.SIGNS:
        if re.search(sign.pattern, trial.reason):
            message = f"{trial.name} cannot be imported: {sign.meaning} ({trial.reason})"
            return Finding("E805", Level.FAIL, "packages", message, sign.remedy(trial.name))
    return None


def _broken(
    situation: Situation, trial: Trial, ranges: dict[str, str], extra: dict[str, Extra], hidden: Shadow | None
) -> Finding:
    one = extra.get(trial.name)
    if hidden is not None:
        given = situation.machine.environ.get("PYTHONPATH", "")
        return shadow_finding(hidden, "packages", given, trial.reason, code="E806" if one else "E802")
    message = f"{trial.name} cannot be imported: {trial.reason}"
    other = _other(situation, trial)
    if other:
        return _through_another(message, other)
    clash = next((clash for clash in pairs.conflicts(situation) if clash.needing == trial.name), None)
    if clash is not None:
        return Finding("E805", Level.FAIL, "packages", f"{message}; {clash.text}", clash.remedy)
    lacks = trial.reason.startswith("ModuleNotFoundError") and trial.blamed not in ("", _top(trial.name))
    # pip brings what a package that is installed lacks; it need not be installed again
    remedy = pip_command(trial.name, ranges.get(trial.name, ""), reinstall=not lacks)
    build = parse_version(inventory(situation).version(trial.name)).local
    if trial.name == "torch" and re.fullmatch(r"cpu|cu\d+", build) and not lacks:  # PyPI has one build of each version alone
        index = f"--extra-index-url https://download.pytorch.org/whl/{build}"
        remedy = pip("install", f"--force-reinstall --no-deps torch=={inventory(situation).version('torch')} {index}")
    if one is None:
        return Finding("E802", Level.FAIL, "packages", message, remedy)
    if one.install:
        remedy = pip("install", f"--force-reinstall --no-deps {one.install}")
    return Finding("E806", Level.FAIL, "packages", f"{message}; {one.why} needs it", f"{remedy}; or {one.without}")


def _other(situation: Situation, trial: Trial) -> str:
    """The distribution that is to blame for another's import, where it is known by its module's name."""
    if trial.blamed in ("", _top(trial.name)):
        return ""
    names = {_top(name): name for name in REQUIRED}
    name = names.get(trial.blamed, normal(trial.blamed))
    return name if name != trial.name and inventory(situation).get(name) else ""


def _top(name: str) -> str:
    """The top-level module of a distribution."""
    return REQUIRED.get(name, name.replace("-", "_")).partition(".")[0]


def _through_another(message: str, other: str) -> Finding:
    remedy = pip_command(other, "", reinstall=True)
    if other not in REQUIRED:
        remedy += f"; or, if nothing else needs it: {pip('uninstall', other)}"
    return Finding("E802", Level.FAIL, "packages", f"{message} (raised by {other}, which it imports)", remedy)


CHECKS = (
    Check(
        "versions",
        "every package that the run needs is installed once, whole, and in its range",
        ("E802", "E803", "E806"),
        check_versions,
        needs_settings=False,
        group="packages",
    ),
    *pairs.CHECKS,
    Check(
        "packages",
        "every package that the run needs imports, and is the one that was installed",
        ("E802", "E804", "E805", "E806"),
        check_packages,
        needs_settings=False,
        group="packages",
        cached_by=(
            "size and time of change of every file and library that a good import has read, the loader's table of libraries, the "
            "driver; the interpreter; variables PYTHON*, LD_*, TORCH_*, BNB_*, HF_*, ..."
        ),
    ),
    *compiler.CHECKS,
)
