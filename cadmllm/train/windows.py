"""The data of each optimizer step: a pure function of (settings, ids, stage, step), so resume is exact and O(1)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from errno import EMFILE, ENFILE
from multiprocessing import active_children
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch
from torch.utils.data import DataLoader, Dataset

from cadmllm.corpus import order
from cadmllm.corpus.batch import split
from cadmllm.corpus.fit import longest_target
from cadmllm.corpus.pack import Room, arrange, heads
from cadmllm.corpus.sample import Draw, draw_combination, load_sample
from cadmllm.errors import CadmllmError
from cadmllm.settings import Settings
from cadmllm.train.curriculum import Stage
from cadmllm.train.guards import deaf_to_signals

if TYPE_CHECKING:
    import numpy as np

    from cadmllm.corpus.batch import Encoded
    from cadmllm.corpus.features import FeatureStore
    from cadmllm.corpus.layout import DataSet, Problem
    from cadmllm.corpus.types import Batch, Sample


CAPTION = 32  # tokens of a prompt's words and frame, about
STUCK = 900  # s without anything from a process of the loader, which then hangs
_LOST = (  # how torch says that such a process is lost, or has no room to send what it has read
    "DataLoader worker (pid",
    "DataLoader timed out",
    "Pin memory thread",
    "unable to write to file </torch_",
    "unable to open shared memory object",
    "unable to mmap",
    "items of ancdata",
    "Too many open files",
)


class Item(NamedTuple):
    """A place of an epoch's order, the id that stands there, and what is drawn for it."""

    place: int
    id: str
    draw: Draw


class Collate(Protocol):
    """What is asked of `corpus.batch.Collator`."""

    def encode(self, sample: Sample, /) -> Encoded:
        """A sample's tokens."""
        ...

    def pad(self, encoded: Sequence[Encoded], /) -> Batch:
        """A row a sample."""
        ...

    def pack(self, encoded: Sequence[Encoded], /) -> Batch:
        """All in one row."""
        ...


