"""Cached features are those of these encoders, this preprocessing and these files: what training would refuse, found before."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cadmllm.doctor.check import Check, Outcome, Situation

if TYPE_CHECKING:
    from cadmllm.settings import Settings


def check_features(situation: Situation) -> Outcome:
    """What training checks before its first step.

    Raises:
        CadmllmError: E470, E471, E472 from the store, which the runner makes a finding of.
    """
    settings = situation.needed
    if settings.data.features is None:
        return Outcome(skipped="data.features is not set: encoders are loaded and run")
    if settings.data.synthetic:
        return Outcome(skipped=f"{settings.data.synthetic} parts will be generated, which have no cached features")
    from cadmllm.console import Console
    from cadmllm.corpus.layout import open_dataset
    from cadmllm.train.cached import open_features
    from cadmllm.train.curriculum import plan_stages

    planned = plan_stages(settings, situation.stages)
    cached = open_features(settings, planned, open_dataset(settings.data), Console(quiet=True))
    if cached is None:
        return Outcome(skipped="no stage to be trained uses them")
    parts = ", ".join(f"{len(cached.store.parts[name]):,} ids of {name}" for name in cached.widths)
    return Outcome(f"{parts} ({settings.data.features}); their encoders are not loaded")


def is_cached(settings: Settings, part: str) -> bool:
    """Whether training reads the features of a part ('points', 'images') from a store and needs no encoder of it."""
    return settings.data.features is not None and not settings.data.synthetic and (settings.data.features / part).is_dir()


CHECKS = (
    Check(
        "features",
        "cached features are those of these encoders and files, where training uses any",
        ("E470", "E471", "E472"),
        check_features,
        needs=("numpy", "torch"),
        group="data",
    ),
)
