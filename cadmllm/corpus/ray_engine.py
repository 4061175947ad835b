"""Pieces on a Ray cluster: an actor a processor, each with a killable worker of its own, so that time limits and crashes are
what they are on one machine. The machines share a file system; files are written by the actors, the manifest by this process.
"""

from __future__ import annotations

import functools
import importlib
import itertools
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any

from cadmllm.corpus.derive import Outcome, Piece
from cadmllm.corpus.prepare import Commission, Engine, crew
from cadmllm.errors import CadmllmError

PORTION = 8  # programs an actor is handed at once
AHEAD = 2  # portions an actor has, so that it never waits for the next
DEATHS = 3  # of actors in a row, without a portion done between, that end the run


def cluster(workers: int | None, timeout: float, note: Callable[[str], None] = lambda text: None, memory: int = 0) -> Engine:
    """The engine that works on Ray: the cluster of RAY_ADDRESS or of this machine, else one that is started here.

    Args:
        workers: actors; None: one for each processor of the cluster.
        timeout: seconds a program may take.
        note: told where the work is done.
        memory: MiB a program may take; 0: no limit.

    Raises:
        CadmllmError: E481 when Ray is not installed or its cluster cannot be reached.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
    try:
        ray: Any = importlib.import_module("ray")
    except ImportError as error:
        raise CadmllmError(
            "E481", f"Ray is not installed ({error})", "pip install 'cadmllm[ray]' (or: pip install ray)"
        ) from error
    options: dict[str, Any] = {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
    if not ray.is_initialized():
        try:
            ray.init(address="auto", log_to_driver=False, logging_level="ERROR")
        except (ConnectionError, RuntimeError) as error:
            if os.environ.get("RAY_ADDRESS"):
                raise CadmllmError(
                    "E481", f"no Ray cluster at {os.environ['RAY_ADDRESS']}: {error}", "start one: ray start --head"
                ) from error
            ray.init(num_cpus=workers or os.cpu_count(), **options)
    count = workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
    nodes = sum(1 for node in ray.nodes() if node["Alive"])
    note(f"Ray: {count} actors on {nodes} {'machine' if nodes == 1 else 'machines'}; all must see the same folders")
    return functools.partial(_run, ray, count=count, timeout=timeout, memory=memory)


class Hand:
    """An actor: a worker process that may be killed, and replaced, without the actor's end."""

    def __init__(self, timeout: float, memory: int) -> None:
        self.crew = crew(1, timeout, memory=memory)

    def run(self, pieces: list[Piece]) -> list[Outcome] | CadmllmError:
        """Do a portion. An error is returned, not raised: Ray would wrap it."""
        try:
            return list(self.crew.run([Commission(piece, None) for piece in pieces]))
        except CadmllmError as error:
            return error


def _run(ray: Any, commissions: Iterable[Commission], count: int, timeout: float, memory: int) -> Generator[Outcome]:
    """Do the pieces with `count` actors; outcomes in the order of their end."""
    make = ray.remote(num_cpus=1)(Hand).remote
    idle = deque([make(timeout, memory) for _ in range(count)] * AHEAD)
    hands = set(idle)
    source = iter(commissions)
    again: deque[list[Piece]] = deque()
    under_way: dict[Any, tuple[Any, list[Piece]]] = {}
    deaths = 0
    try:
        while True:
            while idle:
                portion = again.popleft() if again else _portion(source)
                if not portion:
                    break
                hand = idle.popleft()
                under_way[hand.run.remote(portion)] = (hand, portion)
            if not under_way:
                return
            (ready,), _ = ray.wait(list(under_way), num_returns=1)
            hand, portion = under_way.pop(ready)
            try:
                outcomes = ray.get(ready)
            except ray.exceptions.RayActorError as error:
                again.append(portion)
                if hand in hands:  # its other portion is told of next
                    deaths += 1
                    if deaths >= DEATHS:
                        remedy = "look at the cluster (ray status); the same command goes on from here"
                        raise CadmllmError("E481", f"{deaths} Ray actors died in a row: {error}", remedy) from error
                    hands.discard(hand)
                    hands.add(fresh := make(timeout, memory))
                    idle = deque([other for other in idle if other is not hand] + [fresh] * AHEAD)
                continue
            deaths = 0
            idle.append(hand)
            if isinstance(outcomes, CadmllmError):
                raise outcomes
            yield from outcomes
    finally:
        for hand in hands:
            ray.kill(hand)


def _portion(source: Iterator[Commission]) -> list[Piece]:
    """The next few, claimed."""
    return [commission.open() for commission in itertools.islice(source, PORTION)]
