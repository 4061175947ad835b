"""What `train.compile` needs beside packages: a C compiler and Python's headers. Standard library only."""

from __future__ import annotations

import shutil
import sys
import sysconfig
from pathlib import Path

from cadmllm.doctor.check import Check, Finding, Level, Outcome, Situation

APT = "sudo apt-get install --no-install-recommends"
OFF = "or --set train.compile=false"


def check_compiler(situation: Situation) -> Outcome:
    """torch.compile builds with a C++ compiler on the CPU; on a GPU, triton builds its launcher with a C compiler."""
    if not situation.needed.train.compile:
        return Outcome(skipped="train.compile is off")
    environ = situation.machine.environ
    path = environ.get("PATH", "")
    on_cpu = situation.needed.device == "cpu"
    names = [environ.get("CXX", ""), "g++", "clang++"] if on_cpu else [environ.get("CC", ""), "gcc", "clang"]
    compiler = next((found for name in names if name and (found := shutil.which(name, path=path))), None)
    findings = []
    if compiler is None:
        message = f"train.compile needs a compiler, and none of {', '.join(filter(None, names))} is on PATH"
        findings.append(Finding("E804", Level.FAIL, "compiler", message, f"{APT} {'g++' if on_cpu else 'gcc'}; {OFF}"))
    header = Path(sysconfig.get_paths()["include"]) / "Python.h"
    if not on_cpu and not header.is_file():
        package = f"python{sys.version_info[0]}.{sys.version_info[1]}-dev"
        message = f"train.compile needs the headers of Python, and {header} is not there"
        findings.append(Finding("E804", Level.FAIL, "compiler", message, f"{APT} {package}; {OFF}"))
    return Outcome(f"{compiler}", tuple(findings))


CHECKS = (Check("compiler", "what train.compile needs to build with is there", ("E804",), check_compiler, group="packages"),)
