"""Where a run starts from: what train would refuse is found, what it takes is not."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_checkpoints import make_saves, make_stage, with_michelangelo
from scene import Scene, build

from cadmllm.doctor.check import Intent, Level, Outcome
from cadmllm.doctor.fitting import check_fit, wanted_tensors
from cadmllm.doctor.start import check_contents, check_start
from cadmllm.errors import CadmllmError


@pytest.fixture
def scene(tmp_path, monkeypatch) -> Scene:
    return build(tmp_path, monkeypatch)


def looked_at(scene: Scene, *stages: int, **intent: bool) -> Outcome:
    scene.stages, scene.intent = stages, Intent(**intent)
    return check_start(scene.situation())


def refused_by_load_model(scene: Scene, folder: Path, stage: int) -> str:
    from cadmllm.models.weights import load_model

    try:
        load_model(folder, scene.settings(), stage)
    except CadmllmError as error:
        return error.code
    return ""


def refused_by_doctor(scene: Scene, folder: Path, stage: int) -> str:
    try:
        check_fit(scene.situation(), folder, stage)
    except CadmllmError as error:
        return error.code
    return ""


@pytest.mark.parametrize("lora", [True, False])
def test_the_tensors_that_are_expected_are_those_that_are_saved(scene, lora):
    from cadmllm.doctor.decoder import shape_in
    from cadmllm.doctor.headers import read_header

    scene.values["lora.enabled"] = lora
    folder = make_stage(scene, 3)
    saved = read_header(folder / "model.safetensors")
    import json

    shape = shape_in(json.loads((scene.base / "config.json").read_text()))
    assert shape is not None
    wanted = wanted_tensors(scene.situation(), saved, shape)
    own = {name: tensor.shape for name, tensor in saved.items() if ".encoder." not in name}
    small = {name for name in own if name.endswith(("projector.norm.bias", "projector.into.bias"))}
    assert {name: size for name, size in own.items() if name not in small} == wanted


def test_the_doctor_refuses_what_load_model_refuses(scene):
    scene.values["lora.enabled"] = True
    folder = make_stage(scene, 2)
    changes: list[dict[str, object]] = [
        {},
        {"lora.r": 2},
        {"lora.alpha": 7},
        {"lora.enabled": False},
        {"model.point_tokens": 4},
        {"model.fourier_width": 64},
        {"model.image_tokens": 1},
        {"train.seed": 3},
        {"lora.dropout": 0.5},
    ]
    said = {}
    for change in changes:
        before, scene.values = scene.values, {**scene.values, **change}
        for stage in (1, 2, 3):
            doctor, model = refused_by_doctor(scene, folder, stage), refused_by_load_model(scene, folder, stage)
            assert doctor == model, (change, stage)
            said[*change, stage] = doctor
        scene.values = before
    assert said[("lora.r", 2)] == "E504"
    assert said[(1,)] == "E504"
    assert said[(2,)] == said[(3,)] == said[("train.seed", 2)] == ""


def test_resamplers_are_expected_and_refused_as_they_are_loaded(scene):
    with_michelangelo(scene)
    scene.values |= {"model.image_bridge": "perceiver", "model.point_tokens": 4, "model.resampler_width": 32}
    folder = make_stage(scene, 3)
    from cadmllm.doctor.basemodel import base_files
    from cadmllm.doctor.decoder import shape_in
    from cadmllm.doctor.headers import read_header

    saved = read_header(folder / "model.safetensors")
    shape = shape_in(base_files(scene.situation()).config)
    assert shape is not None
    wanted = wanted_tensors(scene.situation(), saved, shape)
    assert {"images.projector.latents", "images.projector.views", "points.projector.blocks.1.kv.weight"} <= wanted.keys()
    assert {name: saved[name].shape for name in wanted} == wanted
    said = {}
    for name, value in (
        ("model.image_bridge", "mlp"),
        ("model.image_tokens", 3),
        ("model.resampler_layers", 3),
        ("model.resampler_width", 48),
        ("model.point_tokens", 5),
        ("model.image_views", 4),
    ):
        before, scene.values = scene.values, {**scene.values, name: value}
        doctor, model = refused_by_doctor(scene, folder, 3), refused_by_load_model(scene, folder, 3)
        assert doctor == model, name
        said[name] = doctor
        scene.values = before
    assert said.pop("model.image_views") == ""
    assert set(said.values()) == {"E504"}


def test_a_stage_that_starts_from_the_one_before(scene):
    outcome = looked_at(scene, 1)
    assert outcome.level is Level.OK
    assert "the base model" in outcome.summary
    folder = make_stage(scene)
    outcome = looked_at(scene, 2)
    assert outcome.level is Level.OK
    assert str(folder) in outcome.summary
    assert looked_at(scene, 2, 3).level is Level.OK


def test_another_whole_checkpoint_is_offered(scene):
    make_stage(scene, 1, scene.folder / "checkpoints" / "stage1_text_model")
    (finding,) = looked_at(scene, 2).findings
    assert finding.code == "E601"
    assert finding.remedy.startswith("checkpoints/stage1_text_model is whole: cadmllm train stage2 --resume_from_ckpt")


def test_a_taken_folder_is_a_warning_until_somebody_says_what_to_do(scene):
    make_stage(scene)
    outcome = looked_at(scene, 1)
    assert [(f.code, f.level) for f in outcome.findings] == [("E605", Level.WARN)]
    for way in ("--resume", "--overwrite", "--set run.dir=ANOTHER"):
        assert way in outcome.findings[0].remedy
    assert looked_at(scene, 1, overwrite=True).findings == ()
    assert "nothing is left to train" in looked_at(scene, 1, resume=True).summary
    assert looked_at(scene, 1, resume=True, overwrite=True).findings[0].code == "E105"


def test_resuming(scene):
    make_saves(scene, 2, 4)
    outcome = looked_at(scene, 1, resume=True)
    assert outcome.level is Level.OK, outcome.findings
    assert "after step 4 of 9" in outcome.summary
    scene.values |= {"train.gradient_checkpointing": True, "train.save_steps": 7}
    outcome = looked_at(scene, 1, resume=True)
    assert outcome.level is Level.OK
    assert "train.gradient_checkpointing was False and is True" in outcome.details[-1]
    (scene.folder / "gone.txt").write_text("\n".join(list(scene.situation().dataset.split()[0])[:2]))
    scene.values["data.exclude"] = str(scene.folder / "gone.txt")
    outcome = looked_at(scene, 1, resume=True)
    assert [f.code for f in outcome.findings] == ["E605"]
    assert "training ids was" in outcome.findings[0].message


def test_a_resumed_run_passes_over_complete_stages(scene):
    make_stage(scene, 1)
    outcome = looked_at(scene, 1, 2, resume=True)
    assert outcome.level is Level.OK
    assert "stage 2 starts from" in outcome.summary
    assert "passed over" in outcome.details[0]


def test_every_byte_with_deep(scene):
    folder = make_stage(scene)
    scene.stages, scene.fresh = (2,), True
    assert "SHA-256" in check_contents(scene.situation()).summary
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert looked_at(scene, 2).level is Level.OK
    with pytest.raises(CadmllmError, match="SHA-256 differs") as caught:
        check_contents(scene.situation())
    assert caught.value.code == "E503"
    scene.stages = (1,)
    assert check_contents(scene.situation()).skipped
