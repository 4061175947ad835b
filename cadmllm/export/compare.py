"""How far two models' answers are apart, and how far rounding alone may carry them. Only numbers here, no models."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from cadmllm.errors import CadmllmError
from cadmllm.infer.constrain import Constraint, Tables

GREEDY = 48  # tokens of a greedy answer, which the grammar brings to its end within them


@dataclass(frozen=True, slots=True)
class Tolerance:
    """What rounding may do: `distance` as `Distance.distance`, `divergence` in nats."""

    distance: float
    divergence: float


# by the type of the weights, where both models compute in float32: docs/export.md has what was measured
EXACT = {
    "fp32": Tolerance(1e-3, 1e-6),
    "fp16": Tolerance(0.05, 1e-4),
    "bf16": Tolerance(0.3, 5e-3),
    "q8_0": Tolerance(0.5, 2e-2),
}
ROUNDED = Tolerance(0.6, 2e-2)  # both models compute in 16 bit: their own rounding comes on top


def tolerance(dtype: str, computed: torch.dtype) -> Tolerance:
    """What is allowed for weights of 'fp32', 'bf16', 'fp16' or 'q8_0', by the type that both models computed in."""
    exact = EXACT[dtype]
    if computed == torch.float32:
        return exact
    return Tolerance(max(exact.distance, ROUNDED.distance), max(exact.divergence, ROUNDED.divergence))


@dataclass(frozen=True, slots=True)
class Distance:
    """Of an export's answers to one prompt from the checkpoint's.

    Attributes:
        distance: largest difference of a CAD item's logit, over the standard deviation of the checkpoint's CAD logits there.
        divergence: Kullback-Leibler, of the export's distribution over the CAD items from the checkpoint's, in nats; a mean.
        agreement: share of the checkpoint's greedy answer where the export, under the grammar, chooses the same item; without
            a greedy answer, share of the fixed answer's positions where both find the same item the most likely.
    """

    distance: float
    divergence: float
    agreement: float

    def rounded(self) -> dict[str, float]:
        """Three significant digits, for a record."""
        return {name: float(f"{value:.3g}") for name, value in asdict(self).items()}


def measure(ours: Tensor, theirs: Tensor, answer: tuple[int, ...], tables: Tables) -> Distance:
    """The distance of logits `theirs` from `ours`, [T, CAD_SIZE] each; the last of T are those along the greedy `answer`."""
    ours, theirs = ours.double(), theirs.double()
    spread = ours.std(dim=1, keepdim=True)
    p, q = ours.log_softmax(dim=1), theirs.log_softmax(dim=1)
    return Distance(
        distance=float(((theirs - ours).abs() / spread).max()),
        divergence=float((p.exp() * (p - q)).sum(dim=1).mean()),
        agreement=agreement(theirs[len(theirs) - len(answer) :], answer, tables)
        if answer
        else float((ours.argmax(dim=1) == theirs.argmax(dim=1)).double().mean()),
    )


def agreement(logits: Tensor, answer: tuple[int, ...], tables: Tables) -> float:
    """Share of positions where the most likely item that the grammar allows is the answer's; logits [len(answer), CAD_SIZE]."""
    constraint = Constraint(tables, 1, GREEDY)
    same = 0
    for row, token in zip(logits.to(tables.cost.device), answer, strict=True):
        same += int(constraint.mask(row.unsqueeze(0)).argmax()) == token
        constraint.update(torch.tensor([token], device=tables.cost.device))
    return same / len(answer)


def refuse_far(prompt: str, found: Distance, allowed: Tolerance, dtype: str) -> None:
    """Raise E721 when an export is farther from its checkpoint than rounding explains; numbers that are not finite are."""
    for what, value, most in (
        ("its logits differ by {} of their spread", found.distance, allowed.distance),
        ("its distribution over the CAD items diverges by {} nats", found.divergence, allowed.divergence),
    ):
        if not value <= most:
            raise CadmllmError(
                "E721",
                f"the export answers the prompt {prompt!r} differently from its checkpoint:"
                f" {what.format(f'{value:.3g}')}, and rounding to {dtype} explains {most:g}",
                wider(dtype),
            )


def wider(dtype: str) -> str:
    """What mends a difference, if anything does."""
    if dtype == "fp32":
        return "nothing was rounded, so this is a fault of ours: please report it with the output of `cadmllm doctor --report`"
    return f"cadmllm export --dtype {'bf16' if dtype == 'q8_0' else 'fp32'}; if it still differs, please report it"


def summary(found: dict[str, Distance], allowed: Tolerance) -> dict[str, Any]:
    """The worst of all prompts and what was allowed."""
    worst = Distance(
        max(one.distance for one in found.values()),
        max(one.divergence for one in found.values()),
        min(one.agreement for one in found.values()),
    )
    return {"prompts": {name: one.rounded() for name, one in found.items()}, "worst": worst.rounded(), "allowed": asdict(allowed)}
