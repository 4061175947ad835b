"""The facts of a good run are kept with it and told apart from those of the next."""

from __future__ import annotations

import copy
import json
import os
import shutil
from pathlib import Path

import pytest

from cadmllm.corpus.layout import open_dataset
from cadmllm.errors import CadmllmError
from cadmllm.settings import Settings
from cadmllm.train import fingerprint


@pytest.fixture
def settings(healthy: Path, tmp_path: Path, monkeypatch) -> Settings:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    found = Settings(data={"root": healthy, "index": tmp_path / "index"}, run={"dir": tmp_path / "run"})
    found.model.llm = "tiny"
    found.model.points_encoder = "fourier"
    found.model.image_encoder = "tiny"
    return found


def of(settings: Settings) -> dict:
    return fingerprint.of(settings, open_dataset(settings.data), card=None)


CARD = {
    "type": "cuda",
    "name": "NVIDIA GeForce RTX 5070 Ti",
    "driver": "570.1",
    "compute_capability": "12.0",
    "memory_gib": 15.92,
}


def test_no_name_and_no_folder_is_told(settings, tmp_path):
    shutil.copytree(Path(__file__).parents[2] / "checkpoints" / "tiny-base", tmp_path / "base")
    settings.model.llm = str(tmp_path / "base")
    settings.model.points_encoder = "michelangelo"
    settings.model.points_checkpoint = tmp_path / "points.pt"
    (tmp_path / "points.pt").write_bytes(b"x")
    settings.wandb.entity = "my-team"
    text = json.dumps(fingerprint.of(settings, open_dataset(settings.data), card=CARD))
    for secret in (str(tmp_path), tmp_path.parent.name, os.uname().nodename, "my-team"):
        assert secret not in text
    assert '"driver": "570.1"' in text
    assert "memory" not in text


def test_the_same_gives_the_same(settings):
    assert of(settings) == of(settings)
    assert fingerprint.differences(of(settings), of(settings)) == []


def test_what_only_says_how_a_run_is_watched_is_left_out(settings):
    before = of(settings)
    settings.train.logging_steps, settings.train.workers = 99, 3
    settings.run.dir = settings.run.dir / "other"
    assert fingerprint.differences(before, of(settings)) == []
    settings.train.batch_size += 1
    settings.stages[2].lr = 1e-3
    assert fingerprint.differences(before, of(settings)) == ["train.batch_size 4 -> 5", "stages.2.lr 2e-05 -> 0.001"]


def test_changes_are_told_in_words_and_what_matters_most_first(settings):
    before = of(settings)
    now = copy.deepcopy(before)
    before["versions"]["torch"], now["versions"]["torch"] = "2.12.0", "2.13.0"
    now["versions"]["bitsandbytes"] = "9"
    before["versions"].pop("bitsandbytes", None)
    before["card"], now["card"] = {"name": "A", "driver": "570.1"}, {"name": "A", "driver": "580.2"}
    now["data"]["ids"] += 12
    now["data"]["clouds"] -= 1
    before["versions"]["commit"], now["versions"]["commit"] = "a" * 40, "b" * 40 + "+"
    assert fingerprint.differences(before, now) == [
        "commit aaaaaaaaaa -> bbbbbbbbbb+",
        "torch 2.12.0 -> 2.13.0",
        "bitsandbytes none -> 9",
        "driver 570.1 -> 580.2",
        "data: 12 ids more, 1 clouds fewer",
    ]


def test_a_group_that_is_not_known_is_not_compared(settings):
    before = of(settings)
    assert fingerprint.differences(before, fingerprint.of(settings, None, card=None)) == []


def test_other_programs_under_the_same_ids_are_noticed(settings):
    before = of(settings)
    first, second = sorted((settings.data.root / "json" / "0000").glob("*.json"))[:2]
    shutil.copy(first, second.with_suffix(".new"))
    os.replace(second.with_suffix(".new"), second)
    assert fingerprint.differences(before, of(settings)) == ["data: as many ids, others than these or with other programs"]


@pytest.mark.parametrize("place", [10, 2**19, -1], ids=["header", "between", "end"])
def test_weights_are_told_by_header_end_and_blocks(settings, tmp_path, place):
    base = Path(shutil.copytree(Path(__file__).parents[2] / "checkpoints" / "tiny-base", tmp_path / "base"))
    settings.model.llm = str(base)
    before = of(settings)
    weights = sorted(base.glob("*.safetensors"))[0]
    content = bytearray(weights.read_bytes())
    if place > 100:  # a whole region: one byte between two blocks is not noticed, which the docstring says
        content[2**18 : 2**20] = bytes(2**20 - 2**18)
    else:
        content[place] ^= 1
    weights.write_bytes(content)
    (change,) = fingerprint.differences(before, of(settings))
    assert change.startswith("model weights ")


def test_kept_with_the_run_and_for_the_user(settings):
    facts = of(settings)
    path = fingerprint.keep(settings, facts, [2])
    assert path == settings.run.dir / "fingerprint.json"
    for file in (path, fingerprint.last_good_path()):
        entry = fingerprint.newest(file)
        assert entry is not None
        assert entry.facts == facts
        assert entry.stages == (2,)
        assert entry.name().endswith(" (stage 2)")
    assert [p.name for p in settings.run.dir.iterdir()] == ["fingerprint.json"], "nothing half-written is left"


def test_the_newest_twenty_are_kept(settings):
    for number in range(25):
        fingerprint.keep(settings, {"n": number}, [1, 2, 3])
    good = json.loads((settings.run.dir / "fingerprint.json").read_text())["good"]
    assert [entry["facts"]["n"] for entry in good] == list(range(5, 25))
    entry = fingerprint.newest(settings.run.dir / "fingerprint.json")
    assert entry is not None
    assert entry.facts == {"n": 24}
    assert entry.name().endswith(" (stages 1 to 3)")


@pytest.mark.parametrize(
    "content", ["", "[]", '{"schema": 1, "good": 3}', '{"schema": 1, "good": [{"time": 5}, 7]}', '{"schema": 99}']
)
def test_what_is_no_such_file_counts_as_none_and_is_replaced(settings, content):
    settings.run.dir.mkdir()
    path = settings.run.dir / "fingerprint.json"
    path.write_text(content)
    assert fingerprint.newest(path) is None
    fingerprint.keep(settings, {"n": 1}, [1])
    entry = fingerprint.newest(path)
    assert entry is not None
    assert entry.facts == {"n": 1}


def test_a_run_folder_that_cannot_be_written_is_said(settings, monkeypatch):
    def full(*given):
        raise OSError(28, "No space left on device")

    settings.run.dir.mkdir()
    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(CadmllmError) as caught:
        fingerprint.keep(settings, {}, [1])
    assert caught.value.code == "E607"
    assert "No space left" in caught.value.message
    assert list(settings.run.dir.iterdir()) == []


def test_a_cache_folder_that_cannot_be_written_is_no_error(settings, tmp_path, monkeypatch):
    (tmp_path / "a file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "a file"))
    assert fingerprint.keep(settings, {}, [1]).is_file()


def test_generated_parts_have_no_place(settings):
    settings.data.synthetic = 40
    found = fingerprint.numbers(settings)
    assert {key for key in found if key.startswith("data.")} == {"data.synthetic"}
