"""The data of each optimizer step: a pure function of (settings, ids, stage, step), so resume is exact and O(1)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch.utils.data import DataLoader, Dataset

from cadmllm.corpus import order
from cadmllm.corpus.fit import longest_target
from cadmllm.corpus.sample import draw_combination, load_sample
from cadmllm.errors import CadmllmError
from cadmllm.settings import Settings
from cadmllm.train.curriculum import Stage
from cadmllm.train.guards import deaf_to_signals

if TYPE_CHECKING:
    import numpy as np

    from cadmllm.corpus.features import FeatureStore
    from cadmllm.corpus.layout import DataSet, Problem
    from cadmllm.corpus.types import Batch, Sample

OVERHEAD = 256  # what a micro-batch costs beside its tokens, in tokens (kernel launches, Python)


@dataclass(slots=True)
class Window:
    """The micro-batches of one optimizer step.

    Attributes:
        step: from 0 within the stage.
        batches: `train.accumulation` of `train.batch_size` samples, or more and smaller ones where that saves padding.
        mix: samples by what they really show.
        fell_back: samples that show less than was drawn for them (a modality is not there or unreadable).
        lost: samples that were left out, as their program can no longer be read or no longer fits.
        problems: why, of these and of what could not be read.
    """

    step: int
    batches: list[Batch]
    mix: Counter[str] = field(default_factory=Counter)
    fell_back: int = 0
    lost: int = 0
    problems: list[Problem] = field(default_factory=list)


class Windows(Dataset[Window]):
    """`windows[step]` is the data of optimizer step `step` of a stage.

    Args:
        dataset: where samples are read.
        ids: the training ids, in a fixed order.
        stage: what is shown.
        settings: batch size, accumulation, seed, points and views a sample.
        collate: samples to a batch.
        features: what it holds is read from it instead of clouds and views.
    """

    def __init__(
        self,
        dataset: DataSet,
        ids: Sequence[str],
        stage: Stage,
        settings: Settings,
        collate: Callable[[Sequence[Sample]], Batch],
        features: FeatureStore | None = None,
    ) -> None:
        self.dataset, self.ids, self.stage, self.settings, self.collate = dataset, ids, stage, settings, collate
        self.features = features
        self.longest = longest_target(settings, stage.probabilities)
        self._order: tuple[int, np.ndarray] | None = None
        self.window = settings.train.batch_size * settings.train.accumulation
        self.steps_per_epoch = -(-len(self.ids) // self.window)
        steps = self.steps_per_epoch * stage.epochs
        self.total = min(steps, settings.train.max_steps or steps)

    def __len__(self) -> int:
        return self.total

    def positions(self, step: int) -> tuple[int, list[int], list[int]]:
        """Epoch (from 0) of a step, the places it takes in the epoch's order, and the indices of its ids."""
        epoch, within = divmod(step, self.steps_per_epoch)
        places = range(within * self.window, min((within + 1) * self.window, len(self.ids)))
        if self._order is None or self._order[0] != epoch:  # kept: sorting 453,000 ids takes longer than a step
            self._order = (epoch, order.epoch_order(len(self.ids), self.settings.train.seed, self.stage.number, epoch))
        return epoch, list(places), [int(self._order[1][place]) for place in places]

    def __getitem__(self, index: int) -> Window:
        step = index
        epoch, places, indices = self.positions(step)
        known = len(self.dataset.problems)
        samples, fell_back = [], 0
        for place, index in zip(places, indices, strict=True):
            id_ = self.ids[index]
            try:
                sample, complete = self._sample(epoch, place, id_)
            except CadmllmError as error:  # it could be read when the data was last looked at
                self.dataset.note(error, id_)
                continue
            samples.append(sample)
            fell_back += not complete
        problems = self.dataset.problems[known:]
        if not samples:
            remedy = f"look at the data: cadmllm data check {self.settings.data.root}"
            message = f"step {step + 1}: none of its {len(places)} samples can be read any more; the last: {problems[-1].message}"
            raise CadmllmError("E406", message, remedy)
        samples.sort(key=self._length)
        cuts = cut([self._length(sample) for sample in samples], self.settings.train.batch_size)
        batches = [self.collate(samples[a:b]) for a, b in zip(cuts, cuts[1:], strict=False)]
        mix = Counter(sample.combination for sample in samples)
        return Window(step, batches, mix, fell_back, len(places) - len(samples), problems)

    def _sample(self, epoch: int, place: int, id_: str) -> tuple[Sample, bool]:
        where = {
            "seed": self.settings.train.seed,
            "stage": self.stage.number,
            "epoch": epoch,
            "position": place,
        }
        draw = draw_combination(self.stage.probabilities, self.dataset.modalities(id_), **where)
        model = self.settings.model
        shape = {"point_count": model.point_count, "views": model.image_views, "draws": self.settings.data.draws}
        sample = load_sample(self.dataset, id_, draw.shown, features=self.features, **where, **shape)
        length = 0 if sample.target is None else len(sample.target)
        if length > self.longest:
            message = f"{id_}: the target has {length} tokens now, more than {self.longest}"
            raise CadmllmError("E602", message, f"cadmllm data check {self.settings.data.root}")
        return sample, sample.combination == draw.wanted

    def _length(self, sample: Sample) -> int:
        """The sample's tokens, the caption's guessed at four letters each."""
        model = self.settings.model
        features = sample.cloud_count * model.point_tokens + sample.image_count * model.image_tokens
        target = 0 if sample.target is None else len(sample.target)
        return features + target + len(sample.caption) // 4

    def expected_fallbacks(self, epoch: int = 0, limit: int = 5000) -> tuple[int, int]:
        """(draws that cannot show what they ask for, draws looked at) in the first `limit` places of an epoch."""
        seed, stage = self.settings.train.seed, self.stage
        count = min(limit, len(self.ids))
        permutation = order.epoch_order(len(self.ids), seed, stage.number, epoch)
        missing = 0
        for place in range(count):
            available = self.dataset.modalities(self.ids[int(permutation[place])])
            where = {"seed": seed, "stage": stage.number, "epoch": epoch, "position": place}
            missing += draw_combination(stage.probabilities, available, **where).fell_back
        return missing, count


