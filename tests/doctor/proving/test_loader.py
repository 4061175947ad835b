from __future__ import annotations

import time

import pytest

from cadmllm.doctor.proving import duration, loader, pace
from cadmllm.doctor.proving.bench import Intent
from cadmllm.train.windows import Windows


@pytest.fixture(autouse=True)
def quick(monkeypatch) -> None:
    monkeypatch.setattr(loader, "LONGEST", 0.3)
    monkeypatch.setattr(loader, "FEWEST", 1)
    monkeypatch.setattr(pace, "STEPS", 2)


@pytest.mark.long
def test_a_slow_loader_is_told_how_many_workers_to_take(bench, monkeypatch) -> None:
    real = Windows.__getitem__

    def slow(self, index):
        time.sleep(0.2)
        return real(self, index)

    monkeypatch.setattr(loader, "_cores", lambda: 5)
    monkeypatch.setattr(pace, "pace_of", lambda b: pace.Pace([0.15], [100], [4]))
    monkeypatch.setattr(Windows, "__getitem__", slow)
    (finding,) = loader.prove(bench(**{"stages.3.epochs": 40})).findings
    assert (finding.code, finding.level) == ("E866", "warn")
    assert "--set train.workers=" in finding.remedy


def test_a_loader_that_keeps_up_is_no_finding(bench, monkeypatch) -> None:
    monkeypatch.setattr(pace, "pace_of", lambda b: pace.Pace([10.0], [100], [4]))
    outcome = loader.prove(bench())
    assert outcome.findings == ()
    assert "0 workers give" in outcome.summary


@pytest.mark.parametrize(("workers", "rate", "share"), [(0, 100.0, 0.5), (0, 300.0, 0.25), (2, 50.0, 0.5), (2, 400.0, 0.0)])
def test_what_training_waits(workers, rate, share) -> None:
    assert loader.Rate(workers, rate, 10).share(100.0) == pytest.approx(share)


@pytest.mark.long
def test_files_are_forgotten(bench) -> None:
    b = bench()
    assert loader.forget(b, range(1)) >= b.session.windows.window


@pytest.mark.long
def test_the_time_of_the_run_is_that_of_its_stages(bench) -> None:
    b = bench(**{"train.val_steps": 2, "train.save_steps": 2, "stages.1.epochs": 2})
    outcome = duration.prove(b)
    found = b.measured["time"]
    assert [row["stage"] for row in found["stages"]] == [1, 2, 3]
    assert found["seconds"] == pytest.approx(sum(row["seconds"] for row in found["stages"]))
    assert found["low"] < found["seconds"] < found["high"]
    assert found["stages"][0]["steps"] == 2 * found["stages"][0]["steps"] // 2
    assert len(outcome.details) >= 3
    # validation and saving are in it
    steps = sum(row["steps"] for row in found["stages"])
    assert found["seconds"] > found["seconds_a_save"]
    assert steps > 0


@pytest.mark.long
def test_a_stage_that_is_done_takes_no_time(bench, monkeypatch) -> None:
    b = bench(intent=Intent(resume=True))
    done = b.stages[0].folder
    monkeypatch.setattr(duration, "is_complete", lambda folder: folder == done)
    assert [stage.number for stage in duration._ahead(b)] == [2, 3]
