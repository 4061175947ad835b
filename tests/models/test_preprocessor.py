"""What a folder says of how pictures are prepared, against what we do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import BitImageProcessorPil

from cadmllm.corpus import pixels
from cadmllm.models import preprocessor
from cadmllm.models.preprocessor import compared, differences

OFFICIAL = {
    "do_center_crop": True, "do_convert_rgb": True, "do_normalize": True, "do_rescale": True, "do_resize": True,
    "crop_size": {"height": 224, "width": 224}, "size": {"shortest_edge": 256}, "resample": 3,
    "rescale_factor": 0.00392156862745098, "image_processor_type": "BitImageProcessor",
    "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225],
}  # fmt: skip


def test_the_constants_are_those_of_the_pictures():
    assert (preprocessor.SHORTEST, preprocessor.CROP) == (pixels.SHORTEST, pixels.CROP)
    assert pytest.approx(pixels.MEAN.tolist()) == preprocessor.MEAN
    assert pytest.approx(pixels.DEVIATION.tolist()) == preprocessor.DEVIATION


def test_the_official_one_is_ours_and_so_is_what_transformers_writes_of_it(tmp_path: Path):
    assert compared(OFFICIAL) == []
    assert compared({**OFFICIAL, "size": 256, "crop_size": 224, "image_processor_type": "BitImageProcessorFast"}) == []
    assert differences(tmp_path) == []
    asked: Any = {key: value for key, value in OFFICIAL.items() if key != "image_processor_type"}
    BitImageProcessorPil(**asked).save_pretrained(tmp_path)
    assert (tmp_path / "preprocessor_config.json").is_file()
    assert differences(tmp_path) == []


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("size", {"shortest_edge": 224}),
        ("size", {"height": 224, "width": 224}),
        ("size", None),
        ("crop_size", {"height": 518, "width": 518}),
        ("resample", 2),
        ("rescale_factor", 1.0),
        ("do_rescale", False),
        ("do_center_crop", False),
        ("do_normalize", "no"),
        ("image_mean", [0.5, 0.5, 0.5]),
        ("image_mean", None),
        ("image_std", [0.229, 0.224]),
        ("image_std", ["a", "b", "c"]),
        ("image_std", 0.2),
        ("image_processor_type", "ViTImageProcessor"),
    ],
)
def test_each_difference_is_named(key: str, value: object):
    (found,) = compared({**OFFICIAL, key: value})
    assert found.startswith(key)


def test_what_is_unsaid_is_what_transformers_would_take():
    found = compared({})
    defaults = json.loads(BitImageProcessorPil().to_json_string())
    assert (
        {text.split()[0] for text in found}
        == {text.split()[0] for text in compared(defaults)}
        == {"size", "image_mean", "image_std"}
    )
    assert all("(unsaid, so the default)" in text for text in found)


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff\xfe", b"[" * 100_000])
def test_a_file_that_is_no_configuration(tmp_path: Path, content: bytes):
    (tmp_path / "preprocessor_config.json").write_bytes(content)
    (found,) = differences(tmp_path)
    assert "JSON" in found
