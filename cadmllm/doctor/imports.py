"""Imports packages for real, in processes of their own; remembers which files a good import has read. Standard library only."""

from __future__ import annotations

import hashlib
import os
import sys
import sysconfig
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from cadmllm.doctor.check import Situation
from cadmllm.doctor.installed import homes, inventory
from cadmllm.doctor.machine import Machine
from cadmllm.doctor.probe import SOURCE, run_probe

LIMIT = 150.0  # seconds for one chain: a cold disk under WSL takes a minute
# what changes how modules are found, which libraries are loaded, or what packages do while they are imported
VARIABLES = ("PYTHON", "LD_", "TORCH_", "BNB_", "CUDA_HOME", "HF_", "TRANSFORMERS_", "USE_", "PROTOCOL_BUFFERS_")
# the loader's table of system libraries, and the driver: another library may be taken although the former is still there
TABLES = ("etc/ld.so.cache", "etc/ld.so.preload", "proc/driver/nvidia/version")

_SCRIPT = """
import importlib
def blamed(error):
    # the module that was being run when it was raised; one that is missing is to blame itself
    found = error.name or "" if isinstance(error, ModuleNotFoundError) else ""
    trace = error.__traceback__
    while trace is not None and not isinstance(error, ModuleNotFoundError):
        code = trace.tb_frame.f_code
        if code.co_name == "<module>" and not code.co_filename.startswith("<"):
            found = str(trace.tb_frame.f_globals.get("__name__", ""))
        trace = trace.tb_next
    return found.partition(".")[0]
for pair in sys.argv[1:]:
    name, module = pair.split("=")
    say(begin=name)
    try:
        importlib.import_module(module)
    except BaseException as error:
        root = error
        while root.__cause__ is not None:
            root = root.__cause__
        say(error=name, type=type(root).__name__, text=str(root)[:400], blamed=blamed(root))
    else:
        say(done=name)
files = {getattr(module, "__file__", None) for module in list(sys.modules.values())}
with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as maps:
    files |= {line.rstrip("\\n").split(maxsplit=5)[-1] for line in maps if ".so" in line}
folders = {}
for file in sorted(file for file in files if isinstance(file, str) and os.path.isabs(file)):
    folder, _, name = file.rpartition("/")
    folders.setdefault(folder, []).append(name)
say(read=folders)
"""


@dataclass(frozen=True, slots=True)
class Trial:
    """A package that cannot be imported, why, and the top-level module that is to blame (empty: nobody knows)."""

    name: str
    reason: str
    blamed: str = ""


def try_all(situation: Situation, chains: Mapping[str, dict[str, str]], *, remember: bool = True) -> list[Trial]:
    """The packages of all chains that cannot be imported, two chains at a time; chains that could before are not tried again
    while every file that they have read is the same.

    Args:
        chains: by a name of theirs: distribution -> module.
        remember: whether answers are taken from the cache and kept there.
    """
    stale = {name: chain for name, chain in chains.items() if chain and not (remember and known_good(situation, name, chain))}
    environ = situation.machine.environ

    def attempt(item: tuple[str, dict[str, str]]) -> tuple[list[Trial], dict[str, list[str]]]:
        return try_chain(item[1], environ)

    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(attempt, stale.items()))
    for (name, chain), (failures, files) in zip(stale.items(), answers, strict=True):
        if remember and not failures and files:
            answer = {"files": files, "state": state(situation, files)}
            situation.cache.put("imports", *_key(situation.machine, name, chain), answer=answer)
    return [trial for failures, _ in answers for trial in failures]


def known_good(situation: Situation, name: str, chain: dict[str, str]) -> bool:
    """Whether this chain was imported before, and nothing that it then read has changed."""
    answer = situation.cache.get("imports", *_key(situation.machine, name, chain))
    return (
        isinstance(answer, dict)
        and isinstance(answer.get("files"), dict)
        and answer.get("state") == state(situation, answer["files"])
    )


