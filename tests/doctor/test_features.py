"""What training would refuse of cached features, found without torch and from what is cached."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from made_features import encoded, made_encoders
from scene import Scene, build

from cadmllm.doctor import features
from cadmllm.doctor.check import Level
from cadmllm.doctor.features import check_features
from cadmllm.doctor.runner import chosen, run_checks
from cadmllm.train import cached


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    found = build(tmp_path, monkeypatch)
    found.fresh = True
    encoded(found)
    return found


def test_they_are_those_of_this_encoder_and_these_files(scene):
    outcome = check_features(scene.situation())
    assert outcome.findings == ()
    assert outcome.summary == f"12 ids of points ({scene.folder / 'features'}); their encoders are not loaded"
    assert outcome.details == ("points: michelangelo (points.pt), 9 x 64 float32, 1 draws of a cloud",)


def test_neither_torch_nor_the_encoder_is_read_once_its_hash_is_known(scene, monkeypatch):
    check_features(scene.situation())
    monkeypatch.setattr("cadmllm.models.frozen.files_hash", lambda *given: pytest.fail("the file was hashed again"))
    monkeypatch.setattr(features, "run_probe", lambda *given, **named: pytest.fail("the encoder was loaded"))
    assert check_features(scene.situation()).findings == ()
    os.utime(scene.folder / "points.pt", (1, 1))
    with pytest.raises(BaseException, match="the file was hashed again"):
        check_features(scene.situation())


def test_no_torch_is_imported():
    code = "import cadmllm.doctor.features, cadmllm.train.cached, cadmllm.train.curriculum, sys; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_weights_in_another_file_are_the_same_weights(scene, monkeypatch):
    """A file of other bytes: the encoder is loaded in a process of its own, its weights compared, and that is remembered."""
    import torch

    path = scene.folder / "points.pt"
    state = torch.load(path, weights_only=True)
    torch.save(dict(reversed(state.items())), path)
    report = run_checks(scene.situation(), checks=chosen(["features"]))
    assert report.findings == []
    monkeypatch.setattr(features, "run_probe", lambda *given, **named: pytest.fail("the encoder was loaded again"))
    assert run_checks(scene.situation(), checks=chosen(["features"])).findings == []


@pytest.mark.long
def test_another_encoder_is_told_with_what_differs(scene):
    scene.values |= made_encoders(scene, seed=1)
    (finding,) = run_checks(scene.situation(), checks=chosen(["features"])).findings
    assert (finding.code, finding.level) == ("E470", Level.FAIL)
    assert "encoder weights" in finding.message
    assert "--overwrite" in finding.remedy


@pytest.mark.long
def test_an_encoder_that_cannot_be_loaded(scene):
    (scene.folder / "points.pt").write_bytes(b"nothing of the kind")
    (finding,) = run_checks(scene.situation(), checks=chosen(["features"])).findings
    assert finding.code in ("E502", "E505", "E507")
    assert finding.remedy


def test_a_process_that_dies_is_a_finding(scene):
    made_encoders(scene, seed=1)
    scene.stub("torch", "import os; os._exit(3)")
    (finding,) = run_checks(scene.situation(), checks=chosen(["features"])).findings
    assert (finding.code, finding.level) == ("E502", Level.FAIL)
    assert "exit code 3" in finding.message


def test_as_large_a_share_of_touched_files_passes_as_in_training(scene, monkeypatch):
    seen = []

    def look(settings, planned, dataset, console, means):
        seen.append((means.compared, means.hashed))

    monkeypatch.setattr(cached, "open_features", look)
    check_features(scene.situation())
    assert seen == [(features.COMPARED, cached.HASHED)], "of a small set training looks at as many"


def test_without_the_encoders_features_are_enough(scene):
    (scene.folder / "points.pt").unlink()
    assert check_features(scene.situation()).findings == ()


def test_what_has_none_is_skipped(scene):
    scene.stages = (1,)
    assert check_features(scene.situation()).skipped == "no stage to be trained uses them"
    shutil.rmtree(scene.folder / "features")
    del scene.values["data.features"]
    assert "data.features is not set" in check_features(scene.situation()).skipped
