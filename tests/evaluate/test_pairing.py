"""Predictions and truths find each other by their names, and what does not is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from cadmllm.errors import CadmllmError
from cadmllm.evaluate.pairing import pairing, pairs


def made(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")
    return folder


def ids(found) -> dict[str, str | None]:
    return {pair.id: pair.prediction.name if pair.prediction else None for pair in found.pairs}


def test_the_same_path_but_for_the_ending(tmp_path):
    ours = made(tmp_path / "ours", "0000/a.stl", "0001/a.STEP", "b.json", "notes.md", ".cache/b.stl", "0000/.b.stl")
    true = made(tmp_path / "true", "0000/a.json", "0001/a.h5", "b.step")
    found = pairing(ours, true)
    assert ids(found) == {"0000/a": "a.stl", "0001/a": "a.STEP", "b": "b.json"}
    assert (found.missing, found.surplus, found.notes) == ([], [], [])
    assert pairs(ours, true) == found.pairs


def test_missing_and_surplus_are_said(tmp_path):
    ours = made(tmp_path / "ours", "a.stl", "z.stl")
    true = made(tmp_path / "true", "a.json", *(f"m{k}.json" for k in range(8)))
    found = pairing(ours, true)
    assert ids(found) == {"a": "a.stl", **{f"m{k}": None for k in range(8)}}
    assert (len(found.missing), found.surplus) == (8, ["z"])
    assert "8 of 9 truths have no prediction" in found.notes[0]
    assert found.notes[0].endswith("m4, ...")
    assert "1 predictions have no truth" in found.notes[1]


def test_of_several_files_of_a_name_the_preferred_is_read(tmp_path):
    ours = made(tmp_path / "ours", "a.stl", "a.step", "a.txt", "b.stl", "b.txt")
    true = made(tmp_path / "true", "a.json", "b.json")
    found = pairing(ours, true)
    assert ids(found) == {"a": "a.step", "b": "b.stl"}
    assert "2 ids have files of several kinds; read is .step or .stl" in found.notes[0]


def test_folders_that_infer_wrote(tmp_path):
    ours = made(tmp_path / "out", *(f"0000/a/{name}" for name in ("program.json", "model.step", "record.json")), "b/record.json")
    true = made(tmp_path / "true", "0000/a.json", "b.json")
    assert ids(pairing(ours, true)) == {"0000/a": "program.json", "b": None}
    (ours / "0000/a/record.json").unlink()
    with pytest.raises(CadmllmError, match="E711"):
        pairing(ours, true)


def test_flat_predictions_are_matched_by_name(tmp_path):
    ours = made(tmp_path / "ours", "1_5.stl", "9_9.stl")
    true = made(tmp_path / "true", "0000/1_5.json", "0003/2_2.json")
    found = pairing(ours, true)
    assert ids(found) == {"0000/1_5": "1_5.stl", "0003/2_2": None}
    assert found.surplus == ["9_9"]
    assert "by their names alone" in found.notes[0]


def test_a_name_that_is_there_twice_matches_nothing(tmp_path):
    ours = made(tmp_path / "ours", "a.stl")
    true = made(tmp_path / "true", "0000/a.json", "0001/a.json")
    with pytest.raises(CadmllmError, match="E711.*more than once"):
        pairing(ours, true)


def test_nothing_in_common(tmp_path):
    ours, true = made(tmp_path / "ours", "a.stl"), made(tmp_path / "true", "b.stl")
    with pytest.raises(CadmllmError, match="E711.*say a and b"):
        pairing(ours, true)
    with pytest.raises(CadmllmError, match="E711.*no file in .*empty"):
        pairing(made(tmp_path / "empty", "x.md"), true)
    with pytest.raises(CadmllmError, match="E711.*a file"):
        pairing(ours / "a.stl", true)
    with pytest.raises(CadmllmError, match="E201"):
        pairing(ours, tmp_path / "gone")


def test_a_data_set_in_place_of_its_programs(tmp_path):
    ours, true = made(tmp_path / "ours", "x/0000/a.stl"), made(tmp_path / "root", "json/0000/b.json", "txt/0000.json")
    with pytest.raises(CadmllmError, match="E711") as refused:
        pairing(ours, true)
    assert str(true / "json") in refused.value.remedy


def test_two_files(tmp_path):
    folder = made(tmp_path, "mine.stl", "theirs.step")
    (pair,) = pairs(folder / "mine.stl", folder / "theirs.step")
    assert (pair.id, pair.prediction, pair.truth) == ("theirs", folder / "mine.stl", folder / "theirs.step")
