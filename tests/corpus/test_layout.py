"""The Omni-CAD layout, complete or not, friendly or not."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import pytest

from cadmllm.console import Console
from cadmllm.corpus.layout import open_dataset, program_ids
from cadmllm.errors import CadmllmError
from cadmllm.settings import DataSettings


def opened(root: Path, **more):
    return open_dataset(DataSettings(root=root, **more))


def refused(code: str, root: Path, **more) -> CadmllmError:
    with pytest.raises(CadmllmError) as caught:
        opened(root, **more)
    assert caught.value.code == code
    assert caught.value.remedy
    return caught.value


def test_modalities_at_different_completeness(root):
    dataset = opened(root)
    assert dataset.ids == ["0000/a", "0000/b", "0000/c"]
    assert len(dataset) == 3
    assert dataset.modalities("0000/a") == {"text", "point_cloud", "image"}
    assert dataset.modalities("0000/b") == {"text", "point_cloud"}
    assert dataset.modalities("0000/c") == {"text"}
    assert dataset.counts == {"captions": 3, "programs": 3, "clouds": 2, "views": 1}
    assert dataset.view_count("0000/a") == 8
    assert dataset.view_count("0000/c") == 0
    assert dataset.view("0000/a", 5)[0, 0].tolist() == [5, 5, 5]
    assert dataset.cloud("0000/b", 50, 0).points.shape == (50, 3)
    assert dataset.caption("0000/a") == "part a"
    assert dataset.caption("0000/a", 1) == "short a"
    assert dataset.program("0000/c").extrudes
    assert dataset.problems == []


def test_ids_are_captions_and_programs(root):
    (root / "json" / "0000" / "c.json").rename(root / "json" / "0000" / "z.json")
    dataset = opened(root)
    assert dataset.ids == ["0000/a", "0000/b"]
    assert dataset.counts["captions"] == 3
    assert dataset.problems == []


def test_both_names_of_the_point_folder(root):
    (root / "pcd").rename(root / "pointcloud")
    assert "point_cloud" in opened(root).modalities("0000/a")


def test_folders_one_by_one(root, tmp_path):
    (root / "pcd").rename(tmp_path / "my points")
    (root / "txt").rename(tmp_path / "texts")
    (root / "json").rename(tmp_path / "programs")
    dataset = opened(tmp_path / "nowhere", txt=tmp_path / "texts", json=tmp_path / "programs", points=tmp_path / "my points")
    assert dataset.modalities("0000/a") == {"text", "point_cloud"}
    dataset = opened(tmp_path / "nowhere", txt=tmp_path / "texts" / "0000.json", json=tmp_path / "programs")
    assert len(dataset) == 3


def test_a_missing_root_names_the_command(tmp_path):
    error = refused("E401", tmp_path / "none")
    assert f"cadmllm data synth --count 500 --seed 0 --out {tmp_path / 'none'}" in error.remedy
    (tmp_path / "empty").mkdir()
    assert "txt/" in refused("E401", tmp_path / "empty").message


def test_missing_folders_are_named(root, tmp_path):
    assert "data.points" in refused("E401", root, points=tmp_path / "gone").message
    (root / "txt" / "0000.json").write_text("[]")
    assert "no id" in refused("E401", root).message


@pytest.mark.parametrize("content", ["{}", "", "[", "null", '"x"', "\xff\xfe", "[" * 100_000])
def test_caption_files_that_are_no_lists(root, content):
    bad = root / "txt" / "0001.json"
    bad.write_bytes(content.encode("latin-1"))
    dataset = opened(root)
    assert len(dataset) == 3
    assert [problem.where for problem in dataset.problems] == [str(bad)]
    (root / "txt" / "0000.json").unlink()
    assert "0001.json" in refused(dataset.problems[0].code, root).message


def test_unsafe_ids_are_left_out_and_said(root):
    entries = json.loads((root / "txt" / "0000.json").read_text())
    for bad in ("../../etc/passwd", "/etc/passwd", "0000/../../x", "C:\\x", "0000//a", "", "a\x00b"):
        entries.append({"id": bad, "text caption": "x"})
    (root / "txt" / "0000.json").write_text(json.dumps(entries))
    dataset = opened(root)
    assert len(dataset) == 3
    assert [problem.code for problem in dataset.problems] == ["E403"] * 7


def test_links_that_leave_the_root_are_refused(root, tmp_path):
    secret = tmp_path / "secret.json"
    secret.write_text("{}")
    os.symlink(secret, root / "json" / "0000" / "leak.json")
    os.symlink(tmp_path, root / "pcd" / "0001")
    os.symlink(root / "json" / "0000" / "a.json", root / "json" / "0000" / "inner.json")
    os.symlink(root / "nothing", root / "json" / "0000" / "broken.json")
    dataset = opened(root)
    assert sorted(Path(problem.where).name for problem in dataset.problems) == ["0001", "broken.json", "leak.json"]
    assert {problem.code for problem in dataset.problems} == {"E419"}
    assert dataset.counts["programs"] == 4


def test_bad_entries_are_left_out_and_said(root):
    entries = [7, {"text caption": "no id"}, {"id": "0000/b"}, {"id": "0000/c", "text caption": None}]
    entries += [{"id": "0000/a", "text caption": "good"}, {"id": "0000/a", "text caption": "again"}]
    (root / "txt" / "0000.json").write_text(json.dumps(entries))
    dataset = opened(root)
    assert dataset.ids == ["0000/a"]
    assert dataset.captions("0000/a") == ("good", "again")
    assert [problem.code for problem in dataset.problems] == ["E408"] * 4


def test_a_folder_is_listed_once_and_no_file_is_touched(root, monkeypatch):
    listed: list[str] = []
    real = os.scandir

    def scandir(path):
        listed.append(str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    opened(root)
    assert len(listed) == len(set(listed)) == 7  # txt, and json, img, pcd with a shard each


def test_what_is_not_there_is_a_coded_error(root):
    dataset = opened(root)
    for call, code in ((lambda: dataset.cloud("0000/c", 8, 0), "E404"), (lambda: dataset.view("0000/a", 8), "E405")):
        with pytest.raises(CadmllmError) as caught:
            call()
        assert caught.value.code == code


def test_the_hash_split_is_stable_under_growth(root):
    program = (root / "json" / "0000" / "a.json").read_text()

    def grow(count):
        for k in range(count):
            (root / "json" / "0000" / f"g{k}.json").write_text(program)
        entries = [{"id": f"0000/g{k}", "text caption": "x"} for k in range(count)]
        (root / "txt" / "0000.json").write_text(json.dumps(entries))
        return opened(root, val_share=0.2).split()

    train, val = grow(60)
    assert 3 < len(val) < 25
    assert not set(train) & set(val)
    later_train, later_val = grow(120)
    assert set(train) <= set(later_train)
    assert set(val) <= set(later_val)


def test_lists_of_ids(root, tmp_path):
    listed = tmp_path / "val.txt"
    listed.write_text("# held out\n0000/b  # a comment\n\n0000/unknown\n../x\n")
    dataset = opened(root, val=listed)
    assert dataset.split() == (["0000/a", "0000/c"], ["0000/b"])
    assert sorted(problem.code for problem in dataset.problems) == ["E403", "E407"]
    dataset.split()
    assert len(dataset.problems) == 2, "asked twice, said once"
    captions = tmp_path / "train.json"
    captions.write_text(json.dumps([{"id": "0000/b", "text caption": "x"}, {"id": "0000/c"}]))
    dataset = opened(root, val=listed, train=captions)
    assert dataset.split() == (["0000/c"], ["0000/b"])
    assert any("several lists" in problem.message for problem in dataset.problems)


def test_a_list_that_a_data_set_brings_is_used(root):
    (root / "val.txt").write_text("0000/c\n")
    assert opened(root).split() == (["0000/a", "0000/b"], ["0000/c"])
    (root / "val.txt").write_text("0000/of another data set\n")
    assert opened(root, txt=root / "txt", val_share=0.0).split() == (["0000/a", "0000/b", "0000/c"], [])


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"0000/unknown\n", b"# nothing\n"])
def test_lists_that_cannot_be_used(root, tmp_path, content):
    listed = tmp_path / "val.txt"
    listed.write_bytes(content)
    with pytest.raises(CadmllmError) as caught:
        opened(root, val=listed).split()
    assert caught.value.code == "E407"
    with pytest.raises(CadmllmError):
        opened(root, val=tmp_path / "gone.txt").split()


def test_programs_of_a_root(root):
    (root / "json" / "0000" / "d.json").write_text("{}")
    found, problems = program_ids(root)
    assert found == ["0000/a", "0000/b", "0000/c"]
    assert problems == []
    assert len(program_ids(root, every=True)[0]) == 4
    with pytest.raises(CadmllmError):
        program_ids(root / "img")


def test_an_index_that_lies_elsewhere_is_said_by_whoever_opens_it(root, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    assert [problem.code for problem in opened(root, index=tmp_path / "file").problems] == ["E482"]
    told = Console(quiet=True, err=io.StringIO())
    dataset = open_dataset(DataSettings(root=root, index=tmp_path / "file"), console=told)
    assert dataset.problems == []
    assert "cannot lie in" in told.err.getvalue()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert [problem.code for problem in program_ids(root)[1]] == ["E482"]


def test_usable_ids_and_the_reasons_against_the_others(root):
    (root / "json" / "0000" / "b.json").write_text('{"entities": {}, "sequence": []}')
    dataset = opened(root)
    lengths = {id_: dataset.length(id_) for id_ in dataset.ids}
    assert lengths["0000/b"] == 0
    longest = max(lengths.values())
    good, bad = dataset.usable(dataset.ids, longest)
    assert good == ["0000/a", "0000/c"]
    assert [(problem.where, problem.code[:2]) for problem in bad] == [("0000/b", "E2")]
    good, bad = dataset.usable(dataset.ids, longest - 1)
    assert len(good) == 1
    assert sorted(problem.code for problem in bad)[1] == "E602"
    assert f"{longest} tokens" in bad[-1].message
    assert dataset.usable(dataset.ids[:0], longest) == ([], [])


def test_the_real_data_set_opens(shared):
    dataset = opened(shared / "data" / "deepcad")
    assert len(dataset) == 348
    assert dataset.problems == []
    train, val = dataset.split()
    assert len(train) + len(val) == 348
    assert len(val) > 5
    assert dataset.view(next(i for i in dataset.ids if dataset.view_count(i)), 0).shape[2] == 3
