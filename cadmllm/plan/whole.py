"""The plan of a run: memory of every stage against the card, time, disk, energy, and what to change. Arithmetic only, no torch.

`doctor --json` has it under 'plan', `cadmllm plan --json` prints it: the schema stands in docs/doctor.md.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cadmllm.plan.changes import Way, way
from cadmllm.plan.disk import run_bytes, stage_disk
from cadmllm.plan.memory import Memory, predict
from cadmllm.plan.parts import UnknownShape
from cadmllm.plan.sizes import GIB
from cadmllm.plan.speed import span
from cadmllm.plan.timing import Time, Workload, energy, in_all, time_of, unknown

if TYPE_CHECKING:
    from cadmllm.settings import Settings

HEADROOM = 0.94  # of a card that a run should take: 15 of 16 GB, as in the guide


@dataclass(frozen=True, slots=True)
class Place:
    """Where a run would take place: a card, or main memory.

    Attributes:
        name: of the card; 'main memory' on a CPU.
        total, free: bytes.
        kind: 'cuda' or 'cpu'.
        source: who says so: 'NVML', 'given', '/proc/meminfo'.
        watts: its power limit, where it is known.
        cores: of the CPU that would train.
    """

    name: str
    total: int
    free: int
    kind: str = "cuda"
    source: str = "NVML"
    watts: float | None = None
    cores: int = 0

    @property
    def room(self) -> int:
        """Bytes that a run may take."""
        return min(self.free, int(HEADROOM * self.total))

    def as_dict(self) -> dict[str, object]:
        """For `--json`."""
        plain = {"name": self.name, "total": self.total, "free": self.free, "room": self.room}
        return plain | {"kind": self.kind, "source": self.source, "watts": self.watts}


@dataclass(frozen=True, slots=True)
class StagePlan:
    """A stage: its memory at the largest micro-batch, and what stands there whatever is computed."""

    stage: int
    memory: Memory
    standing: int
    smallest: int
    work: Workload | None
    time: Time

    @property
    def peak(self) -> int:
        """Bytes of the card, or of main memory on a CPU."""
        return self.memory.total or self.memory.ram


@dataclass(frozen=True, slots=True)
class Plan:
    """All of it.

    Attributes:
        place: where; None where that is not known.
        stages: those to be trained.
        disk: bytes that the run's folder holds at most; `disk_known`: the model's size is known.
        way: what makes it fit.
        unknown: why there is no memory, where the model's size is not known here.
    """

    place: Place | None
    stages: list[StagePlan]
    disk: int
    disk_known: bool
    way: Way
    unknown: str = ""

    @property
    def fits(self) -> bool | None:
        """Whether every stage's largest micro-batch fits into what can be had; None where that is not known."""
        if self.place is None or self.unknown:
            return None
        return all(stage.peak <= self.place.room for stage in self.stages)

    @property
    def time(self) -> Time:
        """Of all stages."""
        return in_all([stage.time for stage in self.stages])

    @property
    def worst(self) -> StagePlan | None:
        """The stage that takes most."""
        return max(self.stages, key=lambda stage: stage.peak, default=None)

    def as_dict(self, settings: Settings) -> dict[str, Any]:
        """For `--json`."""
        stages = [self._stage(settings, stage) for stage in self.stages]
        watts = self.place.watts if self.place is not None and self.place.kind == "cuda" else None
        return {
            "card": None if self.place is None else self.place.as_dict(),
            "stages": stages,
            "fits": self.fits,
            "time": self.time.as_dict(),
            "disk_bytes": self.disk,
            "disk_known": self.disk_known,
            "energy_kwh": energy(self.time, watts),
            "changes": [change.as_dict() for change in self.way.changes],
            "model": self.way.model,
            "preset": self.way.preset,
            "unknown": self.unknown,
        }

    def _stage(self, settings: Settings, stage: StagePlan) -> dict[str, Any]:
        disk = stage_disk(settings, stage.stage)
        memory = stage.memory.as_dict() | {"total": stage.peak, "standing": stage.standing}
        fits = None if self.place is None else stage.peak <= self.place.room
        return {
            "stage": stage.stage,
            "memory": memory | {"fits": fits},
            "tokens": None if stage.work is None else stage.work.as_dict(),
            "time": stage.time.as_dict(),
            "disk": {"step_save": disk.step, "stage": disk.stage, "known": disk.known},
        }


