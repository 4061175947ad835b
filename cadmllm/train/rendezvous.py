"""How the processes of a run meet, and what is said when one of them does not come, ends or hangs."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import time
from collections.abc import Generator
from datetime import timedelta
from typing import TYPE_CHECKING

from cadmllm.errors import CadmllmError
from cadmllm.train.launch import Launch

if TYPE_CHECKING:
    import torch
    from torch.distributed import Store

MEETING = 300.0  # seconds that processes wait for each other at the start: machines of a job do not boot at the same time
WAITING = 1800.0  # seconds that one waits for the others within a run before it gives up
POLL = 0.2


@contextlib.contextmanager
def meeting(rank: int, size: int) -> Generator[None]:
    """Whatever torch.distributed raises when another process is gone or does not come, as E610."""
    try:
        yield
    except RuntimeError as error:  # its errors (backend, network, store, time-out) derive from this
        raise gone(rank, size, error) from error


def gone(rank: int, size: int, error: RuntimeError) -> CadmllmError:
    """What to say when another process does not answer any more."""
    return CadmllmError(
        "E610",
        f"process {rank} of {size} lost the others ({first_line(error)})",
        "one of them ended or hangs: its own message stands above, or in the log of its machine. Then go on from the newest "
        "save: the same command with --resume (any number of processes)",
    )


def meet(launch: Launch, device: torch.device, patience: float) -> Store:
    """Start the process group; every process must be here within `patience` seconds."""
    import torch.distributed as dist

    # torchrun keeps the store in its own process; its number of the attempt keeps what a restart left there apart
    kept = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True" and launch.by == "torchrun"
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    host, limit = launch.rank == 0 and not kept, timedelta(seconds=patience)
    try:
        store = dist.TCPStore(launch.address, launch.port, launch.size, host, limit, wait_for_workers=False)
        store = dist.PrefixStore(f"cadmllm/{attempt}", store)
        store.set(f"here/{launch.rank}", socket.gethostname())
        _wait_for_all(store, launch, patience)
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(
            backend, store=store, rank=launch.rank, world_size=launch.size, timeout=timedelta(seconds=WAITING)
        )
    except RuntimeError as error:  # DistNetworkError, DistStoreError: nobody there, or the port is taken
        raise _no_meeting(launch, error) from error
    return store


def _wait_for_all(store: Store, launch: Launch, patience: float) -> None:
    end = time.monotonic() + patience
    missing = list(range(launch.size))
    while missing:
        missing = [rank for rank in missing if not store.check([f"here/{rank}"])]
        if missing and time.monotonic() > end:
            names = ", ".join(map(str, missing[:8])) + (f" and {len(missing) - 8} more" if len(missing) > 8 else "")
            raise CadmllmError(
                "E610",
                f"of {launch.size} processes these did not come to {launch.address}:{launch.port} in {patience:.0f} s: {names}",
                "look at their messages (on their machines); each needs the same command, MASTER_ADDR and MASTER_PORT, and "
                "an open network between the machines",
            )
        if missing:
            time.sleep(POLL)


def _no_meeting(launch: Launch, error: RuntimeError) -> CadmllmError:
    text = first_line(error)
    if "EADDRINUSE" in str(error) or "address already in use" in str(error):
        return CadmllmError(
            "E610",
            f"port {launch.port} of {launch.address} is taken (by another run?)",
            "name another: torchrun --master-port 29511 ..., export MASTER_PORT=29511; or torchrun --standalone, which finds one",
        )
    return CadmllmError(
        "E610",
        f"process {launch.rank} of {launch.size} cannot meet the others at {launch.address}:{launch.port} ({text})",
        "check that process 0 runs, that its machine's name and port can be reached from this one, and that all were given "
        "the same MASTER_ADDR and MASTER_PORT; several network cards: export GLOO_SOCKET_IFNAME=eth0 NCCL_SOCKET_IFNAME=eth0",
    )


def first_line(error: BaseException) -> str:
    """What an error of torch says, in a line."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return re.sub(r"^(\[[^\]]*\]\s*)+", "", line).split(". This is typically")[0][:200]  # gloo begins with its source file
