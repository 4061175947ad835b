"""Every command that a remedy names can be given."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from told import given_settings

from cadmllm.settings import COMBINATIONS, Settings, TrainSettings
from cadmllm.train import remedies


def settings(**groups: dict) -> Settings:
    return Settings(**groups)  # ty: ignore[invalid-argument-type]


def test_the_documents_remedies_are_commands_with_todays_values_changed() -> None:
    today = settings(
        train={"projector_lr_multiplier": 5.0}, stages={"3": {"epochs": 10, "lr": 1e-5, "probabilities": {"text+image": 1.0}}}
    )
    text = remedies.make_it_fall(today, 3)
    assert "cadmllm train stage3 --overwrite --set train.projector_lr_multiplier=10;" in text
    new = given_settings(text)
    assert new.stages[3].lr == 5e-6
    assert new.stages[3].epochs == 20
    assert "epochs" not in remedies.make_it_fall(settings(train={"max_steps": 50}), 2), "epochs do not lengthen a capped stage"
    assert given_settings(remedies.make_it_fall(settings(train={"max_steps": 50}), 2)).train.max_steps == 100


def test_more_text_for_the_default_stages() -> None:
    new = given_settings(remedies.keep_text(settings(), 2))
    assert new.stages[2].probabilities == {"text": 0.5, "text+point_cloud": 0.5}
    assert new.stages[1].epochs == 10
    new = given_settings(remedies.keep_text(settings(), 3))
    assert new.stages[3].probabilities == {
        "text": 0.4,
        "text+point_cloud": 0.225,
        "text+image": 0.15,
        "text+point_cloud+image": 0.225,
    }


def test_more_text_where_the_shares_move_and_where_there_is_hardly_anything_else() -> None:
    shares = {"probabilities": {"text": 0.6, "text+point_cloud": 0.4}, "probabilities_end": {"text+point_cloud": 1.0}}
    new = given_settings(remedies.keep_text(settings(stages={"2": shares}), 2)).stages[2]
    assert new.probabilities == {"text": 0.8, "text+point_cloud": 0.2}
    assert new.probabilities_end == {"text": 0.2, "text+point_cloud": 0.8}
    text = remedies.keep_text(settings(stages={"2": {"probabilities": {"text": 0.95, "text+point_cloud": 0.05}}}), 2)
    assert "probabilities" not in text
    assert given_settings(text).stages[2].lr == 1e-5


@given(st.lists(st.integers(0, 1000), min_size=4, max_size=4).filter(any))
def test_raised_shares_are_shares(weights: list[int]) -> None:
    shares = {name: weight / sum(weights) for name, weight in zip(COMBINATIONS, weights, strict=True)}
    more = remedies.more_text(shares)
    settings(stages={"2": {"probabilities": more}})
    assert more["text"] >= shares["text"] - 1e-4
    assert {name for name, share in more.items() if share} >= {name for name, share in shares.items() if share > 0.01}


@given(
    train=st.builds(
        TrainSettings,
        packing=st.booleans(),
        pack_tokens=st.sampled_from([0, 1024, 2048, 16384]),
        batch_size=st.integers(1, 9),
        accumulation=st.integers(1, 9),
        gradient_checkpointing=st.booleans(),
        offload_activations=st.booleans(),
    )
)
def test_smaller_micro_batches_are_never_the_same_and_end(train: TrainSettings) -> None:
    samples = train.batch_size * train.accumulation
    for _ in range(40):
        new = given_settings(remedies.sets(*remedies.smaller_micro_batches(train))).train
        keys = [text.partition("=")[0].removeprefix("train.") for text in remedies.smaller_micro_batches(train)]
        changed = {key: getattr(new, key) for key in keys}
        before = train.model_dump()
        if changed == {key: before[key] for key in keys}:
            assert train.max_seq_length == 32
            break
        train = TrainSettings(**{**before, **changed})
        assert train.batch_size * train.accumulation >= samples
    else:
        pytest.fail("it never ends")


def test_larger_micro_batches() -> None:
    assert remedies.larger_micro_batches(TrainSettings(batch_size=2, max_seq_length=100)) == ("train.pack_tokens=400",)
    padded = TrainSettings(packing=False, batch_size=2, accumulation=8)
    assert remedies.larger_micro_batches(padded) == ("train.batch_size=4", "train.accumulation=4")


def test_loading_gets_processes_until_there_are_enough() -> None:
    assert "--resume --set train.workers=7" in remedies.faster_loading(TrainSettings(workers=0), cores=8)
    assert "--set train.workers=2" in remedies.faster_loading(TrainSettings(workers=0), cores=1)
    assert "data encode" in remedies.faster_loading(TrainSettings(workers=8), cores=64)
