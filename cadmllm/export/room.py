"""Where, and in which type, two models can be compared one after the other: on the card or in RAM, exactly if there is room.

On a CPU transformers maps weights that are loaded in the type they have on disk: they take page cache, which the system gives
back, and no memory of the process (Qwen3-0.6B in bfloat16: 345 MiB resident before and after loading, 1.1 GiB of pages mapped
by the first forward pass). So a model that is larger than RAM is still compared, read from the disk at each pass.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from cadmllm.errors import CadmllmError
from cadmllm.models.backbone import BFLOAT16_CAPABILITY, pick_device

if TYPE_CHECKING:
    from cadmllm.export.source import Source
    from cadmllm.settings import Settings

WORK = 1 << 30  # bytes beside the weights: activations, encoders, what Python and torch take themselves
EXACT_ON_CPU = 3_000_000_000  # parameters; more of them take minutes a prompt in float32 on a CPU


@dataclass(frozen=True, slots=True)
class Room:
    """Where both models compute, in which type, and what there is for them.

    Attributes:
        device: 'cpu' or 'cuda'.
        dtype: float32, or what a run computes in.
        needed, free: bytes.
        paged: weights are read from the disk at each pass, so few passes are made.
    """

    device: torch.device
    dtype: torch.dtype
    needed: int
    free: int
    paged: bool = False

    def said(self) -> str:
        """'float32 on cpu'."""
        paged = ", weights read from the disk at each pass" if self.paged else ""
        return f"{str(self.dtype).removeprefix('torch.')} on {self.device.type}{paged}"


def find_room(source: Source, settings: Settings, written: torch.dtype | None = None) -> Room:
    """The most exact way to compare that fits: float32, then 16 bit, on the device of the settings, then in RAM, then paged.

    A decoder that was trained as a whole is loaded in float32, whatever it computes in.

    Args:
        source: whose shapes say how large the models are.
        settings: device, and the type that the run computed in.
        written: type of the export's weights, where they can be mapped; None: they cannot.

    Raises:
        CadmllmError: E814 with what is needed and what is free.
    """
    parameters = sum(math.prod(shape) for shape in source.shapes().values())
    tried = []
    for device in dict.fromkeys((pick_device(settings), torch.device("cpu"))):
        free = free_bytes(device)
        for dtype in (torch.float32, _narrow(settings, device)) if source.lora else (torch.float32,):
            if source.lora and dtype == torch.float32 and device.type == "cpu" and parameters > EXACT_ON_CPU:
                continue
            room = Room(device, dtype, parameters * dtype.itemsize + WORK, free)
            if room.needed <= room.free:
                return room
            tried.append(room)
    paged = _paged(source, written)
    if paged is not None and paged.needed <= paged.free:
        return paged
    least = min(tried, key=lambda room: room.needed)
    raise CadmllmError(
        "E814",
        f"the export has to be compared with its checkpoint, and {parameters / 1e9:.2f} billion parameters take"
        f" {least.needed / 1e9:.1f} GB in {8 * least.dtype.itemsize} bit, of which {least.device.type} has"
        f" {least.free / 1e9:.1f} GB free",
        "close what holds memory, add swap, or export on a machine with more: checkpoint and base are all it takes",
    )


def in_ram(source: Source) -> Room:
    """What the model takes in float32 on the CPU, whether it is there or not: a GGUF file is read back into it."""
    parameters = sum(math.prod(shape) for shape in source.shapes().values())
    cpu = torch.device("cpu")
    return Room(cpu, torch.float32, 4 * parameters + WORK, free_bytes(cpu))


def _paged(source: Source, written: torch.dtype | None) -> Room | None:
    """In RAM without the weights; None where base and export are not in one 16-bit type, or a whole decoder was trained."""
    tensors = source.base.tensors
    held = {tensors.dtype(name) for name in tensors.names()}
    if not source.lora or written not in (torch.bfloat16, torch.float16) or held != {written}:
        return None
    lora = sum(math.prod(source.state.shape(name)) * 4 for name in source.state.names())
    matrices = 2 * source.rows * source.width * 4  # resized copies, for a moment beside what they are copied from
    return Room(torch.device("cpu"), written, lora + matrices + WORK, free_bytes(torch.device("cpu")), paged=True)


def _narrow(settings: Settings, device: torch.device) -> torch.dtype:
    """The run's 16-bit type; bfloat16 where it computed in 32 bit, float16 on cards without bfloat16."""
    dtype = torch.float16 if settings.dtype == "float16" else torch.bfloat16
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < BFLOAT16_CAPABILITY:
        return torch.float16
    return dtype


def free_bytes(device: torch.device, root: Path = Path("/")) -> int:
    """Memory that a process may still take: of a card by CUDA, of RAM by /proc/meminfo and the limit of a container.

    Args:
        device: 'cpu' or 'cuda'.
        root: of the file system, for tests.
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = _meminfo(root / "proc/meminfo")
    for limit, used in (("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes")):
        most, taken = _number(root / "sys/fs/cgroup" / limit), _number(root / "sys/fs/cgroup" / used)
        if most is not None and taken is not None:
            free = min(free, max(0, most - taken))
    return free


def _meminfo(path: Path) -> int:
    try:
        lines = dict(line.split(":", 1) for line in path.read_text(encoding="utf-8").splitlines() if ":" in line)
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError, IndexError):
        return 1 << 62  # a system that does not say: the attempt will tell


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="utf-8").strip())
    except (OSError, ValueError):  # 'max': no limit
        return None
