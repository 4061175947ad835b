"""Stub modules that stand for NVML and for a torch with CUDA in the processes that checks start."""

from __future__ import annotations

import json
from typing import Any

GIB = 2**30
NVML = """
import json, os, time
CARDS, SYSTEM = json.loads({cards!r}), json.loads({system!r})
NVML_ERRORS = ("LibraryNotFound", "LibRmVersionMismatch", "NotSupported", "GpuIsLost")
class NVMLError(Exception): pass
for name in NVML_ERRORS:
    globals()["NVMLError_" + name] = type("NVMLError_" + name, (NVMLError,), {{}})
class Memory:
    def __init__(self, card): self.total, self.free = card["total"], card["free"]
class Rates:
    def __init__(self, gpu): self.gpu = gpu
class Process:
    def __init__(self, pid, name, size): self.pid, self.name, self.usedGpuMemory = pid, name, size
def nvmlInit():
    if SYSTEM.get("hangs"): time.sleep(60)
    if SYSTEM.get("crashes"): os.kill(os.getpid(), 11)
    if SYSTEM.get("kind"): raise globals()["NVMLError_" + SYSTEM["kind"]](SYSTEM["error"])
    print("noise")
def nvmlSystemGetDriverVersion(): return SYSTEM["driver"]
def nvmlSystemGetCudaDriverVersion(): return SYSTEM["cuda"]
def nvmlDeviceGetCount(): return len(CARDS)
def nvmlDeviceGetHandleByIndex(k):
    if CARDS[k] is None: raise NVMLError_GpuIsLost("GPU is lost")
    return CARDS[k]
def nvmlDeviceGetHandleByUUID(name):
    return SYSTEM["slices"][name]
def given(name, make=lambda value: value):
    def ask(card, *others):
        if name not in card: raise NVMLError_NotSupported("Not Supported")
        return make(card[name])
    return ask
def nvmlDeviceGetMemoryInfo(card): return Memory(card)
nvmlDeviceGetName, nvmlDeviceGetUUID = given("name"), given("uuid")
nvmlDeviceGetCudaComputeCapability = given("capability")
nvmlDeviceGetUtilizationRates = given("utilisation", Rates)
nvmlDeviceGetComputeRunningProcesses = given("compute", lambda found: [Process(*one) for one in found])
nvmlDeviceGetGraphicsRunningProcesses = given("graphics", lambda found: [Process(*one) for one in found])
def nvmlSystemGetProcessName(pid):
    return next(n for card in CARDS for p, n, _ in card.get("compute", []) + card.get("graphics", []) if p == pid)
nvmlDeviceGetDisplayActive, nvmlDeviceGetTemperature = given("display"), given("temperature")
nvmlDeviceGetPowerUsage, nvmlDeviceGetEnforcedPowerLimit = given("power"), given("limit")
nvmlDeviceGetPowerManagementDefaultLimit = given("usual_limit")
nvmlDeviceGetCurrentClocksThrottleReasons = given("throttle")
nvmlDeviceGetCurrPcieLinkGeneration, nvmlDeviceGetMaxPcieLinkGeneration = given("generation"), given("most_generation")
nvmlDeviceGetCurrPcieLinkWidth, nvmlDeviceGetMaxPcieLinkWidth = given("width"), given("most_width")
"""
TORCH = """
import types
__version__ = {version!r}
version = types.SimpleNamespace(cuda={cuda!r})
float32, float16, bfloat16 = "float32", "float16", "bfloat16"
class Number:
    def __matmul__(self, other): return self
    def reshape(self, *shape): return self
    t = sum = cpu = lambda self: self
    def __float__(self): return {product!r}
def init():
    if {init!r}: raise RuntimeError({init!r})
def arange(n, device, dtype):
    if {launch!r}: raise RuntimeError({launch!r})
    return Number()
cuda = types.SimpleNamespace(init=init, get_arch_list=lambda: {archs!r},
    get_device_properties=lambda device: types.SimpleNamespace(uuid={uuid!r}, name={name!r}))
"""
CU126 = ("sm_50", "sm_60", "sm_70", "sm_75", "sm_80", "sm_86", "sm_90")
CU130 = ("sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "compute_120")
UUID = "0c9f2a11-5070"


def card(**changed: Any) -> dict[str, Any]:
    """A healthy, idle RTX 5070 Ti as NVML tells of it on Linux; a value None is one that NVML refuses."""
    told = {
        "name": "NVIDIA GeForce RTX 5070 Ti",
        "uuid": f"GPU-{UUID}",
        "total": 16303 << 20,
        "free": 15800 << 20,
        "capability": [12, 0],
        "compute": [],
        "graphics": [],
        "display": 0,
        "temperature": 36,
        "power": 12_000,
        "limit": 300_000,
        "usual_limit": 300_000,
        "throttle": 1,
        "generation": 1,
        "most_generation": 5,
        "width": 16,
        "most_width": 16,
        "utilisation": 0,
        **changed,
    }
    return {key: value for key, value in told.items() if value is not None}


def wsl_card(**changed: Any) -> dict[str, Any]:
    """As under WSL, where NVML refuses processes and more."""
    refused = dict.fromkeys(("compute", "graphics", "throttle", "power", "limit", "usual_limit"))
    return card(**(refused | changed))


def nvml(*cards: dict[str, Any] | None, **system: Any) -> str:
    """Source of a `pynvml` that tells of these cards (None: one that is lost), driver 580 for CUDA 13.0."""
    told = {"driver": "580.95.05", "cuda": 13000, **system}
    return NVML.format(cards=json.dumps(cards), system=json.dumps(told))


def torch(
    version: str = "2.13.0+cu130",
    cuda: str | None = "13.0",
    archs: tuple[str, ...] = CU130,
    init: str = "",
    launch: str = "",
    uuid: str = UUID,
    name: str = "NVIDIA GeForce RTX 5070 Ti",
    product: float = 216.0,
) -> str:
    """Source of a `torch` of that build; `init` and `launch` are what CUDA says when it is started, or runs a kernel."""
    said = {"version": version, "cuda": cuda, "archs": list(archs), "init": init, "launch": launch, "uuid": uuid, "name": name}
    return TORCH.format(**said, product=product)
