"""AdamW with moments in 8 bit, by bitsandbytes: 2 bytes a parameter where float32 moments take 8.

Imported only where such an optimizer is asked for: bitsandbytes is an optional package.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import bitsandbytes
import torch
from torch.nn import Parameter

from cadmllm.errors import CadmllmError

TRIAL = 2**17  # values of the tensor that is stepped to see whether it works: bitsandbytes pages tensors from 100,000 values on
FLOATS, CODES = ("state1", "state2"), ("absmax1", "absmax2")


class MixedAdamW(bitsandbytes.optim.AdamW):
    """AdamW whose groups say how many bits their moments have: `optim_bits`, 8 or 32.

    bitsandbytes itself keeps exceptions in a table of the process under `id(parameter)`, which outlives the parameters: in
    the next stage of a run another tensor may have the same id and would silently be treated alike.
    """

    def get_config(self, gindex: int, pindex: int, group: dict[str, Any]) -> dict[str, Any]:
        return super().get_config(gindex, pindex, group) | {"optim_bits": group["optim_bits"]}

    def saved(self, parameter: torch.Tensor) -> dict[str, torch.Tensor]:
        """What must be kept of a parameter's state: step and moments, in 8 bit with their scales (not the code book).

        Copies, on the CPU; {} before the parameter's first step.
        """
        state = self.state.get(parameter)
        if not state:
            return {}
        _settle(parameter)
        kept = {key: state[key].detach().to("cpu", copy=True) for key in (*FLOATS, *CODES) if key in state}
        return kept | {"step": torch.tensor(state["step"], dtype=torch.int64)}

    def restore(self, parameter: Parameter, saved: Mapping[str, torch.Tensor]) -> bool:
        """Undo `saved`; False (and no state at all) when it was made for another shape or number of bits."""
        group, place = next(
            (g, (gindex, pindex))
            for gindex, g in enumerate(self.param_groups)
            for pindex, member in enumerate(g["params"])
            if member is parameter
        )
        self.init_state(group, parameter, *place)  # allocates, paged where it should be
        _settle(parameter)
        state = self.state[parameter]
        wanted = {key: value for key, value in state.items() if key in (*FLOATS, *CODES)}
        fits = saved.keys() == wanted.keys() | {"step"} and all(
            saved[key].shape == value.shape and saved[key].dtype == value.dtype for key, value in wanted.items()
        )
        if not fits:
            del self.state[parameter]
            return False
        for key, value in wanted.items():
            value.copy_(saved[key])
        state["step"] = int(saved["step"])
        return True


def _settle(parameter: torch.Tensor) -> None:
    """Wait for the card: the CPU may look at paged memory only while no kernel uses it."""
    if parameter.device.type == "cuda":
        torch.cuda.synchronize(parameter.device)


def mixed_adamw(options: Sequence[dict[str, Any]], bits: Sequence[int], paged: bool, device: torch.device) -> MixedAdamW:
    """The optimizer over groups of parameters, after one step on a tensor of its own has shown that it works here.

    Args:
        options: groups as for `torch.optim.AdamW`, with 'lr' and 'weight_decay'.
        bits: 8 or 32 by group; tensors below 4,096 values have 32 in any case.
        paged: the driver may move moments to RAM when the card is full (nothing to do on a CPU, where they are there).
        device: where the parameters are.

    Raises:
        CadmllmError: E613.
    """
    paged = paged and device.type == "cuda"
    trial = Parameter(torch.zeros(TRIAL, device=device))
    trial.grad = torch.ones_like(trial)
    try:
        MixedAdamW([{"params": [trial], "optim_bits": 8}], lr=1.0, weight_decay=0.0, is_paged=paged).step()
        worked = math.isclose(float(trial.detach().mean()), -1.0, rel_tol=0.05)
        reason = "its step is wrong"
    except (RuntimeError, NotImplementedError, AttributeError) as error:  # what it raises without a library for this card
        worked, reason = False, (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
    if not worked:
        raise CadmllmError(
            "E613",
            f"the 8-bit optimizer of bitsandbytes {bitsandbytes.__version__} does not work on {device}: {reason}",
            "see what is wrong: python -m bitsandbytes; or use the 32-bit one: --set train.optimizer=adamw",
        )
    groups = [{**group, "optim_bits": number} for group, number in zip(options, bits, strict=True)]
    return MixedAdamW(groups, is_paged=paged)
