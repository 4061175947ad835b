"""`cadmllm data prepare` from the command line."""

from __future__ import annotations

import importlib
import json
import os
from pathlib import Path

import numpy as np
import pytest

from cadmllm.cli import main
from cadmllm.corpus.layout import open_dataset
from cadmllm.settings import DataSettings


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def synth(capsys) -> None:
    assert main(["data", "synth", "--count", "3", "--out", "set", "--quiet"]) == 0
    capsys.readouterr()


def prepared(capsys, *words: str, code: int = 0) -> dict:
    assert main(["data", "prepare", *words, "--workers", "1", "--json", "--quiet"]) == code
    return json.loads(capsys.readouterr().out)


def test_it_completes_the_data_set_itself(synth, capsys):
    Path("set/json/0000/00000001.json").write_text('{"entities": 7}')
    (Path("set/json/0000") / "pipe.json").symlink_to("/etc/passwd")
    os.mkfifo("set/json/0000/fifo.json")
    found = prepared(capsys, "set", "--point-count", "64", "--view-size", "48")
    assert (found["total"], found["made"], found["failed"]) == (3, 2, 1)
    assert found["verdicts"] == {"OK": 2, "PARSE": 1}
    assert found["failures"][0]["id"] == "0000/00000001"
    dataset = open_dataset(DataSettings(root=Path("set")))
    assert [len(dataset.modalities(id_)) for id_ in dataset.ids][::2] == [3, 3]
    cloud = dataset.cloud("0000/00000000", 64, 0)
    lines = [json.loads(line) for line in Path("set/prepared.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == [f"0000/0000000{k}" for k in range(3)]
    assert np.allclose(cloud.transform.center, lines[0]["center"])
    assert cloud.transform.scale == pytest.approx(lines[0]["scale"])
    assert main(["data", "prepare", "set", "--point-count", "64", "--view-size", "48", "--quiet"]) == 0
    said = capsys.readouterr().out
    assert "2 there already" in said
    assert "--retry" in said


def test_an_output_folder_apart(synth, capsys):
    before = sorted(Path("set").rglob("*"))
    found = prepared(capsys, "set", "--out", "more", "--points", "--step", "--point-count", "64", "--seed", "3")
    assert (found["made"], found["out"]) == (3, "more")
    assert sorted(Path("set").rglob("*")) == before
    assert sorted(path.name for path in Path("more").iterdir()) == ["pcd", "prepared.jsonl", "step"]
    dataset = open_dataset(DataSettings(root=Path("set"), points=Path("more/pcd")))
    assert [len(dataset.modalities(id_)) for id_ in dataset.ids] == [2, 2, 2]


def test_what_it_cannot_use_is_refused(synth, capsys):
    Path("empty").mkdir()
    assert prepared(capsys, "empty", code=1)["error"]["code"] == "E401"
    Path("set/prepared.jsonl").write_text("nonsense\n")
    assert prepared(capsys, "set", code=1)["error"]["code"] == "E480"
    Path("set/prepared.jsonl").unlink()
    Path("file").write_text("")
    assert prepared(capsys, "set", "--out", "file/more", code=1)["error"]["code"] == "E303"
    for number in range(3):
        Path(f"set/json/0000/0000000{number}.json").write_text("{}")
    assert prepared(capsys, "set", "--points", code=1)["failed"] == 3


def test_ray_that_is_not_installed_is_said_with_the_command(synth, capsys, monkeypatch):
    real = importlib.import_module

    def without(name: str, *rest):
        if name == "ray":
            raise ModuleNotFoundError("No module named 'ray'")
        return real(name, *rest)

    monkeypatch.setattr(importlib, "import_module", without)
    error = prepared(capsys, "set", "--engine", "ray", code=1)["error"]
    assert error["code"] == "E481"
    assert "pip install" in error["remedy"]
    assert not Path("set/prepared.jsonl").exists()


def test_real_programs_are_prepared(shared, capsys, monkeypatch):
    from cadmllm.corpus import layout

    whole = layout.program_ids
    monkeypatch.setattr(layout, "program_ids", lambda root, every: (whole(root, every)[0][:6], []))
    root = shared / "data" / "deepcad"
    found = prepared(capsys, str(root), "--out", "real", "--points", "--point-count", "64")
    assert found["total"] == 6
    assert found["made"] >= 5
