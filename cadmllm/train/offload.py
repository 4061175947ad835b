"""What the backward pass needs, kept in main memory meanwhile (`train.offload_activations`).

With gradient checkpointing that is the input of each layer: 0.29 MB a token for Qwen3-8B. Each large tensor is copied to pinned
RAM as soon as it is saved, beside the computation that goes on, and comes back while the layer after it is still at work.
"""

from __future__ import annotations

import weakref
from collections import deque
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import cast

import torch
from torch import Tensor
from torch.nn import Parameter

from cadmllm.errors import CadmllmError

LEAST = 2**20  # bytes: smaller tensors are many, and a copy of one costs more than it saves
LEAVING = 2  # tensors that may be on their way out at a time; the computation waits for the oldest when there are more


def offloaded(enabled: bool, device: torch.device) -> AbstractContextManager[object]:
    """Around a micro-batch's forward and backward pass: large saved tensors wait in RAM.

    On a CPU nothing happens: they are there already (`note` says so).
    """
    return Offload(device) if enabled and device.type == "cuda" else nullcontext()


def note(enabled: bool, device: torch.device) -> str:
    """What to tell about `train.offload_activations` at a run's start; '' when there is nothing to tell."""
    if enabled and device.type != "cuda":
        return f"train.offload_activations changes nothing on {device}: what it would move to main memory is there"
    return ""


class Offload(torch.autograd.graph.saved_tensors_hooks):
    """The hooks, for one micro-batch.

    Args:
        device: whose tensors leave.
        least: smallest tensor that leaves, in bytes.

    Attributes:
        tensors, moved: how many have left, and their bytes.
    """

    def __init__(self, device: torch.device, least: int = LEAST) -> None:
        super().__init__(self._pack, self._unpack)
        self.device, self.least = device, least
        self.tensors = self.moved = 0
        self._last: weakref.ref[_Stored] | None = None
        self._leaving: deque[tuple[Tensor, torch.cuda.Event]] = deque()

    def __exit__(self, *args: object) -> None:
        super().__exit__(*args)
        while self._leaving:
            self._wait_for_oldest()

    def _pack(self, tensor: Tensor) -> Tensor | _Stored:
        if not self._leaves(tensor):
            return tensor
        stored = _Stored(self._to_ram(tensor), tensor.device, self._last)
        self._last = weakref.ref(stored)
        self.tensors += 1
        self.moved += tensor.nbytes
        return stored

    @staticmethod
    def _unpack(packed: Tensor | _Stored) -> Tensor:
        return packed if isinstance(packed, Tensor) else packed.take()

    def _leaves(self, tensor: Tensor) -> bool:
        """Large activations; not weights, nor what repeats itself in memory (an expanded mask)."""
        return (
            tensor.device.type == self.device.type
            and tensor.is_floating_point()
            and tensor.nbytes >= self.least
            and not isinstance(tensor, Parameter)
            and not isinstance(tensor._base, Parameter)
            and tensor.nbytes <= tensor.untyped_storage().nbytes()
        )

    def _to_ram(self, tensor: Tensor) -> Tensor:
        tensor = tensor.detach()
        if tensor.device.type != "cuda":
            return tensor.clone()
        try:
            ram = torch.empty_like(tensor, device="cpu", pin_memory=True)
        except RuntimeError as error:
            raise CadmllmError(
                "E613",
                f"train.offload_activations: {tensor.nbytes / 2**20:.0f} MB of RAM cannot be pinned "
                f"({str(error).splitlines()[0]}), after {self.moved / 2**30:.1f} GiB in this micro-batch",
                "--set train.offload_activations=false, or a smaller micro-batch: --set train.max_seq_length=...; "
                "under WSL give it more memory (memory=... in .wslconfig, then: wsl --shutdown)",
            ) from error
        stream = _side_stream(tensor.device)
        stream.wait_stream(torch.cuda.current_stream(tensor.device))
        with torch.cuda.stream(stream):
            ram.copy_(tensor, non_blocking=True)
        # the tensor is held until its copy is done: freed before, its memory would be given to the next one
        while self._leaving and (self._leaving[0][1].query() or len(self._leaving) >= LEAVING):
            self._wait_for_oldest()
        self._leaving.append((tensor, stream.record_event()))
        return ram

    def _wait_for_oldest(self) -> None:
        tensor, left = self._leaving.popleft()
        torch.cuda.current_stream(tensor.device).wait_event(left)


class _Stored:
    """A tensor in RAM, and the one that was saved before it, which the backward pass needs next."""

    __slots__ = ("__weakref__", "_arrived", "_back", "_before", "_device", "_ram", "_taken")

    def __init__(self, ram: Tensor, device: torch.device, before: weakref.ref[_Stored] | None) -> None:
        self._ram, self._device, self._before = ram, device, before
        self._back: Tensor | None = None
        self._arrived: torch.cuda.Event | None = None
        self._taken = False

    def take(self) -> Tensor:
        """The tensor where it was; the one before it sets out."""
        if self._device.type != "cuda":
            return self._ram
        if self._back is None:
            self._fetch()
        torch.cuda.current_stream(self._device).wait_event(cast("torch.cuda.Event", self._arrived))
        back, self._back, self._taken = cast("Tensor", self._back), None, True
        before = self._before() if self._before is not None else None
        if before is not None and before._back is None and not before._taken:
            before._fetch()
        return back

    def _fetch(self) -> None:
        # allocated for the computing stream, whose earlier work may still use that memory: the copy waits for it
        back = torch.empty_like(self._ram, device=self._device, pin_memory=False)
        stream = _side_stream(self._device)
        stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(stream):
            back.copy_(self._ram, non_blocking=True)
        self._back, self._arrived = back, stream.record_event()


@cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)
