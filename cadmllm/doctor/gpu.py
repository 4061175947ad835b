"""There is a GPU where the settings need one, CUDA may see it, and it computes in the type that is set. Standard library only."""

from __future__ import annotations

import sys

from cadmllm.doctor.cards import MISMATCH, NO_PACKAGE, Card, Cards, cards_of, visible
from cadmllm.doctor.check import Check, Finding, Level, Outcome, Situation
from cadmllm.places import bundled
from cadmllm.plan.sizes import GIB, shape_of

SLOW_ON_CPU = 1e9  # parameters: a CPU trains 7M at 2,000 tokens/s, so one epoch of a larger one takes months
BFLOAT16 = (8, 0)  # Ampere and newer compute in it
FLOAT16 = (7, 0)  # Volta and newer have units for its products
NO_DRIVER = ("LibraryNotFound", "DriverNotLoaded")  # NVML's names for a machine without a driver
_WSL_LIBRARY = "usr/lib/wsl/lib/libcuda.so.1"


def check_gpu(situation: Situation) -> Outcome:
    """There is a GPU where the settings need one, and it computes in the settings' type."""
    settings = situation.needed
    if settings.device == "cpu":
        return Outcome(skipped="device is cpu")
    found = cards_of(situation)
    if found.kind == NO_PACKAGE:
        remedy = f"{sys.executable} -m pip install nvidia-ml-py"
        message = f"NVML cannot be asked about the GPUs: {found.error}"
        return Outcome(findings=(Finding("E802", Level.FAIL, "gpu", message, remedy),))
    if not found.cards:
        return _without(situation, found)
    seen = visible(found.cards, situation.machine.environ)
    index = int(settings.device.partition(":")[2] or 0)
    if index >= len(seen):
        return Outcome(findings=(_hidden(situation, found, seen),), details=tuple(map(describe, found.cards)))
    card = seen[index]
    findings = [*_unreachable(situation, found), *judge_type(settings.dtype, card)]
    newest = f" (CUDA {found.cuda[0]}.{found.cuda[1]})" if found.cuda else ""
    summary = f"{card.name}, {card.total / GIB:.1f} GiB ({card.free / GIB:.1f} free), driver {found.driver}{newest}"
    details = [describe(one) for one in found.cards]
    if settings.dtype == "float16" and (0, 0) < card.capability < FLOAT16:
        details.append("float16 saves memory here, not time: the card has no units for its products")
    return Outcome(summary, tuple(findings), details=tuple(details))


def gpu_needed(situation: Situation) -> bool:
    """Whether the run would fail, or take months, without a GPU."""
    settings = situation.needed
    if settings.device != "auto":
        return settings.device != "cpu"
    name = settings.model.llm
    shape = shape_of(str(bundled("checkpoints") / "tiny-base") if name == "tiny" else name)
    return shape is not None and shape.parameters >= SLOW_ON_CPU


def severity(situation: Situation) -> Level:
    """How bad it is that there is no GPU to compute on."""
    return Level.FAIL if gpu_needed(situation) else Level.WARN


def restart(situation: Situation) -> str:
    """How a driver is loaded anew."""
    return "in a terminal of Windows: wsl --shutdown, then start WSL again" if situation.machine.wsl else "sudo reboot"


def newer_driver(situation: Situation) -> str:
    """Where the driver comes from. Under WSL it is that of Windows; a Linux one beside it breaks it."""
    if situation.machine.wsl:
        where = "https://www.nvidia.com/drivers"
        return f"install the newest NVIDIA driver on Windows ({where}; none inside WSL), then in Windows: wsl --shutdown"
    return "sudo ubuntu-drivers install && sudo reboot (or your distribution's newest NVIDIA driver); nvidia-smi must work then"


def describe(card: Card) -> str:
    """A card in a line, for `-v`; what NVML refused is left out."""
    parts = [f"GPU {card.index}" if card.index >= 0 else "MIG", card.name, f"{card.total / GIB:.1f} GiB"]
    parts.append(f"{card.free / GIB:.1f} free, compute capability {card.capability[0]}.{card.capability[1]}")
    if card.temperature is not None:
        parts.append(f"{card.temperature} C")
    if card.power is not None:
        parts.append(f"{card.power:.0f} W" + (f" of {card.limit:.0f}" if card.limit else ""))
    if card.width is not None and card.generation is not None:
        parts.append(f"PCIe {card.generation}.0 x{card.width}")
    if card.utilisation is not None:
        parts.append(f"{card.utilisation} % busy")
    return ", ".join(parts)


def _without(situation: Situation, found: Cards) -> Outcome:
    """No card: a finding, but where none is needed and nothing tells of one."""
    expected = found.driver or found.kind not in NO_DRIVER or nvidia_hardware(situation)
    if not expected and not gpu_needed(situation):
        return Outcome("no GPU: the CPU will train, which is enough for small models")
    return Outcome(findings=(_absent(situation, found),))


