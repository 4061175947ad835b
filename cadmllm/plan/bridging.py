"""What projectors and resamplers keep of a micro-batch's clouds and views for the backward pass. Arithmetic only, no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cadmllm.plan.activations import Recipe, per_feature, per_key, per_latent
from cadmllm.plan.parts import given_tokens, llm_shape, resampled

if TYPE_CHECKING:
    from cadmllm.settings import Settings

FEATURE_FRAME = 16  # tokens of a sample at least beside its features, where all tokens of a micro-batch are taken for features


@dataclass(frozen=True, slots=True)
class Shown:
    """What a micro-batch holds, where that is known.

    Attributes:
        supervised: tokens answered for.
        clouds, views: how many.
        viewed: samples that show views: a perceiver makes as many tokens of each.
    """

    supervised: int
    clouds: int = 0
    views: int = 0
    viewed: int = 0


def most_shown(settings: Settings, widths: dict[str, int], tokens: int) -> Shown:
    """As many clouds, and as many views, as there is room for in `tokens` and as the samples of a step can have.

    Args:
        settings: resolved settings.
        widths: of a feature by branch, of those that the stage has.
        tokens: of the micro-batch.
    """
    model, train = settings.model, settings.train
    samples = train.batch_size * train.accumulation
    clouds = min(samples, -(-tokens // (model.point_tokens + FEATURE_FRAME))) if "points" in widths else 0
    viewed = min(samples, -(-tokens // (model.view_tokens + FEATURE_FRAME))) if "images" in widths else 0
    return Shown(tokens, clouds, viewed * model.image_views, viewed)


@dataclass(frozen=True, slots=True)
class Bridged:
    """Bytes.

    Attributes:
        kept: from the forward to the backward pass.
        again: beside that in the backward pass of resamplers that compute again what they did not keep, when nothing of the
            decoder stands any more.
        tokens: of the prompt that stand for it.
    """

    kept: float
    again: float
    tokens: int


def bridged(settings: Settings, widths: dict[str, int], recipe: Recipe, shown: Shown, tokens: int | None = None) -> Bridged:
    """What projectors and resamplers take.

    Args:
        settings: resolved settings.
        widths: of a feature by branch, of those that the stage has.
        recipe: how the step is computed.
        shown: the clouds and views.
        tokens: None: of exactly these. A number: at worst of so many tokens, of which these are the most that each kind may
            have: they are taken for the kind whose tokens cost more, and what is left of them for the other.

    Raises:
        UnknownShape: the size of a model is not known here.
    """
    costs = [_branch(settings, branch, width, recipe, shown) for branch, width in widths.items()]
    if tokens is None:
        return Bridged(sum(cost.kept for cost in costs), sum(cost.again for cost in costs), sum(cost.tokens for cost in costs))
    kept, again, left = 0.0, 0.0, float(tokens)
    for cost in sorted(costs, key=lambda cost: (cost.kept + cost.again) / max(1, cost.tokens), reverse=True):
        share = min(1.0, left / max(1, cost.tokens))
        kept, again, left = kept + share * cost.kept, again + share * cost.again, left - share * cost.tokens
    return Bridged(kept, again, tokens)


def _branch(settings: Settings, branch: str, width: int, recipe: Recipe, shown: Shown) -> Bridged:
    model, hidden, w = settings.model, llm_shape(settings).hidden, recipe.width
    inputs = shown.clouds if branch == "points" else shown.views
    if not resampled(settings, branch):
        count = inputs * (model.point_tokens if branch == "points" else model.image_tokens)
        return Bridged(float(per_feature(width, hidden, w)) * count, 0.0, count)
    count = shown.clouds * model.point_tokens if branch == "points" else shown.viewed * model.image_tokens
    inner, layers, keys = model.resampler_width, model.resampler_layers, inputs * given_tokens(settings, branch)
    whole = float(per_key(width, inner, layers, w)) * keys + float(per_latent(inner, layers, hidden, w)) * count
    if not recipe.checkpointing:
        return Bridged(whole, 0.0, count)
    learning = model.train_encoders or (branch == "images" and model.image_encoder == "tiny")
    features = (4.0 if learning else w) * width * keys
    gradients = (3.0 * w + 8.0) * inner * keys  # of keys and values of the block at work, and of the keys in 32 bit
    return Bridged(features, whole + gradients, count)
