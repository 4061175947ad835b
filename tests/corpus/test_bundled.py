"""The data set that ships: complete, small, and what the generator makes today."""

from __future__ import annotations

import json

import pytest

from cadmllm.corpus.layout import DataSet, open_dataset
from cadmllm.corpus.parts import VERSION
from cadmllm.corpus.synth import write_dataset
from cadmllm.places import bundled
from cadmllm.settings import DataSettings


@pytest.fixture(scope="module")
def dataset() -> DataSet:
    return open_dataset(DataSettings(root=bundled("data")))


def test_it_is_complete_and_small(dataset):
    assert len(dataset) == 230
    assert dataset.problems == []
    for id_ in dataset.ids:
        assert dataset.modalities(id_) == {"text", "point_cloud", "image"}
        assert dataset.view_count(id_) == 8
        assert len(dataset.captions(id_)) == 3
    train, val = dataset.split()
    assert (len(train), len(val)) == (208, 22)
    files = [path for path in bundled("data").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 8_000_000


def test_programs_and_captions_are_what_the_generator_makes(dataset, tmp_path):
    recipe = json.loads((bundled("data") / "recipe.json").read_text())
    assert recipe["generator"] == VERSION
    write_dataset(tmp_path / "again", recipe["count"], recipe["seed"])
    made = [path.relative_to(tmp_path / "again") for path in (tmp_path / "again").rglob("*") if path.is_file()]
    assert len(made) == 230 + 3
    for path in made:
        if path.name != "recipe.json":
            assert (tmp_path / "again" / path).read_bytes() == (bundled("data") / path).read_bytes(), path


def test_its_clouds_and_views_read(dataset):
    for id_ in dataset.ids[::23]:
        assert dataset.cloud(id_, 1024, 0).points.shape == (1024, 3)
        assert dataset.view(id_, 7).shape == (224, 224, 3)
