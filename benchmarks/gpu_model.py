"""The decoder of benchmarks/gpu.py without a file: real architectures filled, and quantised, on the device layer by layer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

if TYPE_CHECKING:
    import torch
    from gpu_samples import Stored

    from cadmllm.models.fusion import CadMLLM
    from cadmllm.settings import Settings


def filled(settings: Settings, device: torch.device, head: bool = False) -> Any:
    """A decoder of random weights in `settings.dtype`, its layers quantised one at a time where the settings say so."""
    import torch
    from torch import nn
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

    dtype, nf4 = getattr(torch, settings.dtype), settings.model.quantization == "nf4"
    config = AutoConfig.from_pretrained(settings.model.llm)
    with torch.device("meta"):
        model: Any = (AutoModelForCausalLM if head else AutoModel).from_config(config, dtype=dtype)
    inner = model.model if head else model
    for module in model.modules():
        for name, value in list(module.named_parameters(recurse=False)):
            if isinstance(module, nn.Linear) and nf4:
                continue
            real = torch.empty(value.shape, dtype=dtype, device=device)
            real = real.normal_(0.0, 0.02) if value.ndim > 1 else real.fill_(1.0)
            setattr(module, name, nn.Parameter(real, requires_grad=False))
    if nf4:
        for module in list(inner.layers.modules()):
            for name, child in list(module.named_children()):
                if isinstance(child, nn.Linear):
                    setattr(module, name, packed(child, dtype, device))
        model.is_loaded_in_4bit = True  # peft asks for it
    inner.rotary_emb = type(inner.rotary_emb)(config).to(device)  # its frequencies are no parameters
    if head:
        model.tie_weights()
    return model


def packed(linear: Any, dtype: torch.dtype, device: torch.device) -> Any:
    """A linear layer of random weights in NF4 with double quantisation, as `models/backbone.py` loads them."""
    import torch
    from bitsandbytes.nn import Linear4bit, Params4bit

    options: dict[str, Any] = {"compute_dtype": dtype, "compress_statistics": True, "quant_type": "nf4"}
    with torch.device("meta"):
        layer = Linear4bit(linear.in_features, linear.out_features, bias=False, **options)
    weight = torch.empty(linear.weight.shape, dtype=dtype, device=device).normal_(0.0, 0.02)
    parameter: Any = Params4bit  # its stubs are those of a plain parameter
    layer.weight = parameter(weight, requires_grad=False, compress_statistics=True, quant_type="nf4").to(device)
    layer.support_avx512bf16_for_cpu = False
    return layer


def build(settings: Settings, stage: int, stored: Stored | None = None) -> CadMLLM:
    """`fusion.build_model` with a decoder that `filled` gave; `stored`: without the encoders of these branches."""
    from cadmllm.models import fusion

    with patch.object(fusion, "load_backbone", loader()):
        return fusion.build_model(settings, stage, cached=stored)


def loader() -> Callable[..., Any]:
    """What stands in for `backbone.load_backbone`."""
    from transformers import AutoTokenizer

    from cadmllm.models import backbone

    def load(settings: Settings, device: torch.device | None = None) -> backbone.Backbone:
        folder = settings.model.llm
        tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        model = backbone._with_lora(filled(settings, device or backbone.pick_device(settings)), settings, folder)
        mark = dict.fromkeys(("config", "tokenizer", "weights"), "random")
        return backbone.Backbone(model, tokenizer, len(tokenizer), Path(folder), None, mark)

    return load
