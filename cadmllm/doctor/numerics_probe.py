"""Whether a device computes the right numbers: attention, products, NF4 and optimizers against float64, forward and backward.

    python -m cadmllm.doctor.numerics_probe '{"device": "cuda:0", "dtype": "bfloat16", "tests": ["product", "attention: sdpa"]}'

prints a line of JSON for each value that was compared. Run in a process of its own by `doctor/numerics.py`, as kernels may
crash or hang; needs torch, for the tests named after it bitsandbytes, and nothing that reads settings. References are
computed on the CPU in float64 from the same rounded inputs, by plain formulas. An error is the largest difference over the
reference's largest value; its limit stands in every line.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cadmllm.errors import CadmllmError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

# of the largest value: five roundings of the type, ten of a gradient, which some kernels sum over heads in that type; measured
# on CPUs are 0.6 and 2.6 at most, while a wrong mask, scale or layout is off by all of it
LIMITS = {"bfloat16": 0.04, "float16": 0.005, "float32": 1e-4}
TF32 = 0.005  # float32 whose products somebody has allowed to be rounded as much as float16
DOCUMENTS = (37, 128, 1, 200)  # tokens: across, on and below the blocks of kernels
VIEW = (16, 64, 257)  # heads, their width and tokens of DINOv2-large
ROWS, COLUMNS = 256, 1024  # of products: more only takes longer
UNPACKED = 0.02  # of a block's largest value that NF4 may be off beyond its nearest level: scales of 8 bit cost 0.009
STEPS, RATE, DECAY = 8, 1e-3, 0.01
EIGHT_BIT, THIRTY_TWO = 0.05, 1e-4  # of the way that parameters go: 8-bit moments cost 0.011 in the mean, float32 4e-6 at most
# Dettmers et al. 2023, "QLoRA", appendix E: the 16 levels of NF4
LEVELS = (-1.0, -0.6961928, -0.52507305, -0.3949175, -0.28444138, -0.18477343, -0.09105004, 0.0)
LEVELS += (0.0795803, 0.1609302, 0.2461123, 0.33791524, 0.44070983, 0.562617, 0.72295684, 1.0)
# how kernels refuse a device, a type, a head size or a version
REFUSALS = (RuntimeError, NotImplementedError, ValueError, ImportError, AttributeError, TypeError, AssertionError, CadmllmError)


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be computed.

    Attributes:
        device, dtype: as torch names them.
        heads, kv_heads, head_dim, hidden: of the language model.
        tests: keys of `TESTS`.
    """

    device: str = "cpu"
    dtype: str = "float32"
    heads: int = 16
    kv_heads: int = 8
    head_dim: int = 128
    hidden: int = 1024
    tests: tuple[str, ...] = field(default_factory=lambda: tuple(TESTS))


@dataclass(frozen=True, slots=True)
class Compared:
    """A value against its reference: what it is, how far it is off, and how far it may be."""

    part: str
    error: float
    limit: float


def examine(request: Request) -> Iterator[dict[str, Any]]:
    """Rows, for each test: {'begun'}, {'test', 'part', 'error', 'limit'} for each value or {'test', 'absent'}, {'done'}.

    A test is absent where its back end refuses to run; an error of CUDA itself, after which nothing runs any more, is raised.
    """
    for name in request.tests:
        yield {"begun": name}
        try:
            for found in TESTS[name](request):
                yield {"test": name, "part": found.part, "error": found.error, "limit": found.limit}
        except REFUSALS as error:
            if "CUDA error" in str(error):
                raise
            yield {"test": name, "absent": (str(error).strip().splitlines() or [type(error).__name__])[0][:200]}
        yield {"done": name}


def _random(request: Request, seed: int, *shape: int, scale: float = 1.0) -> Tensor:
    """The same numbers on every device, rounded to the run's type."""
    import torch

    drawn = torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale
    return drawn.to(getattr(torch, request.dtype)).to(request.device)


