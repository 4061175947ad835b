"""Where, and in which type, two models can be compared one after the other: on the card or in RAM, exactly if there is room."""

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
    """

    device: torch.device
    dtype: torch.dtype
    needed: int
    free: int

    def said(self) -> str:
        """'float32 on cpu'."""
        return f"{str(self.dtype).removeprefix('torch.')} on {self.device.type}"


def find_room(source: Source, settings: Settings) -> Room:
    """The most exact way to compare that fits: float32, then 16 bit, on the device of the settings, then in RAM.

    Raises:
        CadmllmError: E814 with what is needed and what is free.
    """
    parameters = sum(math.prod(shape) for shape in source.shapes().values())
    chosen = pick_device(settings)
    tried = []
    for device in dict.fromkeys((chosen, torch.device("cpu"))):
        free = free_bytes(device)
        for dtype in (torch.float32, _narrow(settings, device)):
            if dtype == torch.float32 and device.type == "cpu" and parameters > EXACT_ON_CPU:
                continue
            room = Room(device, dtype, parameters * dtype.itemsize + WORK, free)
            if room.needed <= room.free:
                return room
            tried.append(room)
    least = min(tried, key=lambda room: room.needed)
    raise CadmllmError(
        "E814",
        f"the export has to be compared with its checkpoint, and {parameters / 1e9:.2f} billion parameters take"
        f" {least.needed / 1e9:.1f} GB in 16 bit, of which {least.device.type} has {least.free / 1e9:.1f} GB free",
        "close what holds memory, add swap, or export on a machine with more: checkpoint and base are all it takes",
    )


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
