"""How a decoder layer is run: as it is, computed again in the backward pass, or compiled.

transformers' own switch for gradient checkpointing changes its name between versions, and in some of them wraps the layer's
hooks as well, which FSDP's must not be. So the layer's `forward` is replaced here, on the instance: names of parameters, hooks
and classes stay what they were.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class LayerForward:
    """Stands in for the `forward` of a layer. While the layer generates or is judged it is run as it is.

    Attributes:
        plain: the layer's own forward.
        compiled: the same, compiled, for training; None: not compiled.
        again: only the layer's input is kept in training; what its backward pass needs is computed again.
    """

    def __init__(self, layer: nn.Module) -> None:
        self.layer = layer
        self.plain: Callable[..., Any] = layer.forward
        self.compiled: Callable[..., Any] | None = None
        self.again = False

    def __call__(self, hidden: torch.Tensor, *args: Any, **options: Any) -> Any:
        if not (self.layer.training and torch.is_grad_enabled()):
            return self.plain(hidden, *args, **options)
        run = self.compiled or self.plain
        if not self.again:
            return run(hidden, *args, **options)
        # the random state is restored for the second run, so that LoRA's dropout drops the same values
        return checkpoint(run, hidden, *args, use_reentrant=False, preserve_rng_state=True, **options)


def decoder_layers(llm: PreTrainedModel) -> list[nn.Module]:
    """The layers of a decoder, with LoRA around it or without."""
    return list(cast("nn.ModuleList", llm.layers))  # peft passes every other attribute on to the model inside


def layer_forwards(llm: PreTrainedModel) -> list[LayerForward]:
    """What runs each decoder layer, put in place where it is not yet."""
    for layer in decoder_layers(llm):
        if not isinstance(layer.forward, LayerForward):
            layer.forward = LayerForward(layer)
    return [cast("LayerForward", layer.forward) for layer in decoder_layers(llm)]


def checkpoint_layers(llm: PreTrainedModel) -> None:
    """Gradient checkpointing (Chen et al. 2016): a layer's input is all that is kept of it until its backward pass."""
    for forward in layer_forwards(llm):
        forward.again = True
