"""Which folder answers: a checkpoint, a run, an export, or the bundled base; each is told apart before anything is loaded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cadmllm.console import Console
from cadmllm.errors import CadmllmError
from cadmllm.infer.checkpoint import find_checkpoint, load_checkpoint
from cadmllm.settings import Settings


def asked(folder: Path) -> Settings:
    return Settings(infer={"checkpoint": folder}, device="cpu")  # ty: ignore[invalid-argument-type]


@pytest.mark.parametrize("record", ["{}", "", "[]", json.dumps({"format": 1, "kind": "merged"})])
def test_a_folder_with_a_record_of_an_export_is_taken_for_one(tmp_path: Path, record: str):
    (tmp_path / "cadmllm.json").write_text(record)
    assert find_checkpoint(asked(tmp_path)) == tmp_path
    with pytest.raises(CadmllmError) as caught:
        load_checkpoint(asked(tmp_path), Console(quiet=True))
    assert caught.value.code == "E722"
    assert "cadmllm.json" in caught.value.message
    assert "cadmllm export" in caught.value.remedy


def test_a_folder_without_one_is_a_checkpoint_and_lacks_its_manifest(tmp_path: Path):
    with pytest.raises(CadmllmError) as caught:
        load_checkpoint(asked(tmp_path), Console(quiet=True))
    assert caught.value.code == "E503"
