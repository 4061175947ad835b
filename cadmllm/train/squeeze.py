"""Memory that runs out makes micro-batches smaller, not the run fail: the same samples, the same gradient, in more passes."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch

from cadmllm.corpus.pack import Room
from cadmllm.errors import CadmllmError
from cadmllm.train.step import Engine, OutOfRoom, StepReport, train_step
from cadmllm.train.windows import refit

if TYPE_CHECKING:
    from cadmllm.console import Console
    from cadmllm.corpus.types import Batch
    from cadmllm.train.world import World


class Squeeze:
    """Takes the steps of a stage in a room that shrinks when memory runs out.

    Args:
        engine: of the stage.
        world: the processes of the run.
        room: what the windows were put together for.
        console: told when the room is halved.

    Attributes:
        room: of a micro-batch now; part of every save, so that a resumed run goes on with it.
        times: how often it was halved.
    """

    def __init__(self, engine: Engine, world: World, room: Room, console: Console) -> None:
        self.engine, self.world, self.console = engine, world, console
        self.first = self.room = room
        self.times = 0

    def step(self, batches: Sequence[Batch], seed: tuple[int, int, int], inspect: Callable[[], None] | None = None) -> StepReport:
        """One optimizer step (`train_step`), again in half the room as often as memory runs out.

        Args:
            batches: the window's.
            seed: run's seed, stage and step: what torch's random numbers in the step depend on.
            inspect: see `train_step`.

        Raises:
            CadmllmError: E609 when not even single samples fit; E603, E606, E608 from the step.
        """
        while True:
            self.world.reseed(*seed)  # dropout is then the same however often the step is taken
            fitted = refit(batches, self.room) if self.times else list(batches)
            try:
                return train_step(self.engine, fitted, inspect)
            except OutOfRoom as error:
                reason = str(error)
            self._halve(fitted, reason)  # not before: while it is handled, the error holds on to the step's memory

    def _halve(self, batches: Sequence[Batch], reason: str) -> None:
        largest = max((len(batch.ids) for batch in batches), default=1)
        if not self.engine.any(largest > 1):
            raise _hopeless(batches, reason)
        before, self.room = self.room, self.room.halved()
        while self.room.packed and not self.engine.any(any(_cuts(batch, self.room) for batch in batches)):
            self.room = self.room.halved()  # a room that no row fills is not the one that did not fit
        self.times += 1
        gc.collect()
        if self.engine.device.type == "cuda":
            torch.cuda.empty_cache()
        self.console.warn(
            f"out of memory with micro-batches of {before}: going on with {self.room}, in more of them, so that a step is still"
            f" the same samples. To begin so next time: {_setting(self.room)}"
        )

    def state(self) -> dict[str, int]:
        """For a save."""
        return {"tokens": self.room.tokens, "samples": self.room.samples, "times": self.times, "of": self._of(self.first)}

    def load(self, state: dict[str, int]) -> None:
        """Go on with a save's room, if the settings ask for the room that it was cut from."""
        if state.get("times") and state.get("of") == self._of(self.first):
            self.room, self.times = Room(state["tokens"], state["samples"]), state["times"]
            self.console.note(f"micro-batches of {self.room}, as memory ran out with {self.first} before")

    @staticmethod
    def _of(room: Room) -> int:
        return room.tokens if room.packed else -room.samples


def _cuts(batch: Batch, room: Room) -> bool:
    return len(batch.documents) > 1 and sum(batch.documents) > room.tokens


def _setting(room: Room) -> str:
    name, value = ("pack_tokens", room.tokens) if room.packed else ("batch_size", room.samples)
    return f"--set train.{name}={value}"


def _hopeless(batches: Sequence[Batch], reason: str) -> CadmllmError:
    longest = max(batches, key=lambda batch: batch.computed)
    said = (reason.strip().splitlines() or ["no more is known"])[0][:200]
    return CadmllmError(
        "E609",
        f"out of memory with one sample at a time ({longest.ids[0]}, {longest.computed} tokens): {said}",
        "in this order: --set train.gradient_checkpointing=true; --set model.quantization=nf4; --set model.embedding_device=cpu; "
        "--set train.offload_activations=true; --set train.optimizer=paged_adamw_8bit; a smaller train.max_seq_length; "
        "a smaller model, for example --set model.llm=Qwen/Qwen3-4B; or close what else uses the GPU (nvidia-smi)",
    )
