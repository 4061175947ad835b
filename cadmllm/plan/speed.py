"""How long a step takes: the arithmetic it does over the rate of a known card. Arithmetic only, no torch.

A multiplication and an addition count as two operations. Frozen linear layers need no gradient of their weights, so a token
costs 2 operations a weight forward, 2 backward, and 2 more where checkpointing computes the layer again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cadmllm.plan.parts import (
    HEAD_ROWS,
    MICHELANGELO_TOKENS,
    Part,
    branch_widths,
    given_tokens,
    llm_shape,
    parts_of,
    projector_parameters,
    resampled,
)

if TYPE_CHECKING:
    from cadmllm.settings import Settings

UTILISATION = 0.4  # share of the card's rate that a step is assumed to reach, recomputation counted
# Dense matrix products of 16-bit numbers summed in 32 bit, operations a second, as the makers state them, without sparsity.
RATES = {
    "RTX 3090": 71.2e12,
    "RTX 4080": 97.5e12,
    "RTX 4090": 165.2e12,
    "RTX 5070 Ti": 87.9e12,
    "RTX 5080": 112.6e12,
    "RTX 5090": 209.5e12,
    "A100": 312e12,
    "H100 PCIe": 756e12,
    "H100 80GB HBM3": 989.4e12,
    "H200": 989.4e12,
}


@dataclass(frozen=True, slots=True)
class Work:
    """Operations of one token, and of each pair of tokens that attend to one another.

    Attributes:
        token: forward, backward and recomputation, of the decoder's linear layers and LoRA.
        supervised: of the head, for a token that is answered for.
        pair: of attention, for each (token, token before it in its sample).
        encoders: of encoders and projectors, by modality ('point_cloud', 'image'), for each input.
    """

    token: float
    supervised: float
    pair: float
    encoders: Mapping[str, float]


def work_of(settings: Settings, stage: int) -> Work:
    """The arithmetic of a stage.

    Raises:
        UnknownShape: the size of a model is not known here.
    """
    shape, lora = llm_shape(settings), settings.lora
    again = 1 if settings.train.gradient_checkpointing else 0
    if lora.enabled:
        token = shape.linear_parameters * 2 * (2 + again) + shape.lora_parameters(lora.r) * 2 * (3 + again)
    else:
        last = shape.layers * shape.hidden * shape.mlp  # the product that ends a layer: nobody needs its result again
        token = 2 * (shape.linear_parameters * (3 + again) - last * again)
    pair = shape.layers * 4 * shape.query * (3.5 + again)  # scores and sums forward; the backward pass computes scores again
    encoders: dict[str, float] = {}
    for part in parts_of(settings, stage):
        if part.branch:
            name = "point_cloud" if part.branch == "points" else "image"
            if part.component == "projectors" and resampled(settings, part.branch):
                done = _resampling(settings, part.branch, stage) * (3 + again) / 3
            else:
                done = 2.0 * part.parameters * _tokens(settings, part)
            encoders[name] = encoders.get(name, 0.0) + done * (3 if part.trained else 1)
    return Work(token, 2 * 4 * shape.hidden * HEAD_ROWS, pair, encoders)


def _tokens(settings: Settings, part: Part) -> int:
    """Tokens that go through an encoder or a projector for a cloud or a view."""
    model = settings.model
    if part.branch == "images":
        return model.image_tokens if part.component == "projectors" else 257
    whole = part.component == "encoders" and model.points_encoder == "michelangelo"
    return MICHELANGELO_TOKENS if whole else model.point_tokens


def _resampling(settings: Settings, branch: str, stage: int) -> float:
    """Operations of a resampler forward, for a cloud or a view: features that become keys and values in every block, and this
    input's share of the latents, which look at them."""
    model, inner = settings.model, settings.model.resampler_width
    views, latents = (model.image_views, model.image_tokens) if branch == "images" else (1, model.point_tokens)
    keys, layers = given_tokens(settings, branch), model.resampler_layers
    width, hidden = branch_widths(settings, stage)[branch], llm_shape(settings).hidden
    read = 2.0 * keys * inner * (width + layers * (2 * inner + 2 * latents))  # the last: scores and sums of attention
    own = 2.0 * latents * (layers * 12 * inner * inner + projector_parameters(inner, hidden))
    return read + own / views


def operations(work: Work, lengths: Sequence[int], supervised: int, inputs: Mapping[str, float]) -> float:
    """Operations of samples.

    Args:
        work: of the stage.
        lengths: tokens of each sample.
        supervised: tokens answered for, of all.
        inputs: how many clouds ('point_cloud') and views ('image') they show.
    """
    pairs = sum(length * (length + 1) / 2 for length in lengths)
    seen = sum(work.encoders.get(name, 0.0) * count for name, count in inputs.items())
    return work.token * sum(lengths) + work.supervised * supervised + work.pair * pairs + seen


def rate_of(card: str) -> float | None:
    """Operations a second of a card by the name NVML gives it; None for one that is not in the table (no guess).

    Laptop, D and Super versions have other rates than the card of that name.
    """
    name = re.sub(r"^(NVIDIA|GeForce|\s)+", "", card).strip()
    if name in RATES:
        return RATES[name]
    if re.match(r"A100[- ]", name):
        return RATES["A100"]
    return RATES["H200"] if re.fullmatch(r"H200( SXM.*)?", name) else None


def seconds(flops: float, card: str) -> float | None:
    """Seconds that so many operations take on a card at `UTILISATION`; None when its rate is not known."""
    rate = rate_of(card)
    return None if rate is None else flops / (rate * UTILISATION)


def span(seconds: float) -> str:
    """'45 s', '12 min', '3.4 h', '2.1 days'."""
    for size, name in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 1.5 * size:
            value = seconds / size
            return f"{value:.1f} {name}" if name != "min" else f"{value:.0f} min"
    return f"{seconds:.0f} s"
