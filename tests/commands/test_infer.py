"""`cadmllm infer` from the command line to the files, with the bundled tiny base and checkpoints made on the spot."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_base import make_base

from cadmllm.cad.omnicad import read_json
from cadmllm.cad.tokens import from_text
from cadmllm.cli import main
from cadmllm.commands.infer import count_words
from cadmllm.infer import answering, part
from cadmllm.infer.answer import FILES
from cadmllm.infer.generate import Answer
from cadmllm.models import backbone
from cadmllm.models.fusion import build_model
from cadmllm.models.stages import stage_folder, write_manifest
from cadmllm.models.weights import save_model
from cadmllm.resolve import Assignment, Origin, resolve

torch.set_num_threads(1)

BOX = "size 40 mm\nplane_z -128\nrect -512 -256 1024 512\nnew_up 256\nend\n"
NOTHING = "size 40 mm\nplane_z 0\nloop 0 0\nhline 100\nhline 50\nhline 0\nclose\nnew_up 256\nend\n"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A language model that is made in a moment."""
    return make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory, base: Path) -> Path:
    """A run with a finished stage 2 of the tiny preset."""
    folder = tmp_path_factory.mktemp("run")
    origin = Origin("command line", "test")
    items = [Assignment("device", "cpu", origin), Assignment("model.llm", str(base), origin)]
    settings = resolve(preset="tiny", assignments=items, environ={}).settings
    save_model(build_model(settings, stage=2), stage_folder(folder, 2), {})
    write_manifest(stage_folder(folder, 2))
    return folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(autouse=True)
def small_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture of full size takes over a second."""
    monkeypatch.setattr(part, "PIXELS", 96)


def says(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Let the model answer `text`; everything around it stays as it is."""

    def generate(model: object, samples: list, *, copies: int, **_: object) -> list[Answer]:
        return [Answer(tuple(from_text(text)), True, -1.0, 5) for _ in range(len(samples) * copies)]

    monkeypatch.setattr(answering, "generate", generate)


def infer(*args: object) -> int:
    return main(["infer", "--preset", "tiny", "--set", "kernel.workers=1", *map(str, args)])


def test_a_prompt_becomes_a_solid_and_a_summary(here: Path, run_dir: Path, monkeypatch, capsys) -> None:
    says(monkeypatch, BOX)
    assert infer("--prompt", "a block", "--output_dir", run_dir, "--out", "o") == 0
    out, err = capsys.readouterr()
    assert "stage2_text_pc_model" in err
    assert "1 extrude, 4 lines" in out
    assert "40.0 x 20.0 x 10.0 mm" in out
    assert "8,000.0 mm3" in out
    assert "OK" in out
    assert {path.name for path in (here / "o").iterdir()} == set(FILES)


def test_json_is_the_record(here: Path, run_dir: Path, monkeypatch, capsys) -> None:
    says(monkeypatch, BOX)
    np.save("a.npy", np.random.default_rng(0).uniform(-5, 5, (500, 3)))
    assert infer("--prompt", "a block", "--pc", "a.npy", "--checkpoint", run_dir, "--seed", 7, "--json") == 0
    record = json.loads(capsys.readouterr().out)
    assert record == json.loads((here / "out" / "record.json").read_text())
    assert record["settings"]["seed"] == 7
    assert record["checkpoint"]["stage"] == 2
    assert len(record["checkpoint"]["sha256"]) == 64
    assert [entry["kind"] for entry in record["inputs"]] == ["point cloud"]
    assert record["size_mm"] == pytest.approx([10.0, 5.0, 2.5], rel=0.02)  # the cloud's coordinates, not the answer's 40 mm
    assert str(here) not in json.dumps(record)


def test_what_the_model_itself_says_is_a_program(here: Path, run_dir: Path, capsys) -> None:
    code = infer("--prompt", "a block", "--checkpoint", run_dir, "--max-new-tokens", 40, "--temperature", 1.0)
    record = json.loads((here / "out" / "record.json").read_text())
    assert code == (0 if record["verdict"] == "OK" else 1)
    assert record["tokens"] <= 40
    assert len(from_text((here / "out" / "program.txt").read_text())) == record["tokens"]
    assert read_json(here / "out" / "program.json").extrudes


def test_the_same_seed_says_the_same(here: Path, run_dir: Path) -> None:
    texts = []
    for out, seed in (("a", 1), ("b", 1), ("c", 2)):
        infer(
            "--prompt",
            "a ring",
            "--checkpoint",
            run_dir,
            "--max-new-tokens",
            60,
            "--temperature",
            1.5,
            "--seed",
            seed,
            "--out",
            out,
        )
        texts.append((here / out / "program.txt").read_text())
    assert texts[0] == texts[1] != texts[2]


