"""Exactly what a resumed run needs besides the weights: the place, the optimizer, the settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict, cast

import torch
from torch import Tensor
from torch.nn import Parameter

from cadmllm.errors import CadmllmError
from cadmllm.train.optim import GroupInfo

if TYPE_CHECKING:
    from cadmllm.train.eightbit import MixedAdamW

MOMENTS = ("step", "exp_avg", "exp_avg_sq")


def _as_it_is(tensor: Tensor) -> Tensor:
    return tensor


def _to_its_device(value: Tensor, parameter: Parameter) -> Tensor:
    return value.to(parameter.device)


class Place(TypedDict):
    """`state.json` of a step save.

    Keys:
        stage: 1, 2 or 3.
        step: optimizer steps done in the stage.
        total_steps: steps of the whole stage (the cosine's length).
        fingerprint: every setting that changes the numbers, see `sameness.fingerprint`.
        scaler: state of the float16 loss scaler ({} without one).
        companions: state of everything else that remembers (`companions.Companions`).
    """

    stage: int
    step: int
    total_steps: int
    fingerprint: dict[str, object]
    scaler: dict[str, float]
    companions: dict[str, Any]


def optimizer_tensors(
    optimizer: torch.optim.Optimizer, infos: Sequence[GroupInfo], gather: Callable[[Tensor], Tensor] = _as_it_is
) -> dict[str, Tensor]:
    """The optimizer's state as flat tensors on the CPU, `<parameter name>/exp_avg` and so on.

    They may share memory with the optimizer: write them before its next step.

    Args:
        optimizer, infos: of `build_optimizer`.
        gather: makes a whole tensor of one that is spread over processes; called for each moment, in the same order everywhere.
    """
    tensors = {}
    for group, info in zip(optimizer.param_groups, infos, strict=True):
        for name, parameter in zip(info.names, group["params"], strict=True):
            for key, value in _saved(optimizer, parameter).items():
                whole = value if key == "step" else gather(value)
                tensors[f"{name}/{key}"] = whole.detach().cpu().contiguous()
    return tensors


def load_optimizer(
    optimizer: torch.optim.Optimizer,
    infos: Sequence[GroupInfo],
    tensors: Mapping[str, Tensor],
    where: str,
    scatter: Callable[[Tensor, Parameter], Tensor] = _to_its_device,
) -> None:
    """Put saved state back under the parameters of the same name.

    Args:
        optimizer, infos: of `build_optimizer`, as they were when saved.
        tensors: of `optimizer_tensors`.
        where: the save, for the message.
        scatter: (whole moment, parameter) to what this process keeps of it; undoes `gather`.

    Raises:
        CadmllmError: E504 when a parameter's state is incomplete, of another shape or of another kind of optimizer.
    """
    states: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        name, _, moment = key.rpartition("/")
        states.setdefault(name, {})[moment] = value
    for group, info in zip(optimizer.param_groups, infos, strict=True):
        for name, parameter in zip(info.names, group["params"], strict=True):
            if name not in states:
                continue  # no sample has reached it yet (a projector before the first cloud)
            if not _restored(optimizer, parameter, states[name], scatter):
                raise CadmllmError(
                    "E504",
                    f"{where}: the optimizer state of {name} is incomplete, of another shape, or of another optimizer",
                    "resume with the model settings and train.optimizer the run was started with, "
                    "or train the stage anew with --overwrite",
                )


def _saved(optimizer: torch.optim.Optimizer, parameter: Parameter) -> Mapping[str, Tensor]:
    if isinstance(optimizer, torch.optim.AdamW):
        return optimizer.state.get(parameter, {})
    return cast("MixedAdamW", optimizer).saved(parameter)


def _restored(
    optimizer: torch.optim.Optimizer,
    parameter: Parameter,
    state: Mapping[str, Tensor],
    scatter: Callable[[Tensor, Parameter], Tensor],
) -> bool:
    if not isinstance(optimizer, torch.optim.AdamW):
        return cast("MixedAdamW", optimizer).restore(parameter, state)
    if sorted(state) != sorted(MOMENTS) or any(state[key].shape != parameter.shape for key in MOMENTS[1:]):
        return False
    moments = {key: scatter(state[key], parameter) for key in MOMENTS[1:]}
    # AdamW keeps `step` in float32 beside the moments; fused kernels want it on the parameter's device
    optimizer.state[parameter] = {"step": state["step"].to(parameter.device), **moments}
    return True
