from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from encoders import make_dino, make_michelangelo

from cadmllm.doctor.proving import steps, worst
from cadmllm.doctor.proving.live import Live
from cadmllm.doctor.proving.taking import samples_of, taken
from cadmllm.train import squeeze
from cadmllm.train.step import OutOfRoom, train_step


def test_a_healthy_run_takes_what_was_planned(bench, lora) -> None:
    b = bench(**lora)
    outcome = steps.prove(b)
    found = b.measured["memory"]
    assert not [f for f in outcome.findings if f.level == "fail"]
    assert found["peak"] > 0
    assert found["bytes_per_token"] > 0
    assert found["longest_micro_batch"] > found["tokens"]  # the machine of a test has more room than that
    assert "two steps at the worst micro-batch" in outcome.summary
    assert not list(b.asked.run.dir.glob("*"))  # nothing of the run's own folder is touched


def test_the_worst_micro_batch_is_full_of_the_longest_samples_and_shows_everything(bench) -> None:
    b = bench()
    batch = worst.full(b, samples_of(b))
    lengths = batch.documents
    most = b.session.windows.room.tokens
    assert sum(lengths) <= most
    assert len(lengths) <= b.session.windows.window
    assert {part for name in batch.combinations for part in name.split("+")} == {"text", "point_cloud", "image"}
    every = [b.dataset.length(id_) for id_ in b.session.data.train_ids]
    assert max(b.dataset.length(id_) for id_ in batch.ids) == max(every)
    less = worst.shorter(b, samples_of(b), batch.computed)
    assert less is not None
    assert 0 < less.computed <= batch.computed // 2


@pytest.mark.long
def test_padded_micro_batches_have_as_many_samples_as_training_gives_them(bench) -> None:
    b = bench(**{"train.packing": False, "train.batch_size": 3})
    batch = worst.full(b, samples_of(b))
    assert len(batch.ids) == 3
    assert not batch.documents


@pytest.mark.long
@pytest.mark.parametrize(("factor", "codes"), [(1.0, []), (1.5, ["E861"]), (0.7, ["E861"])])
def test_a_plan_that_is_off_is_said(bench, monkeypatch, factor, codes) -> None:
    b = bench()
    peak = taken(b).peak
    real = steps.predict

    def planned(*args, **options):
        memory = real(*args, **options)
        one = replace(memory.lines[0], bytes=round(factor * peak), place="ram")
        return replace(memory, lines=(one,))

    monkeypatch.setattr(steps, "predict", planned)
    outcome = steps.prove(b)
    assert [f.code for f in outcome.findings] == codes
    assert all(f.level == "warn" for f in outcome.findings)


@pytest.mark.long
def test_a_micro_batch_that_must_be_cut_does_not_fit(bench, monkeypatch) -> None:
    calls = []

    def out_of_room(engine, batches, inspect=None):
        calls.append(sum(len(batch.ids) for batch in batches))
        if max(len(batch.ids) for batch in batches) > 1:
            raise OutOfRoom("CUDA out of memory")
        return train_step(engine, batches, inspect)

    monkeypatch.setattr(squeeze, "train_step", out_of_room)
    (finding,) = steps.prove(bench()).findings
    assert (finding.code, finding.level) == ("E813", "fail")
    assert "--set" in finding.remedy


@pytest.mark.long
def test_memory_that_is_not_enough_for_one_sample_is_a_failure_with_a_way_out(bench, monkeypatch) -> None:
    def out_of_room(engine, batches, inspect=None):
        raise OutOfRoom("CUDA out of memory")

    monkeypatch.setattr(squeeze, "train_step", out_of_room)
    monkeypatch.setattr(steps, "free_bytes", lambda b: 3 * 2**30)
    (finding,) = steps.prove(bench()).findings
    assert (finding.code, finding.level) == ("E609", "fail")
    assert "--set train." in finding.remedy


@pytest.mark.long
def test_float16_takes_as_many_tries_as_its_scale_needs(bench, lora) -> None:
    found = taken(bench(**lora, dtype="float16"))
    assert found.steps >= 2
    assert len(found.gradients) == 2


def test_two_lengths_give_the_longest_micro_batch() -> None:
    from cadmllm.doctor.proving.bench import Taken

    found = Taken(tokens=(1000, 500), peak=3000, shorter=2000)
    assert steps._line(None, found, 11_000) == (2, 5000)  # ty: ignore[invalid-argument-type]
    assert steps._line(None, Taken(tokens=(1000, 0), peak=3000), 11_000) == (None, None)  # ty: ignore[invalid-argument-type]


def test_live_counts_what_is_alive_at_once() -> None:
    held = torch.zeros(1000)
    with Live([held]) as live:
        a = held + 1
        b = a * 2
        del a
        c = b + 1
        del b, c
    assert live.peak == 2 * 4000
    assert live.now == 0


@pytest.mark.long
def test_a_stage_whose_predecessor_is_there_starts_from_it(bench, monkeypatch) -> None:
    from cadmllm.doctor.proving import reload
    from cadmllm.doctor.proving.bench import Bench, Intent

    one = bench(stages=(1,))
    reload.save(one, taken(one).steps)
    (save,) = (one.settings.run.dir / "stage1_text_model" / "steps").glob("step_*")
    two = bench(stages=(2,), **{"run.init_from": str(save)})
    assert two.start.checkpoint == save
    assert steps.prove(two).findings == ()
    assert bench(stages=(2,)).start.reason.startswith("the base model")  # the stage before is missing
    assert bench(stages=(2,), intent=Intent(from_scratch=True)).start.reason == "--from-scratch"
    assert bench(stages=(1, 2)).start.reason == "the base model: the stage before is not trained yet"
    resumed = Bench(one.settings, (1,), one.dataset, one.settings.run.dir / "other", one.console, Intent(resume=True))
    assert resumed.start.checkpoint == save


@pytest.mark.long
def test_cached_features_are_used_as_training_uses_them(bench, lora, tmp_path) -> None:
    from cadmllm.doctor.proving.__main__ import MODULES, proved
    from cadmllm.train.encode import Options, encode

    make_michelangelo(tmp_path / "points.pt")
    make_dino(tmp_path / "dino")
    frozen = {
        "model.points_encoder": "michelangelo",
        "model.points_checkpoint": str(tmp_path / "points.pt"),
        "model.point_tokens": 9,
        "model.image_encoder": str(tmp_path / "dino"),
        "model.image_bridge": "perceiver",
        "model.image_tokens": 5,
        "model.image_views": 2,
        "model.resampler_width": 32,
        **lora,
    }
    running = bench(**frozen)
    assert steps.prove(running).findings == () or steps.prove(running).findings[0].code == "E861"
    encode(running.asked, running.dataset, tmp_path / "store", Options(draws=2, dtype="float32"), running.console)
    b = bench(**frozen, **{"data.features": str(tmp_path / "store"), "stages.3.epochs": 8})
    assert b.session.model.points.encoder is None
    for name in MODULES:
        outcome = proved(name, b)
        assert [f.message for f in outcome.findings if f.level == "fail"] == [], name
