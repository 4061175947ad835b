"""Held-out loss: the same figure however it is cut, text alone always, memory bounded, the run left as it was."""

from __future__ import annotations

import math

import pytest
import torch

from cadmllm.corpus.pack import Room
from cadmllm.errors import CadmllmError
from cadmllm.train import validate
from cadmllm.train.curriculum import Start, plan_stages
from cadmllm.train.session import open_session
from cadmllm.train.validate import HeldOut

MIX = {"text": 0.2, "text+point_cloud": 0.4, "text+image": 0.4}


@pytest.fixture(scope="module")
def held_settings(base, tmp_path_factory):
    from cadmllm.settings import Settings

    model = {"llm": str(base), "points_encoder": "fourier", "point_count": 64, "point_tokens": 8, "fourier_width": 32}
    return lambda stages=None, **train: Settings(
        dtype="float32",
        device="cpu",
        model={**model, "image_encoder": "tiny", "image_bridge": "mlp", "image_tokens": 4},
        lora={"enabled": True, "r": 4, "alpha": 8},
        train={"batch_size": 2, "accumulation": 2, "max_seq_length": 512, "val_samples": 9, **train},
        stages={"3": {"epochs": 1, "lr": 1e-3, "probabilities": MIX, **(stages or {})}},
        run={"dir": tmp_path_factory.mktemp("run")},
    )


@pytest.fixture(scope="module")
def session(held_settings, parts):
    import io

    from cadmllm.console import Console

    settings = held_settings()
    stage = plan_stages(settings, [3])[0]
    quiet = Console(out=io.StringIO(), err=io.StringIO())
    return open_session(settings, stage, Start(None, "test"), parts, quiet)


def _held(session, console, settings=None, **changes) -> HeldOut:
    settings = settings or session.settings
    stage = plan_stages(settings, [3])[0]
    return HeldOut(session.dataset, list(session.dataset.ids), stage, settings, session.collate, console, **changes)


def test_the_figure_does_not_depend_on_how_samples_are_cut(session, console) -> None:
    wanted = _held(session, console).loss(session.engine, Room(0, 1))
    assert set(wanted) == {*MIX, "all"}
    for room in (Room(0, 2), Room(0, 9), Room(400, 2), Room(4096, 2)):
        assert _held(session, console).loss(session.engine, room) == pytest.approx(wanted, rel=1e-5)


def test_all_is_the_mean_over_tokens_and_agrees_with_the_model(session, console) -> None:
    held = _held(session, console)
    figures = held.loss(session.engine, Room(0, 2))
    total = count = 0.0
    session.model.eval()
    with torch.no_grad():
        for items in held.items.values():
            for item in items:
                loss, supervised = session.model.loss(session.collate.pad([held._encoded(item)]))
                total, count = total + float(loss), count + supervised
    session.model.train()
    assert figures["all"] == pytest.approx(total / count, rel=1e-5)


def test_text_alone_is_measured_where_it_is_not_shown_and_does_not_count_to_all(session, console, held_settings) -> None:
    settings = held_settings({"probabilities": {"text+point_cloud": 1.0}})
    figures = _held(session, console, settings).loss(session.engine, Room(0, 2))
    assert set(figures) == {"text", "text+point_cloud", "all"}
    assert figures["all"] == figures["text+point_cloud"] != figures["text"]


def test_what_is_shown_only_at_the_end_is_measured(session, console, held_settings) -> None:
    settings = held_settings({"probabilities": {"text": 1.0}, "probabilities_end": {"text+image": 1.0}})
    assert set(_held(session, console, settings).loss(session.engine, Room(0, 2))) == {"text", "text+image", "all"}


def test_samples_are_read_once_and_what_does_not_fit_into_memory_is_read_again(session, console, monkeypatch) -> None:
    read: list[str] = []
    real = validate.load_sample
    monkeypatch.setattr(validate, "load_sample", lambda dataset, id_, *a, **k: (read.append(id_), real(dataset, id_, *a, **k))[1])
    held = _held(session, console)
    first = held.loss(session.engine, Room(0, 2))
    assert len(read) == 9
    assert held.loss(session.engine, Room(0, 2)) == first
    assert len(read) == 9
    monkeypatch.setattr(validate, "KEPT", 0)
    assert _held(session, console).loss(session.engine, Room(0, 2)) == first
    assert len(read) == 27  # for the lengths, then for the losses


