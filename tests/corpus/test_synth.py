"""A generated data set on disk: the same bytes always, never over someone else's files, completed where it stopped."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cadmllm.cad import tokens
from cadmllm.corpus.facts import Kind
from cadmllm.corpus.layout import open_dataset
from cadmllm.corpus.synth import generate, write_dataset
from cadmllm.errors import CadmllmError
from cadmllm.settings import DataSettings


def digest(root: Path) -> dict[str, str]:
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in root.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Five parts with everything, small."""
    root = tmp_path_factory.mktemp("made") / "set"
    report = write_dataset(root, 5, 4, True, True, 2, point_count=256, size=48, compact=True)
    assert (report.total, report.made, report.kept, report.failed, report.verdicts) == (5, 5, 0, 0, {"OK": 5})
    return root


def test_it_opens_with_every_modality(made):
    dataset = open_dataset(DataSettings(root=made))
    assert len(dataset) == 5
    assert dataset.problems == []
    for id_, part in zip(dataset.ids, generate(5, 4), strict=True):
        assert dataset.modalities(id_) == {"text", "point_cloud", "image"}
        assert dataset.view_count(id_) == 8
        assert dataset.view(id_, 0).shape == (48, 48, 3)
        assert dataset.captions(id_) == tuple(part.captions.values())
        assert tokens.encode(dataset.program(id_)).tokens == tokens.encode(part.program).tokens


def test_clouds_share_the_programs_frame(made):
    dataset = open_dataset(DataSettings(root=made))
    for id_ in dataset.ids:
        cloud = dataset.cloud(id_, 256, 0)
        target = tokens.encode(dataset.program(id_)).transform
        assert np.allclose(cloud.transform.center, target.center, atol=1e-6 * 2 / target.scale)
        assert cloud.transform.scale == pytest.approx(target.scale, rel=1e-6)
        assert np.abs(cloud.points).max() <= 1.001
        assert np.allclose(np.linalg.norm(cloud.normals, axis=1), 1.0, atol=2e-3)


def test_views_show_the_part(made):
    for path in (made / "img" / "0000").iterdir():
        grey = np.asarray(Image.open(path).convert("L"))
        assert grey[0, 0] > 250
        assert 0.02 < (grey < 240).mean() < 0.9


def test_the_files_are_as_others_read_them(made):
    entries = json.loads((made / "txt" / "0000.json").read_text())
    assert list(entries[0]) == ["id", "text caption", "text caption dimensioned", "text caption short"]
    with np.load(made / "pcd" / "0000" / "00000000.npz", allow_pickle=False) as cloud:
        assert set(cloud.files) == {"points", "normals", "center", "scale"}
        assert cloud["points"].shape == cloud["normals"].shape == (256, 3)


def test_the_same_seed_makes_the_same_bytes_with_any_number_of_workers(made, tmp_path):
    write_dataset(tmp_path / "one", 5, 4, True, True, 1, point_count=256, size=48, compact=True)
    assert digest(tmp_path / "one") == digest(made)


def test_an_interrupted_run_is_completed(made, tmp_path):
    root = tmp_path / "set"
    write_dataset(root, 5, 4)
    assert open_dataset(DataSettings(root=root)).modalities("0000/00000000") == {"text"}
    (root / "json" / "0000" / "00000003.json").unlink()
    seen: list[int] = []
    report = write_dataset(root, 5, 4, True, False, 1, point_count=256, compact=True, advance=seen.append)
    assert report.made == 5
    assert sum(seen) == 5
    (root / "pcd" / "0000" / "00000002.npz").unlink()
    before = (root / "pcd" / "0000" / "00000001.npz").stat().st_mtime_ns
    report = write_dataset(root, 5, 4, True, False, 1, point_count=256, compact=True)
    assert (report.made, report.kept) == (1, 4)
    assert (root / "pcd" / "0000" / "00000001.npz").stat().st_mtime_ns == before
    by_run = ("recipe.json", "prepared.jsonl")  # they say what was asked for, and this folder has no views
    assert {k: v for k, v in digest(made).items() if "img" not in k and k not in by_run} == {
        k: v for k, v in digest(root).items() if k not in by_run
    }


def test_a_folder_without_a_manifest_is_completed(made, tmp_path):
    root = tmp_path / "set"
    shutil.copytree(made, root)
    (root / "prepared.jsonl").unlink()
    lost = [root / "img/0000/00000001_003.png", root / "pcd/0000/00000004.npz"]
    for path in lost:
        path.unlink()
    report = write_dataset(root, 5, 4, True, True, 1, point_count=256, size=48, compact=True)
    assert (report.made, report.kept, report.foreign) == (2, 3, {})
    assert {k: v for k, v in digest(root).items() if k != "prepared.jsonl"} == {
        k: v for k, v in digest(made).items() if k != "prepared.jsonl"
    }


def test_other_folders_are_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(CadmllmError) as caught:
        write_dataset(tmp_path, 3, 0)
    assert caught.value.code == "E409"
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]
    write_dataset(tmp_path / "set", 3, 0)
    before = digest(tmp_path / "set")
    for count, seed in ((4, 0), (3, 1)):
        with pytest.raises(CadmllmError) as caught:
            write_dataset(tmp_path / "set", count, seed)
        assert caught.value.code == "E409"
    assert digest(tmp_path / "set") == before
    (tmp_path / "file").write_text("")
    with pytest.raises(CadmllmError) as caught:
        write_dataset(tmp_path / "file", 3, 0)
    assert caught.value.code == "E303"


def test_every_tenth_part_is_held_out_but_for_near_duplicates(tmp_path):
    write_dataset(tmp_path / "set", 300, 0)
    dataset = open_dataset(DataSettings(root=tmp_path / "set"))
    train, val = dataset.split()
    marks = {row.id: set(row.values["near"]) for row in dataset.index.rows(Kind.PROGRAM)}
    learned = set().union(*(marks[id_] for id_ in train))
    tenth = [f"0000/{k:08d}" for k in range(9, 300, 10)]
    unlike_training = [id_ for id_ in tenth if not marks[id_] & set().union(*(marks[i] for i in marks if i not in tenth))]
    assert val == unlike_training
    assert 15 < len(val) < 30, "some of the thirty are near-duplicates"
    assert not any(marks[id_] & learned for id_ in val)
