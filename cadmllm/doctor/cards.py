"""What NVML says of the GPUs, asked once a doctor. Standard library only.

NVML is asked in a process of its own, as a broken driver may hang or crash it. Much of it is refused by some card or driver
(under WSL: other processes, often power and throttling): what is refused is None, and nothing is guessed in its place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cadmllm.doctor.check import Situation
from cadmllm.doctor.probe import run_probe

SECONDS = 20.0  # without its persistence mode a driver first wakes every card, which takes up to a second each
NO_LIBRARY, NO_PACKAGE, MISMATCH = "LibraryNotFound", "ImportError", "LibRmVersionMismatch"  # of `Cards.kind`
_NVML = """
import os
try:
    import pynvml
except ImportError as error:
    say(kind="ImportError", error=str(error))
    sys.exit()
def kind_of(error):
    return type(error).__name__.removeprefix("NVMLError_")
try:
    pynvml.nvmlInit()
except pynvml.NVMLError as error:
    say(kind=kind_of(error), error=str(error))
    sys.exit()
def ask(name, *given):
    try:
        return getattr(pynvml, name)(*given)
    except (pynvml.NVMLError, AttributeError):  # refused by the card or the driver, or by an older pynvml
        return None
def processes(handle):
    found = {}
    for kind in ("Compute", "Graphics"):
        listed = ask(f"nvmlDeviceGet{kind}RunningProcesses", handle)
        if listed is None:
            return None
        for one in listed:
            name = ask("nvmlSystemGetProcessName", one.pid)
            found[one.pid] = {"pid": one.pid, "name": name and str(name), "bytes": one.usedGpuMemory, "draws": kind == "Graphics"}
    return list(found.values())
def milli(value):
    return None if value is None else value / 1000
def tell(index, handle):
    memory = ask("nvmlDeviceGetMemoryInfo", handle)
    utilisation = ask("nvmlDeviceGetUtilizationRates", handle)
    name, uuid = ask("nvmlDeviceGetName", handle), ask("nvmlDeviceGetUUID", handle)
    say(index=index, name=str(name or "GPU"), uuid=str(uuid or ""),
        total=memory and memory.total, free=memory and memory.free,
        capability=ask("nvmlDeviceGetCudaComputeCapability", handle), processes=processes(handle),
        display=ask("nvmlDeviceGetDisplayActive", handle), temperature=ask("nvmlDeviceGetTemperature", handle, 0),
        power=milli(ask("nvmlDeviceGetPowerUsage", handle)), limit=milli(ask("nvmlDeviceGetEnforcedPowerLimit", handle)),
        usual_limit=milli(ask("nvmlDeviceGetPowerManagementDefaultLimit", handle)),
        throttle=ask("nvmlDeviceGetCurrentClocksThrottleReasons", handle),
        generation=ask("nvmlDeviceGetCurrPcieLinkGeneration", handle),
        most_generation=ask("nvmlDeviceGetMaxPcieLinkGeneration", handle),
        width=ask("nvmlDeviceGetCurrPcieLinkWidth", handle), most_width=ask("nvmlDeviceGetMaxPcieLinkWidth", handle),
        utilisation=utilisation and utilisation.gpu)
say(driver=str(ask("nvmlSystemGetDriverVersion") or ""), cuda=ask("nvmlSystemGetCudaDriverVersion"))
for k in range(pynvml.nvmlDeviceGetCount()):
    try:
        handle = pynvml.nvmlDeviceGetHandleByIndex(k)
    except pynvml.NVMLError as error:
        say(lost=k, error=str(error))
    else:
        tell(k, handle)
for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(","):
    handle = ask("nvmlDeviceGetHandleByUUID", name.strip()) if name.strip().startswith("MIG-") else None
    if handle is not None:
        tell(-1, handle)
