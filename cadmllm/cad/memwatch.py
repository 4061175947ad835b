"""A limit on what worker processes take in memory, held from outside: a thread looks, and kills what is above.

Limits of the system (RLIMIT_AS, RLIMIT_DATA) make an allocation fail inside the kernel, which then crashes, or calls it a failed
boolean, or leaves half a shape: nobody could say any more that memory was the reason. A look costs a fraction of a millisecond.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

MIB = 2**20
PERIOD = 0.05  # s between looks: a process that does nothing but take memory gets some 100 MiB in it


class Watched(Protocol):
    """A process with a limit."""

    def check_memory(self) -> None:
        """Kill it if it holds more than it may. Called from another thread."""
        ...


def held(pid: int) -> int:
    """Bytes of its own that a process holds, those swapped out included and what it maps from files not; 0 when it is gone.

    Linux alone tells; elsewhere this is 0 and no limit holds.
    """
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith(("RssAnon:", "VmSwap:")))


class MemoryWatch:
    """A thread that looks at processes, from `start` to `stop`.

    Args:
        watched: gives the processes there are at the moment.
    """

    def __init__(self, watched: Callable[[], Iterable[Watched]]) -> None:
        self._watched = watched
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to look; does nothing when it looks already."""
        if self._thread is None:
            self._stopped.clear()
            self._thread = threading.Thread(target=self._look, daemon=True, name="cadmllm-memory")
            self._thread.start()

    def stop(self) -> None:
        """End, and wait for it."""
        if self._thread is not None:
            self._stopped.set()
            self._thread.join()
            self._thread = None

    def _look(self) -> None:
        while not self._stopped.wait(PERIOD):
            for process in list(self._watched()):
                process.check_memory()
