"""Loss on held-out samples, by modality combination: supervised positions only, no gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch

from cadmllm.corpus.sample import load_sample
from cadmllm.settings import Settings
from cadmllm.train.curriculum import Stage
from cadmllm.train.step import Engine

if TYPE_CHECKING:
    from cadmllm.corpus.features import FeatureStore
    from cadmllm.corpus.layout import DataSet
    from cadmllm.corpus.types import Batch, Sample
    from cadmllm.models.fusion import CadMLLM

# what the command may pass in: samples programs from the model, judges them, returns named shares (0..1); and is told the stage
Validator = Callable[["CadMLLM", Stage], dict[str, float]]
EPOCH = 1 << 20  # the draws of validation samples: an epoch that training never reaches


def validation_loss(
    engine: Engine,
    dataset: DataSet,
    ids: Sequence[str],
    stage: Stage,
    settings: Settings,
    collate: Callable[[Sequence[Sample]], Batch],
    features: FeatureStore | None = None,
) -> dict[str, float]:
    """Mean loss a supervised token, by combination the stage shows, and over 'all' of them.

    The same held-out ids are seen under every combination (those that have its modalities), `train.val_samples` samples
    in all; the captions, points and views drawn for them never change, so the figures of two steps can be compared.
    A combination that no held-out id can show is left out; without held-out ids the result is empty.
    """
    names = [name for name, share in stage.probabilities.items() if share > 0]
    each = max(1, settings.train.val_samples // len(names))
    sums: dict[str, tuple[float, int]] = {}
    was_training = engine.model.training
    engine.model.eval()
    try:
        for name in names:
            able = [id_ for id_ in ids if set(name.split("+")) <= dataset.modalities(id_) | {"text"}][:each]
            if able:
                samples = [_sample(dataset, id_, place, name, stage, settings, features) for place, id_ in enumerate(able)]
                sums[name] = _loss(engine, samples, settings.train.batch_size, collate)
    finally:
        engine.model.train(was_training)
    means = {name: total / count for name, (total, count) in sums.items() if count}
    if means:
        means["all"] = sum(total for total, _ in sums.values()) / sum(count for _, count in sums.values())
    return means


def _sample(
    dataset: DataSet, id_: str, place: int, name: str, stage: Stage, settings: Settings, features: FeatureStore | None
) -> Sample:
    where = {"seed": settings.train.seed, "stage": stage.number, "epoch": EPOCH, "position": place}
    shape = {"point_count": settings.model.point_count, "views": settings.model.image_views, "draws": settings.data.draws}
    return load_sample(dataset, id_, name, features=features, **where, **shape)


@torch.no_grad()
def _loss(engine: Engine, samples: list[Sample], size: int, collate: Callable[[Sequence[Sample]], Batch]) -> tuple[float, int]:
    samples = sorted(samples, key=lambda sample: 0 if sample.target is None else len(sample.target))
    total, count = 0.0, 0
    for at in range(0, len(samples), size):
        with engine.autocast():
            loss_sum, supervised = engine.model.loss(collate(samples[at : at + size]).to(engine.device))
        total += float(loss_sum)
        count += supervised
    return total, count