def test_no_run_means_the_bundled_base_and_says_so(here: Path, base: Path, monkeypatch, capsys) -> None:
    says(monkeypatch, BOX)
    monkeypatch.setattr(backbone, "TINY_BASE", base)
    assert infer("--prompt", "a block", "--set", "run.dir=nowhere") == 0
    assert "bundled tiny base" in capsys.readouterr().err


def test_a_checkpoint_knows_its_own_settings(here: Path, run_dir: Path, monkeypatch) -> None:
    seen = []

    def generate(model: object, samples: list, **_: object) -> list[Answer]:
        seen.extend(samples)
        return [Answer(tuple(from_text(BOX)), True, -1.0, 5)]

    monkeypatch.setattr(answering, "generate", generate)
    np.save("a.npy", np.random.default_rng(0).uniform(-5, 5, (500, 3)))
    # no preset: the defaults are those of an 8B model with another point encoder and 4,096 points
    assert main(["infer", "--prompt", "x", "--pc", "a.npy", "--checkpoint", str(run_dir), "--set", "kernel.workers=1"]) == 0
    assert seen[0].clouds[0].points.shape == (1024, 3)


def test_no_solid_is_exit_1_with_the_verdict(here: Path, run_dir: Path, monkeypatch, capsys) -> None:
    says(monkeypatch, NOTHING)
    assert infer("--prompt", "a block", "--checkpoint", run_dir, "--json") == 1
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["code"] == "E702"
    assert "verdict" in error["message"]
    assert (here / "out" / "program.txt").is_file()
    assert not (here / "out" / "model.step").exists()


def refused(capsys, code: str, *args: object) -> str:
    assert infer(*args, "--json") == 1
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["code"] == code, error
    assert error["remedy"]
    return error["message"]


def test_bad_input_is_coded_and_an_earlier_answer_stays(here: Path, run_dir: Path, monkeypatch, capsys) -> None:
    says(monkeypatch, BOX)
    assert infer("--prompt", "a block", "--checkpoint", run_dir) == 0
    capsys.readouterr()
    before = {path.name: path.read_bytes() for path in (here / "out").iterdir()}
    Path("no.png").write_text("no picture")
    Image.new("RGB", (32, 32)).save("yes.png")
    np.save("flat.npy", np.zeros(10))
    Path("file").write_text("")
    given = ("--prompt", "x", "--checkpoint", run_dir)
    refused(capsys, "E703", "--checkpoint", run_dir)
    refused(capsys, "E405", *given, "--image", "no.png")
    refused(capsys, "E430", *given, "--pc", "flat.npy")
    refused(capsys, "E404", *given, "--pc", "part.stl")
    assert "stage 3" in refused(capsys, "E701", *given, "--image", "yes.png")
    refused(capsys, "E303", *given, "--out", "file")
    refused(capsys, "E503", "--prompt", "x", "--checkpoint", "unknown")
    assert {path.name: path.read_bytes() for path in (here / "out").iterdir()} == before
    assert {path.name for path in here.iterdir()} == {"out", "no.png", "yes.png", "flat.npy", "file"}


def test_a_checkpoint_with_a_file_missing_or_of_another_model(here: Path, run_dir: Path, capsys) -> None:
    whole = stage_folder(run_dir, 2)
    for path in whole.iterdir():
        torn = here / f"without-{path.name}"
        shutil.copytree(whole, torn)
        (torn / path.name).unlink() if path.is_file() else shutil.rmtree(torn / path.name)
        message = refused(capsys, "E503", "--prompt", "x", "--checkpoint", torn)
        assert path.name in message
    assert not (here / "out").exists()


def test_a_checkpoint_of_another_vocabulary(here: Path, run_dir: Path, capsys) -> None:
    other = here / "other"
    shutil.copytree(stage_folder(run_dir, 2), other)
    record = json.loads((other / "model.json").read_text())
    (other / "model.json").write_text(json.dumps({**record, "vocabulary": "0" * 16}))
    assert "model.json" in refused(capsys, "E503", "--prompt", "x", "--checkpoint", other)
    write_manifest(other)
    refused(capsys, "E504", "--prompt", "x", "--checkpoint", other)


def test_counts_as_words() -> None:
    assert count_words({"extrude": 2, "line": 9, "arc": 0, "circle": 1}) == "2 extrudes, 9 lines, 1 circle"
