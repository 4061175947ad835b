"""metrics.jsonl has each step once, and its figures are those of the whole file without reading it again."""

from __future__ import annotations

import errno
import json
import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cadmllm.errors import CadmllmError
from cadmllm.train.metrics import Metrics, read_metrics


def _record(stage: int, step: int) -> dict:
    mix = {"text": step % 3, "text+image": 8 - step % 3}
    figures = {"loss": 1 / (7 * step), "seconds": 0.1 * step, "supervised": step, "epoch": step / 4, "mix": mix}
    return {"stage": stage, "step": step, **figures}


def _write(metrics: Metrics, stage: int, steps: range) -> None:
    for step in steps:
        metrics.write(_record(stage, step))


def _told(path: Path, stage: int) -> dict:
    """The figures as a reader of the whole file computes them."""
    records = [r for r in read_metrics(path) if r["stage"] == stage]
    losses = [r["loss"] for r in records]
    count = min(10, max(1, len(losses) // 10))
    return {
        "steps": len(records),
        "loss_begin": math.fsum(losses[:count]) / count,
        "loss_end": math.fsum(losses[-count:]) / count,
        "seconds": pytest.approx(math.fsum(r["seconds"] for r in records)),
        "supervised_tokens": sum(r["supervised"] for r in records),
        "mix": {name: sum(r["mix"][name] for r in records) for name in ("text", "text+image")},
    }


def test_rewinding_drops_what_will_be_written_again_and_torn_lines(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path / "metrics.jsonl")
    metrics.rewind(1, 0)
    _write(metrics, 1, range(1, 6))
    metrics.rewind(2, 0)
    _write(metrics, 2, range(1, 8))
    metrics.sync()
    metrics.close()
    with metrics.path.open("a") as file:
        file.write('{"stage": 2, "st')
    again = Metrics(metrics.path)
    assert again.rewind(2, 4) == 1
    _write(again, 2, range(5, 8))
    again.close()
    records = [json.loads(line) for line in metrics.path.read_text().splitlines()]
    assert [(r["stage"], r["step"]) for r in records] == [(1, k) for k in range(1, 6)] + [(2, k) for k in range(1, 8)]
    assert records[2]["loss"] == 1 / 21  # full precision
    assert read_metrics(metrics.path) == records
    assert sorted(p.name for p in tmp_path.iterdir()) == ["metrics.jsonl"]


def test_lines_of_others_and_of_older_versions_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = [b'{"stage": 1, "step": 1}', b"\xff\xfe", b"[1]", b"17", b'{"stage": "1", "step": 2}', b'{"stage": true, "step": 2}']
    lines += [b"", b'{"stage": 1, "step": 1, "loss": 9.0}', b'{"stage": 1, "step": 2, "loss": NaN, "mix": 3, "seconds": "4"}']
    path.write_bytes(b"\r\n".join(lines))  # the last one lacks its end, but is whole
    metrics = Metrics(path)
    assert metrics.figures(1)["steps"] == 2
    assert math.isnan(metrics.figures(1)["loss_begin"])
    assert metrics.rewind(1, 2) == 5
    metrics.write({"stage": 1, "step": 3, "loss": 2.0, "grad_norm": math.inf})
    metrics.close()
    assert [r["step"] for r in read_metrics(path)] == [1, 2, 3]
    assert json.loads(path.read_text().splitlines()[-1])["grad_norm"] is None  # JSON has no infinity
    assert metrics.figures(1)["loss_end"] == 2.0


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), min_size=1, max_size=5))
def test_the_figures_are_those_of_the_file_however_often_it_was_rewound(tmp_path_factory, runs) -> None:
    """Each run rewinds to a step that is there and writes some more."""
    path = tmp_path_factory.mktemp("run") / "metrics.jsonl"
    done = 0
    for back, more in runs:
        metrics = Metrics(path)
        begin = max(0, done - back)
        metrics.rewind(3, begin)
        _write(metrics, 3, range(begin + 1, begin + more + 1))
        done = begin + more
        kept = metrics.figures(3)
        metrics.close()
        assert metrics.count == done == Metrics(path).count
        assert kept == Metrics(path).figures(3)  # as a fresh reader finds them
        if done:
            assert kept == _told(path, 3)
            losses = [r["loss"] for r in read_metrics(path)][4 * ((done - 1) // 4) :]
            assert metrics.epoch_loss(3) == pytest.approx(sum(losses) / len(losses))


def test_the_figures_cost_nothing_that_grows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = Metrics(tmp_path / "metrics.jsonl")
    metrics.rewind(1, 0)
    _write(metrics, 1, range(1, 2000))
    monkeypatch.setattr(Path, "open", lambda *_, **__: pytest.fail("the file is read again"))
    assert metrics.figures(1)["steps"] == metrics.count == 1999
    tail = metrics._known()[1]
    assert len(tail.first) == len(tail.last) == 10


def test_a_stage_without_steps_has_no_loss(tmp_path: Path) -> None:
    figures = Metrics(tmp_path / "metrics.jsonl").figures(2)
    assert math.isnan(figures["loss_begin"])
    assert (figures["steps"], figures["mix"]) == (0, {})


class FullDisk:
    """A file whose disk takes `room` bytes and then says that it is full."""

    def __init__(self, file, room: int) -> None:
        self.file, self.room = file, room

    def write(self, data: bytes) -> int:
        if not self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        taken = self.file.write(data[: self.room])
        self.room -= taken
        return taken

    def __getattr__(self, name: str):
        return getattr(self.file, name)


def test_a_full_disk_loses_no_line(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path / "metrics.jsonl")
    metrics.rewind(1, 0)
    full = FullDisk(metrics._file, 250)  # in the middle of a line
    metrics._file = full  # ty: ignore[invalid-assignment]
    _write(metrics, 1, range(1, 6))
    with pytest.raises(OSError, match="No space"):
        metrics.sync()
    full.room = 10**6
    _write(metrics, 1, range(6, 8))
    metrics.sync()
    metrics.close()
    assert read_metrics(metrics.path) == [_record(1, step) for step in range(1, 8)]


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(CadmllmError) as caught:
        Metrics(tmp_path / "nowhere" / "metrics.jsonl").rewind(1, 0)
    assert caught.value.code == "E607"
    assert "nowhere" in caught.value.message
