"""The settings model: defaults of the curriculum document, refused keys, rules between fields."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from cadmllm.settings import Settings


def test_the_curriculum_documents_defaults():
    settings = Settings()
    assert [settings.stages[n].epochs for n in (1, 2, 3)] == [5, 5, 10]
    assert [settings.stages[n].lr for n in (1, 2, 3)] == [2e-5, 2e-5, 1e-5]
    assert settings.stages[2].probabilities == {"text": 0.3, "text+point_cloud": 0.7}
    assert settings.stages[3].probabilities["text+point_cloud+image"] == 0.3
    assert settings.train.projector_lr_multiplier == 5.0
    assert (settings.lora.r, settings.lora.alpha) == (16, 32)
    assert settings.wandb.project == "CAD-MLLM-Curriculum"


def test_the_environment_is_not_read_behind_resolves_back(monkeypatch):
    monkeypatch.setenv("CADMLLM_TRAIN__BATCH_SIZE", "7")
    monkeypatch.setenv("TRAIN", "{}")
    assert Settings().train.batch_size == 4


def test_unknown_keys_are_refused_at_every_depth():
    with pytest.raises(ValidationError, match="extra"):
        Settings(tarin={})
    with pytest.raises(ValidationError, match="extra"):
        Settings(train={"bach_size": 2})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0, 0.0])
def test_rates_are_finite_and_positive(value):
    with pytest.raises(ValidationError):
        Settings(stages={"1": {"lr": value}})


def test_values_are_checked_on_assignment():
    settings = Settings()
    with pytest.raises(ValidationError):
        settings.train.batch_size = 0


@pytest.mark.parametrize(
    "probabilities", [{}, {"text": 0.5}, {"text": 1.5, "text+image": -0.5}, {"image": 1.0}, {"text": float("nan")}]
)
def test_probabilities_are_a_distribution_over_known_combinations(probabilities):
    with pytest.raises(ValidationError):
        Settings(stages={"1": {"probabilities": probabilities}})