"""


@dataclass(frozen=True, slots=True)
class Holder:
    """A process that holds GPU memory; `bytes` and `name` are None where NVML does not say; `draws`: it is of the desktop."""

    pid: int
    name: str | None = None
    bytes: int | None = None
    draws: bool = False


@dataclass(frozen=True, slots=True)
class Card:
    """A GPU as NVML sees it. Whatever NVML refuses to say is None.

    Attributes:
        index: NVML's number (order of the PCI bus); -1 for a slice of a card (MIG).
        name, uuid: 'NVIDIA GeForce RTX 5070 Ti', 'GPU-...' or 'MIG-...'.
        total, free: bytes; those of a card whose memory is refused are 0.
        capability: (12, 0) for Blackwell's RTX 50xx; (0, 0) where it is refused.
        processes: who holds its memory; None where NVML does not tell (WSL).
        display: whether a screen hangs on it.
        temperature: degrees C.
        power, limit, usual_limit: watts drawn now, allowed at most, allowed as it was built.
        throttle: NVML's bits of why its clocks are held back.
        generation, most_generation, width, most_width: of the PCIe link now and at most; an idle card drops its generation.
        utilisation: percent.
    """

    index: int
    name: str
    uuid: str
    total: int
    free: int
    capability: tuple[int, int]
    processes: tuple[Holder, ...] | None = None
    display: bool | None = None
    temperature: int | None = None
    power: float | None = None
    limit: float | None = None
    usual_limit: float | None = None
    throttle: int | None = None
    generation: int | None = None
    most_generation: int | None = None
    width: int | None = None
    most_width: int | None = None
    utilisation: int | None = None


@dataclass(frozen=True, slots=True)
class Cards:
    """All GPUs of the machine.

    Attributes:
        cards: in NVML's order.
        driver: its version; '' where it was not told.
        cuda: the newest CUDA that the driver supports, (12, 8); None where it was not told.
        error: why NVML said nothing, or not all; '' when well.
        kind: of the error: NVML's name for it ('LibRmVersionMismatch'), 'ImportError', or 'hang' or 'crash' of the process.
        lost: numbers of cards that NVML knows and cannot reach.
    """

    cards: tuple[Card, ...] = ()
    driver: str = ""
    cuda: tuple[int, int] | None = None
    error: str = ""
    kind: str = ""
    lost: tuple[int, ...] = ()


def cards_of(situation: Situation) -> Cards:
    """What NVML says, asked once for all checks."""
    return situation.once("cards", lambda: read_cards(situation.machine.environ))


def card_of(situation: Situation) -> Card | None:
    """The GPU that `settings.device` names ('auto' and 'cuda': the first that CUDA_VISIBLE_DEVICES lets through).

    None on a CPU (NVML is not asked then), where NVML finds no GPU, or none of that number.
    """
    device = situation.needed.device
    if device == "cpu":
        return None
    seen = visible(cards_of(situation).cards, situation.machine.environ)
    index = int(device.partition(":")[2] or 0)
    return seen[index] if index < len(seen) else None


def visible(cards: tuple[Card, ...], environ: Mapping[str, str]) -> tuple[Card, ...]:
    """The cards that CUDA shows to a process, in its order.

    CUDA_VISIBLE_DEVICES lists numbers, or UUIDs, which may be cut short; what stands behind the first that names nothing is
    hidden, too (CUDA C++ Programming Guide, "CUDA Environment Variables"). Numbers are NVML's here: CUDA numbers the cards
    the same way with CUDA_DEVICE_ORDER=PCI_BUS_ID, else puts the fastest first, which only matters where cards differ.
    """
    chosen = environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return tuple(card for card in cards if card.index >= 0)
    found: list[Card] = []
    for name in (part.strip() for part in chosen.split(",")):
        if name.isdigit():
            matching = [card for card in cards if card.index == int(name)]
        else:
            matching = [card for card in cards if name and card.uuid.startswith(name)]
        if len(matching) != 1 or matching[0] in found:
            break
        found += matching
    return tuple(found)


def read_cards(environ: Mapping[str, str] | None = None) -> Cards:
    """Ask NVML, in a process of its own with these variables."""
    probe = run_probe(_NVML, seconds=SECONDS, environ=environ)
    cards: list[Card] = []
    driver, cuda, error, kind = "", None, "", ""
    for line in probe.lines:
        if "driver" in line:
            driver, cuda = line["driver"], _version(line["cuda"])
        elif "index" in line:
            cards.append(_card(line))
        elif "kind" in line:
            error, kind = line["error"], line["kind"]
    lost = tuple(line["lost"] for line in probe.lines if "lost" in line)
    if probe.end and not error:
        hung = probe.end.startswith("no answer")
        kind = "hang" if hung else "crash"
        error = probe.end if hung or not probe.stderr else f"{probe.end}: {probe.stderr}"
    return Cards(tuple(cards), driver, cuda, error, kind, lost)


def _version(number: int | None) -> tuple[int, int] | None:
    """12080 is CUDA 12.8."""
    return None if number is None else (number // 1000, number % 1000 // 10)


def _card(line: dict[str, Any]) -> Card:
    told = dict(line)
    major, minor = told.pop("capability") or (0, 0)
    listed = told.pop("processes")
    holders = None if listed is None else tuple(Holder(**one) for one in listed)
    display = told.pop("display")
    told["total"], told["free"] = told["total"] or 0, told["free"] or 0
    return Card(**told, capability=(major, minor), processes=holders, display=None if display is None else bool(display))
