"""`cadmllm config` as a user calls it."""

from __future__ import annotations

import json
import tomllib

import pytest

from cadmllm.cli import main
from cadmllm.flags import FLAGS
from cadmllm.keys import known_keys


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def shown(capsys, *args: str) -> dict:
    assert main(["config", *args, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_show_prints_a_settings_file_that_says_the_same(capsys, tmp_path):
    assert main(["config", "show", "--preset", "16gb", "--set", "run.dir='a b'"]) == 0
    (tmp_path / "again.toml").write_text(capsys.readouterr().out)
    before = shown(capsys, "show", "--preset", "16gb", "--set", "run.dir='a b'")
    after = shown(capsys, "show", "--config", "again.toml")
    assert after["settings"] == before["settings"]
    assert before["preset"] == "16gb"
    assert "origins" not in before


def test_show_origin_names_the_layer(capsys, monkeypatch):
    monkeypatch.setenv("CADMLLM_LORA__R", "8")
    document = shown(capsys, "show", "--origin", "--preset", "16gb", "--stage2-lr", "3e-4")
    assert document["settings"]["stages"]["2"]["lr"] == 3e-4
    assert document["origins"]["stages.2.lr"] == {"kind": "command line", "detail": "--stage2_lr"}
    assert document["origins"]["lora.r"] == {"kind": "environment", "detail": "CADMLLM_LORA__R"}
    assert document["origins"]["lora.alpha"] == {"kind": "preset", "detail": "16gb"}
    assert document["origins"]["train.clip"] == {"kind": "default", "detail": ""}
    assert main(["config", "show", "--origin", "--set", "lora.r=4"]) == 0
    text = capsys.readouterr().out
    assert "r = 4" in text
    assert "# command line --set" in text
    tomllib.loads(text)


def test_show_flags_names_the_guides_flags(capsys):
    assert main(["config", "show", "--flags"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("accumulation = 4") and line.endswith("# --gradient_accumulation_steps") for line in lines)


def test_keys_lists_all(capsys):
    entries = shown(capsys, "keys")["keys"]
    assert [entry["key"] for entry in entries] == list(known_keys())
    assert all(entry["description"] and entry["type"] for entry in entries)
    assert main(["config", "keys"]) == 0
    assert "train.batch_size" in capsys.readouterr().out


def test_flags_lists_all(capsys):
    entries = shown(capsys, "flags")["flags"]
    assert len(entries) == len(FLAGS)
    assert {
        "flag": "--use_lora [true|false]",
        "setting": "lora.enabled",
        "help": "false trains the whole language model",
    } in entries


def test_presets_lists_all(capsys):
    entries = shown(capsys, "presets")["presets"]
    assert [entry["name"] for entry in entries][:2] == ["tiny", "8gb"]
    assert all(entry["for"].startswith("for ") for entry in entries)
