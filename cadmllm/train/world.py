"""The processes of a run: who this one is, and how they agree.

One process is a world, too: everything here then answers at once, and torch.distributed is not imported. Several are started by
torchrun, accelerate launch, srun or mpirun (docs/distributed.md). What they tell each other goes through gloo, as numbers and
text in main memory, so that it costs no GPU a synchronisation; gradients and shards go through NCCL on GPUs (`replica.py`).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from cadmllm import __version__
from cadmllm.errors import CadmllmError, Exit
from cadmllm.settings import Settings
from cadmllm.train.launch import Launch, overridden, parent_command, read_launch
from cadmllm.train.rendezvous import MEETING, POLL, gone, meet, meeting

if TYPE_CHECKING:
    from torch.distributed import Store

    from cadmllm.console import Console
    from cadmllm.models.fusion import CadMLLM
    from cadmllm.train.replica import Replica

T = TypeVar("T")


class World:
    """All processes of a run, seen from one of them. The methods marked 'together' must be called by every process.

    Attributes:
        rank, size: which of how many, 0 <= rank < size.
        device: where this process computes.
        main: the one that writes: metrics, checkpoints, console.
    """

    def __init__(self, launch: Launch, device: torch.device, store: Store | None = None) -> None:
        self.rank, self.size, self.device = launch.rank, launch.size, device
        self.launch = launch
        self._store = store
        self._turns = 0
        self._common: CadmllmError | None = None  # an error that every process raises, so that one of them is to print it

    @property
    def main(self) -> bool:
        return self.rank == 0

    def __enter__(self) -> World:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, *_: object) -> None:
        if kind is None or self.device.type == "cpu":  # NCCL may wait for the others, who have no reason to come after an error
            self.close()
        if isinstance(error, CadmllmError) and error is self._common and not self.main:
            raise SystemExit(int(error.exit_code))

    def close(self) -> None:
        """End the process group."""
        if self.size > 1 and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()

    # -- telling each other --------------------------------------------------------------------------------------------------

    def gather(self, value: object) -> list[Any]:
        """Together: everyone's `value` (plain JSON data), by rank."""
        if self.size == 1:
            return [value]
        text = torch.tensor(list(json.dumps(value).encode()), dtype=torch.uint8)
        lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        with meeting(self.rank, self.size):
            torch.distributed.all_gather(lengths, torch.tensor([len(text)]))
            longest = max(int(length) for length in lengths)
            texts = [torch.zeros(longest, dtype=torch.uint8) for _ in range(self.size)]
            torch.distributed.all_gather(texts, torch.nn.functional.pad(text, (0, longest - len(text))))
        return [json.loads(bytes(t[: int(n)].tolist())) for t, n in zip(texts, lengths, strict=True)]

    def _numbers(self, values: Sequence[float]) -> list[list[float]]:
        """Everyone's numbers, by rank; exact (float64)."""
        mine = torch.tensor(list(values), dtype=torch.float64)
        all_ = [torch.empty_like(mine) for _ in range(self.size)]
        with meeting(self.rank, self.size):
            torch.distributed.all_gather(all_, mine)
        return [numbers.tolist() for numbers in all_]

    def sum(self, values: Sequence[float]) -> list[float]:
        """Together: each value summed over the processes, the same to the bit on all of them; not finite if any is not."""
        if self.size == 1:
            return [float(value) for value in values]
        columns = zip(*self._numbers(values), strict=True)
        return [math.fsum(column) if all(map(math.isfinite, column)) else sum(column) for column in columns]

    def most(self, value: int) -> int:
        """Together: the largest value."""
        return value if self.size == 1 else int(max(numbers[0] for numbers in self._numbers([value])))

    def agree(self, flag: bool) -> bool:
        """Together: whether anyone says so (a signal that reached one process stops all after the same step)."""
        return flag if self.size == 1 else self.most(int(flag)) > 0

    def told(self, value: T) -> T:
        """Together: the main process's `value` (plain JSON data). What lies in a run's folder is judged by its eyes."""
        return self.gather(value)[0]

    def agree_on(self, facts: Mapping[str, object]) -> None:
        """Together: refuse to go on where the processes were given different settings, data or weights.

        Args:
            facts: plain JSON data by name, e.g. `sameness.fingerprint`.

        Raises:
            CadmllmError: E610 on every process, naming what differs.
        """
        everyone = self.gather(dict(facts))
        names = sorted(set().union(*everyone))
        for name in names:
            values = [str(theirs.get(name, "(not set)")) for theirs in everyone]
            if len(set(values)) > 1:
                other = next(rank for rank, value in enumerate(values) if value != values[0])
                raise self._everywhere(
                    "E610",
                    f"the processes do not agree on {name}: process 0 has {values[0]}, process {other} has {values[other]}",
                    "start all of them with the same command, settings file and environment, on the same data and code",
                )

    def attempt(self, what: Callable[[], T]) -> T:
        """Together: do what may fail on one process alone (a missing file), so that then all stop, instead of waiting for it.

        Raises:
            CadmllmError: on every process, the error of the first that failed, and where.
        """
        if self.size == 1:
            return what()
        result, failed = None, None
        try:
            result = what()
        except CadmllmError as error:
            failed = _failure(error)
        self._raise_first(self.gather(failed))
        return result  # ty: ignore[invalid-explicit-return]

    def on_main(self, what: Callable[[], T]) -> T | None:
        """Together: the main process does it, the others wait, however long it takes (a full disk pauses a save for hours).

        Returns:
            What it gave, to the main process; None to the others.

        Raises:
            CadmllmError: on every process, what it raised on the main one.
        """
        if self.size == 1:
            return what()
        self._turns += 1
        key, result, failed = f"turn/{self._turns}", None, None
        if self.main:
            try:
                result = what()
            except CadmllmError as error:
                failed = _failure(error)
            except BaseException as error:  # it goes on to the process boundary; the others must not wait for what will not come
                lost = gone(self.rank, self.size, RuntimeError(f"process 0 ended: {type(error).__name__}"))
                self._kept().set(key, json.dumps(_failure(lost)))
                raise
            with meeting(self.rank, self.size):
                self._kept().set(key, json.dumps(failed))
        else:
            with meeting(self.rank, self.size):
                while not self._kept().check([key]):
                    time.sleep(POLL)
                failed = json.loads(self._kept().get(key))
        self._raise_first([failed])
        return result

    def _kept(self) -> Store:
        assert self._store is not None, "a world of several processes has a store"
        return self._store

    def _raise_first(self, failures: Sequence[Mapping[str, Any] | None]) -> None:
        for rank, failed in enumerate(failures):
            if failed is not None:
                where = "" if rank == 0 else f" (process {rank} of {self.size}, on {failed['host']})"
                raise self._everywhere(failed["code"], failed["message"] + where, failed["remedy"], Exit(failed["exit"]))

    def _everywhere(self, code: str, message: str, remedy: str, exit_code: Exit = Exit.USER) -> CadmllmError:
        self._common = CadmllmError(code, message, remedy, exit_code=exit_code)
        return self._common

    # -- dividing the work ---------------------------------------------------------------------------------------------------

    def share(self, items: Sequence[T], cost: Callable[[T], float]) -> list[T]:
        """This process's part of `items`, which all of them know: a pure function of items, costs, rank and size.

        Longest first, each to the process with least to do (Graham 1969: the busiest has at most 4/3 of what the best division
        gives it). A part keeps the order of `items`; it may be empty.
        """
        if self.size == 1:
            return list(items)
        costs = [cost(item) for item in items]
        loads, mine = [(0.0, 0, rank) for rank in range(self.size)], []
        for at in sorted(range(len(items)), key=lambda at: (-costs[at], at)):
            load, count, rank = min(loads)  # of equal loads the one with fewer items, then the lower rank
            loads[rank] = (load + costs[at], count + 1, rank)
            if rank == self.rank:
                mine.append(at)
        return [items[at] for at in sorted(mine)]

    def reseed(self, seed: int, stage: int, step: int) -> None:
        """Make torch's random numbers of a step (LoRA dropout) a function of (seed, stage, step, rank): nothing to save, and the
        same after a resume with as many processes."""
        text = f"{seed}/{stage}/{step}/{self.rank}"
        torch.manual_seed(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big"))

    def console(self, console: Console) -> Console:
        """Where this process may talk: the main one as before, the others not at all (the command prints their errors)."""
        if self.main:
            return console
        from cadmllm.console import Console

        nowhere = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - lives as long as the process
        return Console(quiet=True, out=nowhere, err=nowhere)

    # -- the model across them -----------------------------------------------------------------------------------------------

    def wrap(self, model: CadMLLM, settings: Settings) -> Replica:
        """Together: the model as copies (DDP) or shards (FSDP), see `replica.Replica`. Before the optimizer is built.

        Raises:
            CadmllmError: E610 when the processes do not hold the same parameters.
        """
        from cadmllm.train.replica import Replica

        return Replica(model, self, settings)

    def full(self, tensor: torch.Tensor) -> torch.Tensor:
        """Together: the whole of a tensor that may be sharded; any other comes back as it is."""
        from cadmllm.train.replica import whole

        return tensor if self.size == 1 else whole(tensor)

    def kept(self, tensor: torch.Tensor) -> torch.Tensor:
        """Together: a tensor for a save: whole and in main memory for the main process, nothing for the others."""
        if self.size == 1:
            return tensor
        gathered = self.full(tensor.detach())
        return gathered.to("cpu") if self.main else torch.empty(0)


def _failure(error: CadmllmError) -> dict[str, Any]:
    """An error as it goes to the other processes."""
    return {**error.as_dict(), "exit": int(error.exit_code), "host": socket.gethostname()}


def open_world(settings: Settings, console: Console | None = None, *, patience: float = MEETING) -> World:
    """Find out whether this process is one of several, and meet the others.

    Args:
        settings: device and strategy.
        console: told about settings of the launcher that do not count.
        patience: seconds to wait for the others.

    Raises:
        CadmllmError: E610 when the environment is wrong, the others do not come; this process has no GPU of its own; or the
            strategy does not go with the settings.
    """
    launch = read_launch(os.environ, parent_command())
    if launch.size == 1:
        from cadmllm.models.backbone import pick_device

        return World(launch, pick_device(settings))
    from cadmllm.train.replica import refuse

    device = own_device(settings, launch)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    world = World(launch, device, meet(launch, device, patience))
    with contextlib.ExitStack() as stack:
        stack.push(world)  # left, and not silently, when they do not agree
        world.agree_on(_facts(settings))
        world.attempt(lambda: refuse(settings))
        stack.pop_all()
    said = [f"{launch.size} processes (started by {launch.by}), train.distributed={settings.train.distributed}"]
    for line in said + overridden(os.environ, settings.train.distributed, settings.dtype):
        if console is not None:
            world.console(console).note(line)
    window = settings.train.batch_size * settings.train.accumulation
    if window < launch.size and console is not None:
        world.console(console).warn(
            f"a step of {window} samples (train.batch_size x train.accumulation) leaves {launch.size - window} of {launch.size} "
            f"processes idle: --set train.accumulation={-(-launch.size // settings.train.batch_size)}, or fewer processes"
        )
    return world


def _facts(settings: Settings) -> dict[str, object]:
    """What every process must have been given alike, flat; where files lie may differ from machine to machine."""
    groups = settings.model_dump(mode="json", by_alias=True, include={"model", "lora", "train", "stages", "dtype"})
    flat: dict[str, object] = {"the version of cadmllm": __version__, "the version of torch": torch.__version__.split("+")[0]}
    for group, values in groups.items():
        flat |= {f"{group}.{key}": value for key, value in values.items()} if isinstance(values, dict) else {group: values}
    del flat["model.points_checkpoint"]
    return flat


def own_device(settings: Settings, launch: Launch) -> torch.device:
    """The device of one of several processes: a GPU each, or the CPU where there is none or `device=cpu`."""
    if ":" in settings.device:
        raise CadmllmError(
            "E610",
            f"device={settings.device} gives all {launch.size} processes the same GPU",
            "leave the choice to them: --set device=auto (CUDA_VISIBLE_DEVICES says which GPUs they may use)",
        )
    if settings.device == "cpu" or (settings.device == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    count = torch.cuda.device_count()
    if launch.by != "torchrun" and count == 1:  # Slurm and MPI may show each process its own GPU alone
        return torch.device("cuda:0")
    if launch.local_rank >= count:
        raise CadmllmError(
            "E610",
            f"process {launch.local_rank} of this machine has no GPU of its own: {count} can be seen",
            f"start as many as there are GPUs: torchrun --standalone --nproc-per-node {max(1, count)} -m cadmllm train ...",
        )
    return torch.device("cuda", launch.local_rank)
