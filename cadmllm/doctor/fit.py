"""The run fits: memory of every stage against this card, time, disk and energy. No torch.

On a CPU the plan is made against main memory, which the check `memory` judges (`doctor/ram.py`).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from cadmllm.doctor.cards import card_of
from cadmllm.doctor.check import Check, Finding, Level, Outcome, Situation
from cadmllm.doctor.ram import main_memory
from cadmllm.errors import CadmllmError
from cadmllm.plan.table import grouped
from cadmllm.plan.whole import Place, Plan, StagePlan, gib, make, said_of

if TYPE_CHECKING:
    from cadmllm.corpus.layout import DataSet
    from cadmllm.plan.timing import Workload
    from cadmllm.settings import Settings

NAME = "plan"


def check_fit(situation: Situation) -> Outcome:
    """Plan the run, keep it in `situation.plan`, and judge whether it fits."""
    settings = situation.needed
    place = place_of(situation)
    works, cut, lacking = expected(situation)
    from cadmllm.doctor.workload import newest_records

    records = newest_records(settings.run.dir / "metrics.jsonl")
    plan = make(settings, situation.stages, place, works, records=records, cut=cut)
    situation.plan.update(plan.as_dict(settings))
    if plan.unknown:
        return Outcome(skipped=f"{plan.unknown}; its config.json says it, once the model is on this machine")
    if not plan.stages:
        return Outcome(skipped="no stage is to be trained")
    return Outcome(_summary(plan), tuple(_judge(plan)), details=tuple(_details(plan, lacking)))


def place_of(situation: Situation) -> Place | None:
    """The card that the settings name, or main memory where a CPU would train; None where that is not known."""
    device = situation.needed.device
    card = card_of(situation)
    if card is not None:
        return Place(card.name, card.total, card.free, "cuda", "NVML", card.limit) if card.total else None
    memory = main_memory(situation.machine) if device in ("cpu", "auto") else None
    if memory is None:
        return None
    cores = len(os.sched_getaffinity(0))
    return Place("main memory", memory.total, memory.available, "cpu", "/proc/meminfo", cores=cores)


def expected(situation: Situation) -> tuple[dict[int, Workload] | None, Callable[[int], float] | None, str]:
    """What the stages compute by the index, the share of targets that shorter sequences cut, and why neither is known."""
    if situation.needed.data.synthetic:
        return None, None, "parts will be generated: their number of tokens is not known before"
    try:
        return *of_data(situation.dataset, situation.needed, situation.stages), ""
    except CadmllmError as error:  # the check of the data says it
        return None, None, f"no data set: {error.message}"


def of_data(dataset: DataSet, settings: Settings, stages: tuple[int, ...]) -> tuple[dict[int, Workload], Callable[[int], float]]:
    """What the stages compute, and the share of targets that sequences of so many tokens would cut, of the worst stage.

    Raises:
        CadmllmError: E407.
    """
    from cadmllm.doctor.workload import look, share_cut, workload

    known = look(dataset)
    works = {stage: workload(dataset, settings, stage, known) for stage in stages}
    return works, lambda tokens: max(share_cut(known, settings, stage, tokens) for stage in stages)


def sentence(plan: dict[str, Any]) -> str:
    """'about 3.4 h (2.6 h to 5.4 h), 5.2 GiB of disk', for the last line of a ready doctor; '' without a plan."""
    from cadmllm.plan.timing import Time

    if "time" not in plan:  # nothing was planned; proofs may have measured
        return ""
    told = plan["time"]
    time = Time(told["low"], told["likely"], told["high"], told["source"])
    disk = f"{gib(plan['disk_bytes'])} of disk"
    return f"{said_of(time)}, {disk}" if time.known else f"{disk}, {said_of(time)}"


def _summary(plan: Plan) -> str:
    worst = plan.worst
    assert worst is not None, "a plan without a stage is unknown"
    against = "" if plan.place is None else f" of {gib(plan.place.total)} ({plan.place.name})"
    time = said_of(plan.time)
    return f"{gib(worst.peak)}{against} with {worst.memory.tokens:,} tokens a micro-batch, {time}, {gib(plan.disk)} of disk"


def _details(plan: Plan, lacking: str) -> list[str]:
    lines = [lacking] if lacking else []
    for stage in plan.stages:
        groups = grouped(stage.memory, "card" if stage.memory.total else "ram")
        parts = ", ".join(f"{name} {size:.2f}" for name, size in groups.items())
        lines.append(f"stage {stage.stage}: {gib(stage.peak)}: {parts}")
        lines.append(f"stage {stage.stage}: {said_of(stage.time)} ({stage.time.source})")
    return lines


def _judge(plan: Plan) -> list[Finding]:
    """What stands or a single sample must fit; the largest micro-batch should (training cuts it until it does)."""
    place, worst = plan.place, plan.worst
    if place is None or worst is None or place.kind == "cpu":
        return []
    have = f"the {place.name} has {gib(place.total)}, {gib(place.free)} of them free"
    remedy = _remedy(plan)
    if worst.smallest > place.free:
        what = _too_much(worst, worst.standing > place.free)
        if worst.smallest <= place.total:
            remedy = f"close what else uses the GPU: nvidia-smi; or {remedy}"
        return [Finding("E813", Level.FAIL, NAME, f"{what}; {have}", remedy)]
    if worst.peak > place.free:
        message = (
            f"stage {worst.stage} takes {gib(worst.peak)} with {worst.memory.tokens:,} tokens a micro-batch, by arithmetic; "
            f"{have}: training will cut micro-batches until they fit"
        )
        return [Finding("E813", Level.WARN, NAME, message, remedy)]
    return []


def _too_much(stage: StagePlan, standing: bool) -> str:
    if standing:
        return (
            f"stage {stage.stage} needs {gib(stage.standing)} before the first activation "
            "(weights, what trains them, CUDA), by arithmetic"
        )
    return f"stage {stage.stage} needs {gib(stage.smallest)} for a single sample of the longest, by arithmetic"


def _remedy(plan: Plan) -> str:
    """The settings that make it fit, as an edit that can be made or undone."""
    written = " (cadmllm plan --apply writes it)" if plan.way.fits and plan.way.options else ""
    return (plan.way.advice or "--preset tiny, which a CPU trains") + written


CHECKS = (
    Check(
        NAME,
        "every stage fits the memory there is; how long the run takes and what it writes",
        ("E813",),
        check_fit,
        group="plan",
    ),
)
