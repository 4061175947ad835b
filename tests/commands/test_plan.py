"""`cadmllm plan` from the command line."""

from __future__ import annotations

import json
import tomllib

import pytest

from cadmllm.cli import main


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    return tmp_path


def said(capsys, *words: str) -> dict:
    main(["plan", *words, "--json"])
    out = capsys.readouterr().out
    return json.loads(out)


def test_a_card_that_is_not_here(capsys):
    assert main(["plan", "--preset", "16gb", "--card", "RTX 5070 Ti", "--set", "data.root=bundled", "--quiet"]) == 0
    out = capsys.readouterr().out
    for text in (
        "RTX 5070 Ti: 16.0 GiB",
        "stage 1",
        "stage 3",
        "linear layers",
        "of 16.0 GiB",
        "energy",
        "300 W",
        "fits",
        "arithmetic",
    ):
        assert text in out, text


def test_what_does_not_fit_ends_with_1_and_the_changes(capsys):
    words = ["plan", "--preset", "16gb", "--vram", "16GB", "--set", "model.quantization=none", "--stage", "3"]
    assert main(words) == 1
    out = capsys.readouterr().out
    assert "does not fit (E813)" in out
    assert "--set model.quantization=nf4" in out
    assert "6.7 GiB more than can be had" in out


def test_json_is_the_plan_alone(capsys):
    plan = said(capsys, "--preset", "16gb", "--vram", "12 GiB", "--stage", "2", "--rate", "2500", "--set", "data.root=bundled")
    assert plan["card"]["total"] == 12 * 2**30
    assert [stage["stage"] for stage in plan["stages"]] == [2]
    assert "given: 2,500 tokens/s" in plan["time"]["source"]
    assert plan["stages"][0]["tokens"]["steps"] == 4
    assert plan["energy_kwh"] is None  # a card without a name


def test_without_a_data_set_memory_and_disk_alone(capsys):
    assert main(["plan", "--preset", "8gb", "--vram", "8GB"]) == 0
    found = capsys.readouterr()
    assert "memory and disk alone" in found.err
    assert "a time that nobody knows yet" in found.out


def test_apply_writes_the_least_that_makes_it_fit(capsys, here):
    path = here / "cadmllm.toml"
    path.write_text('preset = "16gb" # the card\n\n[train]\nsave_steps = 50\n')
    assert main(["plan", "--vram", "12GB"]) == 1
    assert main(["plan", "--vram", "12GB", "--apply"]) == 0
    out = capsys.readouterr().out
    assert "cadmllm.toml: train.pack_tokens = " in out
    written = tomllib.loads(path.read_text())
    assert written["train"]["save_steps"] == 50
    assert written["train"]["pack_tokens"] < 10_240
    assert "# the card" in path.read_text()
    assert (here / "cadmllm.toml.bak").is_file()
    assert main(["plan", "--vram", "12GB"]) == 0
    assert main(["plan", "--vram", "12GB", "--apply"]) == 0
    assert "it fits as it is" in capsys.readouterr().out


def test_apply_warns_of_what_the_command_line_overrules(capsys):
    assert main(["plan", "--preset", "16gb", "--vram", "12GB", "--set", "train.pack_tokens=16384", "--apply"]) == 0
    assert "on the command line train.pack_tokens stands over cadmllm.toml" in capsys.readouterr().err


def test_tokens_of_a_micro_batch(capsys):
    plan = said(capsys, "--preset", "16gb", "--vram", "16GB", "--stage", "1", "--tokens", "4096")
    assert plan["stages"][0]["memory"]["tokens"] == 4096


def test_the_guides_own_settings(capsys):
    assert main(["plan", "--preset", "16gb", "--vram", "16GB", "--guide"]) == 0
    out = capsys.readouterr().out
    for text in ("batch 2, 16,384 tokens", "96.9 GiB", "Weights alone are 15.3 GiB", "--set model.quantization=nf4"):
        assert text in out, text
    plan = said(capsys, "--preset", "16gb", "--vram", "16GB", "--guide")
    assert plan["guide"]["fits"] == {"recipe": False, "ours": False}


def test_a_cpu_run(capsys):
    assert main(["plan", "--preset", "tiny", "--set", "device=cpu"]) == 0
    assert "main memory" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--vram", "much"], "E106"),
        (["--vram", "0"], "E106"),
        (["--card", "Voodoo 2"], "E106"),
        (["--rate", "0"], "E106"),
        (["--vram", "16GB", "--set", "model.llm=nobody/nothing"], "E501"),
    ],
)
def test_what_cannot_be_planned_is_said(capsys, words, code):
    assert main(["plan", *words]) != 0
    assert code in capsys.readouterr().err


def test_an_unknown_model_under_json_is_an_error(capsys):
    assert "E501" in json.dumps(said(capsys, "--vram", "16GB", "--set", "model.llm=nobody/nothing"))


def test_ascii_where_the_terminal_has_nothing_else(monkeypatch, capsys):
    monkeypatch.setattr("cadmllm.plan.bar.speaks_unicode", lambda encoding: False)
    assert main(["plan", "--preset", "16gb", "--vram", "16GB", "--stage", "1"]) == 0
    out = capsys.readouterr().out
    assert "[WWW" in out
    assert out.isascii()
