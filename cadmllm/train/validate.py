"""Loss on held-out samples, by modality combination: supervised positions only, no gradients, bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from cadmllm.cad.vocabulary import END
from cadmllm.corpus.pack import Room, arrange
from cadmllm.corpus.sample import load_sample
from cadmllm.corpus.types import Sample
from cadmllm.errors import CadmllmError
from cadmllm.infer.sampled import Sampled
from cadmllm.settings import Settings
from cadmllm.train.curriculum import Stage
from cadmllm.train.windows import cost_of

if TYPE_CHECKING:
    from cadmllm.console import Console
    from cadmllm.corpus.batch import Encoded
    from cadmllm.corpus.features import FeatureStore
    from cadmllm.corpus.layout import DataSet
    from cadmllm.models.fusion import CadMLLM
    from cadmllm.train.step import Engine
    from cadmllm.train.windows import Collate
    from cadmllm.train.world import World

# what the command may pass in: answers held-out prompts at a stage's end, has the CAD kernel judge them, and returns named
# shares of valid solids (0..1)
Validator = Callable[["CadMLLM", Stage], dict[str, float]]
# the same while training: told the step and the folder (run.dir/samples) that pictures and rows go to
Sampler = Callable[["CadMLLM", Stage, int, Path], Sampled]

EPOCH = 1 << 20  # the draws of validation samples: an epoch that training never reaches
KEPT = 512 << 20  # bytes of encoded samples that stay in memory; what is more is read again at each validation


@dataclass(frozen=True, slots=True)
class Item:
    """A held-out sample: its place among those of its combination (what its draws depend on), its id, what is shown of it."""

    place: int
    id: str
    combination: str


class HeldOut:
    """The held-out samples of a stage under every combination that it shows; read once, as far as `KEPT` goes.

    The same ids are seen under every combination (those that have its modalities), `train.val_samples` samples in all; the
    captions, points and views drawn for them never change, so the figures of two steps can be compared. From stage 2 on text
    alone is measured as well where the stage does not show it, so that forgetting shows.

    Args:
        dataset: where samples are read.
        ids: held-out ids.
        stage: what is shown.
        settings: how many samples, points and views of each.
        collate: samples to batches.
        console: told when memory runs out.
        features: what it holds is read from it instead of clouds and views.
        world: with several processes, each takes a part of the samples and all get the same figures; None: one process.
    """

    def __init__(
        self,
        dataset: DataSet,
        ids: Sequence[str],
        stage: Stage,
        settings: Settings,
        collate: Collate,
        console: Console,
        features: FeatureStore | None = None,
        world: World | None = None,
    ) -> None:
        self.dataset, self.stage, self.settings, self.collate = dataset, stage, settings, collate
        self.features, self.world = features, world
        self.shown = list(stage.reached)
        extra = ["text"] if stage.number > 1 and "text" not in self.shown else []
        each = max(1, settings.train.val_samples // len(self.shown))
        self.items = {name: _able(dataset, ids, name, each) for name in self.shown + extra}
        if world is not None:
            self.items = {name: world.share(items, self._cost) for name, items in self.items.items()}
        self.console = console
        self._room: Room | None = None  # smaller than in training, once memory ran out
        self._kept: dict[Item, Encoded] = {}
        self._lengths: dict[Item, int] = {}
        self._bytes = 0

    def loss(self, engine: Engine, room: Room) -> dict[str, float]:
        """Together: mean loss a supervised token, by combination, and over 'all' that the stage shows.

        The figures do not depend on `room` and the number of processes, within float error. A combination that no held-out id
        can show is left out; without held-out ids the result is empty. A sample that can no longer be read as its combination
        is noted in `dataset.problems` and left out.

        Args:
            engine: the model, its device and precision; it is left in the mode it was in.
            room: of a micro-batch, as in training; no logits of more than a chunk of its rows live at a time. Where memory
                runs out all the same, smaller ones are taken from then on, which is said.

        Raises:
            CadmllmError: E609 when not even single samples fit.
        """
        was_training = engine.model.training
        engine.model.eval()
        try:
            sums = self._sums(engine, min(room, self._room or room, key=lambda r: (r.tokens, r.samples)))
        finally:
            engine.model.train(was_training)
        means = {name: total / count for name, (total, count) in sums.items() if count}
        shown = [sums[name] for name in self.shown if name in means]
        if shown:
            means["all"] = sum(total for total, _ in shown) / sum(count for _, count in shown)
        return means

    def _sums(self, engine: Engine, room: Room) -> dict[str, tuple[float, float]]:
        """Summed loss and supervised tokens by combination, over all processes."""
        while True:
            passes = [(name, members) for name, items in self.items.items() for members in self._arranged(items, room)]
            sums, failed = self._mine(engine, passes, room)
            if not self._any(failed):
                break
            if not self._any(any(len(members) > 1 for _, members in passes)):
                raise _no_room()
            if engine.device.type == "cuda":
                torch.cuda.empty_cache()
            self.console.warn(f"out of memory in validation with micro-batches of {room}: going on with {room.halved()}")
            self._room = room = room.halved()
        if self.world is None:
            return sums
        flat = self.world.sum([value for pair in sums.values() for value in pair])
        return {name: (flat[2 * k], flat[2 * k + 1]) for k, name in enumerate(sums)}

    def _mine(
        self, engine: Engine, passes: Sequence[tuple[str, list[Item]]], room: Room
    ) -> tuple[dict[str, tuple[float, float]], bool]:
        """This process's part of the sums, and whether memory ran out on the way."""
        sums = dict.fromkeys(self.items, (0.0, 0.0))
        replica = engine.replica
        # sharded layers are put together by all processes for every pass: all have to make as many, and know it before the first
        lacking = 0 if replica is None else replica.lacking(len(passes))
        try:
            for name, members in passes:
                # what cannot be read any more leaves a pass of no effect: the processes count on each other's passes
                encoded = [found for item in members if (found := self._encoded(item)) is not None]
                loss_sum, supervised = self._forward(engine, encoded or [self._filler()], room)
                if encoded:
                    sums[name] = (sums[name][0] + loss_sum, sums[name][1] + supervised)
            for _ in range(lacking):
                self._forward(engine, [self._filler()], room)
        except torch.OutOfMemoryError as error:
            if replica is not None and replica.sharded:
                replica.give_up(error, exhausted=True)
            return sums, True
        return sums, False

    def _any(self, flag: bool) -> bool:
        return flag if self.world is None else self.world.agree(flag)

    def _filler(self) -> Encoded:
        """A sample of a few tokens, for passes of no effect."""
        return self.collate.encode(Sample("filler", "text", "a part", np.array([END], dtype=np.int64)))

    @torch.no_grad()
    def _forward(self, engine: Engine, encoded: Sequence[Encoded], room: Room) -> tuple[float, int]:
        batch = self.collate.pack(encoded) if room.packed else self.collate.pad(encoded)
        with engine.autocast():
            loss_sum, supervised = engine.model.loss(batch.to(engine.device))
        return float(loss_sum), supervised

    def _arranged(self, items: Sequence[Item], room: Room) -> list[list[Item]]:
        able = [item for item in items if self._length(item)]
        return [[able[k] for k in chosen] for chosen in arrange([self._lengths[item] for item in able], room)]

    def _length(self, item: Item) -> int:
        """Tokens of a sample; 0 for one that cannot be read."""
        if item not in self._lengths:
            encoded = self._encoded(item)
            self._lengths[item] = 0 if encoded is None else len(encoded)
        return self._lengths[item]

    def _encoded(self, item: Item) -> Encoded | None:
        if item in self._kept:
            return self._kept[item]
        where: dict[str, Any] = {
            "seed": self.settings.train.seed,
            "stage": self.stage.number,
            "epoch": EPOCH,
            "position": item.place,
        }
        model = self.settings.model
        shape: dict[str, Any] = {"point_count": model.point_count, "sampling": model.point_sampling}
        shape |= {"views": model.image_views, "draws": self.settings.data.draws}
        try:
            sample = load_sample(self.dataset, item.id, item.combination, features=self.features, **where, **shape)
            encoded = self.collate.encode(sample)
        except CadmllmError as error:  # it could be read when the data was last looked at
            self.dataset.note(error, item.id)
            return None
        if sample.combination != item.combination:  # `load_sample` has noted why
            return None
        size = _bytes(encoded)
        if self._bytes + size <= KEPT:
            self._kept[item] = encoded
            self._bytes += size
        return encoded

    def _cost(self, item: Item) -> int:
        return cost_of(self.dataset, self.settings, item.id, item.combination)


def _able(dataset: DataSet, ids: Sequence[str], combination: str, count: int) -> list[Item]:
    """The first `count` ids that have everything of a combination."""
    needed = set(combination.split("+")) - {"text"}
    found: list[Item] = []
    for id_ in ids:
        if len(found) == count:
            break
        if needed <= dataset.modalities(id_):
            found.append(Item(len(found), id_, combination))
    return found


def _no_room() -> CadmllmError:
    return CadmllmError(
        "E609",
        "out of memory in validation with one sample at a time",
        "in this order: --set model.quantization=nf4; --set model.embedding_device=cpu; a smaller train.max_seq_length; "
        "a smaller model, for example --set model.llm=Qwen/Qwen3-4B; or close what else uses the GPU (nvidia-smi)",
    )


def _bytes(encoded: Encoded) -> int:
    """Main memory of an encoded sample, about."""
    sample = encoded.sample
    arrays = [*sample.images, *sample.cloud_features, *sample.image_features]
    arrays += [part for cloud in sample.clouds for part in (cloud.points, cloud.normals)]
    return sum(array.nbytes for array in arrays) + 16 * len(encoded) + 1024
