"""What a stage will compute, expected from the index and the shares of the modalities; no sample is read, and no torch.

`train/forecast.py` counts the same over the draws themselves; a test holds the two within a few percent of each other.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cadmllm.plan.timing import Workload

if TYPE_CHECKING:
    import numpy as np

    from cadmllm.corpus.layout import DataSet
    from cadmllm.corpus.roster import Ids
    from cadmllm.settings import Settings

LETTERS = 4  # of a caption a token, as in train/forecast.py
CAPTIONS = 400  # ids whose captions are read
TAIL = 2**19  # bytes at the end of metrics.jsonl that are read: about 1,000 steps


@dataclass(frozen=True, slots=True)
class Known:
    """What the index says of the training ids, asked once for all stages (of 453,000 ids that takes a while).

    Attributes:
        lengths: int32 [N], tokens of each target; 0 where its program cannot be used.
        shows: by 'point_cloud' and 'image', bool [N].
        words: tokens of a caption, on average.
    """

    lengths: np.ndarray
    shows: dict[str, np.ndarray]
    words: float


def look(dataset: DataSet) -> Known:
    """Ask the index.

    Raises:
        CadmllmError: E407 when a list of ids is unreadable.
    """
    ids = dataset.split()[0]
    return Known(dataset.lengths(ids), dataset.shows(ids), _words(dataset, ids))


def workload(dataset: DataSet, settings: Settings, stage: int, known: Known | None = None) -> Workload:
    """What a stage computes.

    Args:
        dataset: from `corpus.layout.open_dataset`.
        settings: resolved settings.
        stage: 1, 2 or 3.
        known: from `look`, where several stages are asked for.

    Raises:
        CadmllmError: E407 when a list of ids is unreadable.
    """
    from cadmllm.corpus.fit import longest_target

    asked, train = settings.stages[stage], settings.train
    known = known or look(dataset)
    every = known.lengths
    good = (every > 0) & (every <= longest_target(settings, asked.probabilities))
    lengths, samples = every[good], int(good.sum())
    cut = float(((every > 0) & ~good).sum() / max(1, len(every)))
    if not samples:
        return Workload(stage, 0, 0, 0.0, 0.0, 0, 0.0, 0.0, cut=cut)
    shows = {name: there[good] for name, there in known.shows.items()}
    mean, square, longest = _lengths(settings, lengths, shows, _shares(settings, stage), known.words)
    seen = _inputs(settings, shows, _shares(settings, stage))
    window = train.batch_size * train.accumulation
    steps_per_epoch = -(-samples // window)
    steps = steps_per_epoch * asked.epochs
    steps = min(steps, train.max_steps or steps)
    step = samples / steps_per_epoch  # the last window of an epoch may be smaller
    return Workload(
        stage=stage,
        samples=samples,
        steps=steps,
        tokens=mean,
        supervised=float(lengths.mean()),
        longest=longest,
        square=square,
        step=mean * step,
        clouds=seen["point_cloud"] * step,
        views=seen["image"] * settings.model.image_views * step,
        cut=cut,
    )


def share_cut(known: Known, settings: Settings, stage: int, max_seq_length: int) -> float:
    """Share of the training ids whose target would be too long for sequences of so many tokens, 0..1."""
    from cadmllm.corpus.fit import longest_target

    changed = settings.model_copy(update={"train": settings.train.model_copy(update={"max_seq_length": max_seq_length})})
    every = known.lengths
    longest = longest_target(changed, settings.stages[stage].reached)
    return float((every > longest).sum() / max(1, (every > 0).sum()))


def _shares(settings: Settings, stage: int) -> dict[str, float]:
    """The combinations' shares, those that move in a straight line at their middle."""
    asked = settings.stages[stage]
    begin, end = asked.probabilities, asked.probabilities_end or asked.probabilities
    return {name: (begin.get(name, 0.0) + end.get(name, 0.0)) / 2 for name in begin.keys() | end.keys()}


def _words(dataset: DataSet, ids: Ids) -> float:
    """Tokens of a caption, from some ids at equal distances."""
    chosen = ids[:: max(1, len(ids) // CAPTIONS)]
    return sum(len(dataset.caption(id_)) for id_ in chosen) / LETTERS / max(1, len(chosen))


def _inputs(settings: Settings, shows: dict[str, np.ndarray], shares: dict[str, float]) -> dict[str, float]:
    """Share of the samples that show a cloud and that show views."""
    kept = 1.0 - settings.train.modality_dropout
    return {
        name: kept * float(there.mean()) * sum(share for combination, share in shares.items() if name in combination.split("+"))
        for name, there in shows.items()
    }


def _lengths(
    settings: Settings, lengths: np.ndarray, shows: dict[str, np.ndarray], shares: dict[str, float], words: float
) -> tuple[float, float, int]:
    """Expected tokens of a sample, expected square of them, and tokens of the longest."""
    import numpy as np

    from cadmllm.corpus.fit import PROMPT_FRAME
    from cadmllm.corpus.sample import BARE_SHARE

    model, most = settings.model, settings.train.max_seq_length
    costs = {"point_cloud": model.point_tokens, "image": model.view_tokens}
    kept = 1.0 - settings.train.modality_dropout
    mean = square = 0.0
    longest = 0
    for combination, share in shares.items():
        if not share:
            continue
        parts = [name for name in costs if name in combination.split("+")]
        features = np.zeros(len(lengths))
        shown = np.zeros(len(lengths), dtype=bool)
        for name in parts:
            features += kept * costs[name] * shows[name]
            shown |= shows[name]
        fixed = features + lengths + PROMPT_FRAME
        said = np.where(shown, 1.0 - BARE_SHARE, 1.0) * words
        tokens = fixed + np.minimum(said, np.maximum(0.0, most - fixed))
        mean += share * float(tokens.mean())
        square += share * float((tokens**2).mean())
        longest = max(longest, int(tokens.max()))
    return mean, square, longest


def newest_records(path: Path) -> list[dict[str, Any]]:
    """The newest lines of a metrics.jsonl, at most `TAIL` bytes of them; empty where there is none."""
    return list(_records(path))


def _records(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - TAIL))
            lines = file.read().split(b"\n")
    except OSError:
        return
    for line in lines[1:] if size > TAIL else lines:
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict):
            yield record
