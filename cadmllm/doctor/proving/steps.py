"""Proof 1: two steps of the exact run at its worst micro-batch. What was planned, what it took, and what else would fit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from cadmllm.doctor.check import Finding, Level, Outcome
from cadmllm.doctor.machine import Machine
from cadmllm.doctor.proving.taking import taken
from cadmllm.doctor.ram import main_memory
from cadmllm.errors import CadmllmError
from cadmllm.plan.changes import way
from cadmllm.plan.memory import predict
from cadmllm.plan.moving import Shown
from cadmllm.plan.parts import UnknownShape

if TYPE_CHECKING:
    from cadmllm.doctor.proving.bench import Bench, Taken
    from cadmllm.plan.memory import Memory

GIB = 2**30
NAME = "steps"
ALLOCATED, RESERVED, ON_CPU = 0.05, 0.10, 0.10  # largest errors of the plan that are no finding
FLOOR = 4 << 20  # bytes that are no error worth a word
NOT_TENSORS = ("CUDA", "allocator slack")  # lines of the plan that `max_memory_allocated` does not see


def prove(bench: Bench) -> Outcome:
    """Peak memory of a real step against the plan; the longest micro-batch for this device.

    Raises:
        CadmllmError: E603, E606 of the step itself.
    """
    free = free_bytes(bench)
    try:
        found = taken(bench)
    except CadmllmError as error:
        if error.code != "E609":
            raise
        return Outcome(findings=(Finding("E609", Level.FAIL, NAME, error.message, _way_out(bench, free) or error.remedy),))
    planned = _planned(bench, found)
    findings = [*_squeezed(bench, found, free), *_errors(bench, found, planned)]
    slope, most = _line(bench, found, free)
    bench.measured["memory"] = {
        "tokens": found.tokens[0],
        "peak": found.peak,
        "reserved": found.reserved,
        "planned": None if planned is None else _tensors(planned),
        "bytes_per_token": slope,
        "longest_micro_batch": most,
        "instrument": "torch.cuda.max_memory_allocated" if bench.device.type == "cuda" else "live tensors at each operation",
    }
    return Outcome(_summary(found, planned, slope, most), tuple(findings), details=_details(bench, found, planned, slope, free))


def free_bytes(bench: Bench) -> int:
    """What this device has for the run: free, or held by this process already."""
    if bench.device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(bench.device)
        return free + torch.cuda.memory_reserved(bench.device)
    memory = main_memory(Machine())
    return 0 if memory is None else memory.available


def _planned(bench: Bench, found: Taken) -> Memory | None:
    stored = bench.cached.shapes if bench.cached else ()
    try:
        shown = Shown(found.supervised, found.clouds, found.views, found.viewed)
        number, device = bench.stage.number, bench.device.type
        return predict(bench.settings, number, tokens=found.tokens[0], device=device, from_store=stored, shown=shown)
    except UnknownShape:
        return None


def _tensors(planned: Memory) -> int:
    """Bytes of tensors that the plan expects, without what is CUDA's own or the allocator's."""
    place = "card" if planned.of("card") else "ram"
    return sum(line.bytes for line in planned.lines if line.place == place and line.name not in NOT_TENSORS)


def _reserved(planned: Memory) -> int:
    return sum(line.bytes for line in planned.lines if line.place == "card" and line.name != "CUDA")


def _errors(bench: Bench, found: Taken, planned: Memory | None) -> list[Finding]:
    """E861 where the plan is off: too low is a run that may die, too high is memory that is not used."""
    if planned is None or found.squeezed:
        return []
    card = bench.device.type == "cuda"
    pairs = [("allocated", _tensors(planned), found.peak, ALLOCATED if card else ON_CPU)]
    if card:
        pairs.append(("reserved", _reserved(planned), found.reserved, RESERVED))
    # gradients come as activations go: the plan has both, which is what a second micro-batch meets
    less = sum(line.bytes for line in planned.lines if line.name.endswith(": gradients")) if found.alone else 0
    return [
        Finding(
            "E861",
            Level.WARN,
            NAME,
            f"{name} memory of a step of {found.tokens[0]:,} tokens: {gib(was)} planned, {gib(is_)} measured"
            f" ({(was - is_) / is_:+.0%}, allowed are {most:.0%})",
            f"go by what was measured: keep {gib(int(1.05 * is_))} free, or --set train.pack_tokens={found.tokens[0] // 2};"
            " and report this with: cadmllm doctor --deep --json",
        )
        for name, was, is_, most in pairs
        if max(is_ - was, was - less - is_) > max(most * is_, FLOOR)
    ]


def _squeezed(bench: Bench, found: Taken, free: int) -> list[Finding]:
    if not found.squeezed:
        return []
    message = (
        f"a micro-batch of {_samples(found.documents)}, {found.tokens[0]:,} tokens, does not fit into {gib(free)};"
        f" training would go on with {found.squeezed}, in more and slower passes"
    )
    others = _way_out(bench, free)
    remedy = f"--set {found.fits} is what fits" + (f"; or keep the size and need less: {others}" if others else "")
    return [Finding("E813", Level.FAIL, NAME, message, remedy)]


def _way_out(bench: Bench, free: int) -> str:
    """The smallest change that makes it fit, as the plan knows it; '' where it knows none, or thought that it fits as it is."""
    stored, number = bench.cached.shapes if bench.cached else (), bench.stage.number
    try:
        return way(bench.settings, [number], free, from_store=stored).advice
    except UnknownShape:
        return ""


def _line(bench: Bench, found: Taken, free: int) -> tuple[int | None, int | None]:
    """(bytes that one more token costs, longest micro-batch in tokens) from the two lengths; None where there was only one."""
    more, less = found.tokens
    if not less or not found.shorter or found.shorter >= found.peak:
        return None, None
    slope = (found.peak - found.shorter) / (more - less)
    intercept = found.peak - slope * more
    # what the allocator holds beside its tensors grows with them
    slack = max(1.0, found.reserved / found.peak) if found.reserved else 1.0
    return round(slope), max(0, int((free / slack - intercept) / slope))


def _summary(found: Taken, planned: Memory | None, slope: int | None, most: int | None) -> str:
    text = (
        f"two steps at the worst micro-batch ({_samples(found.documents)}, {found.tokens[0]:,} tokens) peak at {gib(found.peak)}"
    )
    if planned is not None:
        text += f", planned {gib(_tensors(planned))} ({(_tensors(planned) - found.peak) / found.peak:+.1%})"
    if slope is not None and most is not None:
        text += f"; {slope / 1024:,.0f} KiB a token, room for {most:,}"
    return text


def _details(bench: Bench, found: Taken, planned: Memory | None, slope: int | None, free: int) -> tuple[str, ...]:
    lines = [
        f"stage {bench.stage.number} from {bench.start.checkpoint or bench.settings.model.llm} ({bench.start.reason})",
        f"shown: {', '.join(found.combinations)}; {found.supervised:,} supervised tokens",
        f"peak {gib(found.peak)} of {gib(free)} free" + (f", {gib(found.reserved)} reserved" if found.reserved else ""),
    ]
    if slope is not None:
        less = found.tokens[1]
        rest = found.peak - slope * found.tokens[0]
        lines.append(f"with {less:,} tokens {gib(found.shorter)}: {gib(rest)} + {slope:,} bytes a token")
    if planned is not None:
        place = "card" if planned.of("card") else "ram"
        lines += [
            f"planned {row.name}: {gib(row.bytes)} ({row.why})" for row in planned.lines if row.place == place and row.bytes
        ]
    return tuple(lines)


def _samples(count: int) -> str:
    return f"{count} sample{'s' if count > 1 else ''}"


def gib(size: int) -> str:
    """'1.23 GiB', or MiB below one."""
    return f"{size / GIB:.2f} GiB" if size >= GIB else f"{size / 2**20:.0f} MiB"
