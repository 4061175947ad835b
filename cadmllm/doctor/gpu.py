"""The GPU: there is one, torch has kernels for it, and the weights fit.

Standard library only: NVML and CUDA are asked in processes of their own, as a broken driver may hang or crash them.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

from cadmllm.doctor.check import Check, Finding, Level, Outcome, Situation
from cadmllm.doctor.probe import run_probe
from cadmllm.places import bundled, under_wsl
from cadmllm.plan.memory import fitting, predict
from cadmllm.plan.parts import UnknownShape
from cadmllm.plan.sizes import GIB, shape_of

SLOW_ON_CPU = 1e9  # parameters: a CPU trains 7M at 2,000 tokens/s, so one epoch of a larger one takes months
_NVML = """
import pynvml
try:
    pynvml.nvmlInit()
except pynvml.NVMLError as error:
    say(nvml=str(error))
    sys.exit()
say(driver=str(pynvml.nvmlSystemGetDriverVersion()))
for k in range(pynvml.nvmlDeviceGetCount()):
    handle = pynvml.nvmlDeviceGetHandleByIndex(k)
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
    say(card=str(pynvml.nvmlDeviceGetName(handle)), total=memory.total, free=memory.free, major=major, minor=minor)
"""
_TORCH = """
import torch
say(version=torch.__version__, cuda=torch.version.cuda, available=torch.cuda.is_available(),
    count=torch.cuda.device_count(), archs=torch.cuda.get_arch_list() if torch.cuda.is_available() else [])
"""


@dataclass(frozen=True, slots=True)
class Card:
    """A GPU as NVML sees it; memory in bytes, capability (12, 0) for Blackwell's RTX 50xx."""

    name: str
    total: int
    free: int
    capability: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Torch:
    """What torch says: its version, the CUDA it was built for, whether it can use a GPU, which kernels it has."""

    version: str
    cuda: str | None
    available: bool
    archs: tuple[str, ...]


def check_gpu(situation: Situation) -> Outcome:
    """There is a GPU where the settings need one, torch can use it, and the base model's weights fit."""
    settings = situation.needed
    if settings.device == "cpu":
        return Outcome(skipped="device is cpu")
    cards, driver = read_cards() if "pynvml" not in situation.broken else ([], "")
    if not cards:
        return _without_gpu(situation)
    index = int(settings.device.partition(":")[2] or 0)
    if index >= len(cards):
        message = f"device is {settings.device}, and there are {len(cards)} GPUs"
        return Outcome(findings=(Finding("E811", Level.FAIL, "gpu", message, "--set device=cuda:0"),))
    card = cards[index]
    seen = f"{card.name}, {card.total / GIB:.1f} GiB ({card.free / GIB:.1f} free), driver {driver}"
    if "torch" in situation.broken:
        return Outcome(skipped=f"torch cannot be imported ({seen})")
    findings = [*judge_torch(read_torch(), card, settings.device != "auto"), *_judge_type(settings.dtype, card)]
    findings += _judge_memory(situation, card)
    return Outcome(seen, tuple(findings))


def read_cards() -> tuple[list[Card], str]:
    """All GPUs and the driver's version, asked of NVML; no cards where there is no driver."""
    probe = run_probe(_NVML, seconds=30)
    cards = [
        Card(line["card"], line["total"], line["free"], (line["major"], line["minor"])) for line in probe.lines if "card" in line
    ]
    return cards, next((line["driver"] for line in probe.lines if "driver" in line), "")


def read_torch() -> Torch:
    """What torch says about CUDA, asked in a process of its own: a context that hangs must not hang us."""
    probe = run_probe(_TORCH, seconds=90)
    if not probe.lines:
        raise RuntimeError(f"asking torch about CUDA ended with {probe.end} {probe.stderr}")
    line = probe.lines[0]
    return Torch(line["version"], line["cuda"], line["available"], tuple(line["archs"]))


def judge_torch(torch: Torch, card: Card, required: bool) -> list[Finding]:
    """Findings about a torch and a card: a CPU build beside a GPU, a driver that is too old, missing kernels."""
    level = Level.FAIL if required else Level.WARN
    pip = f"{sys.executable} -m pip install --force-reinstall --no-deps torch==2.13.0 --index-url https://download.pytorch.org/whl/cu128"
    if torch.cuda is None:
        message = f"torch {torch.version} is a CPU build, beside a {card.name}"
        return [Finding("E812", level, "gpu", message, pip)]
    if not torch.available:
        update = (
            "update the NVIDIA driver on Windows, then: wsl --shutdown"
            if under_wsl()
            else "update the NVIDIA driver (nvidia-smi)"
        )
        return [Finding("E811", level, "gpu", f"torch {torch.version} (CUDA {torch.cuda}) cannot use the {card.name}", update)]
    if not has_kernels(torch.archs, card.capability):
        wanted = f"sm_{card.capability[0]}{card.capability[1]}"
        message = f"torch {torch.version} has kernels for {', '.join(torch.archs)}; the {card.name} needs {wanted}"
        return [Finding("E812", Level.FAIL, "gpu", message, pip)]
    return []


