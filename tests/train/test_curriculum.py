"""Which stages run and what each starts from."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cadmllm.errors import CadmllmError
from cadmllm.models.stages import stage_folder, write_manifest
from cadmllm.settings import Settings
from cadmllm.train import report
from cadmllm.train.curriculum import Stage, plan_stages, starting_point


def _complete(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"w")
    write_manifest(folder)
    return folder


def _start(settings: Settings, numbers: list[int], index: int = 0, from_scratch: bool = False):
    return starting_point(settings, plan_stages(settings, numbers), index, from_scratch)


def test_stages_come_in_order_and_those_without_epochs_are_skipped(settings) -> None:
    s = settings(stages={"2": {"epochs": 0}})
    stages = plan_stages(s, [3, 1, 2, 3])
    assert [stage.number for stage in stages] == [1, 3]
    assert [stage.name for stage in stages] == ["stage1_text", "stage3_all"]
    assert stages[0].folder == s.run.dir / "stage1_text_model"
    assert stages[0].modalities == ("text",)


def test_nothing_left_to_train_is_a_usage_error(settings) -> None:
    with pytest.raises(CadmllmError) as caught:
        plan_stages(settings(stages={"1": {"epochs": 0}}), [1])
    assert (caught.value.code, caught.value.exit_code) == ("E105", 2)


def test_modalities_follow_the_probabilities(settings) -> None:
    stages = plan_stages(settings(), [1, 2, 3])
    assert stages[1].modalities == ("text", "point_cloud")
    assert stages[2].modalities == ("text", "point_cloud", "image")


def test_a_missing_predecessor_is_refused_with_the_commands_that_mend_it(settings) -> None:
    with pytest.raises(CadmllmError) as caught:
        _start(settings(), [2])
    assert caught.value.code == "E601"
    assert "stage1_text_model does not exist" in caught.value.message
    for way in ("cadmllm train stage1 stage2", "--resume_from_ckpt", "--from-scratch"):
        assert way in caught.value.remedy


def test_an_unfinished_predecessor_is_refused(settings) -> None:
    s = settings()
    stage_folder(s.run.dir, 1).mkdir(parents=True)
    with pytest.raises(CadmllmError, match="not finished"):
        _start(s, [2])


def test_ways_to_start_a_later_stage(settings, tmp_path: Path) -> None:
    s = settings()
    assert _start(s, [2], from_scratch=True).checkpoint is None
    assert _start(s, [1, 2], index=1).checkpoint == stage_folder(s.run.dir, 1)
    first = _complete(stage_folder(s.run.dir, 1))
    assert _start(s, [2]).checkpoint == first
    given = _complete(tmp_path / "elsewhere")
    assert _start(settings(run={"init_from": given}), [2]).checkpoint == given
    assert _start(settings(run={"init_from": given}), [1]).checkpoint == given


def test_stage_3_follows_stage_1_only_if_stage_2_was_switched_off(settings) -> None:
    s = settings()
    first = _complete(stage_folder(s.run.dir, 1))
    with pytest.raises(CadmllmError) as caught:
        _start(s, [3])
    assert caught.value.code == "E601"
    assert _start(settings(stages={"2": {"epochs": 0}}), [3]).checkpoint == first


def test_a_rehearsal_on_generated_parts_may_start_anywhere(settings) -> None:
    assert _start(settings(data={"synthetic": 10}), [2]).checkpoint is None


def test_a_folder_given_to_start_from_must_be_there_and_whole(settings, tmp_path: Path) -> None:
    with pytest.raises(CadmllmError) as caught:
        _start(settings(run={"init_from": tmp_path / "nowhere"}), [2])
    assert caught.value.code == "E601"
    given = _complete(tmp_path / "given")
    (given / "model.safetensors").write_bytes(b"x")
    with pytest.raises(CadmllmError) as caught:
        _start(settings(run={"init_from": given}), [2])
    assert caught.value.code == "E503"


# curriculum scheduling and patience

EARLY = {"text": 0.8, "text+point_cloud": 0.2}
LATE = {"text": 0.1, "text+point_cloud+image": 0.9}


def _stage3(settings, **values):
    return plan_stages(settings(stages={"3": {"epochs": 1, **values}}), [3])[0]


def test_probabilities_move_in_a_straight_line_from_begin_to_end(settings) -> None:
    stage = _stage3(settings, probabilities=EARLY, probabilities_end=LATE)
    assert stage.probabilities_at(0.0) == pytest.approx({**EARLY, "text+point_cloud+image": 0.0})
    assert stage.probabilities_at(0.5) == pytest.approx({"text": 0.45, "text+point_cloud": 0.1, "text+point_cloud+image": 0.45})
    assert stage.probabilities_at(1.0) == {**LATE, "text+point_cloud": 0.0}
    assert stage.probabilities_at(2.0) == stage.probabilities_at(1.0)


@given(st.floats(0.0, 1.0))
def test_probabilities_sum_to_1_all_the_way(share: float) -> None:
    stage = Stage(3, "stage3_all", Path("x"), 1, 1e-3, EARLY, LATE)
    shares = stage.probabilities_at(share)
    assert sum(shares.values()) == pytest.approx(1.0)
    assert all(0.0 <= value <= 1.0 for value in shares.values())


def test_without_an_end_the_probabilities_stay(settings) -> None:
    stage = _stage3(settings, probabilities=EARLY)
    assert stage.probabilities_at(0.0) == stage.probabilities_at(1.0) == EARLY
    assert stage.reached == EARLY


def test_what_is_shown_only_at_the_end_counts(settings) -> None:
    stage = _stage3(settings, probabilities=EARLY, probabilities_end=LATE)
    assert stage.modalities == ("text", "point_cloud", "image")
    assert stage.reached == {"text": 0.8, "text+point_cloud": 0.2, "text+point_cloud+image": 0.9}
    assert settings(stages={"3": {"probabilities": EARLY, "probabilities_end": LATE}}).stages[3].reached == stage.reached


def test_patience_without_validations_is_a_usage_error_with_the_command(settings) -> None:
    with pytest.raises(CadmllmError) as caught:
        plan_stages(settings(stages={"2": {"epochs": 1, "patience": 3}}), [2])
    assert (caught.value.code, caught.value.exit_code) == ("E105", 2)
    assert "--set train.val_steps=" in caught.value.remedy
    values = settings(stages={"2": {"epochs": 1, "patience": 3}}, train={"val_steps": 5})
    assert plan_stages(values, [2])[0].patience == 3


# what is said before the first step


def _warned(settings, held_out: int, total: int = 20, **values) -> list[str]:
    s = settings(**values)
    dataset = SimpleNamespace(modality_counts=lambda _: {"text": 9, "point_cloud": 9, "image": 9})
    data = SimpleNamespace(train_ids=range(9), val_ids=range(held_out))
    return report.warnings(s, plan_stages(s, [2])[0], data, SimpleNamespace(dataset=dataset, total=total))


def test_patience_that_cannot_end_a_stage_is_warned_about(settings) -> None:
    patient = {"stages": {"2": {"epochs": 1, "patience": 4}}}
    (text,) = _warned(settings, 3, **patient, train={"val_steps": 5, "warmup_steps": 2})
    assert "cannot end it earlier" in text
    assert "--set train.val_steps=1" in text
    assert _warned(settings, 3, total=21, **patient, train={"val_steps": 5, "warmup_steps": 2}) == []


def test_what_needs_held_out_ids_is_warned_about_without_them(settings) -> None:
    (text,) = _warned(settings, 0, train={"sample_steps": 5, "judge_samples": 3, "warmup_steps": 2})
    assert "train.sample_steps and train.judge_samples" in text
    assert "data.val" in text
    assert _warned(settings, 0, train={"warmup_steps": 2}) == []


def test_the_mix_is_told_with_where_it_moves_and_what_is_dropped(settings) -> None:
    moving = {"epochs": 1, "probabilities": EARLY, "probabilities_end": {"text": 1.0}}
    s = settings(stages={"1": {"epochs": 1}, "2": moving}, train={"modality_dropout": 0.2})
    assert report.mix_line(s, plan_stages(s, [2])[0]) == (
        "text 80% to 100%, text+point_cloud 20% to 0%; point cloud dropped with probability 0.2"
    )
    assert report.mix_line(s, plan_stages(s, [1])[0]) == "text 100%"
