"""What a model and its training really take, counted from the tensors that are there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

if TYPE_CHECKING:
    from bitsandbytes.nn import Params4bit

    from cadmllm.models.fusion import CadMLLM

GRADIENTS, MOMENTS = "gradients", "optimizer"


def bytes_of(model: CadMLLM, optimizer: torch.optim.Optimizer | None = None) -> dict[str, int]:
    """Bytes by what they are, largest first, then 'total' and, where something lies there instead, 'in main memory'.

    Keys are '<component> <type>': 'language model nf4' (packed weights and their scales), 'embedding bfloat16',
    'LoRA float32', 'rows float32', 'projectors float32', 'encoders bfloat16', 'buffers float32'; then 'gradients' and
    'optimizer' once there are any. A tensor that is shared counts once. Activations are not in it.

    Args:
        model: of any stage.
        optimizer: over its trained parameters, for its moments.

    Returns:
        `total` is what lies on the model's own device; keys of what lies elsewhere end in '(main memory)' and are summed up
        under 'in main memory'.
    """
    counts: Counter[str] = Counter()
    seen: set[tuple[torch.device, int]] = set()
    for key, tensor in tensors_of(model, optimizer):
        storage = tensor.untyped_storage()
        place = (tensor.device, storage.data_ptr())
        if place not in seen and storage.nbytes():
            seen.add(place)
            counts[key if tensor.device == model.device else f"{key} (main memory)"] += tensor.nbytes
    rows = dict(counts.most_common())
    away = sum(size for key, size in rows.items() if key.endswith("(main memory)"))
    return rows | {"total": sum(rows.values()) - away} | ({"in main memory": away} if away else {})


def tensors_of(model: CadMLLM, optimizer: torch.optim.Optimizer | None) -> Iterator[tuple[str, Tensor]]:
    """Every tensor that a model and its training hold, and the key of `bytes_of` that it counts under."""
    for name, parameter in model.named_parameters():
        part = _part(name)
        if parameter.dtype == torch.uint8:
            yield from ((f"{part} nf4", tensor) for tensor in _packed(parameter))
        else:
            yield f"{part} {_type(parameter)}", parameter.detach()
        if parameter.grad is not None:
            yield GRADIENTS, parameter.grad
    for _, buffer in model.named_buffers():
        yield f"buffers {_type(buffer)}", buffer
    for state in optimizer.state.values() if optimizer is not None else ():
        for value in cast("dict[str, Any]", state).values():
            if isinstance(value, Tensor):
                yield MOMENTS, value


def _packed(parameter: Tensor) -> Iterator[Tensor]:
    """The packed weights, and the scales of their blocks with the scales of those."""
    state = cast("Params4bit", parameter).quant_state
    yield parameter.detach()
    for level in (state, state.state2):
        if level is not None:
            yield from (cast("Tensor", level.absmax), cast("Tensor", level.code))
    if state.offset is not None:
        yield state.offset


def _part(name: str) -> str:
    top, *rest = name.split(".")
    if top in ("points", "images"):
        return "encoders" if rest[0] == "encoder" else "projectors"
    if top == "rows":
        return "rows"
    if "lora_" in name:
        return "LoRA"
    return "embedding" if "embed_tokens" in name else "language model"


def _type(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