def limit_of(request: Request) -> float:
    """How far a product of the run's type may be off."""
    import torch

    loose = torch.get_float32_matmul_precision() != "highest" or os.environ.get("NVIDIA_TF32_OVERRIDE") == "1"
    return TF32 if request.dtype == "float32" and loose else LIMITS[request.dtype]


def _off(value: Tensor, reference: Tensor) -> float:
    """The largest difference over the reference's largest value."""
    return float((value.detach().cpu().double() - reference).abs().max() / reference.abs().max())


def _both_ways(
    request: Request, inputs: dict[str, Tensor], compute: Callable[..., Tensor], reference: Callable[..., Tensor]
) -> Iterator[Compared]:
    """Output and gradients of all inputs, against the reference's in float64 on the CPU."""
    import torch

    limit = limit_of(request)
    given = {name: value.detach().requires_grad_(True) for name, value in inputs.items()}
    exact = {name: value.detach().cpu().double().requires_grad_(True) for name, value in inputs.items()}
    out, wanted = compute(**given), reference(**exact)
    yield Compared("output", _off(out, wanted.detach()), limit)
    back = _random(request, 9, *wanted.shape).to(out.dtype)
    found = torch.autograd.grad(out, list(given.values()), back)
    right = torch.autograd.grad(wanted, list(exact.values()), back.cpu().double())
    for name, ours, theirs in zip(inputs, found, right, strict=True):
        yield Compared(f"gradient of {name}", _off(ours, theirs), 2 * limit)


# Attention: [1, heads, T, head_dim] in, [1, T, heads, head_dim] out.


def plain_attention(q: Tensor, k: Tensor, v: Tensor, documents: tuple[int, ...], causal: bool) -> Tensor:
    """Softmax attention within documents by its formula, whole score matrices and all."""
    import torch

    groups, outputs = q.shape[1] // k.shape[1], []
    k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    for part in zip(*(tensor.split(documents, 2) for tensor in (q, k, v)), strict=True):
        scores = part[0] @ part[1].transpose(2, 3) * q.shape[3] ** -0.5
        if causal:
            later = torch.ones(scores.shape[2:], dtype=torch.bool, device=q.device).triu(1)
            scores = scores.masked_fill(later, float("-inf"))
        outputs.append(scores.softmax(-1, torch.promote_types(q.dtype, torch.float32)).to(q.dtype) @ part[2])
    return torch.cat(outputs, 2).transpose(1, 2)


def _attention(
    request: Request, compute: Callable[[Tensor, Tensor, Tensor], Tensor], documents: tuple[int, ...] = DOCUMENTS
) -> Iterator[Compared]:
    shapes = {"q": request.heads, "k": request.kv_heads, "v": request.kv_heads}
    inputs = {
        name: _random(request, seed, 1, heads, sum(documents), request.head_dim)
        for seed, (name, heads) in enumerate(shapes.items())
    }
    return _both_ways(request, inputs, compute, lambda q, k, v: plain_attention(q, k, v, documents, causal=True))


