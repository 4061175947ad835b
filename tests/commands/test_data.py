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
