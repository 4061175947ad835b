"""The model across the processes of a run: whole copies (DDP), or the decoder in shards (FSDP) and copies of the rest.

Gradients are accumulated over a window without any communication and averaged once at its end (`Replica.reduce`), by DDP of
torch over the replicated parameters themselves rather than over a forward pass. So processes may have different numbers of
micro-batches, even none, and it does not matter which of them showed a modality. A parameter that no process used ends without a
gradient, as in a run of one process: AdamW then leaves it, its moments and its step count alone.

FSDP shards the decoder's layers (and, where all of it trains, its embedding). A sharded layer is put together by all processes
for every pass, so all of them must make the same number of passes: `lacking` and `idle`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, NoReturn

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from cadmllm.corpus.types import IGNORE, Batch
from cadmllm.errors import CadmllmError
from cadmllm.models.backbone import input_embedding
from cadmllm.settings import Settings
from cadmllm.train.rendezvous import first_line, gone, meeting

if TYPE_CHECKING:
    from cadmllm.models.fusion import CadMLLM
    from cadmllm.train.world import World

OLDEST = (2, 10)  # of torch, for layers whose frozen weights are 16-bit and whose trained ones are 32-bit


def refuse(settings: Settings) -> None:
    """What FSDP cannot shard, said before anything is loaded.

    Raises:
        CadmllmError: E610.
    """
    if settings.train.distributed != "fsdp":
        return
    old = tuple(int(part) for part in torch.__version__.split(".")[:2]) < OLDEST
    reasons = (
        (old, f"torch {torch.__version__}: it cannot shard weights of several types", "or keep FSDP with torch 2.10 or newer"),
        (
            settings.model.quantization == "nf4",
            "4-bit weights (model.quantization=nf4)",
            "every GPU holds all of it",
        ),
        (
            settings.train.optimizer != "adamw",
            f"train.optimizer={settings.train.optimizer}",
            "or keep FSDP: --set train.optimizer=adamw",
        ),
        (settings.dtype == "float16", "float16 and its loss scaler", "or keep FSDP: --set dtype=bfloat16"),
        (settings.train.compile, "compiled layers", "or keep FSDP: --set train.compile=false"),
        (settings.train.offload_activations, "activations in main memory", "or keep FSDP: --set train.offload_activations=false"),
    )
    for found, what, more in reasons:
        if found:
            raise CadmllmError("E610", f"train.distributed=fsdp does not go with {what}", f"--set train.distributed=ddp ({more})")


def whole(tensor: Tensor) -> Tensor:
    """Together: the whole of a tensor that may be sharded."""
    from torch.distributed.tensor import DTensor

    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def sharded_like(value: Tensor, parameter: Tensor) -> Tensor:
    """This process's shard of a whole tensor (of the optimizer's state) that belongs to `parameter`; nothing is communicated."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(parameter, DTensor) or isinstance(value, DTensor) or value.shape != parameter.shape:
        return value
    mesh = parameter.device_mesh
    return distribute_tensor(value.to(parameter.device), mesh, parameter.placements, src_data_rank=None)


class _Copies(nn.Module):
    """The replicated parameters; its forward pass reaches all of them and changes none."""

    def __init__(self, parameters: Iterable[Parameter]) -> None:
        super().__init__()
        self.held = nn.ParameterList(parameters)

    def forward(self) -> Tensor:
        return torch.stack([parameter.sum() for parameter in self.held]).sum() * 0.0


