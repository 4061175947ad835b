"""Paths of the settings that only Windows understands, or that lead to a drive which is not there. Standard library only.

What the command line, a settings file or the environment says is translated before (`resolve.py`, `places.py`); here is what no
translation can mend.
"""

from __future__ import annotations

import os
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cadmllm.doctor import filesystems, wsl
from cadmllm.doctor.check import Check, Finding, Fix, Level, Outcome, Situation
from cadmllm.doctor.filesystems import Mount
from cadmllm.doctor.hub import locate
from cadmllm.places import is_windows_path, local_path

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cadmllm.settings import Settings

_SLIP = re.compile(r"[A-Za-z]:[^\\/]")


@dataclass(frozen=True, slots=True)
class Place:
    """A path of the run: the setting that names it, and what it is to the run: 'data', 'features', 'model' or 'run'."""

    key: str
    path: Path
    use: str


def places(settings: Settings, environ: Mapping[str, str]) -> list[Place]:
    """Where the run reads and writes; a model of the hub's is where the hub's cache keeps its files."""
    data, model = settings.data, settings.model
    found = [Place("run.dir", settings.run.dir, "run")]
    if not data.synthetic:
        named = {"data.txt": data.txt, "data.json": data.json_, "data.img": data.img, "data.points": data.points}
        found += [Place("data.root", data.root, "data")]
        found += [Place(key, path, "data") for key, path in named.items() if path is not None]
        found += [Place("data.features", data.features, "features")] if data.features is not None else []
    for key, name in (("model.llm", model.llm), ("model.image_encoder", model.image_encoder)):
        lies = locate(name, environ)
        if name != "tiny" and lies.folder is not None:
            found.append(Place(key, lies.folder.parents[1] / "blobs" if lies.hub else lies.folder, "model"))
        elif name != "tiny" and not lies.hub:
            found.append(Place(key, Path(name), "model"))
    if model.points_encoder == "michelangelo":
        found.append(Place("model.points_checkpoint", model.points_checkpoint, "model"))
    return found


def check_paths(situation: Situation) -> Outcome:
    """No path is one that only Windows understands; the drives that are named are mounted."""
    machine = situation.machine
    table = filesystems.mounts(machine)
    findings: list[Finding] = []
    fixes: list[Fix] = []
    details = []
    for place in places(situation.needed, machine.environ):
        judged = judge(place, situation, table)
        if judged is not None:
            findings.append(judged[0])
            fixes += [judged[1]] if judged[1] is not None else []
            continue
        mount = filesystems.mount_of(place.path, table)
        if mount is not None and mount.kind == "windows":
            details.append(f"{place.key} = {place.path} is {windows_name(place.path, mount)} in Windows")
    text = f"{len(details)} on drives of Windows" if details else "all on Linux' own file systems"
    return Outcome(text, tuple(findings), details=tuple(details), fixes=tuple(fixes))


def judge(place: Place, situation: Situation, table: list[Mount]) -> tuple[Finding, Fix | None] | None:
    """E831 for a path that can only be meant for Windows, or that names one of its drives which is not there."""
    text = str(place.path)
    named = f"{place.key} = {text}"
    if _SLIP.match(text) and not place.path.exists():
        remedy = rf"put it in single quotes: --set '{place.key}={text[:2]}\...'"
        return _misplaced(f"{named}: the shell has taken the backslashes of a Windows path away", remedy), None
    if is_windows_path(text):
        return _renamed(place, f"{named} is a path of Windows", str(local_path(text, wsl=True)))
    if not wsl.version(situation.machine) or not table:
        return None
    root = wsl.mount_root(situation.machine).rstrip("/")
    whole = os.path.abspath(text)
    match = re.match(rf"{re.escape(root)}/([A-Za-z])(?=/|$)", whole)
    points = {mount.point for mount in table}
    if match is None or f"{root}/{match[1]}" in points:
        return None
    letter = match[1].lower()
    if f"{root}/{letter}" in points:
        return _renamed(place, f"{named}: drives have small letters here", f"{root}/{letter}{whole[match.end() :]}")
    mount = f"sudo mkdir -p {root}/{letter} && sudo mount -t drvfs {letter.upper()}: {root}/{letter}"
    return _misplaced(f"{named}: drive {letter.upper()}: of Windows is not mounted in WSL", mount), None


def _renamed(place: Place, message: str, name: str) -> tuple[Finding, Fix]:
    remedy = f"name it as Linux does: --set {place.key}={shlex.quote(name)}"
    return _misplaced(message, remedy), Fix("setting", place.key, name, "the same path as Linux names it")


def _misplaced(message: str, remedy: str) -> Finding:
    return Finding("E831", Level.FAIL, "paths", message, remedy)


def windows_name(path: Path, mount: Mount) -> str:
    r"""`W:\data` of /mnt/w/data."""
    inside = os.path.realpath(path)[len(mount.point.rstrip("/")) :].replace("/", "\\")
    return f"{Path(mount.point).name.upper()}:{inside or chr(92)}"


CHECKS = (Check("paths", "no path is one that only Windows understands; the drives named are mounted", ("E831",), check_paths),)
