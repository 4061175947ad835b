"""Main memory and swap against what this run keeps there; under WSL, against what `.wslconfig` gives. Standard library only."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cadmllm.doctor import wsl
from cadmllm.doctor.check import Check, Finding, Level, Outcome, Situation
from cadmllm.doctor.machine import Machine
from cadmllm.doctor.transfer import waiting, window_of

if TYPE_CHECKING:
    from cadmllm.settings import Settings

GIB = 2**30
MAIN = 6 * 2**27  # bytes: torch, transformers and peft took 0.4 GiB when they were imported, the rest grows in use
CUDA = 2**30  # bytes of CUDA's libraries and context in main memory: an assumption
KERNEL = 2**28  # bytes of a worker of the CAD kernel, measured with OCP imported
LOADER = 2**27  # bytes of its own of a loader process: most is shared with training
SYSTEM = 2**29  # bytes for everything else on the machine
ADDRESSES = 2**36  # bytes that a process addresses without using them: CUDA maps all memory, weights are mapped files
_NO_LIMIT = 2**60  # version 1 of control groups writes "none" as a huge number


@dataclass(frozen=True, slots=True)
class Memory:
    """Main memory in bytes.

    Attributes:
        total: that may be used at all.
        available: of it, now.
        swap, swap_free: likewise.
        limit: who limits it, in words; '' where it is what the machine has.
    """

    total: int
    available: int
    swap: int = 0
    swap_free: int = 0
    limit: str = ""


def main_memory(machine: Machine) -> Memory | None:
    """What /proc/meminfo says, or a control group (Docker, Slurm) that allows less; None where nothing says it."""
    values: dict[str, int] = {}
    for line in machine.text("proc/meminfo").splitlines():
        name, _, rest = line.partition(":")
        number = rest.split()[:1]
        if number and number[0].isdigit():
            values[name] = int(number[0]) * 1024
    if not values.get("MemTotal"):
        return None
    total = values["MemTotal"]
    found = Memory(total, values.get("MemAvailable", total), values.get("SwapTotal", 0), values.get("SwapFree", 0))
    limit, used = group_limit(machine)
    if limit is None or limit >= total:
        return found
    free = min(found.available, max(0, limit - used))
    return replace(found, total=limit, available=free, limit="a limit of the container or job (control group)")


def group_limit(machine: Machine) -> tuple[int | None, int]:
    """The smallest memory limit of the control groups that this process is in, and the bytes used in that group."""
    smallest, used = None, 0
    for line in machine.text("proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            base, names = "sys/fs/cgroup", ("memory.max", "memory.current", "memory.stat", "inactive_file")
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "memory.stat", "total_inactive_file")
            base = "sys/fs/cgroup/memory"
        else:
            continue
        parts = [part for part in path.split("/") if part and part != ".."]
        for depth in range(len(parts), -1, -1):  # a container sees its own group as the root
            folder = "/".join([base, *parts[:depth]])
            text = machine.text(f"{folder}/{names[0]}").strip()
            if text.isdigit() and int(text) < _NO_LIMIT and (smallest is None or int(text) < smallest):
                smallest = int(text)
                used = _used(machine, folder, names)
    return smallest, used


def _used(machine: Machine, folder: str, names: tuple[str, str, str, str]) -> int:
    """Bytes used in a group, without the files that would make room."""
    current = machine.text(f"{folder}/{names[1]}").strip()
    cached = [line.split()[1] for line in machine.text(f"{folder}/{names[2]}").splitlines() if line.startswith(f"{names[3]} ")]
    return max(0, int(current or 0) - int(cached[0] if cached else 0)) if current.isdigit() else 0


def address_space(machine: Machine) -> int | None:
    """Bytes that a process may address (`ulimit -v`); None where there is no limit."""
    found = re.search(r"^Max address space\s+(\d+)", machine.text("proc/self/limits"), re.MULTILINE)
    return int(found[1]) if found else None


def computes_on_cpu(situation: Situation) -> bool:
    """Whether the run will compute in main memory: it is told to, or this machine has no GPU of NVIDIA."""
    settings, machine = situation.needed, situation.machine
    nodes = ("dev/nvidiactl", "dev/nvidia0", "dev/dxg", "proc/driver/nvidia/version")
    return settings.device == "cpu" or (settings.device == "auto" and not any(machine.path(node).exists() for node in nodes))


def needed(situation: Situation) -> list[tuple[str, int]]:
    """(what for, bytes) of main memory that the run takes; the model's part is missing where its size is unknown."""
    settings = situation.settings
    if settings is None:
        return [("torch, transformers and the CAD kernel", MAIN + 2 * KERNEL + SYSTEM)]
    from cadmllm.plan.memory import predict
    from cadmllm.plan.parts import UnknownShape

    cpu = computes_on_cpu(situation)
    parts = [("the system and cadmllm itself", SYSTEM + MAIN)]
    if not cpu:
        parts.append(("CUDA", CUDA))
    try:
        model = max((predict(settings, stage, device="cpu" if cpu else "cuda").ram for stage in situation.stages), default=0)
        parts.append(("the model and its training" if cpu else "what is kept off the card", model))
    except UnknownShape:
        pass
    judged = settings.train.judge_samples or settings.train.sample_steps
    if judged:
        parts.append((f"{settings.kernel.workers} processes of the CAD kernel", settings.kernel.workers * KERNEL))
    if settings.train.workers:
        sent = max(waiting(settings, window_of(settings, stage))[0] for stage in situation.stages)
        parts.append((f"{settings.train.workers} loader processes and what they prepare", settings.train.workers * LOADER + sent))
    return [(name, size) for name, size in parts if size]


