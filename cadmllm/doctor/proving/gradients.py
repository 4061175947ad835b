"""Proof 2: what should learn has gradients and moves, what is frozen does not, bit for bit."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from cadmllm.doctor.check import Finding, Level, Outcome
from cadmllm.doctor.proving.taking import taken, trained_of

if TYPE_CHECKING:
    from cadmllm.doctor.proving.bench import Bench, Taken

NAME = "gradients"
NAMED = 4  # tensors that a message names


def prove(bench: Bench) -> Outcome:
    """Over two updates: `train.flow`'s judgement of every group, and checksums of every tensor before and after."""
    found = taken(bench)
    trained = dict.fromkeys(name for name, _ in trained_of(bench))
    had = {name for step in found.gradients for name, size in step.items() if size > 0.0}
    moved = {name for name in found.before if found.before[name] != found.after[name]}
    findings = []
    if found.dead is not None:
        findings.append(Finding("E862", Level.FAIL, NAME, found.dead.message, found.dead.remedy))
    if strayed := sorted(moved - trained.keys()):
        message = f"frozen, and yet moved by two steps: {_some(strayed)}"
        remedy = (
            "--set train.compile=false --set train.optimizer=adamw; if it stays, report it with: cadmllm doctor --deep --json"
        )
        findings.append(Finding("E862", Level.FAIL, NAME, message, remedy))
    if stuck := sorted((trained.keys() & had) - moved):
        message = f"{len(stuck)} of {len(trained)} trained tensors have gradients but did not move in two steps: {_some(stuck)}"
        key, rate = _rate_of(bench, stuck)
        remedy = f"raise the rate ({key} is {rate:g}): --set {key}={max(1e-5, 10 * rate):g}"
        findings.append(Finding("E862", Level.FAIL, NAME, message, remedy))
    frozen = len(found.before) - len(trained)
    summary = f"{len(had)} of {len(trained)} trained tensors have gradients and move, {frozen} frozen ones do not by a bit"
    if found.unjudged:
        summary += f"; not shown: {', '.join(found.unjudged)}"
    return Outcome(summary, tuple(findings), details=_details(bench, found, moved))


def _rate_of(bench: Bench, names: list[str]) -> tuple[str, float]:
    """The setting whose rate these tensors learn at, and the rate."""
    own = {name: info.lr for info in bench.session.infos if info.own_rate for name in info.names}
    if own.keys() >= set(names):
        return "train.encoder_lr", max(own[name] for name in names)
    return f"stages.{bench.stage.number}.lr", bench.stage.lr


def _details(bench: Bench, found: Taken, moved: set[str]) -> tuple[str, ...]:
    """A line a group: tensors, those with gradients in each step, those that moved."""
    lines = []
    for info in bench.session.infos:
        counts = Counter()
        for name in info.names:
            counts["moved"] += name in moved
            for step, sizes in enumerate(found.gradients):
                counts[step] += sizes[name] > 0.0
        where = f"{info.component}{'.' + info.branch if info.branch else ''}"
        steps = ", ".join(f"{counts[step]} in step {step + 1}" for step in range(len(found.gradients)))
        lines.append(f"{where}: {len(info.names)} tensors, gradients of {steps}; {counts['moved']} moved")
    had = {name for sizes in found.gradients for name, size in sizes.items() if size > 0.0}
    without = sorted(name for info in bench.session.infos for name in info.names if name not in had)
    return (*lines, *([f"without gradient in both steps: {_some(without)}"] if without else []))


def _some(names: list[str]) -> str:
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