def make(
    settings: Settings,
    stages: Sequence[int],
    place: Place | None,
    works: Mapping[int, Workload] | None = None,
    *,
    records: Sequence[Mapping[str, Any]] = (),
    rate: float | None = None,
    tokens: int | None = None,
    cut: Callable[[int], float] | None = None,
    from_store: Collection[str] | None = None,
) -> Plan:
    """Plan a run.

    Args:
        settings: resolved settings.
        stages: that are to be trained.
        place: the card or the main memory; None: nothing is compared.
        works: by stage, from the index (`doctor.workload`); None: no data set is known, and there is no time.
        records: newest lines of the run's metrics.jsonl.
        rate: tokens a second, where it is given.
        tokens: of a micro-batch; by default the most that the settings allow.
        cut: share of the targets that sequences of so many tokens would cut.
        from_store: see `parts.parts_of`.
    """
    kind = "cpu" if settings.device == "cpu" or (place is not None and place.kind == "cpu") else "cuda"
    disk = run_bytes(settings, stages)
    known = all(stage_disk(settings, stage).known for stage in stages)
    try:
        planned = [
            _stage_plan(settings, stage, kind, tokens, from_store, _time(settings, stage, place, works, records, rate))
            for stage in stages
        ]
    except UnknownShape as error:
        return Plan(place, [], disk, known, Way(fits=False), str(error))
    found = Way()
    if place is not None and kind == "cuda" and any(stage.peak > place.room for stage in planned):
        found = way(settings, stages, place.room, cut)
    return Plan(place, planned, disk, known, found)


def _time(
    settings: Settings,
    stage: int,
    place: Place | None,
    works: Mapping[int, Workload] | None,
    records: Sequence[Mapping[str, Any]],
    rate: float | None,
) -> tuple[Workload | None, Time]:
    if works is None or stage not in works:
        return None, unknown("no data set")
    card = place.name if place is not None and place.kind == "cuda" else None
    cores = place.cores if place is not None else 0
    return works[stage], time_of(settings, works[stage], card, records, rate, cores)


def _stage_plan(
    settings: Settings,
    stage: int,
    kind: str,
    tokens: int | None,
    from_store: Collection[str] | None,
    timed: tuple[Workload | None, Time],
) -> StagePlan:
    def bytes_of(memory: Memory) -> int:
        return memory.total or memory.ram

    memory = predict(settings, stage, tokens=tokens, device=kind, from_store=from_store)
    standing = predict(settings, stage, tokens=0, device=kind, from_store=from_store)
    longest = settings.train.max_seq_length if timed[0] is None else min(settings.train.max_seq_length, timed[0].longest)
    smallest = predict(settings, stage, tokens=min(longest, memory.tokens), device=kind, from_store=from_store)
    return StagePlan(stage, memory, bytes_of(standing), bytes_of(smallest), *timed)


def said_of(time: Time) -> str:
    """'about 3.4 h (2.6 h to 5.4 h)', or that nobody knows."""
    if time.likely is None or time.low is None or time.high is None:
        return "a time that nobody knows yet"
    return f"about {span(time.likely)} ({span(time.low)} to {span(time.high)})"


def gib(size: float) -> str:
    """'5.2 GiB'; '21 MiB' below a tenth of one."""
    return f"{size / GIB:.1f} GiB" if size >= 0.1 * GIB else f"{size / 2**20:.0f} MiB"
