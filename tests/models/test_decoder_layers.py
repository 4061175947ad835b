"""Layers that are computed again in the backward pass, and compiled ones."""

from __future__ import annotations

import dataclasses
import shutil
import sysconfig
from pathlib import Path

import pytest
import torch

from cadmllm.errors import CadmllmError
from cadmllm.models import compiling
from cadmllm.models.compiling import compile_layers
from cadmllm.models.fusion import CadMLLM, build_model
from cadmllm.models.layers import LayerForward, decoder_layers, layer_forwards
from cadmllm.models.weights import trained_state


def _gradients(model: CadMLLM, batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    model.zero_grad()
    torch.manual_seed(7)  # of the dropout
    loss, _ = model.loss(batch)
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def _settings(settings, again: bool, dropout: float = 0.0, lora: bool = True):
    chosen = settings(lora=lora)
    chosen.lora.dropout = dropout
    chosen.train.gradient_checkpointing = again
    return chosen


@pytest.mark.parametrize("lora", [True, False])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_checkpointed_layers_give_the_same_gradients_to_the_bit(settings, make_batch, lora: bool, dropout: float) -> None:
    kept, again = (build_model(_settings(settings, flag, dropout, lora), 2) for flag in (False, True))
    batch = make_batch(kept.text_size, clouds=1)
    loss, gradients = _gradients(kept, batch)
    loss_again, gradients_again = _gradients(again, batch)
    assert torch.equal(loss, loss_again)
    assert gradients.keys() == gradients_again.keys()
    assert all(torch.equal(value, gradients_again[name]) for name, value in gradients.items())
    assert list(kept.state_dict()) == list(again.state_dict())


def test_dropout_goes_on_as_if_nothing_had_been_computed_twice(settings, make_batch) -> None:
    """The random state after a step is the same with and without checkpointing: a resumed run draws what it would have drawn."""
    states = []
    for flag in (False, True):
        model = build_model(_settings(settings, flag, 0.5), 1)
        _gradients(model, make_batch(model.text_size))
        states.append(torch.get_rng_state())
    assert torch.equal(*states)


def test_checkpointed_layers_are_run_twice_in_training_and_once_otherwise(settings, make_batch) -> None:
    model = build_model(_settings(settings, True), 1)
    runs: list[int] = []
    for number, forward in enumerate(layer_forwards(model.llm)):
        plain = forward.plain
        forward.plain = lambda *args, number=number, plain=plain, **options: runs.append(number) or plain(*args, **options)
    batch = make_batch(model.text_size)
    model.loss(batch)[0].backward()
    assert runs == [0, 1, 1, 0]
    runs.clear()
    with torch.no_grad():
        model.loss(batch)
    model.eval()
    model.loss(batch)[0].backward()
    assert runs == [0, 1, 0, 1]


def test_only_the_inputs_of_layers_are_kept(settings, make_batch) -> None:
    """What autograd saves of the decoder shrinks to a tensor a layer."""
    sizes = []
    for flag in (False, True):
        model = build_model(_settings(settings, flag), 1)
        batch = make_batch(model.text_size)
        saved: list[torch.Tensor] = []
        weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
        with torch.autograd.graph.saved_tensors_hooks(lambda t, saved=saved: saved.append(t) or t, lambda t: t):
            model.loss(batch)
        sizes.append(sum(t.nbytes for t in saved if t.untyped_storage().data_ptr() not in weights))
    assert sizes[1] < sizes[0] / 4


def test_the_forward_is_replaced_once(settings) -> None:
    model = build_model(_settings(settings, True), 1)
    first = layer_forwards(model.llm)
    assert [id(forward) for forward in layer_forwards(model.llm)] == [id(forward) for forward in first]
    assert all(isinstance(layer.forward, LayerForward) for layer in decoder_layers(model.llm))
    assert not isinstance(first[0].plain, LayerForward)


def test_without_a_compiler_the_command_that_brings_it_is_said(settings, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build_model(settings(), 1)
    monkeypatch.setattr(compiling.shutil, "which", lambda name: None)
    with pytest.raises(CadmllmError, match=r"no compiler \(g\+\+\)") as caught:
        compile_layers(model)
    assert caught.value.code == "E613"
    assert "apt-get install" in caught.value.remedy
    assert "--set train.compile=false" in caught.value.remedy
    assert not any(isinstance(layer.forward, LayerForward) for layer in decoder_layers(model.llm))


def test_without_headers_or_triton_it_is_said(settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(compiling.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(compiling.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(CadmllmError, match="triton"):
        compiling._check_tools(torch.device("cuda"))
    monkeypatch.setattr(compiling.sysconfig, "get_paths", lambda: {"include": str(tmp_path)})
    with pytest.raises(CadmllmError, match=r"Python\.h"):
        compiling._check_tools(torch.device("cpu"))


def test_a_compiler_that_fails_is_found_before_the_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(function: object) -> object:
        def run(*_: object) -> None:
            raise RuntimeError("CppCompileError:\nx.cpp:1: fatal error: omp.h: No such file or directory\nmore")

        return run

    monkeypatch.setattr(compiling.torch, "compile", failing)
    with pytest.raises(CadmllmError, match=r"omp\.h: No such file"):
        compiling._try(torch.device("cpu"))


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("again", [False, True])
def test_compiled_layers_share_a_graph_for_all_lengths(settings, make_batch, again: bool) -> None:
    if not shutil.which("g++") or not (Path(sysconfig.get_paths()["include"]) / "Python.h").is_file():
        pytest.skip("there is no C++ compiler (g++, python3-dev)")
    model = build_model(_settings(settings, again), 1)
    batch = make_batch(model.text_size)
    loss, gradients = _gradients(model, batch)
    names = list(model.state_dict()), list(trained_state(model))
    torch.compiler.reset()
    assert "2 decoder layers" in compile_layers(model)
    counted = torch._dynamo.utils.counters["stats"]
    counted.clear()
    loss_compiled, gradients_compiled = _gradients(model, batch)
    torch.testing.assert_close(loss_compiled, loss)
    assert gradients.keys() == gradients_compiled.keys()
    for name, value in gradients.items():
        torch.testing.assert_close(gradients_compiled[name], value, msg=name)
    for length in (7, 8, 10):
        shorter = {k: getattr(batch, k)[:, :length] for k in ("input_ids", "labels", "attention_mask", "position_ids")}
        model.loss(dataclasses.replace(batch, **shorter))[0].backward()
    assert counted["unique_graphs"] == 1
    assert (list(model.state_dict()), list(trained_state(model))) == names
    model.eval()
    assert torch.isfinite(model.loss(batch)[0])  # as it is: generation would compile a graph for every kind of cache
    assert counted["unique_graphs"] == 1
