"""How many processes a run has and which one this is: what torchrun, accelerate launch, srun and mpirun leave behind."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cadmllm.errors import CadmllmError

TORCHRUN = "torchrun --standalone --nproc-per-node 2 -m cadmllm train ..."
# launcher: its variables for the rank, the number of processes, and the rank on this machine
_NAMES = {
    "torchrun": ("RANK", "WORLD_SIZE", "LOCAL_RANK"),
    "srun": ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"),
    "mpirun": ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),
}
_FIRST_PORT, _PORTS = 20000, 20000  # ports a Slurm job may use: derived from its number, so that jobs on a node do not collide


@dataclass(frozen=True, slots=True)
class Launch:
    """A process among those of a run.

    Attributes:
        by: 'torchrun' (accelerate launch is one), 'srun', 'mpirun', or '' for a process on its own.
        rank, size: 0 <= rank < size.
        local_rank: the same among those of this machine; picks the GPU.
        address, port: where the processes meet; '' and 0 for a process on its own.
    """

    by: str = ""
    rank: int = 0
    size: int = 1
    local_rank: int = 0
    address: str = ""
    port: int = 0


def read_launch(environ: Mapping[str, str], parent: Sequence[str] = ()) -> Launch:
    """This process's place, from the environment.

    Args:
        environ: as `os.environ`.
        parent: command line of the parent process (`parent_command`): says what accelerate was asked for.

    Raises:
        CadmllmError: E610 when the variables are incomplete, contradict each other, or the launcher started fewer processes
            than it was told to.
    """
    _check_accelerate(environ, parent)
    for by, (rank, size, local_rank) in _NAMES.items():
        if by == "torchrun" and not ({rank, size} & environ.keys()):
            continue
        if by != "torchrun" and _number(environ, size, by) <= 1:
            continue
        place = _place(environ, by, rank, size, local_rank)
        return place if place.size > 1 else Launch()
    return Launch()


def _place(environ: Mapping[str, str], by: str, rank: str, size: str, local_rank: str) -> Launch:
    for name in (rank, size):
        if name not in environ:
            other = size if name == rank else rank
            raise _wrong(f"{other} is set and {name} is not", f"start with {TORCHRUN}, or for one process: unset {other}")
    here, count = _number(environ, rank, by), _number(environ, size, by)
    if not 0 <= here < count:
        raise _wrong(f"{rank}={here} is not below {size}={count}", f"start with {TORCHRUN}; for one process: unset {rank} {size}")
    if count == 1:
        return Launch()
    local = _number(environ, local_rank, by, default=here)
    address, port = _meeting_point(environ, by)
    return Launch(by, here, count, local, address, port)


def _meeting_point(environ: Mapping[str, str], by: str) -> tuple[str, int]:
    address = environ.get("MASTER_ADDR", "")
    if not address and by == "srun":
        address = first_host(environ.get("SLURM_STEP_NODELIST", ""))
    if not address:
        raise _wrong("MASTER_ADDR is not set: the processes do not know where to meet", f"start with {TORCHRUN}, or export it")
    if "MASTER_PORT" in environ:
        port = _number(environ, "MASTER_PORT", by)
    elif by == "srun":
        port = _FIRST_PORT + _number(environ, "SLURM_JOB_ID", by) % _PORTS
    else:
        raise _wrong("MASTER_PORT is not set: the processes do not know where to meet", "export MASTER_PORT=29500")
    if not 0 < port < 65536:
        raise _wrong(f"MASTER_PORT={port} is no port", "export MASTER_PORT=29500")
    return address, port


def first_host(nodes: str) -> str:
    """The first machine of a Slurm list: 'gpu-[003-006,9],x1' gives 'gpu-003'; '' for an empty one."""
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])*", nodes)
    return re.sub(r"\[(\d+)[^\]]*\]", r"\1", first.group(0)) if first else ""


def _number(environ: Mapping[str, str], name: str, by: str, default: int = 0) -> int:
    text = environ.get(name)
    if text is None:
        return default
    try:
        return int(text)
    except ValueError:
        raise _wrong(f"{name}={text!r} is not a number ({by})", f"start with {TORCHRUN}, or unset {name}") from None


def alone() -> bool:
    """Whether this process is the only one of its run.

    Raises:
        CadmllmError: E610 when the environment of a launcher makes no sense.
    """
    return read_launch(os.environ, parent_command()).size == 1


def parent_command() -> list[str]:
    """The command line of the process that started this one; [] where it cannot be read (not Linux)."""
    try:
        return Path(f"/proc/{os.getppid()}/cmdline").read_text(encoding="utf-8", errors="replace").split("\0")[:-1]
    except OSError:
        return []


def _check_accelerate(environ: Mapping[str, str], parent: Sequence[str]) -> None:
    """Accelerate starts one process where it finds no GPU, whatever it was told, and keeps settings of its own."""
    if "ACCELERATE_MIXED_PRECISION" not in environ:  # it sets this one always
        return
    for name in ("DEEPSPEED", "MEGATRON_LM"):
        if environ.get(f"ACCELERATE_USE_{name}", "").lower() == "true":
            raise _wrong(
                f"accelerate is configured for {name}, which cadmllm does not use",
                "accelerate launch --multi_gpu --num_processes N -m cadmllm train ... --set train.distributed=fsdp",
            )
    asked = _asked_for(parent)
    if asked > 1 and not ({"RANK", "WORLD_SIZE"} & environ.keys()):
        raise _wrong(
            f"accelerate launch was told to start {asked} processes and started one (it does so without a GPU)",
            f"torchrun --standalone --nproc-per-node {asked} -m cadmllm train ...",
        )


def _asked_for(command: Sequence[str]) -> int:
    """`--num_processes` of an accelerate command line; 0 when it does not say."""
    for at, word in enumerate(command):
        name, _, value = word.replace("-", "_").partition("=")
        if name == "__num_processes":
            value = value or (command[at + 1] if at + 1 < len(command) else "")
            return int(value) if value.isdecimal() else 0
    return 0


def overridden(environ: Mapping[str, str], strategy: str, dtype: str) -> list[str]:
    """What accelerate was configured for and cadmllm decides by settings of its own, a line each."""
    lines = []
    if environ.get("ACCELERATE_USE_FSDP", "").lower() == "true" and strategy != "fsdp":
        lines.append(f"accelerate is configured for FSDP; train.distributed={strategy} counts (--set train.distributed=fsdp)")
    precision = environ.get("ACCELERATE_MIXED_PRECISION", "no")
    wanted = {"bf16": "bfloat16", "fp16": "float16"}.get(precision)
    if wanted is not None and wanted != dtype:
        lines.append(f"accelerate is configured for {precision}; dtype={dtype} counts (--set dtype={wanted})")
    return lines


def _wrong(found: str, remedy: str) -> CadmllmError:
    return CadmllmError("E610", found, remedy)
