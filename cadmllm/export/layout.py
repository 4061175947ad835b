"""What a causal language model's tensors are called and how large they are, by transformers itself, without its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from cadmllm.models.backbone import LOAD_ERRORS, LORA_TARGETS, first_line, quiet_transformers, unloadable

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

MATRIX = ".weight"


@dataclass(frozen=True, slots=True)
class Layout:
    """A model of `AutoModelForCausalLM`, as it is before anything is resized.

    Attributes:
        config: as transformers reads it.
        prefix: of the inner decoder's tensors ('model.'); a checkpoint of ours says 'llm.' in its place.
        shapes: of every tensor of its state dict, in the order of the model, its output matrix included where it is tied.
        decoder: the inner decoder's parameters, in its order, without the prefix.
        linears: those of `shapes` that LoRA stands around ('model.layers.0.self_attn.q_proj.weight', ...).
        input, output: names of the two matrices that know the vocabulary.
        tied: they are one.
    """

    config: PreTrainedConfig
    prefix: str
    shapes: Mapping[str, tuple[int, ...]]
    decoder: tuple[str, ...]
    linears: tuple[str, ...]
    input: str
    output: str
    tied: bool

    @property
    def rows(self) -> int:
        """Rows of the input matrix."""
        return self.shapes[self.input][0]

    @property
    def width(self) -> int:
        """Hidden size H."""
        return self.shapes[self.input][1]


def read_layout(folder: Path) -> Layout:
    """The layout of the model that a folder's config.json describes. No code of the folder is run.

    Raises:
        CadmllmError: E501 when it is none of a causal language model.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        with quiet_transformers(), torch.device("meta"):
            config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
            if type(config) not in AutoModelForCausalLM._model_mapping:
                raise unloadable(str(folder), f"a {config.model_type} is not a causal language model")
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except LOAD_ERRORS as error:
        raise unloadable(str(folder), f"its config.json describes no model ({first_line(error)})") from error
    return _layout(config, model)


def _layout(config: PreTrainedConfig, model: PreTrainedModel) -> Layout:
    prefix = f"{model.base_model_prefix}."
    inner = model.base_model
    linears = (f"{name}{MATRIX}" for name, module in inner.named_modules() if _wrapped(name, module))
    names = {id(module): name for name, module in model.named_modules()}
    return Layout(
        config=config,
        prefix=prefix,
        shapes={name: tuple(value.shape) for name, value in model.state_dict().items()},
        decoder=tuple(name for name, _ in inner.named_parameters()),
        linears=tuple(f"{prefix}{name}" for name in linears),
        input=names[id(model.get_input_embeddings())] + MATRIX,
        output=names[id(model.get_output_embeddings())] + MATRIX,
        tied=bool(config.tie_word_embeddings),
    )


def _wrapped(name: str, module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) and name.rpartition(".")[2] in LORA_TARGETS
