"""Attention, products, NF4 and the optimizer compute the right numbers on this device. Standard library only.

What a run uses has to be right; what it could use instead is told in the details, and is what the remedies name. The
arithmetic is `numerics_probe`'s, in processes of their own: one that crashes costs its own test alone.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cadmllm.doctor.cards import card_of
from cadmllm.doctor.check import Check, Finding, Level, Outcome, Situation
from cadmllm.doctor.probe import run_probe
from cadmllm.plan.parts import UnknownShape, llm_shape

if TYPE_CHECKING:
    from cadmllm.settings import Settings

SECONDS = 240.0  # of all tests together; flex attention is compiled first
_PROBE = """
from cadmllm.doctor import numerics_probe
for row in numerics_probe.examine(numerics_probe.Request(**json.loads(sys.argv[1]))):
    say(**row)
"""
KERNELS = ("math", "efficient", "flash", "cudnn")


@dataclass(slots=True)
class Answer:
    """What a test came to.

    Attributes:
        name: of the test.
        parts: (what was compared, error, limit).
        absent: why its back end does not run here; '' when it does.
        broken: how its process ended in it; '' when it did not.
    """

    name: str
    parts: list[tuple[str, float, float]] = field(default_factory=list)
    absent: str = ""
    broken: str = ""

    @property
    def worst(self) -> tuple[str, float, float]:
        """The part that is furthest off, in limits; no number at all is the furthest."""
        return max(self.parts, key=lambda part: part[1] / part[2] if part[1] == part[1] else float("inf"))

    @property
    def runs(self) -> bool:
        """Whether it ran to its end."""
        return bool(self.parts) and not self.absent and not self.broken

    @property
    def right(self) -> bool:
        """Whether it ran and every part is within its limit."""
        return self.runs and all(error <= limit for _, error, limit in self.parts)

    def told(self) -> str:
        """In a line."""
        if self.broken:
            return f"{self.name}: {self.broken}"
        if self.absent or not self.parts:
            return f"{self.name}: not here ({self.absent or 'not reached'})"
        part, error, limit = self.worst
        return f"{self.name}: {'right' if self.right else 'WRONG'}, {part} off by {error:.2g} of {limit:g}"


def check_numbers(situation: Situation) -> Outcome:
    """Everything that the run computes with is right, forward and backward."""
    settings = situation.needed
    device = _device(situation)
    if device is None:
        return Outcome(skipped=f"device is {settings.device}, and there is no GPU")
    used, others = wanted_tests(settings, situation.stages, device)
    answers = ask(request_of(settings, device), (*used, *others), situation.machine.environ)
    findings = judge(answers, used, settings, device)
    needed = [answers[name] for name in needed_of(answers, used, settings)]
    names = ", ".join(answer.name.removeprefix("attention: ") for answer in needed)
    summary = f"{names}: right on {device} in {settings.dtype}"
    return Outcome(summary, tuple(findings), details=tuple(answer.told() for answer in answers.values()))


def _device(situation: Situation) -> str | None:
    """Where the run will compute; None for a GPU that is not there."""
    wanted = situation.needed.device
    if wanted == "cpu":
        return "cpu"
    if card_of(situation) is not None:
        return "cuda:0" if wanted in ("auto", "cuda") else wanted
    return "cpu" if wanted == "auto" else None


def wanted_tests(settings: Settings, stages: Sequence[int], device: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Tests of what the run uses, attention's candidates in the order they are taken in, and of what it could use instead."""
    wanted, cuda = settings.model.attention, device != "cpu"
    candidates = ["sdpa", "eager"]
    if cuda and settings.dtype != "float32":
        candidates = ["flash_attention_2", "varlen", "sdpa", "eager"]
    used = ["product", *(f"attention: {name}" for name in (candidates if wanted == "auto" else [wanted]))]
    if max(stages, default=3) > 1:
        used.append("attention: encoders")
    used += ["nf4"] if settings.model.quantization == "nf4" else []
    used.append(f"optimizer: {settings.train.optimizer}")
    others = [f"attention: {name}" for name in candidates] + ["optimizer: adamw"]
    others += [f"sdpa kernel: {name}" for name in KERNELS] if cuda else []
    return tuple(used), tuple(name for name in dict.fromkeys(others) if name not in used)