def _sdpa(request: Request) -> Iterator[Compared]:
    from torch import nn

    from cadmllm.models import attention

    def compute(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attention.by_document(nn.Identity(), q, k, v, None, list(DOCUMENTS), q.shape[3] ** -0.5)[0]

    return _attention(request, compute)


def _varlen(request: Request) -> Iterator[Compared]:
    from torch import nn

    from cadmllm.models import attention

    ends = _ends(request)

    def compute(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        longest, scale = max(DOCUMENTS), q.shape[3] ** -0.5
        return attention.variable_length(nn.Identity(), q, k, v, None, ends, ends, longest, longest, scale)[0]

    return _attention(request, compute)


def _flash(request: Request) -> Iterator[Compared]:
    import importlib

    flash: Any = importlib.import_module("flash_attn")
    ends, longest = _ends(request), max(DOCUMENTS)

    def compute(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        rows = (part[0].transpose(0, 1).contiguous() for part in (q, k, v))
        return flash.flash_attn_varlen_func(*rows, ends, ends, longest, longest, causal=True).unsqueeze(0)

    return _attention(request, compute)


def _ends(request: Request) -> Tensor:
    import torch
    import torch.nn.functional as F

    return F.pad(torch.tensor(DOCUMENTS, dtype=torch.int32).cumsum(0, dtype=torch.int32), (1, 0)).to(request.device)


def _flex(request: Request) -> Iterator[Compared]:
    import torch
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    lengths = torch.tensor(DOCUMENTS)
    owner = torch.repeat_interleave(torch.arange(len(DOCUMENTS)), lengths).to(request.device)
    total = sum(DOCUMENTS)

    def visible(batch: Tensor, head: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return (owner[q] == owner[k]) & (q >= k)

    mask = create_block_mask(visible, None, None, total, total, device=request.device)
    attend: Any = torch.compile(flex_attention) if request.device.startswith("cuda") else flex_attention

    def compute(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attend(q, k, v, block_mask=mask, enable_gqa=q.shape[1] != k.shape[1]).transpose(1, 2)

    return _attention(request, compute)


def _eager(request: Request) -> Iterator[Compared]:
    return _attention(request, lambda q, k, v: plain_attention(q, k, v, DOCUMENTS, causal=True))


def _encoders(request: Request) -> Iterator[Compared]:
    import torch.nn.functional as F

    heads, width, tokens = VIEW
    inputs = {name: _random(request, seed, 1, heads, tokens, width) for seed, name in enumerate("qkv")}

    def compute(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2)

    return _both_ways(request, inputs, compute, lambda q, k, v: plain_attention(q, k, v, (tokens,), causal=False))


def _kernel(backend: str) -> Callable[[Request], Iterator[Compared]]:
    """A test of one of the kernels that torch's SDPA chooses from."""

    def test(request: Request) -> Iterator[Compared]:
        import torch.nn.functional as F
        from torch.nn.attention import SDPBackend, sdpa_kernel

        total = sum(DOCUMENTS)

        def compute(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            with sdpa_kernel(getattr(SDPBackend, backend)):
                return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True).transpose(1, 2)

        yield from _attention(request, compute, (total,))

    return test


# Products, and NF4.


def _product(request: Request) -> Iterator[Compared]:
    inputs = {"x": _random(request, 0, ROWS, request.hidden), "w": _random(request, 1, COLUMNS, request.hidden, scale=0.02)}
    return _both_ways(request, inputs, lambda x, w: x @ w.t(), lambda x, w: x @ w.t())


def _packed(request: Request) -> tuple[Any, Tensor]:
    """A linear layer in NF4 with double quantisation as `models/backbone.py` loads them, and the weights it was made of."""
    import torch
    from bitsandbytes.nn import Linear4bit, Params4bit

    width = -(-request.hidden // 64) * 64
    weights = _random(request, 2, COLUMNS, width, scale=0.02)
    with torch.device("meta"):
        layer = Linear4bit(width, COLUMNS, False, weights.dtype, compress_statistics=True, quant_type="nf4")
    parameter: Any = Params4bit  # its stubs are those of a plain parameter
    options = {"requires_grad": False, "compress_statistics": True, "quant_type": "nf4"}
    layer.weight = parameter(weights.cpu(), **options).to(request.device)
    layer.support_avx512bf16_for_cpu = False  # else it gives no gradients (models/backbone.py)
    return layer, weights


def _unpacked(layer: Any) -> Tensor:
    from bitsandbytes.functional import dequantize_4bit

    found: Any = dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    return found


def _nf4(request: Request) -> Iterator[Compared]:
    """Weights as they come back: each about as near to its original as the nearest of the 16 levels of its block."""
    import torch

    layer, weights = _packed(request)
    wanted, found = (value.detach().cpu().double().reshape(-1, 64) for value in (weights, _unpacked(layer)))
    largest = wanted.abs().amax(1, keepdim=True)
    nearest = (wanted / largest).unsqueeze(-1).sub(torch.tensor(LEVELS, dtype=torch.float64)).abs().amin(-1)
    beyond = (found - wanted).abs() / largest - nearest
    yield Compared("weights unpacked", float(beyond.max()), UNPACKED)
    x, dense = _random(request, 3, ROWS, wanted.numel() // COLUMNS), _unpacked(layer).cpu().double()
    yield from _both_ways(request, {"x": x}, lambda x: layer(x), lambda x: x @ dense.t())
    with torch.no_grad():
        one = layer(x[:1])
    yield Compared("output for a single token", _off(one, x[:1].cpu().double() @ dense.t()), limit_of(request))


# Optimizers.


def _adamw(request: Request) -> Iterator[Compared]:
    import torch

    return _steps(request, lambda groups: torch.optim.AdamW(groups, fused=True), 32)


def _eight_bit(paged: bool) -> Callable[[Request], Iterator[Compared]]:
    """A test of the optimizer of `train/eightbit.py`: its 8-bit and its 32-bit groups."""

    def test(request: Request) -> Iterator[Compared]:
        import torch

        from cadmllm.train import eightbit

        device = torch.device(request.device)
        for bits in (8, 32):
            yield from _steps(request, lambda groups, bits=bits: eightbit.mixed_adamw(groups, [bits], paged, device), bits)

    return test


def _steps(request: Request, make: Callable[[list[dict[str, Any]]], torch.optim.Optimizer], bits: int) -> Iterator[Compared]:
    """A few steps of float32 parameters with gradients whose rows differ in size a thousandfold, against AdamW's formula."""
    import torch
    from torch.nn import Parameter

    # 2^17 values: bitsandbytes pages tensors from 100,000 on
    start = _random(request, 4, 128, 1024, scale=0.02).float()
    scale = torch.logspace(-5, -2, 128, device=request.device).unsqueeze(1)
    drift, noise = _random(request, 5, 128, 1024), [_random(request, 6 + k, 128, 1024) for k in range(STEPS)]
    gradients = [scale * (0.5 * drift + more).float() for more in noise]
    moved = Parameter(start.clone())
    optimizer = make([{"params": [moved], "lr": RATE, "weight_decay": DECAY}])
    for gradient in gradients:
        moved.grad = gradient.clone()
        optimizer.step()
    exact = start.cpu().double()
    wanted = _adamw_by_hand(exact, [gradient.cpu().double() for gradient in gradients]) - exact
    way = moved.detach().cpu().double() - exact
    part = f"the way of {STEPS} steps with moments of {bits} bits"
    if bits == 8:  # single values may be far off where a moment is tiny beside its block's largest: the mean counts
        yield Compared(part, float((way - wanted).norm() / wanted.norm()), EIGHT_BIT)
    else:
        yield Compared(part, _off(way, wanted), THIRTY_TWO)


def _adamw_by_hand(x: Tensor, gradients: list[Tensor]) -> Tensor:
    """Loshchilov & Hutter 2019, "Decoupled weight decay regularization", algorithm 2, with torch's defaults."""
    import torch

    first, second = torch.zeros_like(x), torch.zeros_like(x)
    for step, gradient in enumerate(gradients, 1):
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient.square()
        x = x - RATE * DECAY * x - RATE * (first / (1 - 0.9**step)) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
    return x


TESTS: dict[str, Callable[[Request], Iterator[Compared]]] = {
    "product": _product,
    "attention: sdpa": _sdpa,
    "attention: varlen": _varlen,
    "attention: flash_attention_2": _flash,
    "attention: flex": _flex,
    "attention: eager": _eager,
    "attention: encoders": _encoders,
    "sdpa kernel: math": _kernel("MATH"),
    "sdpa kernel: efficient": _kernel("EFFICIENT_ATTENTION"),
    "sdpa kernel: flash": _kernel("FLASH_ATTENTION"),
    "sdpa kernel: cudnn": _kernel("CUDNN_ATTENTION"),
    "nf4": _nf4,
    "optimizer: adamw": _adamw,
    "optimizer: adamw_8bit": _eight_bit(paged=False),
    "optimizer: paged_adamw_8bit": _eight_bit(paged=True),
}


def main() -> int:
    """One line of JSON a row."""
    for row in examine(Request(**json.loads(sys.argv[1]) if len(sys.argv) > 1 else {})):
        print(json.dumps(row), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