class Replica:
    """A model and how its processes keep it the same.

    Args:
        model: the same on every process; under FSDP it may still stand in main memory. Its trainable parameters are fixed now.
        world: of size 1, too: everything is then a matter of this process.
        settings: strategy and precision.

    Attributes:
        trained: the parameters that train.
        sharded: the decoder's layers are shards (FSDP). `model.loss` and `model.step` then put them together as they go.
    """

    def __init__(self, model: CadMLLM, world: World, settings: Settings) -> None:
        self.model, self.world, self.dtype = model, world, settings.dtype
        self.sharded = world.size > 1 and settings.train.distributed == "fsdp"
        if self.sharded:
            self._shard(settings)
        self.trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.copied = [parameter for parameter in self.trained if not _is_shard(parameter)] if world.size > 1 else []
        self._copies = self._replicate() if self.copied else None

    def _replicate(self) -> nn.Module:
        from torch.nn.parallel import DistributedDataParallel

        with meeting(self.world.rank, self.world.size):  # takes the values of process 0
            return DistributedDataParallel(_Copies(self.copied), gradient_as_bucket_view=True)

    def _shard(self, settings: Settings) -> None:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

        mesh = init_device_mesh(self.world.device.type, (self.world.size,))
        shards = [*decoder_layers(self.model), *_trained_beside_layers(self.model)]
        inside = {parameter for module in shards for parameter in module.parameters()}
        outside = {parameter for parameter in self.model.parameters() if parameter not in inside}
        for module in shards:
            fully_shard(module, mesh=mesh)
        fully_shard(self.model, mesh=mesh, ignored_params=outside)
        for method in ("loss", "step"):  # both enter the model beside `forward`
            register_fsdp_forward_method(self.model, method)
        stays = input_embedding(self.model.llm) if settings.model.embedding_device == "cpu" else None
        _move_rest(self.model, self.world.device, stays)
        with torch.no_grad():
            self.idle(1)  # the first module that is called becomes FSDP's root: it has to be the whole model

    def autocast(self) -> AbstractContextManager:
        """The precision of forward passes."""
        if self.dtype == "float32":
            return nullcontext()
        return torch.autocast(self.world.device.type, dtype=getattr(torch, self.dtype))

    def lacking(self, passes: int) -> int:
        """Together, before the passes of a window: how many fewer this process makes than another one, where that matters."""
        return self.world.most(passes) - passes if self.sharded else 0

    def idle(self, passes: int) -> None:
        """Passes of no effect, after its own, by a process that is `lacking` some; backward too, unless gradients are off."""
        for _ in range(passes):
            with self.autocast():
                total, _ = self.model.loss(_nothing(self.world.device))
            if total.requires_grad:
                (total * 0.0).backward()

    def give_up(self, error: RuntimeError, exhausted: bool) -> NoReturn:
        """What a pass over shards failed with: the others are within it and cannot take it again, so the run ends here.

        Raises:
            CadmllmError: E609 when memory ran out (`exhausted`), E610 when another process is gone; else `error` itself.
        """
        if exhausted:
            raise CadmllmError(
                "E609",
                f"out of memory on process {self.world.rank} of {self.world.size}; shards (train.distributed=fsdp) cannot be "
                f"tried again in smaller micro-batches ({first_line(error)})",
                "go on from the newest save with smaller ones: the same command with --resume --set train.pack_tokens=2048; or "
                "--set train.gradient_checkpointing=true, or more GPUs",
            ) from error
        if isinstance(error, torch.distributed.DistError) or "gloo" in str(error):
            raise gone(self.world.rank, self.world.size, error) from error
        raise error

    def reduce(self) -> None:
        """Together, after the passes of a window: every gradient becomes the mean over the processes.

        A loss is therefore to be multiplied by `world.size` and divided by the supervised tokens of the whole window. What got no
        gradient anywhere has None afterwards.
        """
        if self._copies is None:
            return
        used = torch.tensor([parameter.grad is not None for parameter in self.copied], dtype=torch.uint8)
        for parameter in self.copied:
            if parameter.grad is not None and parameter.grad.stride() != parameter.stride():  # DDP warns of such gradients
                parameter.grad = torch.empty_like(parameter).copy_(parameter.grad)
        with meeting(self.world.rank, self.world.size):
            torch.distributed.all_reduce(used, torch.distributed.ReduceOp.MAX)
            self._copies().backward()
        for parameter, reached in zip(self.copied, used.tolist(), strict=True):
            if not reached:
                parameter.grad = None

    def clip(self, largest: float) -> float:
        """Together: scale the gradients down to a norm of `largest` over all parameters; returns the norm before."""
        if not self.sharded:
            return float(nn.utils.clip_grad_norm_(self.trained, largest))
        pieces = [_local(parameter.grad) for parameter in self.trained if parameter.grad is not None and _is_shard(parameter)]
        copies = [parameter.grad for parameter in self.copied if parameter.grad is not None]
        squares = math.fsum(float(piece.double().square().sum()) for piece in pieces)
        whole_squares = math.fsum(float(gradient.double().square().sum()) for gradient in copies)
        norm = math.sqrt(self.world.sum([squares])[0] + whole_squares)
        share = min(1.0, largest / (norm + 1e-6))
        if math.isfinite(share) and share < 1.0:
            for gradient in (*pieces, *copies):
                gradient.mul_(share)
        return norm

    def adopt(self, optimizer: torch.optim.Optimizer) -> None:
        """After an optimizer's state was loaded whole: keep this process's shards of it."""
        if self.sharded:
            for parameter, state in optimizer.state.items():
                for key, value in state.items():
                    state[key] = sharded_like(value, parameter)


def decoder_layers(model: CadMLLM) -> nn.ModuleList:
    """The blocks of the language model, inside LoRA's wrapper if there is one."""
    found = [module for name, module in model.llm.named_modules() if name.rsplit(".", 1)[-1] == "layers"]
    if not found or not isinstance(found[0], nn.ModuleList):
        raise CadmllmError(
            "E610", "this language model has no list of decoder layers to shard", "keep whole copies: --set train.distributed=ddp"
        )
    return found[0]


def _trained_beside_layers(model: CadMLLM) -> list[nn.Module]:
    """What of the language model trains outside its layers: embedding and last norm, where LoRA does not train in their place."""
    within = {module for layer in decoder_layers(model) for module in layer.modules()}
    return [
        module
        for module in model.llm.modules()
        if module not in within and any(parameter.requires_grad for parameter in module.parameters(recurse=False))
    ]


def _is_shard(tensor: Tensor) -> bool:
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)


def _local(gradient: Tensor) -> Tensor:
    from torch.distributed.tensor import DTensor

    return gradient.to_local() if isinstance(gradient, DTensor) else gradient


def _move_rest(model: nn.Module, device: torch.device, stays: nn.Module | None) -> None:
    """What FSDP leaves alone goes to the device as it is."""
    for module in model.modules():
        if module is not stays:
            for parameter in module.parameters(recurse=False):
                if not _is_shard(parameter):
                    parameter.data = parameter.data.to(device)
            for name, buffer in module.named_buffers(recurse=False):
                setattr(module, name, buffer.to(device))


def _nothing(device: torch.device) -> Batch:
    """The smallest batch there is: two tokens, one of them supervised."""
    ids, ones = torch.zeros(1, 2, dtype=torch.int64), torch.ones(1, 2, dtype=torch.int64)
    labels = torch.tensor([[IGNORE, 0]])
    return Batch(ids, ones, torch.arange(2)[None], labels, ids=["(idle)"], combinations=["text"]).to(device)