@dataclass(slots=True)
class Window:
    """The micro-batches of one optimizer step, or one process's part of them.

    Attributes:
        step: from 0 within the stage.
        batches: packed rows, or padded batches where the attention back end cannot keep documents apart.
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

    def pin_memory(self) -> Window:
        """The window in page-locked memory (the loader calls this)."""
        self.batches = [batch.pin_memory() for batch in self.batches]
        return self


class Windows(Dataset[Window]):
    """`windows[step]` is the data of optimizer step `step` of a stage.

    Args:
        dataset: where samples are read.
        ids: the training ids, in a fixed order.
        stage: what is shown.
        settings: batch size, accumulation, seed, points and views a sample.
        collate: samples to a batch.
        room: of a micro-batch.
        features: what it holds is read from it instead of clouds and views.
        share: with several processes, this one's part of a window's items; None: all of them.
    """

    def __init__(
        self,
        dataset: DataSet,
        ids: Sequence[str],
        stage: Stage,
        settings: Settings,
        collate: Collate,
        room: Room,
        features: FeatureStore | None = None,
        share: Callable[[Sequence[Item], Callable[[Item], int]], list[Item]] | None = None,
    ) -> None:
        self.dataset, self.ids, self.stage, self.settings, self.collate = dataset, ids, stage, settings, collate
        self.room, self.features, self.share = room, features, share
        self.longest = longest_target(settings, stage.reached)
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

    def items(self, step: int) -> tuple[int, list[Item]]:
        """Epoch of a step, and everything that its window shows, of all processes together."""
        epoch, places, indices = self.positions(step)
        probabilities = self.stage.probabilities_at(step / max(1, self.total - 1))
        found = []
        for place, index in zip(places, indices, strict=True):
            id_ = self.ids[index]
            dropout = self.settings.train.modality_dropout
            draw = draw_combination(probabilities, self.dataset.modalities(id_), **self._where(epoch, place), dropout=dropout)
            found.append(Item(place, id_, draw))
        return epoch, found

    def __getitem__(self, index: int) -> Window:
        epoch, items = self.items(index)
        mine = items if self.share is None else self.share(items, self._cost)
        known = len(self.dataset.problems)
        found: list[Encoded] = []
        fell_back = 0
        for item in mine:
            try:
                encoded = self._encoded(epoch, item)
            except CadmllmError as error:  # it could be read when the data was last looked at
                self.dataset.note(error, item.id)
                continue
            found.append(encoded)
            # a modality that is not there, or that could not be read; one that was dropped is no such thing
            fell_back += item.draw.fell_back or encoded.sample.combination != item.draw.shown
        problems = self.dataset.problems[known:]
        if mine and not found and self.share is None:  # others may have some
            remedy = f"look at the data: cadmllm data check {self.settings.data.root}"
            message = f"step {index + 1}: none of its {len(mine)} samples can be read any more; the last: {problems[-1].message}"
            raise CadmllmError("E406", message, remedy)
        build = self.collate.pack if self.room.packed else self.collate.pad
        batches = [build([found[k] for k in chosen]) for chosen in arrange([len(e) for e in found], self.room)]
        mix = Counter(encoded.sample.combination for encoded in found)
        return Window(index, batches, mix, fell_back, len(mine) - len(found), problems)

    def _where(self, epoch: int, place: int) -> dict[str, int]:
        return {"seed": self.settings.train.seed, "stage": self.stage.number, "epoch": epoch, "position": place}

    def _encoded(self, epoch: int, item: Item) -> Encoded:
        model = self.settings.model
        shape: dict[str, Any] = {"point_count": model.point_count, "sampling": model.point_sampling}
        shape |= {"views": model.image_views, "draws": self.settings.data.draws}
        where: dict[str, Any] = self._where(epoch, item.place)
        sample = load_sample(self.dataset, item.id, item.draw.shown, features=self.features, **where, **shape)
        length = 0 if sample.target is None else len(sample.target)
        if length > self.longest:
            message = f"{item.id}: the target has {length} tokens now, more than {self.longest}"
            raise CadmllmError("E602", message, f"cadmllm data check {self.settings.data.root}")
        return self.collate.encode(sample)

    def _cost(self, item: Item) -> int:
        return cost_of(self.dataset, self.settings, item.id, item.draw.shown)

    def expected_fallbacks(self, epoch: int = 0, limit: int = 5000) -> tuple[int, int]:
        """(draws that cannot show what they ask for, draws looked at) in the first `limit` places of an epoch."""
        seed, stage = self.settings.train.seed, self.stage
        count = min(limit, len(self.ids))
        permutation = order.epoch_order(len(self.ids), seed, stage.number, epoch)
        missing = 0
        for place in range(count):
            available = self.dataset.modalities(self.ids[int(permutation[place])])
            step = epoch * self.steps_per_epoch + place // self.window
            shares = stage.probabilities_at(step / max(1, self.total - 1))
            missing += draw_combination(shares, available, **self._where(epoch, place)).fell_back
        return missing, count


def cost_of(dataset: DataSet, settings: Settings, id_: str, shown: str) -> int:
    """About how many tokens a sample has that shows a combination, without reading it: how samples are dealt out fairly."""
    model = settings.model
    clouds = model.point_tokens if "point_cloud" in shown else 0
    images = model.view_tokens if "image" in shown else 0
    return dataset.length(id_) + clouds + images + CAPTION


def room_of(settings: Settings, isolates: bool) -> Room:
    """The room of a micro-batch: `train.pack_tokens` (by default as many as a full padded one), or `train.batch_size` samples.

    Args:
        isolates: whether the attention back end keeps packed documents apart.
    """
    train = settings.train
    tokens = (train.pack_tokens or train.batch_size * train.max_seq_length) if train.packing and isolates else 0
    return Room(tokens, train.batch_size)


def refit(batches: Sequence[Batch], room: Room) -> list[Batch]:
    """The same samples in micro-batches of a smaller room (after one did not fit into memory)."""
    fitted = []
    for batch in batches:
        rest = batch
        lengths = batch.documents or batch.attention_mask.sum(1).tolist()
        for count in heads([int(length) for length in lengths], room)[:-1]:
            part, rest = split(rest, count)
            fitted.append(part)
        fitted.append(rest)
    return fitted


def iterate(windows: Windows, start: int, workers: int, prefetch: int = 2, pin: bool = False) -> Iterator[Window]:
    """Windows `start .. len(windows) - 1`, in order, loaded in `workers` processes (0: in this one), `prefetch` each ahead.

    `pin`: into page-locked memory, for a GPU.
    """
    if workers == 0:
        return (windows[step].pin_memory() if pin else windows[step] for step in range(start, len(windows)))
    # a generator of its own: the loader draws a seed from it, and the training's random state must not feel that
    loader = DataLoader(
        windows,
        batch_size=None,
        sampler=range(start, len(windows)),
        num_workers=workers,
        prefetch_factor=prefetch,
        pin_memory=pin,
        generator=torch.Generator().manual_seed(0),
        worker_init_fn=deaf_to_signals,
        timeout=STUCK,
    )
    return _told(loader, workers)


def _told(loader: Iterable[Window], workers: int) -> Iterator[Window]:
    """What the loader gives; a process of it that ends or hangs is an error that says what mends it.

    Raises:
        CadmllmError: E614. Too little shared memory shows as a bus error or as silence, too few open files as a cut connection.
    """
    before = set(active_children())
    iterator = iter(loader)
    processes = [child for child in active_children() if child not in before]
    try:
        yield from iterator
    except (RuntimeError, EOFError, OSError) as error:
        said = str(error)
        if isinstance(error, RuntimeError) and not any(words in said for words in _LOST):
            raise
        if isinstance(error, OSError) and not isinstance(error, ConnectionError) and error.errno not in (EMFILE, ENFILE):
            raise
        last = said.strip().splitlines()[-1:] or [type(error).__name__]  # what comes from a process has its traceback before it
        raise CadmllmError(
            "E614",
            f"reading ahead with train.workers={workers} does not go on: {last[0]}",
            "cadmllm doctor --only shm,files,memory looks for the reason; meanwhile: --set train.workers=0, with --resume",
        ) from error
    finally:
        iterator._shutdown_workers()  # ty: ignore[missing-attribute] - the error holds on to it, so it is not ended by itself
        for process in processes:
            process.kill()  # one that hangs is deaf to signals, and this process could never end
            process.join()
