"""`cadmllm data check` from the command line, on real folders."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cadmllm.cli import main


def checked(capsys, *words: str | Path) -> tuple[int, dict]:
    """Exit code and JSON of a check."""
    capsys.readouterr()
    code = main(["data", "check", *map(str, words), "--json", "--quiet"])
    said = capsys.readouterr()
    return code, json.loads(said.out)


def codes(found: dict) -> dict[str, int]:
    return {finding["code"]: finding["count"] for finding in found["findings"]}


def test_a_healthy_set_has_no_finding(healthy, capsys):
    for stage in (1, 2, 3):
        code, found = checked(capsys, healthy, "--stage", stage)
        assert code == 0
        assert found["findings"] == []
        assert found["ready"] is True
        assert found["root"] == str(healthy)
    assert {number: report["ids"] for number, report in found["stages"].items()} == {"1": 6, "2": 6, "3": 6}
    assert found["stages"]["3"]["have"] == {"text": 6, "point_cloud": 6, "image": 6}
    assert found["counts"] == {"captions": 6, "programs": 6, "clouds": 6, "views": 6, "ids": 6}
    assert main(["data", "check", str(healthy), "--quiet"]) == 0
    said = capsys.readouterr().out
    assert "stage 2  6 of 6 ids have text and points" in said
    assert "no finding" in said
    assert f"--set data.root='{healthy}'" in said


def test_each_stage_counts_what_it_shows_and_names_what_waits(healthy, capsys):
    ids = sorted(path.stem for path in (healthy / "json" / "0000").iterdir())
    (healthy / "pcd" / "0000" / f"{ids[0]}.npz").unlink()
    for path in (healthy / "img").rglob("*.png"):
        path.unlink()
    (healthy / "json" / "0000" / f"{ids[1]}.json").unlink()
    code, found = checked(capsys, healthy, "--stage", 3)
    assert code == 1
    assert found["ready"] is False
    assert [found["stages"][n]["ids"] for n in "123"] == [5, 4, 0]
    assert [found["stages"][n]["of"] for n in "123"] == [6, 6, 6]
    assert found["stages"]["3"]["have"] == {"text": 5, "point_cloud": 5, "image": 0}
    assert found["stages"]["2"]["lacks"] == {
        "text": {"count": 1, "ids": [f"0000/{ids[1]}"]},
        "point_cloud": {"count": 1, "ids": [f"0000/{ids[0]}"]},
    }
    assert codes(found) == {"E411": 1}
    assert checked(capsys, healthy, "--stage", 2)[0] == 0
    assert main(["data", "check", str(healthy), "--stage", "3", "--quiet"]) == 1
    said = capsys.readouterr().out
    assert "not ready: stage 3" in said
    assert f"1 wait for points: 0000/{ids[0]}\n" in said


def test_files_that_belong_to_nothing(healthy, capsys):
    entries = json.loads((healthy / "txt" / "0000.json").read_text())
    (healthy / "txt" / "0000.json").write_text(json.dumps(entries[2:]))
    first, second = (entry["id"] for entry in entries[:2])
    (healthy / "json" / f"{second}.json").unlink()
    _, found = checked(capsys, healthy)
    assert codes(found) == {"E412": 1, "E413": 1, "E414": 1}
    assert {f["code"]: f["paths"] for f in found["findings"]} == {"E412": [first], "E413": [second], "E414": [second]}
    assert all(f["remedy"] and f["message"] and f["level"] == "warn" for f in found["findings"])
    assert found["stages"]["1"]["of"] == 5  # orphans are not waited for


def test_lists_decide_who_trains(healthy, capsys):
    ids = [f"0000/{path.stem}" for path in sorted((healthy / "json" / "0000").iterdir())]
    (healthy / "test.txt").write_text(f"{ids[0]}\n")
    (healthy / "val.txt").write_text(f"{ids[1]}\n")
    (healthy / "bad.txt").write_text(f"{ids[2]}\n0000/unknown\n")
    code, found = checked(capsys, healthy, "--set", f"data.exclude={healthy / 'bad.txt'}")
    stage = found["stages"]["1"]
    assert (code, stage["of"], stage["ids"], stage["train"]) == (0, 4, 4, 3)
    (healthy / "val.txt").write_text(f"{ids[1]}\n0000/unknown\n../up\n")
    _, found = checked(capsys, healthy)
    assert codes(found) == {"E407": 1, "E403": 1}
    (healthy / "val.txt").write_text("0000/unknown\n")
    code, found = checked(capsys, healthy)
    assert code == 1
    assert (found["findings"][0]["code"], found["findings"][0]["level"]) == ("E407", "fail")
    (healthy / "val.txt").write_bytes(b"\xff\xfe\x00")
    assert checked(capsys, healthy)[0] == 1


def test_a_set_whose_every_id_is_held_out_does_not_train(healthy, capsys):
    names = "".join(f"0000/{path.stem}\n" for path in (healthy / "json" / "0000").iterdir())
    (healthy / "val.txt").write_text(names)
    code, found = checked(capsys, healthy)
    assert (code, found["stages"]["1"]["ids"], found["stages"]["1"]["train"]) == (1, 6, 0)


def test_missing_folders_are_findings(tmp_path, capsys):
    (tmp_path / "set").mkdir()
    code, found = checked(capsys, tmp_path / "set", "--stage", 2)
    assert code == 1
    levels = [(Path(path).name, f["level"]) for f in found["findings"] for path in f["paths"] if f["code"] == "E401"]
    assert levels == [("txt", "fail"), ("json", "fail"), ("pcd", "warn"), ("img", "info")]
    assert found["stages"]["1"]["of"] == 0
    assert main(["data", "check", str(tmp_path / "none"), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "E401"
    code, found = checked(capsys, tmp_path / "set", "--set", f"data.img={tmp_path / 'elsewhere'}")
    assert str(tmp_path / "elsewhere") in [path for f in found["findings"] for path in f["paths"]]


def test_what_does_not_fit_is_counted_by_stage(healthy, capsys):
    code, found = checked(capsys, healthy, "--set", "train.max_seq_length=80", "--set", "model.point_tokens=4")
    lengths = found["stages"]["1"]["too_long"]
    assert found["stages"]["1"]["longest"] == 16
    assert (lengths, codes(found)["E602"], found["stages"]["1"]["ids"], code) == (6, 6, 0, 1)
    assert found["stages"]["2"]["longest"] == 12
    _, found = checked(capsys, healthy, "--set", "train.max_seq_length=2048")
    assert "E602" not in codes(found)


@pytest.mark.parametrize(("llm", "word"), [("tiny", "a caption of "), ("nobody/has-this", "a caption of about ")])
def test_captions_that_lose_their_end(healthy, capsys, llm, word):
    file = healthy / "txt" / "0000.json"
    entries = json.loads(file.read_text())
    entries[3]["text caption"] = "a plate with a hole " * 400
    entries[4]["text caption"] = "plate " * 300  # more bytes than there is room for tokens, and still not too long
    file.write_text(json.dumps(entries))
    _, found = checked(capsys, healthy, "--set", "train.max_seq_length=1024", "--set", f"model.llm={llm}")
    assert codes(found) == {"E451": 1}
    assert found["findings"][0]["paths"] == [entries[3]["id"]]
    assert word in found["findings"][0]["message"]


def test_what_only_the_settings_can_tell(healthy, capsys):
    ids = sorted(path.stem for path in (healthy / "json" / "0000").iterdir())
    for number in (3, 7):
        (healthy / "img" / "0000" / f"{ids[number - 3]}_{number:03d}.png").unlink()
    twice = healthy / "json" / "0000" / f"{ids[1]}.json"
    twice.write_bytes((healthy / "json" / "0000" / f"{ids[0]}.json").read_bytes())
    _, found = checked(capsys, healthy, "--set", "model.point_count=9000")
    assert codes(found) == {"E432": 6, "E443": 2, "E463": 1}
    messages = {f["code"]: f["message"] for f in found["findings"]}
    assert f"0000/{ids[0]} has 7 views; missing: 003" in messages["E443"]
    assert f"0000/{ids[1]} has the same commands and values as 0000/{ids[0]}" in messages["E463"]
    five = next(f for f in found["findings"] if f["code"] == "E432")
    assert len(five["paths"]) == 5


def test_nothing_that_is_broken_raises_and_the_rest_stays_usable(healthy, capsys):
    ids = sorted(path.stem for path in (healthy / "json" / "0000").iterdir())
    (healthy / "json" / "0000" / f"{ids[0]}.json").write_text('{"entities": 7}')
    (healthy / "pcd" / "0000" / f"{ids[1]}.npz").write_bytes(b"not points")
    (healthy / "img" / "0000" / f"{ids[2]}_000.png").write_bytes(b"not a picture")
    code, found = checked(capsys, healthy, "--stage", 3)
    assert code == 0
    assert codes(found) == {"E203": 1, "E404": 1, "E405": 1}
    assert [found["stages"][n]["ids"] for n in "123"] == [5, 4, 4]  # seven views of the third are left
    assert {f["level"] for f in found["findings"]} == {"fail"}
    assert all("cadmllm data" in f["remedy"] for f in found["findings"])


def test_a_windows_path_is_shown_as_wsl_mounts_it(capsys, monkeypatch):
    monkeypatch.setattr("cadmllm.commands._options.under_wsl", lambda: True)
    plain = r"W:\no such set\Omni-CAD"
    for written in (plain, f'"{plain}"', plain + "\\", plain + '"', f"'{plain}'", "w:/no such set/Omni-CAD/"):
        assert main(["data", "check", written, "--json"]) == 1
        said = capsys.readouterr()
        assert "/mnt/w/no such set/Omni-CAD does not exist" in json.loads(said.out)["error"]["message"]
        assert "is /mnt/w/no such set/Omni-CAD here" in said.err


def test_a_windows_path_elsewhere(capsys, monkeypatch):
    monkeypatch.setattr("cadmllm.commands._options.under_wsl", lambda: False)
    monkeypatch.setattr("cadmllm.places.under_wsl", lambda: False)
    assert main(["data", "check", r"W:\data", "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "E831"
    assert main(["data", "check", "W:dataOmni-CAD", "--json"]) == 1
    assert "single quotes" in json.loads(capsys.readouterr().out)["error"]["remedy"]


def test_a_slow_drive_is_measured_and_the_copy_named(healthy, capsys, monkeypatch):
    from cadmllm.corpus import drive

    monkeypatch.setattr(drive, "mounts", lambda: [drive.Mount("/", "ext4"), drive.Mount(str(healthy.parent), "9p")])
    monkeypatch.setattr(drive, "measure", lambda files: drive.Speed(len(list(files)), 10**6, 1.0, 0.1))
    _, found = checked(capsys, healthy)
    assert codes(found) == {"E832": 1}
    assert "my set" in found["findings"][0]["remedy"]
    assert found["speed"] == {"files": 18, "bytes": 10**6, "here": 1.0, "linux": 0.1}
    assert main(["data", "check", str(healthy), "--quiet"]) == 0
    assert "18 files/s, 1.0 MB/s, 10.0 times slower" in capsys.readouterr().out
