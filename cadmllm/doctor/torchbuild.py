"""Torch against the driver and the card: the build, its kernels, and one that is really run. Standard library only.

Torch is asked in a process of its own, as CUDA may hang or crash there. What it says is kept while torch's files, the driver
and the card are the same.
"""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cadmllm.doctor.cache import file_key
from cadmllm.doctor.cards import Card, Cards, card_of, cards_of
from cadmllm.doctor.check import Check, Finding, Fix, Level, Outcome, Situation
from cadmllm.doctor.gpu import newer_driver, restart, severity
from cadmllm.doctor.probe import run_probe

SECONDS = 120.0  # a cold disk under WSL takes a minute to import torch
PINNED = "2.13.0"  # of constraints.txt
BLACKWELL = (10, 0)
_ORDER = Fix("environment", "CUDA_DEVICE_ORDER", "PCI_BUS_ID", "CUDA numbers the GPUs as nvidia-smi does")
_TORCH = """
import torch
say(version=torch.__version__, cuda=torch.version.cuda)
if torch.version.cuda is None:
    sys.exit()
device = f"cuda:{sys.argv[1]}"
try:
    torch.cuda.init()
    properties = torch.cuda.get_device_properties(device)
    say(uuid=str(properties.uuid), name=properties.name, archs=torch.cuda.get_arch_list())
    for dtype in (torch.float32, getattr(torch, sys.argv[2])):
        row = torch.arange(8, device=device, dtype=dtype).reshape(2, 4)
        say(right=float((row @ row.t()).sum().cpu()) == 216.0)
except (RuntimeError, AssertionError) as error:
    say(error=str(error)[:600])
"""


@dataclass(frozen=True, slots=True)
class Build:
    """A wheel of torch: what pip is asked for, its CUDA, and the lowest and highest compute capability it has kernels for."""

    version: str
    tag: str
    cuda: tuple[int, int]
    lowest: tuple[int, int]
    highest: tuple[int, int]

    @property
    def command(self) -> str:
        """Installs it in place of another build; the local version makes pip see that they differ."""
        index = f"https://download.pytorch.org/whl/{self.tag}"
        return f"{sys.executable} -m pip install torch=={self.version}+{self.tag} --extra-index-url {index}"


# PyTorch's RELEASE.md, "CUDA support matrix": since 2.12 no build has CUDA 12.8, so 2.11 is the newest for drivers below 580
BUILDS = (
    Build(PINNED, "cu130", (13, 0), (7, 5), (12, 1)),
    Build(PINNED, "cu126", (12, 6), (5, 0), (9, 0)),
    Build("2.11.0", "cu128", (12, 8), (7, 5), (12, 1)),
)


@dataclass(frozen=True, slots=True)
class Torch:
    """What torch says about CUDA.

    Attributes:
        version, cuda: its own, and the CUDA it was built with; None of a CPU build.
        name, uuid: of the card that it would compute on; '' where it cannot be reached.
        archs: what it has kernels for.
        right: whether a small product came out right; False where it did not run.
        error: what went wrong; '' when well.
    """

    version: str
    cuda: str | None
    name: str = ""
    uuid: str = ""
    archs: tuple[str, ...] = ()
    right: bool = False
    error: str = ""


def check_torch(situation: Situation) -> Outcome:
    """Torch is built for this driver and this card, and runs a kernel on it."""
    card = card_of(situation)
    if card is None:
        return Outcome(skipped="device is cpu" if situation.needed.device == "cpu" else "there is no GPU to try it on")
    found = cards_of(situation)
    torch = read_torch(situation, card, found.driver)
    findings = judge_build(situation, torch, card, found)
    if findings:
        return Outcome(findings=tuple(findings))
    findings = _judge_order(torch, card, found)
    details = [f"kernels for {', '.join(torch.archs)}"]
    if found.cuda and _cuda(torch.cuda) > found.cuda:
        supports = f"a driver for {found.cuda[0]}.{found.cuda[1]}"
        details.append(f"CUDA {torch.cuda} on {supports}: they work together within a major version")
    summary = f"torch {torch.version} (CUDA {torch.cuda}) computes on the {card.name}"
    return Outcome(summary, tuple(findings), "", tuple(details), (_ORDER,) if findings else ())


