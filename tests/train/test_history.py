"""A run read from its metrics, however they came about."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cadmllm.errors import CadmllmError
from cadmllm.train.history import find_metrics, load


def write(path: Path, records: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def record(stage: int, step: int, **more: object) -> dict:
    figures = {"loss": 1.0 + 1.0 / step, "seconds": 2.0, "samples": 8, "tokens": 900, "computed": 1000, "supervised": 300}
    return {"stage": stage, "step": step, "total_steps": 4, "mix": {"text": 6, "text+image": 2}, **figures, **more}


def test_the_figures_of_a_stage(tmp_path: Path) -> None:
    steps = [record(2, k, waited=0.5, peak_gib=float(k), lost=1, time=f"t{k}") for k in range(1, 4)]
    steps[1] |= {"updated": False, "grad_norm": None, "val_loss": {"text": 2.0, "all": None}, "samples_judged": {"valid": 0.5}}
    steps[2] |= {"notices": ["spike"], "gpu_throttled": True}
    row = load(write(tmp_path / "metrics.jsonl", steps))[0].row()
    expected = {
        "name": "stage2_text_pc",
        "steps": 3,
        "total_steps": 4,
        "finished": False,
        "loss_begin": 2.0,
        "val_loss": {"text": 2.0},
        "judged": {"valid": 0.5},
        "samples_per_s": 4.0,
        "tokens_per_s": 450.0,
        "supervised_tokens_per_s": 150.0,
        "waiting_share": 0.25,
        "padding_share": pytest.approx(0.1),
        "peak_gib": 3.0,
        "gpu_memory_gib": None,
        "seconds": 6.0,
        "started": "t1",
        "ended": "t3",
        "mix": {"text": 0.75, "text+image": 0.25},
        "lost": 3,
        "fell_back": None,
        "overflows": 1,
        "throttled": 1,
        "notices": 1,
    }
    assert {key: row[key] for key in expected} == expected


def test_bare_records_of_an_older_version_have_figures_too(tmp_path: Path) -> None:
    row = load(write(tmp_path / "metrics.jsonl", [{"stage": 1, "step": 1}, {"stage": 1, "step": 2, "rates": 3, "mix": [1]}]))[
        0
    ].row()
    assert row["steps"] == row["total_steps"] == 2
    assert row["loss_begin"] is row["seconds"] is row["tokens_per_s"] is row["padding_share"] is None


def test_stages_come_in_their_order_and_each_step_once(tmp_path: Path) -> None:
    steps = [record(2, 1), record(1, 1), record(1, 2), record(1, 2, loss=9.0), record(2, 2, rates={"points": 1e-4}), record(2, 3)]
    path = write(tmp_path / "metrics.jsonl", steps)
    path.write_text(path.read_text() + '{"stage": 2, "st')
    stages = load(path)
    assert [(stage.number, list(stage.steps)) for stage in stages] == [(1, [1, 2]), (2, [1, 2, 3])]
    assert stages[0].column("loss").tolist() == [2.0, 1.5]
    assert stages[1].column("rates/points").tolist()[1] == 1e-4
    assert len(stages[1].column("rates/points")) == 3


def test_a_finished_stage_says_what_was_held_out_at_its_end(tmp_path: Path) -> None:
    folder = tmp_path / "stage1_text_model"
    metadata = {"step": 2, "val_loss": {"text": 0.5}, "judged": {"all": 0.9}, "base": "tiny"}
    write(folder / "training_metadata.json", [metadata])
    (folder / "manifest.json").write_text(json.dumps({"files": {}}))
    path = write(tmp_path / "metrics.jsonl", [record(1, 1, val_loss={"text": 0.7}), record(1, 2)])
    stage = load(path)[0]
    assert stage.finished
    assert stage.held_out == {"text": [(1, 0.7), (2, 0.5)]}
    assert stage.row()["judged"] == {"all": 0.9}
    write(folder / "training_metadata.json", [{**metadata, "step": 9}])  # of another run
    assert load(path)[0].held_out == {"text": [(1, 0.7)]}


def test_the_metrics_of_a_run_are_found(tmp_path: Path) -> None:
    path = write(tmp_path / "run" / "metrics.jsonl", [record(1, 1)])
    assert find_metrics(tmp_path / "run") == find_metrics(path) == find_metrics(tmp_path / "run/stage1_text_model") == path


@pytest.mark.parametrize("content", [None, b"", b"\x00\xff", b'{"loss": 1}\n'])
def test_a_folder_without_metrics_is_refused(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "metrics.jsonl").write_bytes(content)
    with pytest.raises(CadmllmError) as caught:
        load(find_metrics(tmp_path))
    assert caught.value.code == "E611"
    assert f"cadmllm train all --preset tiny --set run.dir={tmp_path}" in caught.value.remedy
