"""LoRA in two products and an addition in place of five passes over the output.

peft computes `base(x) + lora_B(lora_A(x)) * scaling`: a product, a scaling and an addition, each over all of the output, and as
many in the backward pass. `addmm` does them in one, and 4-bit layers need no copy of their output for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from peft.tuners.lora import LoraLayer

ADAPTER = "default"  # the only one a model of ours has


class FusedLora:
    """Stands in for the `forward` of a LoRA layer; whatever is not the plain case is peft's as before.

    Args:
        layer: around a linear layer, in 16 or 32 bit or NF4.
    """

    def __init__(self, layer: LoraLayer) -> None:
        self.layer: Any = layer
        self.plain: Callable[..., Tensor] = self.layer.forward

    def __call__(self, x: Tensor, *args: Any, **options: Any) -> Tensor:
        layer = self.layer
        dropout = layer.training and layer.lora_dropout[ADAPTER].__class__ is not nn.Identity
        down, up = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
        mixed = x.dtype != down.dtype and not torch.is_autocast_enabled(x.device.type)
        if dropout or mixed or layer.disable_adapters or layer.merged or args or options:
            return self.plain(x, *args, **options)
        base = layer.base_layer(x)
        low = F.linear(x, down)
        out = torch.addmm(base.flatten(0, -2), low.flatten(0, -2), up.t(), alpha=layer.scaling[ADAPTER])
        return out.view(base.shape)


def unfuse(model: nn.Module) -> None:
    """Give every LoRA layer peft's own forward back."""
    for module in model.modules():
        if isinstance(module.forward, FusedLora):
            del module.forward