def read_torch(situation: Situation, card: Card, driver: str) -> Torch:
    """What torch says, from the cache where nothing has changed since it was well."""
    settings, environ = situation.needed, situation.machine.environ
    index = settings.device.partition(":")[2] or "0"
    surroundings = [environ.get(name, "") for name in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "LD_LIBRARY_PATH")]
    key = (sys.executable, _torch_key(), driver, card.uuid, card.name, index, settings.dtype, *surroundings)
    known: dict[str, Any] | None = situation.cache.get("torch", *key)
    if known is not None:
        return Torch(known["version"], known["cuda"], known["name"], known["uuid"], tuple(known["archs"]), True)
    probe = run_probe(_TORCH, index, settings.dtype, seconds=SECONDS, environ=environ)
    said: dict[str, Any] = {"version": "", "cuda": None, "name": "", "uuid": "", "archs": [], "error": ""}
    rights = [line["right"] for line in probe.lines if "right" in line]
    for line in probe.lines:
        said |= line
    if probe.end:
        said["error"] = f"{probe.end}: {probe.stderr}" if probe.stderr else probe.end
    right = len(rights) == 2 and all(rights)
    if right and not said["error"]:
        kept = {name: said[name] for name in ("version", "cuda", "name", "uuid", "archs")}
        situation.cache.put("torch", *key, answer=kept)
    return Torch(said["version"], said["cuda"], said["name"], said["uuid"], tuple(said["archs"]), right, said["error"])


def _torch_key() -> str:
    """What changes when another torch is installed: the list of its files that pip writes."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return "none"
    place = Path(spec.origin).parent
    return "; ".join(file_key(path) for path in (place / "version.py", *sorted(place.parent.glob("torch-*.dist-info/RECORD"))))


def judge_build(situation: Situation, torch: Torch, card: Card, found: Cards) -> list[Finding]:
    """What keeps this torch from computing on this card; [] when nothing does."""
    level = severity(situation)
    if not torch.version:
        message = f"asking torch about CUDA ended with {torch.error}"
        remedy = f"see what it says: {sys.executable} -c 'import torch; torch.cuda.init()'"
        return [Finding("E811", level, "torch", message, remedy)]
    if torch.cuda is None:
        message = f"torch {torch.version} is a CPU build, beside a {card.name}"
        return [Finding("E812", level, "torch", message, _install(situation, card, found))]
    if torch.archs and not has_kernels(torch.archs, card.capability):
        return [_no_kernels(situation, torch, card, found)]
    if not torch.error and not torch.right:
        message = f"torch {torch.version} computes a product of two small matrices wrong on the {card.name}"
        remedy = f"{restart(situation)}; if it stays so, the card, its memory or its overclocking is at fault"
        return [Finding("E853", Level.FAIL, "torch", message, remedy)]
    if not torch.error:
        return []
    if "no kernel image" in torch.error:
        return [_no_kernels(situation, torch, card, found)]
    if "driver on your system is too old" in torch.error or (found.cuda and _cuda(torch.cuda)[0] > found.cuda[0]):
        return [_old_driver(situation, torch, card, found, level)]
    message = f"torch {torch.version} (CUDA {torch.cuda}) cannot use the {card.name}: {_first(torch.error)}"
    if "out of memory" in torch.error:
        remedy = "close what else uses the GPU; it is listed by: nvidia-smi"
        return [Finding("E852", level, "torch", f"{message} ({card.free / 2**20:.0f} MiB are free)", remedy)]
    return [Finding("E811", level, "torch", message, _mend(situation, torch.error))]


def has_kernels(archs: tuple[str, ...], capability: tuple[int, int]) -> bool:
    """Whether a build runs on a card: machine code of the same major version and no newer minor one, or PTX of an older one.

    CUDA's rule: `sm_80` runs on 8.x with x >= 0; `compute_90` is compiled on the spot for everything from 9.0 on; what is
    made for one architecture's own features (`sm_90a`) runs on that one alone.
    """
    if capability == (0, 0):
        return True  # NVML did not say which: the kernel that is run tells
    for arch in archs:
        kind, _, name = arch.partition("_")
        digits = name.rstrip("af")
        if not digits.isdigit():
            continue
        version = (int(digits[:-1] or 0), int(digits[-1]))
        older = version[0] == capability[0] and version[1] <= capability[1] if kind == "sm" else version <= capability
        runs = version == capability if name.endswith("a") else older
        if runs:
            return True
    return False


def build_for(capability: tuple[int, int], cuda: tuple[int, int] | None) -> Build | None:
    """The newest build with kernels for a card that this driver runs; None where it runs none of them.

    Args:
        capability: of the card; (0, 0) where it is not known.
        cuda: the newest CUDA that the driver supports; None where it is not known.
    """
    for build in BUILDS:
        fits = capability == (0, 0) or build.lowest <= capability <= build.highest
        if fits and (cuda is None or build.cuda[0] <= cuda[0]):
            return build
    return None


def _install(situation: Situation, card: Card, found: Cards) -> str:
    """The command that installs a build for this card and driver, or what has to come before it."""
    build = build_for(card.capability, found.cuda)
    if build is not None and (build.version == PINNED or found.cuda is None):
        return build.command
    newest = build_for(card.capability, None)
    if newest is None:
        return f"no build of torch has kernels for compute capability {card.capability[0]}.{card.capability[1]}: --set device=cpu"
    first = f"{newer_driver(situation)} (580 or newer), then: {newest.command}"
    return f"{build.command}; better: {first}" if build is not None else first


def _no_kernels(situation: Situation, torch: Torch, card: Card, found: Cards) -> Finding:
    wanted = f"sm_{card.capability[0]}{card.capability[1]}"
    needs = " (CUDA 12.8 or newer)" if card.capability >= BLACKWELL else ""
    message = f"torch {torch.version} has kernels for {', '.join(torch.archs)}; the {card.name} needs {wanted}{needs}"
    return Finding("E812", Level.FAIL, "torch", message, _install(situation, card, found))


def _old_driver(situation: Situation, torch: Torch, card: Card, found: Cards, level: Level) -> Finding:
    supports = f", which supports CUDA {found.cuda[0]}.{found.cuda[1]} at most" if found.cuda else ""
    message = f"torch {torch.version} is built with CUDA {torch.cuda}; the driver is {found.driver or 'unknown'}{supports}"
    build = build_for(card.capability, found.cuda) if found.cuda else None
    remedy = newer_driver(situation)
    if build is not None and build.cuda[0] < _cuda(torch.cuda)[0]:
        remedy += f"; or a torch for this driver: {build.command}"
    return Finding("E851", level, "torch", message, remedy)


def _mend(situation: Situation, error: str) -> str:
    """What to do about CUDA's refusals, by their words (cudaGetErrorString)."""
    said = error.lower()
    if situation.machine.wsl and ("no nvidia driver" in said or "unsupported display driver" in said):
        return (
            "use the driver of Windows, /usr/lib/wsl/lib/libcuda.so.1: remove a Linux one beside it "
            "(sudo apt-get purge 'nvidia-driver-*' 'libnvidia-*'), sudo ldconfig, then in Windows: wsl --shutdown"
        )
    if "no nvidia driver" in said:
        return (
            "libcuda.so.1 is not found, though NVML is; in a container: docker run --gpus all "
            "-e NVIDIA_DRIVER_CAPABILITIES=compute,utility; else: " + newer_driver(situation)
        )
    if "unsupported display driver" in said:
        return f"the loaded driver and libcuda are of different versions: unset LD_LIBRARY_PATH; {restart(situation)}"
    if "busy or unavailable" in said:
        return (
            "another process has the card to itself: end it (nvidia-smi names it), or share the card: sudo nvidia-smi -c DEFAULT"
        )
    if situation.machine.wsl:
        return restart(situation)
    return f"sudo rmmod nvidia_uvm && sudo modprobe nvidia_uvm (after a suspend that is enough); else: {restart(situation)}"


