"""Gradients that should flow and do not: a dead LoRA, projector, encoder or row matrix stops the run after its first steps.

Judged by gradients alone: weights that do not move may simply have a small rate, and a loss that falls says nothing about
one part (a dead projector's stage still learns from the text).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from cadmllm.errors import CadmllmError

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Parameter

    from cadmllm.train.optim import GroupInfo

STEPS = 3  # steps that could have taught a part before it is judged: one would do, three forgive a freak
PATIENCE = 64  # steps after which the check ends even if a modality was never shown
TEACHES = 1e-8  # a step whose largest gradient is smaller teaches nobody: 16-bit backward passes round what is left to zero
MOVED = 1e-6  # entries of B below it may be zero as float16 (smallest 6e-8), and A then rightly has no gradient
MODALITIES = {"points": "point_cloud", "images": "image"}  # what must be shown for a branch to learn
_SHOWN = {"point_cloud": "a point cloud", "image": "a view"}
_B, _A = ".lora_B.", ".lora_A."
_USUAL = {
    "lora_B": "the adapters' output does not reach the loss (the decoder's layers were run without gradients, or replaced)",
    "lora_A": "the adapters' input is cut off, although B has moved",
    "llm": "the decoder's layers were run without gradients, or replaced",
    "rows": "this matrix is not what the loss was computed with (a detached or copied one was)",
    "projectors": "its features do not reach the loss: the branch was run without gradients, or its output is detached",
    "encoders": "it is run without gradients, as a frozen encoder is, though it is to be trained",
}


@dataclass(slots=True)
class Part:
    """Tensors that live or die together.

    Attributes:
        name: 'LoRA B', 'points.projector', 'rows.output'.
        kind: a key of `_USUAL`.
        names: of its tensors.
        parameters: its tensors.
        modality: that a step must show for it to learn, '' for none.
        majority: dead when more than half of its tensors are; otherwise when all of them are.
        counted: steps so far that could have taught it.
        lived: places of tensors that have had a gradient in one of them.
    """

    name: str
    kind: str
    names: tuple[str, ...]
    parameters: list[Parameter]
    modality: str
    majority: bool
    counted: int = 0
    lived: set[int] = field(default_factory=set)

    @property
    def alive(self) -> bool:
        """Enough of it has had a gradient."""
        return 2 * len(self.lived) >= len(self.names) if self.majority else bool(self.lived)


class FlowCheck:
    """Looks at the gradients of a stage's first steps.

    Args:
        infos: what the groups of the optimizer are.
        groups: the optimizer's `param_groups`, in the same order.
        steps: steps that could have taught a part before it is called dead; 0 checks nothing.

    Under DDP and FSDP every process calls `look` with the same `mix`, the one of the whole step.
    """

    def __init__(self, infos: Sequence[GroupInfo], groups: Iterable[Mapping[str, Any]], steps: int = STEPS) -> None:
        members = [
            (info.component, info.branch, name, parameter)
            for info, group in zip(infos, groups, strict=True)
            for name, parameter in zip(info.names, group["params"], strict=True)
        ]
        self._parts = _parts(members)
        self._steps = steps
        self._looks = 0

    @property
    def done(self) -> bool:
        """Nothing more is to be found out: `look` need not be called any more."""
        return self._looks >= PATIENCE or not self.unjudged

    @property
    def unjudged(self) -> tuple[str, ...]:
        """Parts of which nothing is known yet, as no step could have taught them (their modality was not shown)."""
        return tuple(part.name for part in self._parts if part.counted < self._steps and not part.alive)

    def look(self, mix: Mapping[str, int]) -> None:
        """After the backward passes of a step, before its update.

        Args:
            mix: samples of the step by the combination they show ('text+point_cloud').

        Raises:
            CadmllmError: E608 when a part that should have learned for `steps` steps had no gradient in any of them.
        """
        if self.done:
            return
        self._looks += 1
        parts = [part for part in self._parts if not part.alive]
        trained = [parameter for part in self._parts for parameter in part.parameters]
        outputs = [parameter for part in parts if part.kind == "lora_A" for parameter in self._outputs(part)]
        sizes = _largest([*(parameter.grad for parameter in trained), *outputs], trained)
        if not all(map(math.isfinite, sizes)):
            return  # an overflow under float16; anything else stops the step itself
        gradients = dict(zip(map(id, trained), sizes, strict=False))
        moved = dict(zip(map(id, outputs), sizes[len(trained) :], strict=True))
        if max(gradients.values(), default=0.0) < TEACHES and any(parameter.grad is not None for parameter in trained):
            return
        shown = {modality for combination, count in mix.items() if count for modality in combination.split("+")}
        for part in parts:
            self._count(part, shown, gradients, moved)
        dead = [part for part in parts if part.counted >= self._steps and not part.alive]
        if dead:
            raise _dead(dead, self._steps)

    def _outputs(self, part: Part) -> list[Parameter]:
        """The B of every A."""
        named = {name: parameter for other in self._parts for name, parameter in zip(other.names, other.parameters, strict=True)}
        return [named[name.replace(_A, _B)] for name in part.names]

    def _count(self, part: Part, shown: set[str], gradients: Mapping[int, float], moved: Mapping[int, float]) -> None:
        """Whether this step could teach the part, and which of its tensors it did teach."""
        if part.modality and part.modality not in shown:
            return
        if part.kind == "lora_A":
            able = sum(moved[id(parameter)] >= MOVED for parameter in self._outputs(part))
            if 2 * able <= len(part.names):
                return
        part.counted += 1
        part.lived |= {k for k, parameter in enumerate(part.parameters) if gradients[id(parameter)] > 0.0}

    def state(self) -> dict[str, Any]:
        """What `load` takes; plain JSON data."""
        parts = {part.name: [part.counted, len(part.names), sorted(part.lived)] for part in self._parts}
        return {"looks": self._looks, "parts": {} if self.done else parts, "done": self.done}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken."""
        self._looks = PATIENCE if state["done"] else state["looks"]
        for part in self._parts:
            counted, size, lived = state["parts"].get(part.name, [0, 0, []])
            if size == len(part.names):
                part.counted, part.lived = counted, set(lived)


