"""What a training step keeps of each token between forward and backward pass, in bytes.

Counted operation by operation as autograd saves it (the norms' 32-bit inputs, each linear layer's input where LoRA needs it,
the MLP's three products, what attention keeps), and compared in a test with what a built model really saves. What only lives
for a moment (gradients of the widest products beside each other) was measured on small models and scales with the widths.
"""

from __future__ import annotations

from dataclasses import dataclass

from cadmllm.plan.sizes import LlmShape

_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}


@dataclass(frozen=True, slots=True)
class Recipe:
    """How the decoder computes.

    Attributes:
        width: bytes of a computed value: 2, or 4 in float32.
        lora: LoRA of rank `rank` on frozen weights; else all weights are trained.
        rank: of LoRA.
        copies: LoRA's inputs are copied to 32 bit and back for each layer, which PEFT does and we do not (models/backbone.py).
        checkpointing: layers keep their input alone and are computed again.
        by_document: what attention gives for packed documents is put together in a copy (SDPA).
        mask: bytes that dropout on LoRA's input keeps to say whether a value was dropped; 0 without dropout.
    """

    width: int
    lora: bool
    rank: int
    copies: bool
    checkpointing: bool
    by_document: bool = False
    mask: int = 0


# Live beside what is saved, at the worst moment: (bytes for each value of the MLP's inner width, bytes for each of the hidden
# width with checkpointing, and without). Measured: tests/plan/test_activations.py.
_MOMENT = {
    ("lora", 2, False): (4.0, 4.6, 12.6),
    ("lora", 2, True): (6.0, 12.7, 14.6),
    ("lora", 4, False): (8.0, 5.0, 5.0),
    ("full", 2, False): (4.0, 1.1, 9.2),
    ("full", 4, False): (8.0, 1.1, 5.2),
}
_FORWARD = 0.55  # of the live layer: what the forward pass needs at most beside what it stores


def recipe_of(
    dtype: str, lora: bool, rank: int, checkpointing: bool, *, copies: bool = False, by_document: bool = False, mask: int = 0
) -> Recipe:
    """The recipe that the settings of these names make; `copies`: as plain PEFT has it, not as `models/backbone.py` does."""
    width = _BYTES[dtype]
    return Recipe(width, lora, rank, copies and lora and width == 2, checkpointing, by_document, mask if lora else 0)


def saved_by_layer(shape: LlmShape, recipe: Recipe) -> float:
    """Bytes a token that one layer saves for its backward pass when it is not checkpointed."""
    w, hidden, query, key = recipe.width, shape.hidden, shape.query, shape.key
    norms = 2 * 4 * hidden + 4 * 2  # their inputs in 32 bit, and a scale each
    statistics = 4 * shape.heads  # attention's normaliser
    if shape.qk_norm:
        norms += 4 * (query + key)
        statistics += 4 * (shape.heads + shape.kv_heads)
    attention = w * (2 * query + 2 * key)  # queries, keys, values, what comes out
    attention += w * query if recipe.by_document else 0
    mlp = 3 * w * shape.mlp  # gate, activated gate, up
    down = w * shape.mlp  # the input of the last linear layer
    if recipe.lora:
        # q, k, v, gate and up copy their inputs one by one, and o what attention gave; else they share two
        inputs = w * (5 * hidden + query) if recipe.copies else w * 2 * hidden
        if recipe.mask:  # each of the seven keeps a mask and what that left of its input, and not the input
            inputs = (5 * hidden + query + shape.mlp) * (w + recipe.mask) - down
        return norms + statistics + attention + mlp + down + inputs + 7 * w * recipe.rank
    trained_norms = 2 * 4 * hidden + (w * (query + key) if shape.qk_norm else 0)
    inputs = w * (5 * hidden if w == 2 else 2 * hidden)  # cast for each layer, or shared
    return norms + trained_norms + statistics + attention + mlp + down + inputs


@dataclass(frozen=True, slots=True)
class PerToken:
    """Bytes a token of a micro-batch.

    Attributes:
        stored: kept of all layers from the forward to the backward pass.
        live: on top of that at the worst moment of the backward pass.
        forward: on top of that at the worst moment of the forward pass.
    """

    stored: float
    live: float
    forward: float


def per_token(shape: LlmShape, recipe: Recipe) -> PerToken:
    """What a token takes of the decoder's activations."""
    layer = saved_by_layer(shape, recipe)
    inner, checkpointed, kept = _MOMENT["lora" if recipe.lora else "full", recipe.width, recipe.copies]
    moment = inner * shape.mlp
    if not recipe.checkpointing:
        return PerToken(shape.layers * layer, moment + kept * shape.hidden, moment + kept * shape.hidden)
    stream = recipe.width if recipe.lora else 4  # trained embeddings are float32, and so is what flows between the layers
    live = layer + moment + checkpointed * shape.hidden
    return PerToken(shape.layers * stream * shape.hidden, live, _FORWARD * live)


def per_feature(width: int, hidden: int, compute: int) -> int:
    """Bytes a projected feature: the norm's input in 32 bit, both linear layers' inputs, the activation's."""
    return 4 * width + compute * width + 2 * compute * hidden


def per_key(width: int, inner: int, layers: int, compute: int) -> int:
    """Bytes a feature that a resampler reads: both norms' inputs in 32 bit, the first linear layer's, and in each block the input
    of keys and values, and these."""
    return (4 + compute) * width + 4 * inner + 3 * layers * compute * inner


def per_latent(inner: int, layers: int, hidden: int, compute: int) -> int:
    """Bytes a latent of a resampler: in each block both norms' inputs in 32 bit, inputs of queries, keys and values, and these,
    what attention gives, the MLP's input and twice its inner width; then the projector. The first latents are parameters."""
    return layers * (8 + 15 * compute) * inner - 4 * inner + per_feature(inner, hidden, compute)


def per_vit_view(layers: int, width: int, ratio: int, tokens: int, compute: int) -> int:
    """Bytes a view through a vision transformer that is trained (an estimate: norms, attention, MLP, layer scales)."""
    return layers * tokens * width * (2 * 4 + compute * (10 + 2 * ratio))
