"""What a micro-batch takes beside what stands: activations, the head, features, CUDA's own. Arithmetic only, no torch.

A step's peak is the worst of four moments, and no two of them come together: the forward pass through the last layer, the loss
(all layers' activations are stored, logits beside them), the backward pass of the last layer, and the embeddings' gradients.
Calibrated against what a dispatch mode counts in real steps of small models (benchmarks/memory.py).
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from cadmllm.plan.activations import Recipe, per_token, per_vit_view, recipe_of, saved_by_layer
from cadmllm.plan.bridging import Shown, bridged, most_shown
from cadmllm.plan.parts import (
    HEAD_ROWS,
    INPUT_ROWS,
    MICHELANGELO_TOKENS,
    PIXELS,
    branch_widths,
    given_tokens,
    llm_shape,
    parts_of,
    vit_shape,
)
from cadmllm.plan.rows import Row
from cadmllm.plan.sizes import LlmShape

if TYPE_CHECKING:
    from cadmllm.settings import Settings

CONTEXT = 2**29  # bytes that CUDA and its libraries take before any tensor: an assumption
SLACK = 0.08  # of the activations: what the allocator holds and cannot use; an assumption
HEAD_CHUNK = 4096  # rows whose logits live at once (models/loss.py)
HEAD_COPIES = 3  # logits, their softmax, their gradient
CLOUDS_AT_ONCE, VIEWS_AT_ONCE = 16, 32  # models/michelangelo.py and image.py, `CHUNK`
BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}


def moving(settings: Settings, stage: int, tokens: int, device: str = "cuda", shown: Shown | None = None) -> list[Row]:
    """Lines of the memory table for a micro-batch, without CUDA's own and the allocator's slack.

    Args:
        settings: resolved settings.
        stage: 1, 2 or 3.
        tokens: of the micro-batch, padding included.
        device: 'cuda' or 'cpu', which packs documents in another way.
        shown: what it holds; None: the worst that may be (all tokens answered for, all tokens features).

    Raises:
        UnknownShape: the size of a model is not known here.
    """
    train, shape = settings.train, llm_shape(settings)
    recipe = recipe_for(settings, device)
    supervised = tokens if shown is None else shown.supervised
    live, stored, head = _moments(settings, shape, recipe, tokens, supervised, _spared(settings, shape, device, shown))
    saved, passing, again = _branches(settings, stage, tokens, recipe, shown)
    embeddings = 4.0 * shape.hidden * (INPUT_ROWS + (0 if recipe.lora else shape.vocabulary) + tokens)
    unpacked = recipe.width * shape.hidden * shape.mlp if settings.model.quantization == "nf4" else 0
    place = "ram" if train.offload_activations else "card"
    name = "inputs of the layers" if train.gradient_checkpointing else "activations of the layers"
    # encoders run before the layers store anything, the embeddings' gradients come when all of that is gone
    elsewhere = max(passing - saved, embeddings + again) - (stored if place == "card" else 0)
    beside = max(0.0, head - live - unpacked, elsewhere - live - unpacked)
    each = per_token(shape, recipe)
    return [
        Row(name, int(stored), place, f"{tokens:,} tokens x {each.stored / 1024:.0f} KiB"),
        Row("the layer at work", int(live), "card", f"{tokens:,} tokens x {each.live / 1024:.0f} KiB, its gradients included"),
        Row("a matrix unpacked", int(unpacked), "card", "the widest of NF4, in 16 bit"),
        Row("head", int(beside), "card", _said_of_head(supervised)),
        Row(
            "features",
            int(saved),
            "card",
            "projected or resampled, of as many clouds and views as have room" if shown is None else "projected or resampled",
        ),
    ]


def _said_of_head(supervised: int) -> str:
    return (
        f"logits of {min(supervised, HEAD_CHUNK):,} supervised tokens at a time, {HEAD_COPIES} copies in 32 bit: "
        "what they take more than the layer at work, which comes after"
    )


def recipe_for(settings: Settings, device: str = "cuda") -> Recipe:
    """How the settings have the decoder compute.

    SDPA sees documents one by one and puts what they give together in a copy; `varlen` (16-bit on CUDA) needs none.
    """
    by_document = settings.train.packing and (
        device == "cpu" or settings.dtype == "float32" or settings.model.attention == "sdpa"
    )
    return recipe_of(
        settings.dtype,
        settings.lora.enabled,
        settings.lora.r,
        settings.train.gradient_checkpointing,
        by_document=by_document,
        mask=0 if not settings.lora.dropout else 1 if device != "cpu" else 2 if settings.dtype != "float32" else 4,
    )


def _spared(settings: Settings, shape: LlmShape, device: str, shown: Shown | None) -> bool:
    """Whether the last layer is computed at supervised positions alone (models/lastlayer.py)."""
    train = settings.train
    ours = settings.model.attention in ("auto", "sdpa", "varlen")
    return shown is not None and shape.kind == "qwen3" and not shape.window and train.packing and not train.compile and ours


def _moments(
    settings: Settings, shape: LlmShape, recipe: Recipe, tokens: int, supervised: int, spared: bool
) -> tuple[float, float, float]:
    """(beside what is stored when a layer is worked on, stored by the layers, beside it when the loss is computed), bytes."""
    each, layer = per_token(shape, recipe), saved_by_layer(shape, recipe)
    trained = shape.lora_parameters(recipe.rank) if recipe.lora else shape.linear_parameters
    casts = recipe.width * trained if recipe.width == 2 else 0  # autocast's 16-bit copies of the trained matrices
    last = supervised if spared else tokens  # positions of the last layer and of the final norm
    ends = 4.0 * shape.hidden * (1 if recipe.lora else 2) * last
    chunk = 4.0 * min(supervised, HEAD_CHUNK) * HEAD_ROWS
    states = 4.0 * shape.hidden * min(supervised, HEAD_CHUNK) if recipe.width == 2 else 0.0  # in 32 bit
    head = HEAD_COPIES * chunk + states + ends
    if recipe.checkpointing:
        stored = each.stored * tokens
        live = max(each.live * tokens + casts / shape.layers, each.forward * tokens + casts)
        head = max(head, head - chunk + casts)
        return live, stored, head
    of_last = layer * last
    if spared:
        of_last += (4.0 * shape.hidden + 4.0 * shape.key + recipe.width * 2 * shape.query) * (tokens - last)
    stored = layer * (shape.layers - 1) * tokens + of_last
    within = max(each.live * tokens - of_last, each.live * last)  # of the last layer but one, and of the last
    return max(within, 0.0) + casts, stored, head + casts


def _passing(settings: Settings, widths: dict[str, int], shown: Shown, there: Collection[str], w: int) -> float:
    """Most bytes beside the features that live while encoders run; measured by benchmarks/encoders.py, in units of their inputs.

    `there`: branches whose encoder is loaded.
    """
    model, found = settings.model, 0.0
    if "points" in there and model.points_encoder == "fourier":  # distances, in 32 bit
        found += shown.clouds * 4.0 * 2 * given_tokens(settings, "points") * model.point_count
    elif "points" in there:  # keys and values of the points
        found += min(shown.clouds, CLOUDS_AT_ONCE) * 4.5 * model.point_count * widths["points"] * w
    if "images" in there:  # the MLP of a layer
        tokens = (PIXELS // vit_shape(settings).patch) ** 2 + 1
        found += min(shown.views, VIEWS_AT_ONCE) * 15.0 * tokens * widths["images"] * w
    return found


def _branches(settings: Settings, stage: int, tokens: int, recipe: Recipe, shown: Shown | None) -> tuple[float, float, float]:
    """Bytes of projectors and trained encoders: kept from the forward to the backward pass, passing before the decoder, and
    computed again behind it."""
    model, w = settings.model, recipe.width
    widths = branch_widths(settings, stage)
    counts = most_shown(settings, widths, tokens) if shown is None else shown
    bridge = bridged(settings, widths, recipe, counts, tokens if shown is None else None)
    kept, clouds, views = bridge.kept, counts.clouds, counts.views
    encoders = {part.branch: part for part in parts_of(settings, stage) if part.component == "encoders"}
    learning = {branch for branch, part in encoders.items() if part.trained}
    passing = _passing(settings, widths, counts, encoders.keys(), w)
    if "points" in learning and model.points_encoder == "fourier":
        patch = max(16, model.fourier_width // 4)
        each = 16 * (7 + 3 * patch) + 54 + patch + 3 * model.fourier_width
        kept += clouds * model.point_tokens * w * float(each)
    if "images" in learning:
        vit = vit_shape(settings)
        pixels = w * 3.0 * PIXELS**2 if w == 2 else 0.0  # cast for the first layer
        kept += views * (pixels + per_vit_view(vit.layers, vit.width, vit.ratio, (PIXELS // vit.patch) ** 2 + 1, w))
    if "points" in learning and model.points_encoder == "michelangelo":
        each_cloud = per_vit_view(9, widths["points"], 4, MICHELANGELO_TOKENS, w) + model.point_count * widths["points"] * 16
        kept += clouds * each_cloud
    if w == 2 and (clouds or views):  # autocast's 16-bit copies
        kept += w * sum(part.parameters for part in parts_of(settings, stage) if part.branch and part.trained)
    return kept, kept + passing, bridge.again
