"""`cadmllm data` from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cadmllm.cli import main
from cadmllm.corpus.layout import open_dataset
from cadmllm.settings import DataSettings


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_synth_writes_a_data_set_and_says_what_next(capsys):
    assert main(["data", "synth", "--count", "12", "--seed", "3", "--out", "my set", "--quiet"]) == 0
    said = capsys.readouterr().out
    assert "12 made" in said
    assert "--set data.root=" in said
    assert len(open_dataset(DataSettings(root=Path("my set")))) == 12


def test_synth_as_json(capsys):
    assert main(["data", "synth", "--count", "2", "--seed", "3", "--out", "set", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["total"] == found["made"] == 2
    assert found["failures"] == []


def test_a_foreign_folder_is_refused(capsys):
    Path("set").mkdir()
    Path("set/thesis.txt").write_text("x")
    assert main(["data", "synth", "--count", "2", "--out", "set", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "E409"
    assert main(["data", "synth", "--count", "0", "--out", "new"]) == 2
    assert not Path("new").exists()


def test_prepare_makes_what_a_data_set_lacks(capsys):
    assert main(["data", "synth", "--count", "3", "--out", "set", "--quiet"]) == 0
    Path("set/json/0000/00000001.json").write_text('{"entities": 7}')
    before = sorted(Path("set").rglob("*"))
    command = ["data", "prepare", "set", "--out", "more", "--points", "--point-count", "64", "--workers", "1", "--quiet"]
    capsys.readouterr()
    assert main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["total"], found["made"], found["failed"]) == (3, 2, 1)
    assert found["verdicts"] == {"OK": 2, "PARSE": 1}
    assert found["failures"][0]["id"] == "0000/00000001"
    assert sorted(Path("set").rglob("*")) == before
    dataset = open_dataset(DataSettings(root=Path("set"), points=Path("more/pcd")))
    assert [len(dataset.modalities(id_)) for id_ in dataset.ids] == [2, 1, 2]
    assert main(command) == 0
    assert "2 there already" in capsys.readouterr().out


def test_prepare_refuses_what_it_cannot_use(capsys):
    Path("empty").mkdir()
    assert main(["data", "prepare", "empty", "--out", "more", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "E401"
    main(["data", "synth", "--count", "1", "--out", "set", "--quiet"])
    capsys.readouterr()
    assert main(["data", "prepare", "set", "--out", "set", "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "E105"
    Path("set/json/0000/00000000.json").write_text("{}")
    assert main(["data", "prepare", "set", "--out", "more", "--points", "--quiet"]) == 1


def test_real_programs_are_prepared(shared, capsys, monkeypatch):
    from cadmllm.corpus import layout

    whole = layout.programs_of
    monkeypatch.setattr(layout, "programs_of", lambda root, every: (whole(root, every)[0][:6], []))
    root = shared / "data" / "deepcad"
    assert main(["data", "prepare", str(root), "--out", "real", "--points", "--point-count", "64", "--json", "--quiet"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["total"] == 6
    assert found["made"] >= 5