def request_of(settings: Settings, device: str) -> dict[str, Any]:
    """The run's sizes, as `numerics_probe.Request` has them; its usual ones where the model is not known here."""
    request: dict[str, Any] = {"device": device, "dtype": settings.dtype}
    try:
        shape = llm_shape(settings)
    except UnknownShape:
        return request
    sizes = {"heads": shape.heads, "kv_heads": shape.kv_heads, "head_dim": shape.head_dim, "hidden": shape.hidden}
    return request | sizes


def ask(request: Mapping[str, Any], tests: Sequence[str], environ: Mapping[str, str] | None = None) -> dict[str, Answer]:
    """Every test's answer; a process that ends within one is followed by another for the rest."""
    answers = {name: Answer(name) for name in tests}
    left, deadline = list(tests), time.monotonic() + SECONDS
    while left and time.monotonic() < deadline:
        text = json.dumps({**request, "tests": left})
        probe = run_probe(_PROBE, text, seconds=max(1.0, deadline - time.monotonic()), environ=environ)
        begun = ""
        for row in probe.lines:
            begun = row.get("begun", begun)
            if "part" in row:
                answers[row["test"]].parts.append((row["part"], row["error"], row["limit"]))
            elif "absent" in row:
                answers[row["test"]].absent = row["absent"]
            elif "done" in row:
                left.remove(row["done"])
        if not probe.end:
            break
        end = f"{probe.end} {probe.stderr}".strip()
        if not begun or begun not in left:
            raise RuntimeError(f"the process that computes ended with {end}")
        answers[begun].broken = end
        left.remove(begun)
    return answers


def needed_of(answers: Mapping[str, Answer], used: Sequence[str], settings: Settings) -> list[str]:
    """The tests that must be right: with 'auto', of attention's candidates the first that runs here."""
    candidates = [name for name in used if name.startswith("attention: ") and name != "attention: encoders"]
    if candidates and settings.model.attention == "auto":
        first = next((name for name in candidates if not answers[name].absent), candidates[-1])
        return [name for name in used if name not in candidates or name == first]
    return list(used)


def judge(answers: Mapping[str, Answer], used: Sequence[str], settings: Settings, device: str) -> list[Finding]:
    """What is wrong, or does not run, of what the run needs."""
    findings = []
    for name in needed_of(answers, used, settings):
        answer = answers[name]
        if answer.right:
            continue
        way = _way_on(name, answers, settings)
        if answer.broken:
            message = f"{name} on {device} in {settings.dtype} ends with {answer.broken}"
            findings.append(Finding("E853", Level.FAIL, "numbers", message, way))
        elif answer.runs:
            part, error, limit = answer.worst
            message = f"{name} is wrong on {device} in {settings.dtype}: {part} is off by {error:.2g}, where {limit:g} is allowed"
            findings.append(Finding("E853", Level.FAIL, "numbers", message, way))
        elif answer.absent:
            code = "E612" if name.startswith("attention") else "E613"
            message = f"{name} does not run on {device} in {settings.dtype}: {answer.absent}"
            findings.append(Finding(code, Level.FAIL, "numbers", message, way))
        else:
            message = f"{name} was not reached within {SECONDS:.0f} s on {device}"
            findings.append(Finding("E853", Level.WARN, "numbers", message, "cadmllm doctor --only numbers on a quiet machine"))
    return findings


def _way_on(name: str, answers: Mapping[str, Answer], settings: Settings) -> str:
    """The setting that avoids what is wrong, proven right here where there is one."""
    if name == "nf4":
        return "--set model.quantization=none with a smaller model (cadmllm plan tells which fits), or another bitsandbytes"
    if name.startswith("optimizer: ") and name != "optimizer: adamw" and answers["optimizer: adamw"].right:
        return "--set train.optimizer=adamw"
    if name.startswith("attention: ") and name != "attention: encoders":
        for other, answer in answers.items():
            kind, _, back_end = other.partition(": ")
            if kind == "attention" and back_end not in ("encoders", settings.model.attention) and other != name and answer.right:
                return f"--set model.attention={back_end}"
    if settings.dtype != "float32" and name != "product":
        return "--set dtype=float32; or the newest driver and torch"
    return "the newest driver and torch; if it stays so, the device, its memory or its overclocking is at fault: --set device=cpu"


CHECKS = (
    Check(
        "numbers",
        "attention, products, NF4 and the optimizer compute the right numbers here, forward and backward",
        ("E612", "E613", "E853"),
        check_numbers,
        needs=("torch",),
        group="gpu",
        deep=True,
    ),
)
