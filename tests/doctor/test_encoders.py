"""Michelangelo and DINOv2: found, whole, loaded and asked once."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from made_checkpoints import with_dino, with_michelangelo
from scene import Scene, build

from cadmllm.doctor import encoders
from cadmllm.doctor.check import Level, Situation
from cadmllm.doctor.imageencoder import check_image
from cadmllm.doctor.michelangelo import DOWNLOAD, check_points, found_nearby
from cadmllm.doctor.probe import Probe
from cadmllm.errors import CadmllmError
from cadmllm.settings import Settings


@pytest.fixture
def scene(tmp_path, monkeypatch) -> Scene:
    made = build(tmp_path, monkeypatch)
    made.environ["HOME"] = str(tmp_path / "home")
    made.fresh = True
    return made


def test_stages_that_show_neither_need_neither(scene):
    settings = Settings()
    assert check_points(Situation(settings, (1,))).skipped
    assert check_image(Situation(settings, (1, 2))).skipped
    assert check_points(Situation(Settings(model={"points_encoder": "fourier"}), (2,))).level is Level.OK
    assert (
        check_image(Situation(Settings(model={"image_encoder": "tiny", "image_bridge": "mlp", "image_tokens": 16}), (3,))).level
        is Level.OK
    )


def test_with_cached_features_neither_is_loaded(scene):
    for part in ("points", "images"):
        (scene.folder / "features" / part).mkdir(parents=True)
    settings = Settings(
        data={"features": scene.folder / "features"}, model={"points_checkpoint": "no.pt", "image_encoder": "./no"}
    )
    assert "its features are read" in check_points(Situation(settings)).skipped
    assert "its features are read" in check_image(Situation(settings)).skipped


def test_both_answer_and_are_not_asked_again(scene, monkeypatch):
    with_michelangelo(scene)
    with_dino(scene)
    situation = scene.situation()
    points, image = check_points(situation), check_image(situation)
    assert points.level is image.level is Level.OK
    assert "9 tokens of width 64, answers" in points.summary
    assert "width 32, 8 x 8 patches, answers" in image.summary
    monkeypatch.setattr(encoders, "run_probe", None)
    assert check_points(scene.situation()) == points
    assert check_image(scene.situation()) == image


def test_another_file_is_asked_again_and_bad_news_are_not_kept(scene, monkeypatch):
    path = with_michelangelo(scene)
    said: list[dict] = [{"silent": "nothing comes out"}]
    asked = []

    def answer(*args: object, **options: object) -> Probe:
        asked.append(args)
        return Probe(said, "", "")

    monkeypatch.setattr(encoders, "run_probe", answer)
    for _ in range(2):
        (finding,) = check_points(scene.situation()).findings
        assert (finding.code, finding.message) == ("E509", f"points encoder {path}: nothing comes out")
    assert len(asked) == 2
    said[:] = [{"tokens": 9, "width": 64, "parameters": 1, "size": 1.0}]
    for _ in range(2):
        assert check_points(scene.situation()).level is Level.OK
    assert len(asked) == 3
    path.write_bytes(path.read_bytes())
    assert check_points(scene.situation()).level is Level.OK
    assert len(asked) == 4


def test_a_process_that_dies_is_a_finding(scene, monkeypatch):
    with_dino(scene)
    monkeypatch.setattr(encoders, "run_probe", lambda *a, **o: Probe([], "killed by SIGKILL", "out of memory"))
    with pytest.raises(CadmllmError, match="killed by SIGKILL out of memory") as caught:
        check_image(scene.situation())
    assert caught.value.code == "E502"


def test_without_torch_files_are_examined_from_outside(scene):
    with_michelangelo(scene)
    with_dino(scene)
    situation = scene.situation()
    situation.broken |= {"torch"}
    assert "without torch" in check_points(situation).skipped
    assert "without torch" in check_image(situation).skipped


def test_a_missing_michelangelo_says_where_it_belongs(scene):
    with_michelangelo(scene).unlink()
    outcome = check_points(scene.situation())
    (finding,), (fix,) = outcome.findings, outcome.fixes
    assert finding.code == "E502"
    assert DOWNLOAD in finding.remedy
    assert str(scene.folder / "michelangelo_point_encoder_state_dict.pt") in finding.remedy
    assert "--set model.points_encoder=fourier" in finding.remedy
    assert (fix.name, fix.value) == ("model.points_encoder", "fourier")


@pytest.mark.parametrize(
    "place",
    [
        "checkpoints/aligned_shape_latents/shapevae-256.ckpt",
        "home/Downloads/Michelangelo_point_encoder (1).pt",
        "michelangelo.ckpt",
    ],
)
def test_michelangelo_is_found_under_other_names(scene, place):
    path = with_michelangelo(scene)
    other = scene.folder / place
    other.parent.mkdir(parents=True, exist_ok=True)
    path.rename(other)
    (scene.folder / "michelangelo_broken.pt").write_bytes(b"<html>")
    outcome = check_points(scene.situation())
    assert outcome.fixes[0].name == "model.points_checkpoint"
    assert outcome.fixes[0].value == str(other)
    assert "does not exist, but" in outcome.findings[0].message


def test_under_wsl_the_downloads_of_windows_are_looked_at(scene):
    path = with_michelangelo(scene)
    downloads = scene.folder / "system" / "mnt/c/Users/me/Downloads"
    downloads.mkdir(parents=True)
    shutil.move(path, downloads / path.name)
    assert found_nearby(path, scene.situation().machine) is None
    scene.system("proc/version", "Linux version 5.15 microsoft-standard-WSL2")
    assert found_nearby(path, scene.situation().machine) == downloads / path.name


def test_more_tokens_than_there_are(scene, monkeypatch):
    with_michelangelo(scene)
    said = {"tokens": 9, "width": 64, "parameters": 1, "size": 1.0}
    monkeypatch.setattr(encoders, "run_probe", lambda *a, **o: Probe([said], "", ""))
    scene.values["model.point_tokens"] = 10
    outcome = check_points(scene.situation())
    assert outcome.findings[0].code == "E102"
    assert outcome.findings[0].remedy == "--set model.point_tokens=9"
    with_dino(scene)
    scene.values["model.image_tokens"] = 18
    with pytest.raises(CadmllmError, match="neither") as caught:
        check_image(scene.situation())
    assert caught.value.code == "E102"


@pytest.mark.long
def test_a_real_michelangelo_state_dict_and_lightning_checkpoint(scene, shared):
    import numpy as np
    import torch

    with np.load(shared / "golden" / "michelangelo_small_a.npz") as golden:
        state = {n.removeprefix("state/"): torch.from_numpy(golden[n]) for n in golden.files if n.startswith("state/")}
    path = scene.folder / "real.ckpt"
    scene.values |= {"model.points_encoder": "michelangelo", "model.points_checkpoint": str(path), "model.point_tokens": 9}
    for content in (state, {"state_dict": {f"model.shape_model.{name}": value for name, value in state.items()}, "epoch": 3}):
        torch.save(content, path)
        outcome = check_points(scene.situation())
        assert outcome.level is Level.OK, outcome
        assert "9 tokens of width 48" in outcome.summary


def test_an_absent_dinov2(scene):
    scene.values["model.image_encoder"] = "facebook/dinov2-large"
    scene.environ["HF_HOME"] = str(scene.folder / "hf")
    (finding,) = check_image(scene.situation()).findings
    assert (finding.code, finding.message) == ("E502", "facebook/dinov2-large is not on this machine")
    assert "(1.2 GB)" in finding.remedy
    assert "--set model.image_encoder=tiny" in finding.remedy


def test_a_dinov2_whose_folder_prepares_pictures_otherwise(scene):
    with_dino(scene)
    folder = Path(scene.values["model.image_encoder"])
    (folder / "preprocessor_config.json").write_text('{"size": {"shortest_edge": 518}}')
    with pytest.raises(CadmllmError, match="size is {'shortest_edge': 518}") as caught:
        check_image(scene.situation())
    assert caught.value.code == "E502"
    assert f"mv '{folder}/preprocessor_config.json'" in caught.value.remedy
