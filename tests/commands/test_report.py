"""`cadmllm report` from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from cadmllm.cli import main


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "my run"
    folder.mkdir()
    with (folder / "metrics.jsonl").open("w") as file:
        for step in range(1, 13):
            figures = {
                "loss": 2.0 / step,
                "lr": 1e-4,
                "grad_norm": 1.0,
                "seconds": 0.5,
                "tokens": 100,
                "samples": 8,
                "mix": {"text": 8},
            }
            file.write(json.dumps({"stage": 1, "step": step, "total_steps": 12, "mix": {"text": 8}, **figures}) + "\n")
    return folder


def test_it_draws_and_says_the_figures(run: Path, capsys) -> None:
    assert main(["report", "my run"]) == 0
    said = capsys.readouterr()
    assert "stage1_text" in said.out
    assert "200" in said.out  # tokens a second
    assert "peak GiB" not in said.out  # a column that says nothing
    assert said.err == ""
    assert Image.open(run / "report.png").width == 1600
    assert "| stage1_text | 12 |" in (run / "report.md").read_text()
    assert {"loss.png", "rate.png", "memory.png"} <= {path.name for path in (run / "curves").iterdir()}


def test_as_json_and_elsewhere(run: Path, capsys) -> None:
    before = sorted(run.iterdir())
    assert main(["report", str(run / "metrics.jsonl"), "--out", "a/b", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["stages"][0]["steps"] == 12
    assert found["stages"][0]["tokens_per_s"] == 200.0
    assert found["stages"][0]["peak_gib"] is None
    for path in (found["picture"], found["page"], *found["curves"].values()):
        assert Path(path).is_file()
    assert sorted(run.iterdir()) == before


def test_run_dir_is_the_default(run: Path, capsys) -> None:
    assert main(["report", "--set", "run.dir=my run"]) == 0
    assert (run / "report.png").is_file()


def test_a_folder_without_metrics_is_e611_with_the_command_that_makes_some(run: Path, capsys) -> None:
    (run / "metrics.jsonl").unlink()
    assert main(["report", "my run", "--json"]) == 1
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["code"] == "E611"
    assert "cadmllm train all" in error["remedy"]
    assert list(run.iterdir()) == []


def test_a_place_that_cannot_be_written_is_named(run: Path, capsys) -> None:
    (run / "file").write_text("")
    assert main(["report", "my run", "--out", "my run/file/x"]) == 1
    assert "E303" in capsys.readouterr().err
