"""Whether a save of before goes on to the same numbers under the settings of now."""

from __future__ import annotations

import pytest

from cadmllm.errors import CadmllmError
from cadmllm.settings import Settings
from cadmllm.train.sameness import check_fingerprint, fingerprint

SINCE = ("image_bridge", "resampler_layers", "resampler_width", "point_sampling")  # settings that older saves do not know


def older(settings: Settings) -> dict[str, object]:
    return {key: value for key, value in fingerprint(settings, 3, ["0000/a"]).items() if key.partition(".")[2] not in SINCE}


def test_a_save_of_an_older_version_had_a_projector_for_each_view():
    projected = Settings(model={"image_bridge": "mlp"})
    saved = older(projected)
    assert not set(saved) & {f"model.{name}" for name in SINCE}
    assert check_fingerprint(saved, fingerprint(projected, 3, ["0000/a"]), "run") == []
    with pytest.raises(CadmllmError, match=r"model\.image_bridge was mlp and is perceiver") as caught:
        check_fingerprint(saved, fingerprint(Settings(), 3, ["0000/a"]), "run")
    assert caught.value.code == "E605"


@pytest.mark.parametrize(("name", "value"), [("resampler_width", 64), ("resampler_layers", 1), ("image_bridge", "mlp")])
def test_another_bridge_gives_other_numbers(name: str, value: object):
    saved = fingerprint(Settings(), 3, ["0000/a"])
    other = Settings(model={name: value})
    with pytest.raises(CadmllmError, match=f"model.{name} was"):
        check_fingerprint(saved, fingerprint(other, 3, ["0000/a"]), "run")