def _absent(situation: Situation, found: Cards) -> Finding:
    """NVML names no card: no driver, a driver that was replaced while it ran, or one that hangs."""
    settings = situation.needed
    if found.kind == MISMATCH or "version mismatch" in found.error.lower():
        message = f"driver/library version mismatch: the NVIDIA driver was updated while the old one is loaded ({found.error})"
        return Finding("E811", severity(situation), "gpu", message, restart(situation))
    if found.kind in ("hang", "crash"):
        how = "hangs" if found.kind == "hang" else "crashes"
        message = f"the NVIDIA driver {how} when NVML asks it ({found.error}), as it would under training"
        remedy = f"{restart(situation)}; if it stays so: {newer_driver(situation)}"
        return Finding("E811", Level.FAIL, "gpu", message, remedy)
    hardware = nvidia_hardware(situation)
    what = f"there is {hardware} and no working driver" if hardware else "there is no GPU"
    what += f" (NVML: {found.error})" if found.error else f", though driver {found.driver} is there"
    driver = _driver_for(situation)
    if gpu_needed(situation):
        reason = f"device is {settings.device}" if settings.device != "auto" else f"{settings.model.llm} on a CPU takes months"
        return Finding("E811", Level.FAIL, "gpu", f"{what}; {reason}", f"{driver}; or --preset tiny, which a CPU trains")
    message = f"{what}: the CPU will train, which is enough for small models"
    return Finding("E811", Level.WARN, "gpu", message, f"{driver}; or, to go on without: --set device=cpu")


def nvidia_hardware(situation: Situation) -> str:
    """An NVIDIA card as the PCI bus, or under WSL Windows' driver, shows it: 'an NVIDIA card (PCI 0000:01:00.0)', or ''."""
    machine = situation.machine
    if machine.wsl:
        return "an NVIDIA driver of Windows (/usr/lib/wsl/lib)" if machine.path(_WSL_LIBRARY).exists() else ""
    for device in sorted(machine.path("sys/bus/pci/devices").glob("*")):
        folder = f"sys/bus/pci/devices/{device.name}"
        if machine.text(f"{folder}/vendor").strip() == "0x10de" and machine.text(f"{folder}/class").startswith("0x03"):
            return f"an NVIDIA card (PCI {device.name})"
    return ""


def _driver_for(situation: Situation) -> str:
    """How this machine comes by a driver that NVML finds."""
    machine = situation.machine
    if machine.path(".dockerenv").exists():
        return "give the container the GPU: docker run --gpus all (needs nvidia-container-toolkit on the host)"
    if machine.wsl and machine.path(_WSL_LIBRARY).exists():
        return "echo /usr/lib/wsl/lib | sudo tee /etc/ld.so.conf.d/wsl.conf && sudo ldconfig"
    if machine.wsl and not machine.path("dev/dxg").exists():
        return f"no GPU comes through from Windows (there is no /dev/dxg): wsl --update, then {newer_driver(situation)}"
    return newer_driver(situation)


def _hidden(situation: Situation, found: Cards, seen: tuple[Card, ...]) -> Finding:
    """The card that is asked for is not among those that CUDA may see."""
    device, chosen = situation.needed.device, situation.machine.environ.get("CUDA_VISIBLE_DEVICES")
    names = ", ".join(f"{card.index}: {card.name}" for card in found.cards if card.index >= 0)
    if seen:
        count = "1 GPU" if len(seen) == 1 else f"{len(seen)} GPUs"
        through = f" that CUDA_VISIBLE_DEVICES={chosen} lets through" if chosen is not None else ""
        message = f"device is {device}, and there is {count}{through} ({names})"
        if len(seen) > 1:
            message = message.replace("there is", "there are", 1)
        return Finding("E811", Level.FAIL, "gpu", message, f"--set device=cuda:{len(seen) - 1}")
    message = f"CUDA_VISIBLE_DEVICES={chosen!r} hides every GPU ({names})"
    remedy = "unset CUDA_VISIBLE_DEVICES; or, to train on the CPU: --set device=cpu"
    return Finding("E811", severity(situation), "gpu", message, remedy)


def _unreachable(situation: Situation, found: Cards) -> list[Finding]:
    """Cards that have fallen off the bus beside one that works, and an NVML that broke off halfway."""
    findings = []
    if found.lost:
        numbers = ", ".join(str(number) for number in found.lost)
        message = f"NVML knows GPU {numbers} and cannot reach it: it has fallen off the bus"
        remedy = f"see why: sudo dmesg | grep -i xid; then {restart(situation)}"
        findings.append(Finding("E811", Level.WARN, "gpu", message, remedy))
    if found.error:
        message = f"NVML broke off while it was asked ({found.error})"
        findings.append(Finding("E811", Level.WARN, "gpu", message, restart(situation)))
    return findings


def judge_type(dtype: str, card: Card) -> list[Finding]:
    """Cards before Ampere imitate bfloat16, many times slower; training refuses it there (`models.backbone.check_dtype`)."""
    if dtype != "bfloat16" or card.capability >= BFLOAT16 or card.capability == (0, 0):
        return []
    message = f"dtype is bfloat16, which the {card.name} (compute capability {card.capability[0]}.{card.capability[1]}) lacks"
    return [Finding("E613", Level.FAIL, "gpu", message, "--set dtype=float16 (its loss is scaled)")]


CHECKS = (
    Check(
        "gpu",
        "there is a GPU where one is needed, CUDA may see it, it computes in the type that is set",
        ("E613", "E802", "E811"),
        check_gpu,
        needs=("pynvml",),
        group="gpu",
    ),
)
