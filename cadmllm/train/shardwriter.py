"""From clouds and views to shards of features: read in other processes, encoded in batches, written whole."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
from torch.utils.data import DataLoader, Dataset

from cadmllm.corpus.shards import DTYPES, SHARD_BYTES, Broken, Entry, Recipe, Shard, read_shard, shard_path, write_shard
from cadmllm.errors import CadmllmError
from cadmllm.train.guards import deaf_to_signals

if TYPE_CHECKING:
    from cadmllm.console import Console, Progress
    from cadmllm.corpus.sources import Loaded, Sources
    from cadmllm.models.features import FrozenEncoder


class Waiting(NamedTuple):
    """A row that is to be encoded."""

    place: int
    id: str
    inputs: tuple[np.ndarray, ...]


class ShardWriter:
    """Encodes sources in their order.

    Batches never reach over the end of a shard: what is in a shard depends on the ids in it alone.

    Args:
        encoder: of the part.
        recipe: of the features.
        batch_size: rows the encoder sees at once.

    Attributes:
        rate: rows a second so far, reading and writing included.
    """

    def __init__(self, encoder: FrozenEncoder, recipe: Recipe, batch_size: int) -> None:
        self.encoder, self.recipe, self.batch_size = encoder, recipe, batch_size
        self.rate = 0.0

    def write(self, folder: Path, number: int, sources: Sources, workers: int, console: Console) -> list[Shard]:
        """Write the shards of all sources, the first under `number`; a row that cannot be read is NaN and told of in the header.

        Raises:
            CadmllmError: E502 when the encoder gives numbers that are not finite, E303 when a shard cannot be written.
        """
        rows = [sources.rows(source) for source in sources.listed]
        made: list[Shard] = []
        loaded = _loaded(sources, min(workers, len(sources)))
        with console.progress(sum(rows), f"encoding {sources.part}") as bar:
            clock = _Clock(bar, sum(rows))
            try:
                for count in _cuts(rows, self.recipe.row_bytes):
                    path = shard_path(folder, number + len(made))
                    self._shard(path, _take(loaded, count), clock)
                    made.append(read_shard(path))
            except KeyboardInterrupt:
                kept = sum(len(shard.entries) for shard in made)
                console.note(f"stopped: {kept} of {len(rows)} ids are kept; the same command goes on from there")
                raise
            finally:
                self.rate = clock.rate()
        return made

    def _shard(self, path: Path, loaded: Iterator[Loaded], clock: _Clock) -> None:
        entries: list[Entry] = []
        broken: list[Broken] = []
        features: list[np.ndarray] = []
        waiting: list[Waiting] = []
        for item in loaded:
            begin, id_ = len(features), item.source.id
            entries.append(Entry(id_, begin, len(item.rows), item.stamp, item.digest))
            broken += [Broken(id_, begin + row, code, message) for row, code, message in item.problems]
            waiting += [Waiting(begin + k, id_, inputs) for k, inputs in enumerate(item.rows) if inputs is not None]
            features += [self._unreadable()] * len(item.rows)
            while len(waiting) >= self.batch_size:
                self._fill(features, waiting[: self.batch_size], clock)
                del waiting[: self.batch_size]
            clock.skip(sum(inputs is None for inputs in item.rows))
        if waiting:
            self._fill(features, waiting, clock)
        write_shard(path, self.recipe, entries, broken, features)

    def _fill(self, features: list[np.ndarray], batch: Sequence[Waiting], clock: _Clock) -> None:
        found = self.encoder([item.inputs for item in batch], self.recipe.dtype)
        for item, row in zip(batch, found, strict=True):
            if not _finite(row):
                raise CadmllmError(
                    "E502",
                    f"the encoder {self.recipe.source} gives numbers that are not finite for {item.id} in {self.recipe.compute}",
                    "encode in another precision: --set dtype=bfloat16 or --set dtype=float32",
                )
            features[item.place] = row
        clock.advance(len(batch))

    def _unreadable(self) -> np.ndarray:
        """A row of NaN."""
        value = 0x7FC0 if self.recipe.dtype == "bfloat16" else np.nan
        return np.full((self.recipe.tokens, self.recipe.width), value, dtype=DTYPES[self.recipe.dtype][1])


class _Clock:
    """The progress bar with the rate and the time left."""

    def __init__(self, bar: Progress, total: int) -> None:
        self.bar, self.total, self.done, self.begun = bar, total, 0, time.perf_counter()

    def advance(self, rows: int) -> None:
        """So many rows were encoded."""
        self.done += rows
        rate = self.rate()
        left = (self.total - self.done) / rate
        self.bar.advance(rows, f"{rate:.1f}/s, {left / 60:.0f} min left" if left >= 90 else f"{rate:.1f}/s, {left:.0f} s left")

    def rate(self) -> float:
        """Rows a second."""
        return self.done / max(1e-9, time.perf_counter() - self.begun)

    def skip(self, rows: int) -> None:
        """So many could not be read."""
        if rows:
            self.total -= rows
            self.bar.advance(rows)


def _loaded(sources: Sources, workers: int) -> Iterator[Loaded]:
    """Every source in order, read in `workers` processes (0: in this one)."""
    if not workers:
        return (sources[place] for place in range(len(sources)))
    loader = DataLoader(
        cast("Dataset[Any]", sources),
        batch_size=None,
        num_workers=workers,
        collate_fn=_as_it_is,
        worker_init_fn=deaf_to_signals,
    )
    return iter(loader)


def _as_it_is(loaded: Any) -> Any:
    return loaded


def _cuts(rows: Sequence[int], row_bytes: int) -> Iterator[int]:
    """How many ids each shard takes: as many as fit, at least one."""
    count = size = 0
    for number in rows:
        if count and size + number * row_bytes > SHARD_BYTES:
            yield count
            count = size = 0
        count, size = count + 1, size + number * row_bytes
    yield count


def _take(items: Iterator[Loaded], count: int) -> Iterator[Loaded]:
    for _ in range(count):
        yield next(items)


def _finite(row: np.ndarray) -> bool:
    return bool(((row & 0x7FFF) < 0x7F80).all() if row.dtype == np.uint16 else np.isfinite(row).all())
