"""`cadmllm data show` and `data stats` from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from cadmllm.cli import main


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["data", "synth", "--count", "4", "--seed", "2", "--out", "my set", "--quiet"]) == 0


def test_a_sheet_is_drawn_and_told_of(capsys):
    before = sorted(Path("my set").rglob("*"))
    assert main(["data", "show", "0000/00000002", "00000001", "--root", "my set", "--out", "sheets"]) == 0
    said = capsys.readouterr().out
    assert "sheets/0000_00000002.png: 0000/00000002, train" in said
    assert Image.open("sheets/0000_00000001.png").width == 1600
    assert sorted(Path("my set").rglob("*")) == before


def test_random_ids_as_json(capsys):
    capsys.readouterr()
    command = ["data", "show", "--random", "2", "--seed", "5", "--set", "data.root=my set", "--json"]
    assert main(command) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["root"] == "my set"
    assert len({sheet["id"] for sheet in found["sheets"]}) == 2
    for sheet in found["sheets"]:
        assert Path(sheet["sheet"]).is_file()
        assert sheet["built"]["verdict"] == "OK"
        assert sheet["flaws"] == []
        assert sheet["program"]["length"] > 10
    assert main(command) == 0
    assert json.loads(capsys.readouterr().out) == found


@pytest.mark.parametrize(
    ("words", "code", "status"),
    [
        (["nothing", "--root", "my set"], "E407", 1),
        (["../../etc/passwd", "--root", "my set"], "E403", 1),
        (["0000/00000001", "--random", "2"], "E105", 2),
        (["--random", "2", "--root", "my set", "--out", "x.png"], "E105", 2),
        (["--root", "nowhere"], "E401", 1),
    ],
)
def test_what_cannot_be_shown_is_refused(capsys, words, code, status):
    capsys.readouterr()
    assert main(["data", "show", *words, "--json"]) == status
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["code"] == code
    assert error["remedy"]
    assert not Path("show").exists()


def test_a_broken_program_has_its_sheet(capsys):
    Path("my set/json/0000/00000001.json").write_text('{"entities": {')
    capsys.readouterr()
    assert main(["data", "show", "00000001", "--root", "my set", "--json"]) == 0
    sheet = json.loads(capsys.readouterr().out)["sheets"][0]
    assert Path(sheet["sheet"]).is_file()
    assert sheet["side"] == "not used"
    assert sheet["built"] is None
    assert [flaw["level"] for flaw in sheet["flaws"]] == ["fail"]


def test_stats_for_people_and_for_programs(capsys):
    capsys.readouterr()
    assert main(["data", "stats", "my set", "--out", "stats.png"]) == 0
    said = capsys.readouterr().out
    assert "4 ids with caption and program" in said
    assert "Length of the target" in said
    assert "max_seq_length" in said
    assert Image.open("stats.png").width == 1600
    assert main(["data", "stats", "my set", "--json", "--set", "model.point_tokens=9"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["sheet"] is None
    assert found["counts"]["trainable"] == found["measures"]["tokens"]["count"] == 4
    assert found["measures"]["captions"]["max"] == 3
    assert sum(found["measures"]["size"]["histogram"]["counts"]) == 4
    assert {row["longest_target"] for row in found["fit"] if row["max_seq_length"] == 1024} == {960, 951, 887}


def test_stats_refuse_what_is_not_there(capsys):
    capsys.readouterr()
    assert main(["data", "stats", "nowhere", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "E401"
    assert main(["data", "stats", "my set", "--out", "no/such/folder.png", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "E303"
