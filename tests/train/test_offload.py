"""Activations that wait in main memory. On a CPU the hooks copy for real; that they overlap with the work is for CUDA alone."""

from __future__ import annotations

import gc
import weakref
from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from cadmllm.models.fusion import CadMLLM, build_model
from cadmllm.train.offload import LEAST, Offload, note, offloaded

CPU = torch.device("cpu")


class Tower(nn.Module):
    """Four blocks; `again`: their inputs are all that is kept."""

    def __init__(self, width: int = 64, again: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Dropout(0.3)) for _ in range(4))
        self.again = again

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = x + (checkpoint(block, x, use_reentrant=False) if self.again else block(x))
        return x.pow(2).sum()


def _gradients(model: nn.Module, x: torch.Tensor, context) -> list[torch.Tensor]:
    model.zero_grad()
    torch.manual_seed(1)
    with context:
        model(x).backward()
    return [parameter.grad.clone() for parameter in model.parameters()]


@pytest.mark.parametrize("again", [False, True])
def test_gradients_are_those_without(again: bool) -> None:
    model, x = Tower(again=again), torch.randn(128, 64, requires_grad=True)
    plain = _gradients(model, x, nullcontext())
    offload = Offload(CPU, least=1)
    moved = _gradients(model, x, offload)
    assert all(torch.equal(a, b) for a, b in zip(plain, moved, strict=True))
    assert offload.tensors > 0
    if again:  # the four inputs and what squares the last: recomputed tensors stay where they are
        assert (offload.tensors, offload.moved) == (5, 5 * x.nbytes)


def test_only_large_activations_leave_and_no_weight_does() -> None:
    model, x = Tower(), torch.randn(4096, 64, requires_grad=True)
    assert x.nbytes == LEAST
    offload = Offload(CPU)
    _gradients(model, x, offload)
    assert offload.moved == offload.tensors * LEAST
    wide = nn.Linear(2048, 1024)  # 8 MB of weights, which a backward pass needs as well
    assert wide.weight.nbytes > LEAST
    small = Offload(CPU)
    with small:
        wide(torch.randn(2, 2048, requires_grad=True)).sum().backward()
    assert small.tensors == 0


def test_what_repeats_itself_in_memory_and_what_is_not_a_number_stays() -> None:
    offload = Offload(CPU, least=1)
    wide = torch.randn(64, requires_grad=True)
    with offload:
        mask = torch.ones(1, 64).expand(512, 64)
        (wide * mask).sum().backward()
        wide.exp().index_select(0, torch.zeros(64, dtype=torch.int64)).sum()
    assert offload.moved == 64 * 4  # the result of exp alone


def test_a_backward_pass_may_come_later_and_twice() -> None:
    model, x = Tower(), torch.randn(128, 64, requires_grad=True)
    expected = _gradients(model, x, nullcontext())
    model.zero_grad()
    torch.manual_seed(1)
    with Offload(CPU, least=1):
        loss = model(x)
    loss.backward(retain_graph=True)
    loss.backward()
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, 2 * gradient)


def test_what_was_kept_goes_with_the_graph() -> None:
    model, x = Tower(), torch.randn(128, 64, requires_grad=True)
    offload = Offload(CPU, least=1)
    kept: list[weakref.ref] = []
    pack = offload.pack_hook

    def watched(tensor: torch.Tensor):
        stored = pack(tensor)
        if stored is not tensor and not isinstance(stored, torch.Tensor):
            kept.append(weakref.ref(stored))
        return stored

    offload.pack_hook = watched
    with offload:
        model(x).backward()
    gc.collect()
    assert kept
    assert all(ref() is None for ref in kept)


def test_of_the_whole_model_the_inputs_of_checkpointed_layers_leave(base, settings) -> None:
    moved = []
    for again in (True, False):
        model = build_model(settings(train={"gradient_checkpointing": again}), 1)
        ids = torch.randint(0, model.text_size, (1, 40), generator=torch.Generator().manual_seed(0))
        loss, gradients = _loss_and_gradients(model, ids, nullcontext())
        offload = Offload(CPU, least=40 * 32 * 4)
        loss_moved, gradients_moved = _loss_and_gradients(model, ids, offload)
        assert torch.equal(loss, loss_moved)
        assert all(torch.equal(gradients[name], gradients_moved[name]) for name in gradients)
        moved.append(offload.tensors)
    assert moved[0] >= 2  # the two layers' inputs, and what the last norm and the head need
    assert moved[0] < moved[1] / 4


def _loss_and_gradients(model: CadMLLM, ids: torch.Tensor, context) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    model.zero_grad()
    with context:
        embeds = model.rows.embed(ids, model.llm.get_input_embeddings())
        hidden = model.llm(inputs_embeds=embeds, use_cache=False).last_hidden_state
        loss = torch.nn.functional.cross_entropy(model.rows.logits(hidden[0]), torch.arange(40))
        loss.backward()
    return loss.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def test_on_a_cpu_nothing_moves_and_that_is_said() -> None:
    assert isinstance(offloaded(True, CPU), nullcontext)
    assert isinstance(offloaded(False, torch.device("cuda")), nullcontext)
    assert isinstance(offloaded(True, torch.device("cuda")), Offload)
    assert "changes nothing on cpu" in note(True, CPU)
    assert note(False, CPU) == note(True, torch.device("cuda")) == ""


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("again", [False, True])
def test_on_a_card_the_gradients_are_the_same_and_less_is_held(again: bool) -> None:
    card = torch.device("cuda")
    model = nn.Sequential(*(Tower(1024, again) for _ in range(4))).to(card)
    for tower in model[:-1]:
        tower.forward = lambda x, tower=tower: x + tower.blocks[0](x)
    x = torch.randn(8192, 1024, device=card, requires_grad=True)
    peaks, found = [], []
    for offload in (nullcontext(), Offload(card)):
        model.zero_grad()
        torch.manual_seed(1)
        torch.cuda.reset_peak_memory_stats()
        with offload:
            model(x).backward()
        peaks.append(torch.cuda.max_memory_allocated())
        found.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    assert peaks[1] < peaks[0]