def check_memory(situation: Situation) -> Outcome:
    """Main memory and swap hold what this run keeps there."""
    memory = main_memory(situation.machine)
    if memory is None:
        return Outcome(skipped="/proc/meminfo does not say how much memory there is")
    parts = needed(situation)
    need = sum(size for _, size in parts)
    address = address_space(situation.machine)
    if address is not None and address < need + ADDRESSES:
        message = (
            f"a process may address {address / GIB:.1f} GiB (ulimit -v), and CUDA and mapped weights want far more than is used"
        )
        finding = Finding("E814", Level.FAIL if address < need else Level.WARN, "memory", message, "ulimit -v unlimited")
        return Outcome(findings=(finding,))
    swap = f", {memory.swap / GIB:.1f} GiB swap" if memory.swap else ", no swap"
    text = f"{memory.total / GIB:.1f} GiB ({memory.available / GIB:.1f} free){swap}; this run takes about {need / GIB:.1f}"
    details = tuple(f"{name}: {size / GIB:.2f} GiB" for name, size in parts) + ((memory.limit,) if memory.limit else ())
    if need <= min(memory.total, memory.available):
        return Outcome(text, details=details)
    fails = need > memory.total + memory.swap
    if need > memory.total:
        what = "more than there is" if fails else "so a part of it will be swapped, which is slow"
    elif need <= memory.available + memory.swap_free:
        what = "so other programs will be swapped out"
    else:
        what = "more than other programs leave"
    code, remedy = _remedy(situation, memory, need)
    largest = max(parts, key=lambda part: part[1])
    message = f"{text}, {what} (most of it: {largest[0]}, {largest[1] / GIB:.1f} GiB)"
    finding = Finding(code, Level.FAIL if fails else Level.WARN, "memory", message, remedy)
    return Outcome(findings=(finding,), details=details)


def _remedy(situation: Situation, memory: Memory, need: int) -> tuple[str, str]:
    """E815 where WSL's own limit is in the way, else E814; with what mends it."""
    machine, less = situation.machine, _smaller(situation)
    if need <= memory.total:
        return "E814", f"close what takes most of it (ps aux --sort=-rss | head -4); or {less}"
    if memory.limit:
        return (
            "E814",
            f"give the container or job {_round(need)} GB (docker run --memory={_round(need)}g; sbatch --mem); or {less}",
        )
    if wsl.version(machine) != 2:
        missing = max(1, math.ceil((need - memory.total - memory.swap) / GIB) + 1)
        swap = f"sudo fallocate -l {missing}G /swap && sudo chmod 600 /swap && sudo mkswap /swap && sudo swapon /swap"
        return "E814", f"{less}; or add swap, which is slow: {swap}"
    config = wsl.read_config(machine)
    if config is not None and config.memory is not None and config.memory > max(need, 1.1 * memory.total):
        allowed = f"{config.windows_path} allows {config.memory / GIB:.3g} GB, which is not in effect yet"
        return "E815", f"{allowed}: in PowerShell: wsl --shutdown, then open the distribution again"
    path = config.windows_path if config is not None else r"%UserProfile%\.wslconfig"
    was = f"memory={config.memory / GIB:.3g}GB" if config is not None and config.memory is not None else "half of the RAM"
    edit = f"write [wsl2] memory={_round(need)}GB into {path} (now: {was}), then in PowerShell: wsl --shutdown"
    return "E815", f"{edit}; or {less}"


def _smaller(situation: Situation) -> str:
    """What takes less main memory, as options: the largest part that can be given up."""
    settings = situation.settings
    if settings is None:
        return "--set kernel.workers=1"
    options = " ".join(f"--set {option}" for option in _options(settings, computes_on_cpu(situation)))
    return f"take less: {options} (what is left then: cadmllm plan {options})"


def _options(settings: Settings, cpu: bool) -> list[str]:
    options = ["train.workers=0"] if settings.train.workers else []
    if settings.train.offload_activations:
        options.append("train.offload_activations=false")
    if settings.model.embedding_device == "cpu" and not cpu:
        options.append("model.embedding_device=auto")
    if cpu and not settings.train.gradient_checkpointing:
        options.append("train.gradient_checkpointing=true")
    if cpu and settings.train.batch_size > 1:
        options += ["train.batch_size=1", f"train.accumulation={settings.train.batch_size * settings.train.accumulation}"]
    return options or (["model.llm=Qwen/Qwen3-0.6B"] if cpu else ["kernel.workers=1"])


def _round(need: int) -> int:
    """GiB to ask for: a tenth more, the next even number."""
    return 2 * math.ceil(need * 1.1 / GIB / 2)


CHECKS = (
    Check(
        "memory",
        "main memory and swap (under WSL: what .wslconfig gives) hold what this run keeps there",
        ("E814", "E815"),
        check_memory,
        needs_settings=False,
    ),
)
