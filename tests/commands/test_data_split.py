"""`cadmllm data split` from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cadmllm.cad import omnicad
from cadmllm.cli import main
from cadmllm.corpus.layout import open_dataset
from cadmllm.corpus.parts import generate
from cadmllm.settings import DataSettings

LISTS = ["split.json", "test.txt", "train.txt", "val.txt"]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """30 parts with captions, each twice, and one without."""
    monkeypatch.chdir(tmp_path)
    folder = Path("my set")
    (folder / "json" / "0000").mkdir(parents=True)
    (folder / "txt").mkdir()
    entries = []
    for number, part in enumerate(generate(30, 8)):
        for copy in "ab":
            omnicad.write_json(part.program, folder / "json" / "0000" / f"{number:04d}{copy}.json")
            entries.append({"id": f"0000/{number:04d}{copy}", "text caption": "a part"})
    omnicad.write_json(part.program, folder / "json" / "0000" / "bare.json")
    (folder / "json" / "0000" / "broken.json").write_text("{")
    entries.append({"id": "0000/broken", "text caption": "a part"})
    (folder / "txt" / "0000.json").write_text(json.dumps(entries))
    return folder


def listed(folder: Path) -> dict[str, list[str]]:
    read = {side: folder / f"{side}.txt" for side in ("train", "val", "test")}
    return {side: [x for x in path.read_text().splitlines() if x[0] != "#"] for side, path in read.items() if path.exists()}


def test_lists_that_training_takes(root: Path, capsys):
    assert main(["data", "split", str(root), "--val", "0.2", "--test", "0.2"]) == 0
    said = capsys.readouterr().out
    assert "60 parts" in said
    assert "--set 'data.root=my set'" in said
    lists = listed(root)
    assert sorted(lists["train"] + lists["val"] + lists["test"]) == [f"0000/{k:04d}{copy}" for k in range(30) for copy in "ab"]
    side_of = {id_: side for side, ids in lists.items() for id_ in ids}
    assert all(side_of[f"0000/{k:04d}a"] == side_of[f"0000/{k:04d}b"] for k in range(30))
    dataset = open_dataset(DataSettings(root=root))
    train, val = dataset.split()
    assert (list(train), list(val), list(dataset.test_ids())) == (lists["train"], lists["val"], lists["test"])


def test_the_same_bytes_again_from_elsewhere_and_as_json(root: Path, capsys):
    command = ["data", "split", str(root), "--val", "0.2", "--test", "0.2", "--seed", "3"]
    assert main([*command, "--json", "--out", "one"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert main([*command, "--out", "two", "--workers", "2", "--quiet"]) == 0
    assert sorted(path.name for path in Path("one").iterdir()) == LISTS
    assert all((Path("one") / name).read_bytes() == (Path("two") / name).read_bytes() for name in LISTS)
    assert found == {"out": "one"} | json.loads(Path("one/split.json").read_text())
    assert found["counts"] == {side: len(ids) for side, ids in listed(Path("one")).items()} | {"left_out": 0}
    assert not (root / "train.txt").exists()
    assert "data.train=two/train.txt" in capsys.readouterr().out


def test_programs_without_a_caption_when_asked(root: Path, capsys):
    assert main(["data", "split", str(root), "--all", "--json", "--out", "all"]) == 0
    assert json.loads(capsys.readouterr().out)["ids"] == 61


def test_a_list_that_was_there_is_kept_unless_told_otherwise(root: Path, capsys):
    (root / "val.txt").write_text("0000/0007a\n")
    assert main(["data", "split", str(root), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "E409"
    assert (root / "val.txt").read_text() == "0000/0007a\n"
    assert not (root / "train.txt").exists()
    assert main(["data", "split", str(root), "--overwrite"]) == 0
    assert main(["data", "split", str(root), "--seed", "2"]) == 0
    assert "seed 2" in (root / "val.txt").read_text()


def test_a_published_split_is_kept_and_training_loses_duplicates(root: Path, capsys):
    split = {"train": [f"0000/{k:04d}a" for k in range(20)], "test": ["0000/0003b", "0000/0025a", "0000/gone"]}
    Path("official.json").write_text(json.dumps(split | {"validation": ["0000/0026a"]}))
    command = ["data", "split", str(root), "--official", "official.json", "--near", "copy"]
    assert main([*command, "--out", "kept", "--keep-duplicates", "--json"]) == 0
    kept = json.loads(capsys.readouterr().out)
    assert kept["counts"] == {"train": 20, "val": 1, "test": 2, "left_out": 0}
    assert kept["overlap"]["train in test"]["copy"] == 1
    assert main([*command, "--out", "clean"]) == 0
    said = capsys.readouterr()
    assert "1 ids of the official test list" in said.err
    assert "37 ids of the data set" in said.err
    assert listed(Path("clean"))["test"] == ["0000/0003b", "0000/0025a"]
    assert "0000/0003a" not in listed(Path("clean"))["train"]
    assert Path("clean/left_out.txt").read_text().splitlines()[-1] == "0000/0003a  # train, 0000/0003b"


def test_val_and_test_stay_when_the_data_set_grows(root: Path, capsys):
    assert main(["data", "split", str(root), "--val", "0.2", "--test", "0.2"]) == 0
    before = listed(root)
    entries = json.loads((root / "txt" / "0000.json").read_text())
    for number, part in enumerate(generate(40, 8)):
        omnicad.write_json(part.program, root / "json" / "0000" / f"{number:04d}c.json")
        entries.append({"id": f"0000/{number:04d}c", "text caption": "a part"})
    (root / "txt" / "0000.json").write_text(json.dumps(entries))
    assert main(["data", "split", str(root), "--official", str(root)]) == 0
    after = listed(root)
    assert (after["val"], after["test"]) == (before["val"], before["test"])
    assert set(before["train"]) < set(after["train"])
    held_out = {f"{id_[:-1]}c" for side in ("val", "test") for id_ in before[side]}
    left_out = {line.split()[0] for line in (root / "left_out.txt").read_text().splitlines() if line[0] != "#"}
    assert held_out <= left_out
    assert set(after["train"]) == {f"0000/{k:04d}c" for k in range(40)} - left_out | set(before["train"])


@pytest.mark.parametrize(
    ("arguments", "code", "status"),
    [
        (["--val", "0", "--test", "0"], "E105", 2),
        (["--keep-duplicates"], "E105", 2),
        (["--val", "0.9"], "E106", 2),
        (["--near", "far"], "E106", 2),
        (["--official", "nowhere.json"], "E490", 1),
        (["--official", "other.json"], "E490", 1),
        (["--out", "other.json"], "E303", 1),
    ],
)
def test_what_cannot_be_done_leaves_nothing(root: Path, capsys, arguments: list[str], code: str, status: int):
    Path("other.json").write_text('{"test": ["5555/1"]}')
    before = sorted(Path().rglob("*"))
    assert main(["data", "split", str(root), *arguments, "--json"]) == status
    assert json.loads(capsys.readouterr().out)["error"]["code"] == code
    assert sorted(Path().rglob("*")) == before


def test_no_programs(tmp_path: Path, capsys):
    assert main(["data", "split", str(tmp_path / "none"), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "E401"
    (tmp_path / "set" / "json" / "0000").mkdir(parents=True)
    assert main(["data", "split", str(tmp_path / "set"), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "E401"