def _judge_order(torch: Torch, card: Card, found: Cards) -> list[Finding]:
    """CUDA puts the fastest card first, NVML that of the lowest PCI bus: what is checked here may be another one."""
    if card.index < 0:
        return []  # a slice of a card, which CUDA numbers by itself
    bare = torch.uuid.removeprefix("GPU-").removeprefix("MIG-")
    other = next((one for one in found.cards if bare and one.uuid.endswith(bare)), None)
    if other is None or other.uuid == card.uuid or (other.name, other.total) == (card.name, card.total):
        return []
    message = f"torch would compute on the {other.name}, not on the {card.name} that nvidia-smi has under that number"
    return [Finding("E811", Level.WARN, "torch", message, "export CUDA_DEVICE_ORDER=PCI_BUS_ID; or: cadmllm doctor --fix")]


def _cuda(version: str | None) -> tuple[int, int]:
    major, _, minor = (version or "0.0").partition(".")
    return int(major), int(minor.partition(".")[0] or 0)


def _first(error: str) -> str:
    return (error.strip().splitlines() or ["?"])[0][:200]


CHECKS = (
    Check(
        "torch",
        "torch is built for this driver and this card, and runs a kernel on it",
        ("E811", "E812", "E851", "E852", "E853"),
        check_torch,
        needs=("torch", "pynvml"),
        group="gpu",
        cached_by="torch's RECORD and version.py, driver, card (UUID), device, dtype, CUDA_* and LD_LIBRARY_PATH",
    ),
)
