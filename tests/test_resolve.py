"""Layers, origins, suggestions, Windows paths."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cadmllm.errors import CadmllmError, Exit
from cadmllm.keys import as_toml, flat, known_keys
from cadmllm.places import bundled, is_windows_path, local_path, under_wsl
from cadmllm.resolve import Assignment, Origin, Resolved, parse_value, resolve
from cadmllm.settings import Settings

LINE = Origin("command line", "--set")


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def given_(environ: dict[str, str] | None = None, preset: str | None = None, wsl: bool = False, **pairs: str) -> Resolved:
    items = [Assignment(key.replace("__", "."), parse_value(text), LINE) for key, text in pairs.items()]
    return resolve(preset=preset, assignments=items, environ=environ or {}, wsl=wsl)


def refused(*args, **kwargs) -> CadmllmError:
    with pytest.raises(CadmllmError) as caught:
        given_(*args, **kwargs)
    assert caught.value.exit_code is Exit.USAGE
    assert caught.value.remedy
    return caught.value


def test_without_any_layer_all_are_defaults():
    resolved = given_()
    assert resolved.settings == Settings()
    assert set(resolved.origins) == set(known_keys())
    assert {origin.kind for origin in resolved.origins.values()} == {"default"}


def test_each_layer_covers_the_one_below_and_is_remembered():
    base = "[train]\nbatch_size = 1\naccumulation = 1\nwarmup_steps = 1\nlogging_steps = 1\n[lora]\nr = 1\n"
    Path("base.toml").write_text(base)
    Path("mine.toml").write_text('extends = "base.toml"\n[train]\naccumulation = 2\nwarmup_steps = 2\nlogging_steps = 2\n')
    Path("cadmllm.toml").write_text('preset = "mine.toml"\n[train]\nwarmup_steps = 3\nlogging_steps = 3\n')
    resolved = resolve(
        environ={"CADMLLM_TRAIN__LOGGING_STEPS": "4", "CADMLLM_TRAIN__SEED": "4", "CADMLLM_SHARED": "/x", "OTHER": "1"},
        assignments=[Assignment("train.seed", "5", LINE)],
    )
    train, origins = resolved.settings.train, resolved.origins
    values = (resolved.settings.lora.r, train.batch_size, train.accumulation, train.warmup_steps, train.logging_steps, train.seed)
    assert values == (1, 1, 2, 3, 4, 5)
    keys = ("lora.r", "train.accumulation", "train.warmup_steps", "train.logging_steps", "train.seed", "train.clip")
    assert [origins[key].kind for key in keys] == ["preset", "preset", "file", "environment", "command line", "default"]
    assert str(origins["train.logging_steps"]) == "environment CADMLLM_TRAIN__LOGGING_STEPS"
    assert origins["lora.r"].detail.endswith("base.toml")
    assert origins["train.accumulation"].detail.endswith("mine.toml")


def test_the_presets_name_is_taken_from_line_environment_file_in_this_order():
    Path("cadmllm.toml").write_text('preset = "8gb"')
    assert given_().preset == "8gb"
    assert given_({"CADMLLM_PRESET": "12gb"}).preset == "12gb"
    assert given_({"CADMLLM_PRESET": "12gb"}, preset="16gb").settings.train.batch_size == 2


def test_stages_and_aliases_in_the_environment():
    resolved = given_({"CADMLLM_STAGES__2__LR": "3e-4", "CADMLLM_DATA__JSON": "/a b/json", "CADMLLM_DEVICE": "cuda:1"})
    assert resolved.settings.stages[2].lr == 3e-4
    assert resolved.settings.stages[2].probabilities == Settings().stages[2].probabilities
    assert resolved.settings.data.json_ == Path("/a b/json")
    assert resolved.settings.device == "cuda:1"


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("train.bach_size", "train.batch_size"),
        ("batch_size", "train.batch_size"),
        ("batch-size", "train.batch_size"),
        ("stage2_lr", "stages.2.lr"),
        ("stage2-lr", "stages.2.lr"),
        ("lora_r", "lora.r"),
        ("gradient_accumulation_steps", "train.accumulation"),
        ("stages.2.learning_rate", "stages.2.lr"),
        ("data.json_", "data.json"),
        ("model.llm_name", "model.llm"),
    ],
)
def test_an_unknown_key_is_refused_with_a_suggestion(wrong, meant):
    error = refused(**{wrong: "1"})
    assert error.code == "E101"
    assert f"did you mean {meant!r}?" in error.message


def test_unknown_variables_and_file_keys_are_refused_where_they_stand():
    error = refused({"CADMLLM_TRAIN__BACH_SIZE": "1"})
    assert "CADMLLM_TRAIN__BATCH_SIZE" in error.message
    Path("cadmllm.toml").write_text("[train]\nbach_size = 1")
    error = refused()
    assert error.code == "E101"
    assert "cadmllm.toml" in error.message
    assert "'train.batch_size'" in error.message


def test_a_group_is_not_a_value():
    error = refused(train="3")
    assert "group" in error.message
    assert "train.batch_size" in error.remedy
    Path("cadmllm.toml").write_text("train = 3")
    assert "cadmllm.toml" in refused().message


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("train.batch_size", "many"),
        ("train.batch_size", "0"),
        ("train.batch_size", "1.5"),
        ("train.clip", "nan"),
        ("train.clip", "inf"),
        ("device", "gpu"),
        ("dtype", "int8"),
        ("model.llm", ""),
        ("data.root", ""),
        ("stages.2.probabilities", "{text=0.5}"),
        ("stages.2.probabilities", "[1]"),
        ("lora.enabled", "perhaps"),
        ("lora.r", "[1]"),
    ],
)
def test_a_value_outside_its_type_or_range_is_refused_by_name(key, text):
    error = refused(**{key: text})
    assert error.code == "E102"
    assert error.message.startswith(key)
    assert "--set" in error.message
    assert known_keys()[key].description in error.remedy


def test_all_wrong_values_are_said_at_once():
    error = refused(**{"train.batch_size": "0", "lora.r": "x"})
    assert "train.batch_size" in error.message
    assert "lora.r" in error.message


def test_tables_are_replaced_whole_and_entries_are_merged():
    whole = given_(**{"stages.2.probabilities": '{text=0.5, "text+image"=0.5}'})
    assert whole.settings.stages[2].probabilities == {"text": 0.5, "text+image": 0.5}
    merged = given_(**{"stages.2.probabilities.text": "0.4", "stages.2.probabilities.text+point_cloud": "0.6"})
    assert merged.settings.stages[2].probabilities == {"text": 0.4, "text+point_cloud": 0.6}
    Path("cadmllm.toml").write_text("[stages.2.probabilities]\ntext = 1.0\n")
    assert given_().settings.stages[2].probabilities == {"text": 1.0}
    error = refused(**{"stages.1.probabilities.image": "0.5"})
    assert "stages.1.probabilities" in error.message


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2e-4", "2e-4"),
        ('"a b"', "a b"),
        ("'W:\\x'", "W:\\x"),
        ("[1, 2]", [1, 2]),
        ("{a=1}", {"a": 1}),
        ("plain words", "plain words"),
        ("", None),
        ("[broken", "[broken"),
        ('"a"\nb = "c"', '"a"\nb = "c"'),
        ("Qwen/Qwen3-8B", "Qwen/Qwen3-8B"),
    ],
)
def test_values_on_the_command_line(text, value):
    assert parse_value(text) == value


@given(st.text(max_size=60), st.sampled_from(sorted(known_keys())))
def test_no_text_breaks_a_setting(text, key):
    try:
        resolve(assignments=[Assignment(key, parse_value(text), LINE)], environ={}, wsl=True)
    except CadmllmError as error:
        assert error.code in ("E101", "E102")
        assert error.exit_code is Exit.USAGE


def test_an_empty_text_unsets_an_optional_setting():
    Path("cadmllm.toml").write_text('[run]\ninit_from = "x"')
    assert given_().settings.run.init_from == Path("x")
    assert given_(**{"run.init_from": ""}).settings.run.init_from is None


def test_windows_paths_are_translated_under_wsl_and_said():
    resolved = given_(wsl=True, **{"data.root": r"W:\CMU Academics\2025 Fall\data", "model.llm": r"C:\models\qwen"})
    assert resolved.settings.data.root == Path("/mnt/w/CMU Academics/2025 Fall/data")
    assert resolved.settings.model.llm == "/mnt/c/models/qwen"
    assert resolved.notes == [
        r"data.root: W:\CMU Academics\2025 Fall\data is /mnt/w/CMU Academics/2025 Fall/data here",
        r"model.llm: C:\models\qwen is /mnt/c/models/qwen here",
    ]


def test_windows_paths_elsewhere_are_refused():
    error = refused(**{"data.root": r"W:\data"})
    assert error.code == "E831"


def test_backslashes_in_double_quotes_are_explained():
    Path("cadmllm.toml").write_text('[data]\nroot = "W:\\CMU"')
    error = refused(wsl=True)
    assert error.code == "E104"
    assert "single quotes" in error.remedy
    Path("cadmllm.toml").write_text('[data]\nroot = "W:\\temp"')  # valid TOML: a tab
    error = refused(wsl=True)
    assert error.code == "E102"
    assert "single quotes" in error.remedy


@pytest.mark.parametrize(
    ("text", "path"),
    [
        (r"W:\data\x y", "/mnt/w/data/x y"),
        ("c:/Users/me", "/mnt/c/Users/me"),
        ("D:", "/mnt/d"),
        ("D:\\", "/mnt/d"),
        (r"\\wsl$\Ubuntu\home\me", "/home/me"),
        (r"\\wsl.localhost\Ubuntu-24.04\home\me\a b", "/home/me/a b"),
        ("./data", "data"),
        ("a:b", "a:b"),
    ],
)
def test_windows_paths(text, path):
    assert local_path(text, wsl=True) == Path(path)
    assert is_windows_path(text) == (path.startswith(("/mnt", "/home")))


def test_wsl_is_told_from_the_kernels_version(tmp_path):
    version = tmp_path / "version"
    version.write_text("Linux version 5.15.167.4-microsoft-standard-WSL2 (gcc)")
    assert under_wsl(version)
    version.write_text("Linux version 6.1.0-13-amd64")
    assert not under_wsl(version)
    assert not under_wsl(tmp_path / "absent")


@pytest.mark.parametrize(("content", "code"), [("a = = 1", "E104"), ("\xff", "E104"), ("preset = 3", "E102")])
def test_a_broken_settings_file(content, code):
    Path("cadmllm.toml").write_bytes(content.encode("latin-1"))
    error = refused()
    assert error.code == code
    assert "cadmllm.toml" in error.message


def test_a_settings_file_that_is_named_must_exist():
    with pytest.raises(CadmllmError, match=r"no settings file absent\.toml"):
        resolve(config=Path("absent.toml"), environ={})


def test_unknown_presets_and_circles():
    error = refused(preset="16bg")
    assert error.code == "E103"
    assert "did you mean '16gb'?" in error.message
    assert "tiny" in error.remedy
    Path("a.toml").write_text('extends = "b.toml"')
    Path("b.toml").write_text('extends = "a.toml"')
    assert "a -> b -> a" in refused(preset="a.toml").message
    Path("c.toml").write_text("extends = 3")
    assert refused(preset="c.toml").code == "E102"


def test_a_preset_beside_another_is_found_from_anywhere(tmp_path, monkeypatch):
    folder = tmp_path / "my presets"
    folder.mkdir()
    (folder / "base.toml").write_text("[lora]\nr = 3")
    (folder / "top.toml").write_text('extends = "base.toml"')
    monkeypatch.chdir("/")
    assert given_(preset=str(folder / "top.toml")).settings.lora.r == 3


def test_the_bundled_data_set_has_a_name():
    assert given_(**{"data.root": "bundled"}).settings.data.root == bundled("data")


def test_home_is_expanded(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    assert given_(**{"data.root": "~/data"}).settings.data.root == Path("/home/someone/data")


def test_every_key_can_be_written_and_read_back():
    import tomllib

    for key, value in flat(Settings()).items():
        if value is None:
            continue
        assert known_keys()[key].description, key
        text = f"{key} = {as_toml(value)}"
        Path("cadmllm.toml").write_text(text)
        tomllib.loads(text)
        assert flat(given_().settings)[key] == value