def _parts(members: Sequence[tuple[str, str, str, Parameter]]) -> list[Part]:
    """Trained tensors by what lives or dies together: LoRA's halves, each row matrix, each branch's projector and encoder."""
    found: dict[tuple[str, str, str], list[tuple[str, Parameter]]] = {}
    for component, branch, name, parameter in members:
        if component == "llm" and _B in name:
            key = ("LoRA B", "lora_B", "")
        elif component == "llm" and _A in name:
            key = ("LoRA A", "lora_A", "")
        elif component == "llm":
            key = ("language model", "llm", "")
        elif component == "rows":
            key = (name, "rows", "")
        else:
            key = (f"{branch}.{component.removesuffix('s')}", component, MODALITIES[branch])
        found.setdefault(key, []).append((name, parameter))
    return [
        Part(title, kind, tuple(n for n, _ in some), [p for _, p in some], modality, kind in ("lora_A", "lora_B", "llm"))
        for (title, kind, modality), some in found.items()
    ]


@torch.no_grad()
def _largest(tensors: Sequence[Tensor | None], like: Sequence[Parameter]) -> list[float]:
    """The largest magnitude in each tensor: 0 where there is none, infinity where it is not finite.

    Of tensors that are spread over processes (FSDP) every process looks at its share, and the results are compared once.
    The largest entry, not the norm of all: the square of 1e-25 is zero in float32.
    """
    device = like[0].device
    kind = _sharded_kind()
    local = [tensor.to_local() if kind is not None and isinstance(tensor, kind) else tensor for tensor in tensors]
    there = [(k, tensor.detach()) for k, tensor in enumerate(local) if tensor is not None and tensor.numel()]
    sizes = torch.zeros(len(tensors), device=device)
    if there:
        norms = torch._foreach_norm([tensor for _, tensor in there], math.inf)
        places = torch.tensor([k for k, _ in there], device=device)
        sizes[places] = torch.stack([norm.to(device, torch.float32) for norm in norms])
    sizes = sizes.nan_to_num(nan=math.inf, posinf=math.inf)
    if kind is not None and any(isinstance(parameter, kind) for parameter in like):
        torch.distributed.all_reduce(sizes, torch.distributed.ReduceOp.MAX)
    return sizes.tolist()


def _sharded_kind() -> type[Any] | None:
    """The type of tensors that are spread over processes; None where there is one process."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return None
    from torch.distributed.tensor import DTensor

    return DTensor


def _dead(parts: Sequence[Part], steps: int) -> CadmllmError:
    found = []
    for part in parts:
        without = [name for k, name in enumerate(part.names) if k not in part.lived]
        more = f" and {len(without) - 2} more" if len(without) > 2 else ""
        when = f" that showed {_SHOWN[part.modality]}" if part.modality else " after B had moved" if part.kind == "lora_A" else ""
        found.append(
            f"{part.name}: {len(without)} of {len(part.names)} tensors ({', '.join(without[:2])}{more}) had no gradient in "
            f"{steps} steps{when}; usually {_USUAL[part.kind]}"
        )
    frozen = "; or leave the encoders as they are: --set model.train_encoders=false"
    return CadmllmError(
        "E608",
        "what should learn does not. " + ". ".join(found),
        "train the stage again without what may cut a gradient off: --overwrite --set train.compile=false --set "
        "train.gradient_checkpointing=false --set train.offload_activations=false --set model.attention=sdpa"
        + (frozen if any(part.kind == "encoders" for part in parts) else "")
        + "; if it stays, report it with what `cadmllm doctor --json` says",
    )
