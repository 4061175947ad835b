"""Base model and encoders: here, whole, and what to do where they are not."""

from __future__ import annotations

import json
import shutil

import pytest

from cadmllm.doctor.check import Level, Situation
from cadmllm.doctor.checkpoints import DOWNLOAD, check_base, check_image, check_points, missing_file
from cadmllm.settings import Settings


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path, monkeypatch):
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.chdir(tmp_path)


def fail(outcome) -> tuple[str, str, str]:
    (finding,) = outcome.findings
    assert finding.level is Level.FAIL
    return finding.code, finding.message, finding.remedy


def test_a_hub_model_must_be_in_the_cache(tmp_path):
    code, message, remedy = fail(check_base(Situation(Settings())))
    assert code == "E501"
    assert message == "Qwen/Qwen3-8B is not on this machine"
    assert "hf download Qwen/Qwen3-8B" in remedy
    assert "15.3 GiB" in remedy
    snapshot = tmp_path / "hf" / "hub" / "models--Qwen--Qwen3-8B" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    for name in ("config.json", "tokenizer.json", "model.safetensors.index.json", "model-1.safetensors"):
        (snapshot / name).write_text("{}")
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (snapshot / "model.safetensors.index.json").write_text(json.dumps(index))
    _, message, remedy = fail(check_base(Situation(Settings())))
    assert "lacks model-2.safetensors" in message
    assert "hf download Qwen/Qwen3-8B" in remedy
    (snapshot / "model-2.safetensors").write_text("")
    assert check_base(Situation(Settings())).level is Level.OK


def test_a_local_folder(tmp_path):
    settings = Settings(model={"llm": str(tmp_path / "absent")})
    assert "no such folder" in fail(check_base(Situation(settings)))[1]
    folder = tmp_path / "base"
    folder.mkdir()
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        assert missing_file(folder, tokenizer=True) == name
        (folder / name).write_text("{}")
    assert missing_file(folder, tokenizer=True) is None
    (folder / "model.safetensors.index.json").write_text("not json")
    assert "index.json" in missing_file(folder, tokenizer=True)


def test_michelangelo_is_needed_by_stages_with_points_alone(tmp_path):
    settings = Settings()
    assert check_points(Situation(settings, (1,))).skipped
    code, message, remedy = fail(check_points(Situation(settings, (2,))))
    assert code == "E502"
    assert "checkpoints/michelangelo_point_encoder_state_dict.pt does not exist" in message
    assert DOWNLOAD in remedy
    assert "--set model.points_encoder=fourier" in remedy
    assert check_points(Situation(Settings(model={"points_encoder": "fourier"}), (2,))).level is Level.OK
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "shapevae-256.ckpt").write_bytes(b"x")
    _, message, remedy = fail(check_points(Situation(settings, (2,))))
    assert "but checkpoints/shapevae-256.ckpt does" in message
    assert remedy.startswith("--set model.points_checkpoint=checkpoints/shapevae-256.ckpt")


def test_a_michelangelo_file_is_judged_by_its_keys_not_its_size(tmp_path):
    path = tmp_path / "m.pt"
    path.write_bytes(b"\0" * 1000)
    settings = Settings(model={"points_checkpoint": path})
    code, message, remedy = fail(check_points(Situation(settings, (2,))))
    assert code == "E502"
    assert str(path) in message
    assert DOWNLOAD in remedy
    assert "without torch" in check_points(Situation(settings, (2,), broken={"torch"})).skipped


def test_a_real_michelangelo_file(shared, tmp_path):
    import numpy as np
    import torch

    with np.load(shared / "golden" / "michelangelo_small_a.npz") as golden:
        state = {
            name.removeprefix("state/"): torch.from_numpy(golden[name]) for name in golden.files if name.startswith("state/")
        }
    torch.save(state, tmp_path / "m.pt")
    outcome = check_points(Situation(Settings(model={"points_checkpoint": tmp_path / "m.pt"}), (2,)))
    assert outcome.level is Level.OK, outcome
    assert "9 tokens of width 48" in outcome.summary


def test_the_image_encoder(tmp_path):
    settings = Settings()
    assert check_image(Situation(settings, (1, 2))).skipped
    code, message, remedy = fail(check_image(Situation(settings, (1, 2, 3))))
    assert (code, message) == ("E502", "facebook/dinov2-large is not on this machine")
    assert "--set model.image_encoder=tiny" in remedy
    assert check_image(Situation(Settings(model={"image_encoder": "tiny"}), (3,))).level is Level.OK
    folder = tmp_path / "dino"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    local = Settings(model={"image_encoder": str(folder)})
    assert "lacks model.safetensors" in fail(check_image(Situation(local, (3,))))[1]
    (folder / "model.safetensors").write_text("")
    assert check_image(Situation(local, (3,))).level is Level.OK
    shutil.rmtree(folder)
    assert "no such folder" in fail(check_image(Situation(local, (3,))))[1]