def test_training_does_not_feel_it(session, console) -> None:
    session.model.train()
    before, grads = torch.get_rng_state(), [p.grad for p in session.engine.parameters]
    _held(session, console).loss(session.engine, Room(0, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert session.model.training
    assert [p.grad for p in session.engine.parameters] == grads


def test_logits_of_no_more_than_a_chunk_live_at_a_time(session, console, monkeypatch) -> None:
    sizes: list[int] = []
    real = type(session.model.rows).logits

    def logits(rows, states):
        sizes.append(len(states))
        return real(rows, states)

    monkeypatch.setattr(type(session.model.rows), "logits", logits)
    monkeypatch.setattr(session.model, "chunk", 7)
    figures = _held(session, console).loss(session.engine, Room(4096, 2))
    assert max(sizes) <= 7
    assert sum(sizes) > 7 * 9
    assert math.isfinite(figures["all"])


def test_a_sample_that_vanished_is_noted_and_left_out(session, console, monkeypatch) -> None:
    def lost(dataset, id_, *arguments, **draws):
        raise CadmllmError("E201", f"{id_} is gone", "put it back")

    monkeypatch.setattr(validate, "load_sample", lost)
    known = len(session.dataset.problems)
    assert _held(session, console).loss(session.engine, Room(0, 2)) == {}
    assert {problem.code for problem in session.dataset.problems[known:]} == {"E201"}
    del session.dataset.problems[known:]


def test_nobody_is_held_out(session, console) -> None:
    stage = plan_stages(session.settings, [3])[0]
    held = HeldOut(session.dataset, [], stage, session.settings, session.collate, console)
    assert held.loss(session.engine, Room(0, 2)) == {}


def test_memory_that_runs_out_makes_micro_batches_smaller_and_is_said(session, console, monkeypatch) -> None:
    wanted = _held(session, console).loss(session.engine, Room(0, 8))
    real = type(session.model).loss

    def narrow(model, batch):
        if len(batch.ids) > 1:
            raise torch.OutOfMemoryError("too many")
        return real(model, batch)

    monkeypatch.setattr(type(session.model), "loss", narrow)
    held = _held(session, console)
    assert held.loss(session.engine, Room(0, 8)) == pytest.approx(wanted, rel=1e-5)
    assert console.err.getvalue().count("out of memory in validation") == 3  # 8, 4, 2
    held.loss(session.engine, Room(0, 8))
    assert console.err.getvalue().count("out of memory in validation") == 3
    monkeypatch.setattr(type(session.model), "loss", lambda model, batch: (_ for _ in ()).throw(torch.OutOfMemoryError("no")))
    with pytest.raises(CadmllmError) as caught:
        held.loss(session.engine, Room(0, 8))
    assert caught.value.code == "E609"


class Pair:
    """Two processes seen from one: its own share, and the other one's sums, computed beforehand."""

    def __init__(self, rank: int, other: list[float] | None = None) -> None:
        self.rank, self.other, self.told = rank, other, []

    def share(self, items, cost):
        return list(items)[self.rank :: 2]

    def sum(self, values):
        self.told = list(values)
        return [a + b for a, b in zip(values, self.other or [0.0] * len(values), strict=True)]

    def agree(self, flag):
        return flag

    def most(self, value):
        return value + 1  # the other one has a pass more


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_see_the_figure_of_one(session, console, held_settings, strategy: str) -> None:
    settings = held_settings(distributed=strategy)
    wanted = _held(session, console).loss(session.engine, Room(0, 2))
    first = Pair(0)
    _held(session, console, settings, world=first).loss(session.engine, Room(0, 2))
    second = Pair(1, first.told)
    assert _held(session, console, settings, world=second).loss(session.engine, Room(0, 2)) == pytest.approx(wanted, rel=1e-5)
