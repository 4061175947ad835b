"""The command line: the guide's flags row by row, misspellings, exit codes, and the one place where errors come out."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer.core
from hypothesis import given
from hypothesis import strategies as st

from cadmllm import __version__, cli
from cadmllm.cli import build, main
from cadmllm.commands import _options
from cadmllm.commands._options import SHARED, split
from cadmllm.errors import CadmllmError
from cadmllm.flags import FLAGS, flags_of
from cadmllm.keys import flat

# flag, what is written behind it (None: nothing), key, value. The table of docs/architecture.md.
ROWS = [
    ("llm_model_name", "Qwen/Qwen3-0.6B", "model.llm", "Qwen/Qwen3-0.6B"),
    ("use_lora", None, "lora.enabled", True),
    ("use_lora", "false", "lora.enabled", False),
    ("lora_r", "32", "lora.r", 32),
    ("lora_alpha", "64", "lora.alpha", 64),
    ("omnicad_txt_path", "./data/a b/txt", "data.txt", Path("data/a b/txt")),
    ("omnicad_json_root", "./d/json", "data.json", Path("d/json")),
    ("omnicad_img_root", "./d/img", "data.img", Path("d/img")),
    ("omnicad_pc_root", "./d/pointcloud", "data.points", Path("d/pointcloud")),
    ("train_data_path", "train.txt", "data.train", Path("train.txt")),
    ("val_data_path", "val.json", "data.val", Path("val.json")),
    ("batch_size", "2", "train.batch_size", 2),
    ("gradient_accumulation_steps", "32", "train.accumulation", 32),
    ("max_seq_length", "16384", "train.max_seq_length", 16384),
    ("warmup_steps", "7", "train.warmup_steps", 7),
    ("seed", "7", "train.seed", 7),
    ("logging_steps", "7", "train.logging_steps", 7),
    ("save_steps", "7", "train.save_steps", 7),
    ("projector_lr_multiplier", "2.5", "train.projector_lr_multiplier", 2.5),
    ("gradient_checkpointing", None, "train.gradient_checkpointing", True),
    ("gradient_checkpointing", "true", "train.gradient_checkpointing", True),
    ("gradient_checkpointing", "False", "train.gradient_checkpointing", False),
    ("stage1_epochs", "0", "stages.1.epochs", 0),
    ("stage2_epochs", "3", "stages.2.epochs", 3),
    ("stage3_epochs", "3", "stages.3.epochs", 3),
    ("stage1_lr", "2e-4", "stages.1.lr", 2e-4),
    ("stage2_lr", "2e-4", "stages.2.lr", 2e-4),
    ("stage3_lr", "2e-4", "stages.3.lr", 2e-4),
    ("resume_from_ckpt", "./checkpoints/stage1_text_model", "run.init_from", Path("checkpoints/stage1_text_model")),
    ("output_dir", "runs/a", "run.dir", Path("runs/a")),
    ("create_dummy_data", None, "data.synthetic", 100),
    ("create_dummy_data", "false", "data.synthetic", 0),
    ("num_dummy_samples", "20", "data.synthetic", 20),
    ("use_wandb", None, "wandb.mode", "online"),
    ("use_wandb", "false", "wandb.mode", "off"),
    ("wandb_project", "P", "wandb.project", "P"),
    ("wandb_run_name", "2024", "wandb.run_name", "2024"),
    ("wandb_entity", "me", "wandb.entity", "me"),
    ("device", "cuda:1", "device", "cuda:1"),
    ("dtype", "float16", "dtype", "float16"),
    ("checkpoint_path", "./checkpoints/stage3_all_model", "infer.checkpoint", Path("checkpoints/stage3_all_model")),
    ("model_path", "m", "infer.checkpoint", Path("m")),
]
ROOT = build()
INFER_ROWS = [
    ("checkpoint", "m", "infer.checkpoint", Path("m")),
    ("out", "o", "infer.out", Path("o")),
    ("seed", "7", "infer.seed", 7),
    ("max_new_tokens", "99", "infer.max_new_tokens", 99),
    ("temperature", "0.5", "infer.temperature", 0.5),
    ("top_p", "0.9", "infer.top_p", 0.9),
    ("batch_size", "3", "infer.batch_size", 3),
    ("candidates", "8", "infer.candidates", 8),
    ("repair", None, "infer.repair", True),
    ("grammar", "false", "infer.grammar", False),
]
OWN_ROWS = [
    *(("infer", *row) for row in (*INFER_ROWS, ("units", "in", "infer.units", "in"), ("clean", None, "infer.clean", True))),
    *(("eval", *row) for row in INFER_ROWS if row[0] != "out"),
    ("eval", "out", "o", "eval.out", Path("o")),
    ("eval", "split", "val", "eval.split", "val"),
    ("eval", "modalities", "text", "eval.modalities", "text"),
    ("eval", "samples", "5", "eval.samples", 5),
    ("export", "checkpoint", "m", "infer.checkpoint", Path("m")),
    ("export", "out", "o", "export.out", Path("o")),
    ("export", "to", "gguf", "export.to", "gguf"),
    ("export", "dtype", "bf16", "export.dtype", "bf16"),
]


@pytest.fixture(autouse=True)
def _clean(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WANDB_MODE", raising=False)


def values(*line: str) -> dict[str, object]:
    rest, shared = split(ROOT, list(line))
    return flat(shared.settings()) | {"rest": rest, "start": shared.start_from_stage}


def spellings(name: str, value: str | None) -> list[list[str]]:
    plain = [[f"--{name}"], [f"--{name.replace('_', '-')}"]]
    if value is None:
        return plain
    return [[*flag, value] for flag in plain] + [[f"{flag[0]}={value}"] for flag in plain]


@pytest.mark.parametrize("row", [("train", *r) for r in ROWS] + OWN_ROWS, ids=lambda r: f"{r[0]}-{r[1]}-{r[2]}")
def test_the_guides_flags(row):
    command, name, written, key, value = row
    for words in spellings(name, written):
        before, behind = values(*words, command), values(command, *words)
        assert before[key] == behind[key] == value
        assert behind["rest"] == [command], "the flag is taken out"


def test_every_flag_of_the_table_has_a_row():
    assert {flag.name for flag in FLAGS} == {row[0] for row in ROWS} | {row[1] for row in OWN_ROWS} | {"start_from_stage"}


def test_start_from_stage():
    assert values("train", "--start_from_stage", "2")["start"] == 2
    assert values("train", "--start-from-stage=3")["start"] == 3
    with pytest.raises(CadmllmError, match="stages 1, 2 and 3"):
        values("train", "--start_from_stage", "4")


def test_dummy_samples_in_both_orders():
    assert values("train", "--create_dummy_data", "--num_dummy_samples", "7")["data.synthetic"] == 7
    assert values("train", "--num_dummy_samples", "7", "--create_dummy_data")["data.synthetic"] == 7


def test_switches_off_and_the_word_behind_them():
    assert values("train", "--no-use_lora")["lora.enabled"] is False
    assert values("train", "--no_use_lora", "false")["lora.enabled"] is True
    found = values("train", "--use_lora", "stage2")
    assert found["lora.enabled"] is True
    assert found["rest"] == ["train", "stage2"], "a stage is not the switch's value"
    with pytest.raises(CadmllmError, match="on or off"):
        values("train", "--use_lora=perhaps")


@pytest.mark.parametrize(
    ("environment", "mode"), [("offline", "offline"), ("disabled", "off"), ("online", "online"), ("", "online")]
)
def test_use_wandb_keeps_to_wandbs_own_variable(monkeypatch, environment, mode):
    monkeypatch.setenv("WANDB_MODE", environment)
    assert values("train", "--use_wandb")["wandb.mode"] == mode


def test_the_last_of_two_wins_whatever_its_form():
    assert values("train", "--set", "lora.r=1", "--lora_r", "2")["lora.r"] == 2
    assert values("train", "--lora_r", "2", "--set=lora.r=1")["lora.r"] == 1


def test_a_commands_own_option_comes_before_a_flag():
    rest, shared = split(ROOT, ["data", "synth", "--seed", "3", "--out", "--lora_r", "--batch_size", "2"])
    assert rest == ["data", "synth", "--seed", "3", "--out", "--lora_r"], "a value may look like an option"
    assert [key for key, _, _ in shared.given] == ["train.batch_size"]


def test_own_options_have_both_spellings_and_words_after_two_dashes_are_left_alone():
    rest, shared = split(ROOT, ["train", "--dry_run", "--from-scratch", "--", "--json", "--lora_r"])
    assert rest == ["train", "--dry-run", "--from-scratch", "--", "--json", "--lora_r"]
    assert not shared.json
    assert not shared.given


def commands(group: typer.core.TyperGroup):
    for command in group.commands.values():
        yield command
        if isinstance(command, typer.core.TyperGroup):
            yield from commands(command)


def test_no_command_declares_a_shared_option():
    for command in commands(ROOT):
        own = {name.lstrip("-").replace("-", "_") for param in command.params for name in param.opts}
        assert not own & set(SHARED), f"{command.name} declares {own & set(SHARED)}: they are taken out before it sees them"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("config shwo", "did you mean 'show'?"),
        ("trian all", "did you mean 'train'?"),
        ("train --bacth_size 2", "did you mean --batch_size?"),
        ("train --bacth-size 2", "did you mean --batch-size?"),
        ("train --dryrun", "did you mean --dry-run?"),
        ("train --stage4_lr 1", "did you mean --stage"),
        ("train --josn", "did you mean --json?"),
        ("train --prset tiny", "did you mean --preset?"),
        ("config show --zzzzzz", "has no option --zzzzzz"),
        ("config show extra", "unexpected extra argument"),
        ("config show --batch_size", "--batch_size needs a value"),
        ("config show --preset", "--preset needs a value"),
        ("config show --preset --quiet", "--preset needs a value"),
        ("config show --set lora.r", "has no '='"),
        ("config show --json=1", "--json takes no value"),
        ("config show --set lora.rr=1", "did you mean 'lora.r'?"),
        ("config show --lora_r many", "lora.r = 'many' (command line --lora_r)"),
        ("config show --preset 16bg", "did you mean '16gb'?"),
        ("config show --config absent.toml", "absent.toml"),
        ("doctor --stage 4", "--stage"),
        ("doctor --explain E000", "E000"),
    ],
)
def test_what_is_wrong_with_the_command_line_is_said_with_exit_code_2(capsys, line, said):
    assert main(line.split()) == 2
    out, err = capsys.readouterr()
    assert said in err
    assert err.startswith("error: E1")
    assert "\nhint: " in err
    assert out == ""
    assert main([*line.split(), "--json"]) == 2
    out, err = capsys.readouterr()
    error = json.loads(out)["error"]
    assert said in error["message"]
    assert set(error) == {"code", "message", "remedy"}
    assert error["remedy"]


def test_version_and_help(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"cadmllm {__version__}\n"
    assert main(["--version", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"version": __version__}
    for line in ([], ["config"], ["config", "show", "-h"], ["--help"], ["train", "--help"]):
        assert main(line) == 0
        out, err = capsys.readouterr()
        assert out.startswith("Usage: cadmllm")
        assert "--set KEY=VALUE" in out
        assert err == ""


def raising(monkeypatch, error: BaseException) -> None:
    def resolve(self: _options.Shared) -> None:
        raise error

    monkeypatch.setattr(_options.Shared, "resolve", resolve)


@pytest.mark.parametrize("as_json", [False, True])
def test_an_unforeseen_error_is_e901_with_a_log_and_no_traceback(monkeypatch, capsys, tmp_path, as_json):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    raising(monkeypatch, ZeroDivisionError("by zero\nsecond line"))
    assert main(["config", "show"] + ["--json"] * as_json) == 3
    out, err = capsys.readouterr()
    text = json.loads(out)["error"]["message"] + json.loads(out)["error"]["remedy"] if as_json else err
    assert "ZeroDivisionError: by zero" in text
    assert "Traceback" not in out + err
    (log,) = tmp_path.glob("cadmllm-*.log")
    assert str(log) in text
    assert "Traceback" in log.read_text()


@pytest.mark.parametrize(
    ("error", "exit_code", "said"),
    [
        (CadmllmError("E302", "no solid", "try again"), 1, "error: E302 no solid\nhint: try again\n"),
        (OSError(errno.ENOSPC, "No space left on device", "/x"), 1, "error: E821 /x: No space left on device"),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), 1, "error: E822 /x: Permission denied"),
        (ModuleNotFoundError("No module named 'peft'", name="peft"), 1, "error: E802"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_errors_and_their_exit_codes(monkeypatch, capsys, error, exit_code, said):
    raising(monkeypatch, error)
    assert main(["config", "show"]) == exit_code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(said)
    assert "Traceback" not in err


def test_a_reader_that_has_seen_enough_ends_it_quietly():
    line = f"{sys.executable} -m cadmllm config keys | head -1; exit ${{PIPESTATUS[0]}}"
    run = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=60, check=False)
    assert run.stderr == ""
    assert run.stdout.startswith("setting")
    assert run.returncode in (0, 141)


def test_windows_paths_among_arguments_are_translated_under_wsl(monkeypatch, capsys):
    monkeypatch.setattr(_options, "under_wsl", lambda: True)
    rest, _ = split(ROOT, ["infer", "--pc", r"W:\scans\a b.ply", "--prompt", "a part 3:4"])
    assert rest == ["infer", "--pc", "/mnt/w/scans/a b.ply", "--prompt", "a part 3:4"]
    assert r"W:\scans\a b.ply is /mnt/w/scans/a b.ply here" in capsys.readouterr().err


def test_notes_are_said_once(capsys):
    shared = _options.Shared(given=[("data.root", r"\\wsl$\Ubuntu\data", "--set")])
    with pytest.raises(CadmllmError, match="not WSL"):
        shared.resolve()
    assert capsys.readouterr().err == ""


def test_flags_for_one_command_do_not_leak_into_others():
    assert "out" not in flags_of("train")
    assert flags_of("infer")["seed"].key == "infer.seed"
    assert flags_of("train")["seed"].key == "train.seed"


@given(
    st.lists(st.one_of(st.sampled_from([w for r in ROWS for w in (f"--{r[0]}", r[1] or "")]), st.text(max_size=8)), max_size=6)
)
def test_no_command_line_breaks_the_splitter(words):
    try:
        rest, shared = split(ROOT, ["config", "show", *words])
        shared.resolve()
    except CadmllmError as error:
        assert error.code.startswith("E1") or error.code == "E831"
        assert error.exit_code == 2
    else:
        assert rest[:2] == ["config", "show"]


def test_every_command_module_is_registered():
    folder = Path(cli.__file__).parent / "commands"
    modules = {path.stem for path in folder.glob("[a-z]*.py")} | {path.parent.name for path in folder.glob("*/__init__.py")}
    assert modules == {module.__name__.rpartition(".")[2] for module in cli.COMMANDS}