def has_kernels(archs: tuple[str, ...], capability: tuple[int, int]) -> bool:
    """Whether a build runs on a card: machine code of the same major version and no newer minor one, or PTX of an older one.

    CUDA's rule: `sm_80` runs on 8.x with x >= 0; `compute_90` is compiled on the spot for everything from 9.0 on.
    """
    for arch in archs:
        kind, _, digits = arch.partition("_")
        digits = "".join(c for c in digits if c.isdigit())  # sm_90a
        if not digits:
            continue
        version = (int(digits[:-1] or 0), int(digits[-1]))
        if kind == "sm" and version[0] == capability[0] and version[1] <= capability[1]:
            return True
        if kind == "compute" and version <= capability:
            return True
    return False


def _without_gpu(situation: Situation) -> Outcome:
    settings = situation.needed
    shape = shape_of(str(bundled("checkpoints") / "tiny-base") if settings.model.llm == "tiny" else settings.model.llm)
    large = shape is not None and shape.parameters >= SLOW_ON_CPU
    required = settings.device != "auto" or large
    why = f"device is {settings.device}" if settings.device != "auto" else f"{settings.model.llm} on a CPU takes months"
    driver = (
        "install the NVIDIA driver on Windows (WSL uses it)"
        if under_wsl()
        else "install the NVIDIA driver (nvidia-smi must work)"
    )
    if required:
        message = f"NVML finds no GPU, and {why}"
        return Outcome(findings=(Finding("E811", Level.FAIL, "gpu", message, f"{driver}; or --preset tiny, which a CPU trains"),))
    message = "no GPU: the CPU will train, which is enough for small models"
    return Outcome(findings=(Finding("E811", Level.WARN, "gpu", message, f"{driver}, or go on without"),))


def _judge_type(dtype: str, card: Card) -> list[Finding]:
    """Cards before Ampere imitate bfloat16, many times slower; training refuses it there (`models.backbone.check_dtype`)."""
    if dtype != "bfloat16" or card.capability >= (8, 0):
        return []
    message = f"dtype is bfloat16, which the {card.name} (compute capability {card.capability[0]}.{card.capability[1]}) lacks"
    return [Finding("E613", Level.FAIL, "gpu", message, "--set dtype=float16, which scales the loss")]


def _judge_memory(situation: Situation, card: Card) -> list[Finding]:
    """What stands on the card whatever is computed must fit; so should the largest micro-batch (else training cuts it)."""
    settings, stage = situation.needed, max(situation.stages, default=3)
    try:
        memory = predict(settings, stage, device="cuda")
    except UnknownShape:
        return []
    standing = predict(settings, stage, tokens=0, device="cuda").total
    name = f"{settings.model.llm} ({settings.model.quantization if settings.model.quantization != 'none' else settings.dtype})"
    parts = f"{standing / GIB:.1f} GiB for weights, what trains them and CUDA, before activations"
    if standing > card.total:
        remedy = "--preset 16gb (NF4), 8gb or tiny; see: cadmllm config presets"
        message = f"{name} needs {parts}; the {card.name} has {card.total / GIB:.1f} GiB"
        return [Finding("E813", Level.FAIL, "gpu", message, remedy)]
    have = f"{card.free / GIB:.1f} GiB of {card.total / GIB:.1f} are free"
    if standing > card.free:
        return [Finding("E813", Level.WARN, "gpu", f"{name} needs {parts}; {have}", "close what else uses the GPU: nvidia-smi")]
    if memory.total > card.free:
        message = f"{name} takes {memory.total / GIB:.1f} GiB with {memory.tokens:,} tokens a micro-batch, by arithmetic; {have}"
        smaller = fitting(settings, stage, card.free) or "a smaller preset (cadmllm config presets)"
        remedy = f"{smaller}, or close what else uses the GPU: nvidia-smi"
        return [Finding("E813", Level.WARN, "gpu", message, remedy)]
    return []


CHECKS = (
    Check(
        "gpu",
        "there is a GPU where one is needed, torch can use it, the weights fit",
        ("E613", "E811", "E812", "E813"),
        check_gpu,
        group="gpu",
    ),
)
