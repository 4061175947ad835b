"""Memory that runs out makes micro-batches smaller: the same step, said, recorded, and taken up by a resumed run."""

from __future__ import annotations

import gc
import json
import weakref
from collections.abc import Callable

import pytest
import torch

from cadmllm.corpus.types import Batch
from cadmllm.errors import CadmllmError
from cadmllm.models.fusion import CadMLLM
from cadmllm.train import loop
from cadmllm.train.checkpoint import step_saves
from cadmllm.train.metrics import records


def _small_memory(monkeypatch: pytest.MonkeyPatch, tokens: int, error: Callable[[], Exception]) -> list[int]:
    """A device on which a training pass over more than so many tokens fails; the sizes that were tried."""
    real, tried = CadMLLM.loss, []

    def loss(self: CadMLLM, batch: Batch) -> tuple[torch.Tensor, int]:
        if torch.is_grad_enabled():
            tried.append(batch.computed)
            if batch.computed > tokens:
                raise error()
        return real(self, batch)

    monkeypatch.setattr(CadMLLM, "loss", loss)
    return tried


def _exhausted() -> Exception:
    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def _exhausted_cpu() -> Exception:
    return RuntimeError("[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory: you tried to allocate")


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("error", [_exhausted, _exhausted_cpu])
def test_a_step_that_does_not_fit_is_taken_in_smaller_parts(
    settings, parts, console, monkeypatch, tmp_path, packing, error
) -> None:
    whole = settings(train={"packing": packing, "max_steps": 3, "batch_size": 4, "accumulation": 1}, run={"dir": tmp_path / "a"})
    wanted = [r["loss"] for r in records(loop.train(whole, [1], parts, console).metrics)]
    tried = _small_memory(monkeypatch, 260, error)
    small = settings(train={"packing": packing, "max_steps": 3, "batch_size": 4, "accumulation": 1}, run={"dir": tmp_path / "b"})
    result = loop.train(small, [1], parts, console)
    found = list(records(result.metrics))
    assert max(tried) > 260
    assert [r["loss"] for r in found] == pytest.approx(wanted, rel=1e-5)
    assert max(r["micro_batches"] for r in found) > 1
    assert "out of memory with micro-batches of" in console.err.getvalue()
    assert ("train.pack_tokens=" if packing else "train.batch_size=") in console.err.getvalue()


def test_the_smaller_room_is_kept_by_a_resumed_run(settings, parts, console, monkeypatch, tmp_path) -> None:
    """Ten steps with a failure in the first, stopped and resumed: the same numbers, and memory runs out only once."""
    _small_memory(monkeypatch, 260, _exhausted)
    options = {"train": {"batch_size": 4, "accumulation": 1, "save_steps": 2}, "lora": {"dropout": 0.1}}
    straight = settings(**options, run={"dir": tmp_path / "straight"})
    loop.train(straight, [1], parts, console)
    broken = settings(**options, run={"dir": tmp_path / "broken"})
    with monkeypatch.context() as patch:
        patch.setattr("cadmllm.train.stagerun.StageRun._finish", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            loop.train(broken, [1], parts, console)
    save = step_saves(broken.run.dir / "stage1_text_model")[0]
    state = json.loads((save / "training/state.json").read_text())["companions"]["squeeze"]
    assert state["times"] > 0
    assert state["tokens"] < 4 * 512
    console.err.truncate(0)
    loop.train(broken, [1], parts, console, resume=True)
    said = console.err.getvalue()
    assert "as memory ran out with 2048 packed tokens before" in said
    assert "out of memory" not in said
    a, b = ([r["loss"] for r in records(s.run.dir / "metrics.jsonl")] for s in (straight, broken))
    assert a == b


def test_single_samples_that_do_not_fit_end_the_run_with_its_steps_saved(settings, parts, console, monkeypatch, tmp_path) -> None:
    s = settings(train={"batch_size": 4, "accumulation": 1})
    real, calls = CadMLLM.loss, []

    def loss(self: CadMLLM, batch: Batch) -> tuple[torch.Tensor, int]:
        if torch.is_grad_enabled():
            calls.append(1)
            if len(calls) > 2:  # the third step and whatever it is cut into
                raise _exhausted()
        return real(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(CadMLLM, "loss", loss)
        with pytest.raises(CadmllmError) as caught:
            loop.train(s, [1], parts, console)
    assert caught.value.code == "E609"
    assert "gradient_checkpointing=true" in caught.value.remedy
    assert "the 2 steps before it are saved" in console.err.getvalue()
    s.train.gradient_checkpointing = True  # what the remedy says is allowed when a run goes on
    result = loop.train(s, [1], parts, console, resume=True)
    assert result.stages[0].finished
    assert [r["step"] for r in records(result.metrics)] == [1, 2, 3, 4, 5, 6]
    assert "train.gradient_checkpointing was False and is True: the same numbers but for rounding" in console.err.getvalue()


def test_what_did_not_fit_is_gone_before_the_step_is_taken_again(settings, parts, console, monkeypatch) -> None:
    """Otherwise the second attempt would run out of memory because of the first."""
    real, seen, alive = CadMLLM.loss, [], []

    def loss(self: CadMLLM, batch: Batch) -> tuple[torch.Tensor, int]:
        if not torch.is_grad_enabled():
            return real(self, batch)
        alive.append([ref() for ref in seen])
        large = self.embed(batch)  # what a pass that fails half-way holds
        seen.append(weakref.ref(large))
        if batch.computed > 260:
            raise _exhausted()
        return real(self, batch)

    monkeypatch.setattr(CadMLLM, "loss", loss)
    gc.disable()
    try:
        loop.train(settings(train={"max_steps": 1, "batch_size": 4, "accumulation": 1}), [1], parts, console)
    finally:
        gc.enable()
    assert len(alive) > 1
    assert all(value is None for values in alive for value in values)


def test_any_other_error_is_not_taken_for_memory(settings, parts, console, monkeypatch) -> None:
    _small_memory(monkeypatch, 10, lambda: RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        loop.train(settings(), [1], parts, console)
