"""What the checks of both encoders share: which stages show them, and a process that loads one and has it answer."""

from __future__ import annotations

import hashlib
import importlib.metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cadmllm.doctor.probe import run_probe
from cadmllm.errors import CadmllmError

if TYPE_CHECKING:
    from cadmllm.doctor.check import Situation
    from cadmllm.settings import Settings

SECONDS = 180.0  # for 1.2 GB of DINOv2 from a slow disk
FLAT = 1e-6  # answers that differ by less, relative to their size, do not tell one input from another
SAME = f"""
def judge(first, second, what):
    \"\"\"Features [1, T, D] of two inputs: say what is wrong with them, if anything.\"\"\"
    size = float(first.abs().mean())
    if not bool(first.isfinite().all() and second.isfinite().all()):
        return f"its answer to {{what}} holds numbers that are not finite"
    if float(first.std()) <= {FLAT} * max(size, 1e-30):
        return f"its answer to {{what}} is one number everywhere"
    if float((first - second).abs().max()) <= {FLAT} * max(size, 1e-30):
        return f"it gives the same answer to two different inputs ({{what}})"
    return ""
"""


def shows(settings: Settings, stages: tuple[int, ...], modality: str) -> bool:
    """Whether any of the stages shows the modality ('point_cloud', 'image') to the model."""
    return any(share > 0 and modality in name.split("+") for n in stages for name, share in settings.stages[n].reached.items())


def loader_version(*modules: str) -> str:
    """What a good answer depends on besides the encoder's files: our loader's source and the packages it works with."""
    models = Path(__file__).resolve().parents[1] / "models"
    source = b"".join((models / f"{module}.py").read_bytes() for module in modules)
    versions = []
    for name in ("torch", "transformers"):
        try:
            versions.append(importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            versions.append("none")
    return " ".join((hashlib.sha256(source + SAME.encode()).hexdigest()[:16], *versions))


def probed(situation: Situation, name: str, code: str, key: tuple[object, ...], *args: str) -> dict[str, Any]:
    """What an encoder's process said: cached when it was good.

    Args:
        situation: whose cache and environment are used.
        name: of the answers in the cache.
        code: of the process; it says one line, with 'code', 'message' and 'remedy' where the encoder cannot be loaded, with
            'silent' where its answer is of no use.
        key: what a good answer depends on.
        args: of the process.

    Raises:
        CadmllmError: with the code, message and remedy that the process said; E509 without a remedy; E502 when it said nothing.
    """
    kept = situation.cache.get(name, code, *key)
    if kept is not None:
        return kept
    probe = run_probe(code, *args, seconds=SECONDS, environ=situation.machine.environ)
    if not probe.lines:
        message = f"loading {args[0]} ended with {probe.end} {probe.stderr}".strip()
        raise CadmllmError("E502", message, "see which part is missing: cadmllm doctor --only packages,system -v")
    said = probe.lines[-1]
    if "code" in said:
        raise CadmllmError(said["code"], said["message"], said["remedy"])
    if "silent" in said:
        raise CadmllmError("E509", f"{name} {args[0]}: {said['silent']}", "")
    situation.cache.put(name, code, *key, answer=said)
    return said