def _key(machine: Machine, name: str, chain: dict[str, str]) -> tuple[object, ...]:
    """What tells one environment from another; what changes within one is in `state`."""
    variables = sorted((key, value) for key, value in machine.environ.items() if key.startswith(VARIABLES))
    return (sys.executable, sys.version, name, sorted(chain.items()), str(machine.root) == "/", variables)


def state(situation: Situation, files: Mapping[str, list[str]]) -> str:
    """A digest of size and time of change of every file, by folder, of the loader's tables, and of the modules that could be
    imported: one more may be in the way, or may be taken where there was none. 10 ms for 3,000 files.
    """
    machine = situation.machine
    parts = [_facts(str(machine.path(table))) for table in TABLES]
    parts += importable(inventory(situation).path)
    for folder, names in files.items():
        parts += [_facts(f"{folder}/{name}") for name in names]
    for folder in machine.environ.get("LD_LIBRARY_PATH", "").split(":"):
        parts.append(_facts(folder) if folder else "")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def importable(path: tuple[str, ...]) -> list[str]:
    """The modules and packages in every folder of a search path; of those in the working folder, the ones that hide another."""
    here = os.getcwd()
    left_out = {os.path.realpath(sysconfig.get_paths()[name]) for name in ("stdlib", "platstdlib")}
    # a checkout of ours comes last and hides nothing; it is on the path by another name where it is the working folder
    left_out |= {os.path.join(folder, "lib-dynload") for folder in left_out} | ({os.path.realpath(SOURCE)} - homes())
    found: list[str] = []
    hiding: set[str] = set()
    for folder in path:
        if folder != here and os.path.realpath(folder) in left_out:
            continue
        try:
            with os.scandir(folder) as entries:
                names = sorted(name for entry in entries if (name := _module(entry)))
        except OSError:
            continue  # a zip file, or a folder that is not there
        if folder == here:
            hiding = set(names)
        elif names:
            found += [folder, *names]
    return [*found, "here", *sorted(hiding & set(found))]


def _module(entry: os.DirEntry[str]) -> str:
    """The name of the module that a folder's entry is, empty when it is none; metadata counts, too."""
    stem, dot, kind = entry.name.partition(".")
    if not dot:
        return stem if os.path.isfile(f"{entry.path}/__init__.py") else ""
    return stem if kind == "py" or kind.endswith("so") else entry.name if kind.endswith(("dist-info", "pth")) else ""


def _facts(path: str) -> str:
    try:
        facts = os.stat(path)
    except OSError:
        return "none"
    return f"{facts.st_size} {facts.st_mtime_ns}"


def try_chain(chain: dict[str, str], environ: Mapping[str, str] | None = None) -> tuple[list[Trial], dict[str, list[str]]]:
    """Imports a chain of packages in one process; a crash or a hang is blamed on the package that was begun last,
    and the rest goes on in another process.

    Args:
        chain: distribution -> module.
        environ: of the process.

    Returns:
        What failed, and the files that were read, by folder (of the last process: all of them when nothing failed).
    """
    failures: list[Trial] = []
    files: dict[str, list[str]] = {}
    left = dict(chain)
    while left:
        probe = run_probe(_SCRIPT, *(f"{name}={module}" for name, module in left.items()), seconds=LIMIT, environ=environ)
        begun = ""
        for line in probe.lines:
            begun = line.get("begin", begun)
            files = line.get("read", files)
            if "error" in line:
                failures.append(Trial(line["error"], " ".join(f"{line['type']}: {line['text']}".split()), line["blamed"]))
            if "error" in line or "done" in line:
                left.pop(begun, None)
        if probe.end and left:
            blamed = begun if begun in left else next(iter(left))
            failures.append(Trial(blamed, f"the import ended with {probe.end} {probe.stderr}".rstrip()))
            left.pop(blamed)
        elif probe.end and begun:
            files = {}  # all were imported, but the process did not end well: nothing that deserves to be remembered
        elif left:
            break
    return failures, files