def iterate(windows: Windows, start: int, workers: int) -> Iterator[Window]:
    """Windows `start .. len(windows) - 1`, in order, loaded in `workers` processes (0: in this one)."""
    if workers == 0:
        return (windows[step] for step in range(start, len(windows)))
    # a generator of its own: the loader draws a seed from it, and the training's random state must not feel that
    loader = DataLoader(
        windows,
        batch_size=None,
        sampler=range(start, len(windows)),
        num_workers=workers,
        generator=torch.Generator().manual_seed(0),
        worker_init_fn=deaf_to_signals,
    )
    return iter(loader)


def cut(lengths: Sequence[int], largest: int) -> list[int]:
    """Where to cut samples, sorted by length, into micro-batches so that they compute fastest.

    A micro-batch costs what it computes, padding included (samples x longest), and `OVERHEAD` tokens for being one. The sum
    over the window, and with it the gradient, does not depend on how it is cut.

    Args:
        lengths: tokens, ascending.
        largest: samples a micro-batch may have.

    Returns:
        Ascending indices from 0 to len(lengths); micro-batch k is [cuts[k], cuts[k + 1]).
    """
    best: list[tuple[int, int]] = [(0, 0)]  # (cost of the first `end` samples, where their last micro-batch begins)
    for end in range(1, len(lengths) + 1):
        begins = range(max(0, end - largest), end)
        best.append(min((best[at][0] + (end - at) * lengths[end - 1] + OVERHEAD, at) for at in begins))
    cuts = [len(lengths)]
    while cuts[-1] > 0:
        cuts.append(best[cuts[-1]][1])
    return cuts[::-1]
